"""A backend is what ``model.Model`` names, and nothing else: one that is made up here goes through the pipeline."""

from dataclasses import dataclass, field

import pytest
import torch
from torch.nn.functional import interpolate

from nullinv_core import EditSettings, InputError, leading_schedule, pipeline
from nullinv_core.drift import Check
from nullinv_core.families import FAMILIES
from nullinv_core.files.fingerprint import Fingerprint, difference
from nullinv_core.schedule import scaled_linear_alphas

from .helpers import TOKENS, context_of, word_prompt

SIDE = 8
LONG = "a red cat on a big blue table"


def blurred(latents, level, context, attention=None, unconditional=0):
    """ε of a world whose pictures are flat, in a colour that the text says."""
    colour = context.text.mean(1)[:, : latents.shape[1], None, None]
    return (latents - level.alpha**0.5 * torch.tanh(colour)) / (1 - level.alpha) ** 0.5


@dataclass
class Toy:
    """Pictures are their own latents at an eighth of the size; words are encoded by their letters."""

    family = FAMILIES["v1"]
    fingerprint = Fingerprint(digest="toy")
    place = "toys"
    precision = "float32"
    pooled = 0
    only_text_differs = True
    told: list = field(default_factory=list)
    said: list = field(default_factory=list)
    runs: list = field(default_factory=list)

    def schedule(self, steps):
        return leading_schedule(scaled_linear_alphas(), steps)

    def encode_image(self, images):
        return images.movedim(-1, 1)[..., ::SIDE, ::SIDE] * 2 - 1

    def decode(self, latents):
        return interpolate(latents / 2 + 0.5, scale_factor=SIDE).clamp(0, 1).movedim(1, -1)

    def prompt(self, text):
        return word_prompt(text, TOKENS if len(text.split()) < 6 else 2 * TOKENS)

    def contexts(self, prompts):
        return [context_of(prompt, torch.float32)[None] for prompt in prompts]

    def sizes_of(self, latents):
        return ()

    def conditioned(self, source, empty, sizes):
        self.told.append((source.text, empty.text, sizes))
        return self

    def check_made(self, inversion):
        if difference(inversion.fingerprint, self.fingerprint):
            raise InputError("another world")

    def truth(self, inversion):
        return Check(self.tell)

    def tell(self, text):
        self.said.append(text)

    def run(self, job, latents, schedule, gradients=False, branches=1):
        self.runs.append((gradients, branches))
        return job(blurred, latents)


@pytest.mark.parametrize("preset", ["fast", "paper", "negative-prompt", "direct"])
def test_a_made_up_backend_does_all_that_there_is(preset):
    """Guards the border: the pipeline asks a backend for nothing but what the protocol names."""
    model, photo = Toy(), torch.full((1, 64, 64, 3), 0.7)
    inversion = pipeline.prepare(model, photo, "red cat", 4, preset, 2.0)
    assert (inversion.model, inversion.prompts, inversion.precision) == ("toys", ("red cat",), "float32")
    again, optimizes = pipeline.reconstruct(model, inversion), preset in ("fast", "paper")
    assert again.shape == photo.shape and (again - photo).abs().max() < (0.2 if optimizes else 0.4)
    edited = pipeline.apply(model, inversion, ["blue cat", "red dog"], EditSettings(), 2.0, photo)
    assert edited.pictures.shape == (2, 64, 64, 3) and edited.result.latents.shape == (1, 2, 3, 8, 8)
    assert [prompt.text for prompt in edited.prompts] == ["red cat", "blue cat", "red dog"]
    assert model.told[0] == ("red cat", "", ()) and model.runs[0] == (optimizes, 1)
    assert model.runs[-1] == (False, 3)
    assert [text for text in model.said if "4 steps are too few" in text] == model.said[:1]
    model.fingerprint = Fingerprint(digest="another")
    with pytest.raises(InputError, match="another world"):
        pipeline.reconstruct(model, inversion)


@pytest.mark.parametrize("preset", ["paper", "direct"])
@pytest.mark.parametrize(("source", "edit"), [(LONG, "blue cat"), ("red cat", LONG), (LONG, LONG)])
def test_texts_of_unequal_length_go_together(preset, source, edit):
    """Guards hosts whose long texts take more tokens: the empty text and the edits are made as long as the source."""
    model, photo = Toy(), torch.full((1, 64, 64, 3), 0.7)
    inversion = pipeline.prepare(model, photo, source, 2, preset, 2.0)
    rows = (2 if source == LONG else 1) * TOKENS
    assert inversion.null.embeddings.shape[2] == inversion.trajectory.context.shape[1] == rows
    assert pipeline.optimize(model, inversion, preset, 3.0).null.embeddings.shape[2] == rows
    edited = pipeline.apply(model, inversion, edit, EditSettings(), 2.0)
    assert edited.pictures.isfinite().all() and [prompt.text for prompt in edited.prompts] == [source, edit]
