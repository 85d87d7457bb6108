"""The check by truth: a model that made a trajectory is known again, one that differs is told of, at little cost."""

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nullinv_core import (
    PRESETS,
    EditSettings,
    InputError,
    Recipe,
    Sampling,
    batch_edits,
    edit,
    embed,
    invert,
    plan_edit,
)
from nullinv_core.backends.diffusers import load_model
from nullinv_core.demo.run import demo_case
from nullinv_core.demo.scenes import render
from nullinv_core.drift import CLOSE, TOLERANCES, Check, from_inversion, from_prediction
from nullinv_core.editing import check_sampling, other_guidance

from .helpers import context_of, empty_context, latents_of, tiny_schedule, word_prompt

SOURCE, TARGET = word_prompt("a red cat"), word_prompt("a blue cat")
PINNED = Recipe("fixed-point", None, pinned=True)


@dataclass
class Smooth:
    """A denoiser without a network. ``share``: how far ε is from that of 0."""

    share: float = 0.0

    def __call__(self, latents, level, context, attention=None, unconditional=0):
        text = context.text.mean((1, 2))[:, None, None, None]
        epsilon = torch.tanh(0.3 * latents + text) + 0.1 * latents.roll(1, -1)
        return epsilon * (1 + self.share)


def photo(steps=20, method="fixed-point", denoiser=None):
    """The trajectory of two random photos."""
    context = context_of(SOURCE).expand(2)
    return invert(denoiser or Smooth(), latents_of(2), context, tiny_schedule(steps), method=method)


def edited(trajectory, null, denoiser, check=None, guidance=7.5, source_guidance=None, **settings):
    """The edit of a trajectory, and how many calls it took."""
    calls = []

    def counted(*arguments, **named):
        calls.append(len(arguments[0]))
        return denoiser(*arguments, **named)

    plan = plan_edit(SOURCE, TARGET, trajectory.schedule.steps, EditSettings(**settings))
    contexts = context_of(TARGET).expand(2, 1)
    edits = batch_edits([[plan]] * 2)
    sampling = Sampling(guidance, source_guidance, check=check)
    return edit(counted, trajectory, null, contexts, edits, sampling), calls


@given(st.integers(1, 40), st.sampled_from(["ddim", "fixed-point"]), st.integers(0, 9))
def test_a_model_is_known_by_its_trajectory(steps, method, seed):
    """Property: whatever the steps and the method, the network that inverted gives what it gave; one that is a
    hundredth apart is seen, at that distance. A single step tells nothing."""
    context = context_of(SOURCE).expand(2)
    made = invert(Smooth(), latents_of(2, seed=seed), context, tiny_schedule(steps), method=method)
    assert from_inversion(Smooth(), made) < 1e-9
    assert from_inversion(Smooth(0.01), made) == pytest.approx(0.01 if steps > 1 else 0.0, rel=1e-3)


@pytest.mark.parametrize("method", ["ddim", "fixed-point"])
def test_a_network_is_known_in_every_precision(method):
    """Guards tolerances, with the demo model: float16 and bfloat16 are the same model, in whatever batch; a LoRA that
    costs decibels, weights in eight bits and another colour in the text are not."""
    model, case = load_model("demo"), demo_case(0)
    clean = model.encode_image(torch.from_numpy(render(case.source))[None])
    text, other = (model.encode_prompts([model.prompt(words)]) for words in case.captions)
    made = invert(model.denoiser, clean, text, model.schedule(10), method=method)
    assert from_inversion(model.denoiser, made) < 1e-4
    for dtype in (torch.float16, torch.bfloat16):
        assert from_inversion(load_model("demo", dtype=dtype).denoiser, made) < 0.7 * TOLERANCES[dtype]
    assert from_inversion(model.denoiser, replace(made, context=other)) > 5 * max(TOLERANCES.values())
    generator = torch.Generator().manual_seed(0)
    eight_bits = load_model("demo").denoiser
    for weight in eight_bits.unet.parameters():
        weight.data = weight.to(torch.float8_e4m3fn).float()
    for name, weight in model.denoiser.unet.named_parameters():
        if "attn2.to_k" in name or "attn2.to_v" in name:
            weight += 0.2 * weight.std() * torch.randn(weight.shape, generator=generator)
    for changed in (eight_bits, model.denoiser):
        assert from_inversion(changed, made) > 1.5 * TOLERANCES[torch.float32]


@pytest.mark.parametrize("preset", PRESETS)
def test_an_edit_tells_of_another_model_alone(preset):
    """Guards the check in every preset: silent with the model that inverted, one sentence with another; the edit is the
    same with and without it."""
    recipe = PRESETS[preset]
    made = photo(method=recipe.inversion)
    null, _ = embed(Smooth(), made, empty_context(), recipe, 7.5)
    for denoiser in (Smooth(), Smooth(0.03)):
        told = []
        result, _ = edited(made, null, denoiser, Check(told.append))
        plain, _ = edited(made, null, denoiser)
        assert torch.equal(result.latents, plain.latents) and torch.equal(result.source, plain.source)
        assert len(told) == bool(denoiser.share) and all("no longer predicts" in text for text in told)


@pytest.mark.parametrize(
    ("settings", "denoiser", "method", "more"),
    [
        ({}, Smooth(), "fixed-point", []),
        ({"cross_replace": 0.0, "self_replace": 0.0}, Smooth(), "fixed-point", [2]),
        ({}, Smooth(0.03), "fixed-point", [2, 2]),
        ({}, Smooth(), "ddim", [2, 2]),
    ],
)
def test_the_check_costs_a_call_only_where_the_edit_does_not_tell(settings, denoiser, method, more):
    """Guards costs: none where the edit predicts the photo as it was inverted; a call where it never looks at the
    photo; two where what it sees may be the inversion's own error, of a method that is not known."""
    made = photo(steps=50, method=method)
    null, _ = embed(Smooth(), made, empty_context(), PINNED, 7.5)
    _, without = edited(made, null, denoiser, **settings)
    _, calls = edited(made, null, denoiser, Check([].append), **settings)
    assert len(calls) == len(without) + len(more) and sorted(calls) == sorted([*without, *more])


def test_a_patch_of_the_first_steps_is_seen():
    """Guards patches that act at some steps alone, as PatchModelAddDownscale does in the first third."""

    @dataclass
    class Early(Smooth):
        def __call__(self, latents, level, *rest, **named):
            return super().__call__(latents, level, *rest, **named) * (1.03 if level.timestep > 650 else 1.0)

    for method in ("ddim", "fixed-point"):
        made, told = photo(method=method), []
        null, _ = embed(Smooth(), made, empty_context(), PINNED, 7.5)
        edited(made, null, Early(), Check(told.append))
        assert len(told) == 1


def test_another_guidance_is_told():
    """Guards embeddings that know their guidance: theirs and 1 retrace the photo, another does not; it is not told of
    where the photo's branch has theirs, or where nothing was optimized."""
    made = photo(steps=4, method="ddim")
    null, _ = embed(Smooth(), made, empty_context(), PRESETS["paper"], 3.0)

    def told_at(embeddings, guidance, source_guidance=None):
        told = []
        edited(made, embeddings, Smooth(), Check(told.append), guidance, source_guidance)
        return told

    assert told_at(null, 3.0) == told_at(null, 7.5, 3.0) == told_at(null, 1.0) == []
    for found in (told_at(null, 7.5), told_at(null, 3.0, 7.5)):
        assert len(found) == 1 and "optimized for a guidance of 3, and 7.5 does not" in found[0]
    for free in ("negative-prompt", "direct", "fast"):
        recipe = replace(PRESETS[free], inversion="ddim")
        assert not told_at(embed(Smooth(), made, empty_context(), recipe, 3.0)[0], 7.5)
    prompt, _ = embed(Smooth(), made, empty_context(), PRESETS["negative-prompt"], 3.0)
    assert not other_guidance(prompt, made, 7.5) and other_guidance(null, made, 7.5)


def test_a_guidance_that_a_pinned_photo_cannot_use_is_refused():
    """Guards cheap checks: without a network."""
    made = photo(steps=2)
    pinned, _ = embed(Smooth(), made, empty_context(), PINNED, 7.5)
    for null in (pinned, pinned.pin):
        with pytest.raises(InputError, match="no guidance of its own"):
            check_sampling(null, Sampling(3.0, 2.0))
        check_sampling(null, Sampling(3.0))
    check_sampling(replace(pinned, pin=None), Sampling(3.0, 2.0))


def test_the_files_precision_is_no_difference():
    """Guards trajectories that were kept in half precision, of steps so close that rounding is all that is left."""
    made, told = photo(steps=500), []
    Check(told.append)(Smooth(), replace(made, latents=made.latents.bfloat16().double()))
    assert told
    rounded = made.context.to(torch.bfloat16)
    Check(told.append)(Smooth(), replace(made, latents=made.latents.bfloat16(), context=rounded))
    assert len(told) == 1


def test_predictions_at_the_photo_are_close():
    """Guards the bound under which nothing more is asked: the default method at 50 steps is far below it."""
    made = photo(steps=50)
    level = made.schedule.level
    found = [from_prediction(Smooth()(made.latents[t], level(t), made.context), made, t) for t in range(26, 51)]
    assert max(found) < 0.5 * CLOSE
