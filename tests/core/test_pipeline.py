"""The pipeline: what the stages give one by one, for photos at once, and what it refuses."""

from dataclasses import replace

import pytest
import torch

from nullinv_core import (
    PRESETS,
    EditSettings,
    InputError,
    Sampling,
    batch_edits,
    edit,
    embed,
    invert,
    keep_photo,
    pipeline,
    plan_edit,
    reconstruct,
)
from nullinv_core.backends.diffusers import load_model
from nullinv_core.denoiser import Counted
from nullinv_core.drift import Check

SOURCE, TARGET, STEPS = "a red cat on a table", "a red dog on a table", 4
SETTINGS = EditSettings(cross_replace=0.5)


@pytest.fixture(scope="module")
def model(model_folder):
    return replace(load_model(model_folder), warn=[].append)


def photos(count=1):
    return torch.rand(count, 32, 32, 3, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def inversion(model):
    return pipeline.prepare(model, photos(), SOURCE, STEPS)


def test_it_is_the_stages_one_after_the_other(model, inversion):
    """Guards the whole: inversion, reconstruction and edit are bit for bit what the stages give."""
    source, target, empty = (model.prompt(text) for text in (SOURCE, TARGET, ""))
    (context, null_context), latents = model.contexts([source, empty]), model.encode_image(photos())
    trajectory = invert(model.denoiser, latents, context, model.schedule(STEPS), method="fixed-point")
    null, _ = embed(model.denoiser, trajectory, null_context, PRESETS["fast"], 7.5)
    assert torch.equal(inversion.trajectory.latents, trajectory.latents)
    assert inversion.null.embeddings.equals(null.embeddings)
    assert torch.equal(inversion.null.pin.guidance, null.pin.guidance)
    assert inversion.prompts == (SOURCE,) and inversion.fingerprint == model.fingerprint
    assert (inversion.model, inversion.precision) == (model.place, "float32")
    again = model.decode(reconstruct(model.denoiser, trajectory, null, 7.5))
    assert torch.equal(pipeline.reconstruct(model, inversion), again)
    plan = plan_edit(source, target, STEPS, SETTINGS)
    contexts = model.contexts([plan.prompt])[0][None]
    result = edit(model.denoiser, trajectory, null, contexts, batch_edits([[plan]]), 3.0)
    drawn, decoded = model.decode(result.latents[0]), model.decode(latents)
    found = pipeline.apply(model, inversion, TARGET, SETTINGS, 3.0)
    assert torch.equal(found.pictures, drawn) and found.prompts == (source, target)
    assert torch.equal(found.result.latents, result.latents)
    kept = pipeline.apply(model, inversion, [TARGET], SETTINGS, 3.0, photos()).pictures
    assert torch.equal(kept, keep_photo(photos(), drawn, decoded)[0])


@pytest.mark.parametrize("told", ["", "a red mug on a table"])
def test_an_inversion_is_of_the_text_that_it_names(model, inversion, told):
    """Guards files whose text was typed by hand: an edit of another text would keep nothing, without a word."""
    wrong = replace(inversion, prompts=(told,))
    with pytest.raises(InputError, match="made with another text"):
        pipeline.apply(model, wrong, TARGET, SETTINGS, 3.0)
    # the photo comes back all the same
    assert torch.equal(pipeline.reconstruct(model, wrong), pipeline.reconstruct(model, inversion))


def test_a_text_of_half_precision_is_the_same(model, inversion):
    """Guards encodings that another precision made."""
    trajectory = inversion.trajectory
    rounded = trajectory.context.map(lambda tensor: tensor.to(torch.bfloat16).to(tensor))
    again = replace(inversion, trajectory=replace(trajectory, context=rounded))
    assert pipeline.apply(model, again, TARGET, SETTINGS, 3.0).pictures.isfinite().all()


@pytest.mark.parametrize("preset", ["fast", "paper"])
@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_gradients_have_room_where_they_are_needed(model, inversion, preset, guidance, monkeypatch):
    """Guards memory: at a guidance of 1 nothing is optimized, so no room for it is asked."""
    asked, run = [], type(model).run
    monkeypatch.setattr(
        type(model),
        "run",
        lambda *a, gradients=False, **k: asked.append(gradients) or run(*a, gradients=gradients, **k),
    )
    pipeline.optimize(model, inversion, preset, guidance)
    pipeline.prepare(model, photos(), SOURCE, STEPS, preset, guidance)
    assert asked == [guidance != 1] * 2


def test_several_photos_go_together(model):
    """Guards batches: two photos, each with a text of its own, are edited as they are alone."""
    texts, edits = [SOURCE, "a blue box on grass"], ["a green box on grass", TARGET]
    both = pipeline.prepare(model, photos(2), texts, STEPS, "direct")
    found = pipeline.apply(model, both, edits, SETTINGS, 2.0)
    assert len(found.pictures) == 4 and [p.text for p in found.prompts] == [SOURCE, *edits]
    first, second = (
        pipeline.apply(
            model, pipeline.prepare(model, photo, text, STEPS, "direct"), edits, SETTINGS, 2.0
        ).result.latents[0]
        for photo, text in zip(photos(2).split(1), texts, strict=True)
    )
    alone = torch.stack([first, second])
    apart = (found.result.latents - alone).norm() / alone.norm()
    # another edit or photo is apart by more than 1
    assert apart < 5e-3 and (alone.flip(1) - alone).norm() > alone.norm()
    with pytest.raises(InputError, match="2 photos need as many prompts, not 1"):
        pipeline.prepare(model, photos(2), [SOURCE], 1, "direct")


def test_a_region_limits_every_edit(model, inversion):
    """Guards masks that ComfyUI saved: outside of them the latents stay the photo's."""
    region = torch.zeros(1, 4, 4, dtype=torch.bool)
    region[:, :2] = True
    latents = pipeline.apply(model, replace(inversion, region=region), TARGET, SETTINGS).result.latents[0, 0]
    differs = (latents - inversion.trajectory.clean[0]).abs().amax(0) > 1e-5
    assert differs[:2].any() and not differs[2:].any()


def test_a_limit_of_one_s_own_counts_beside_the_region(model, inversion):
    """Guards both limits of an edit: the caller's alone, and both together."""
    top, left = torch.zeros(1, 4, 4, dtype=torch.bool), torch.zeros(1, 4, 4, dtype=torch.bool)
    top[:, :2], left[..., :2] = True, True
    for region, inside in ((None, left), (top, top & left)):
        sampling = pipeline.Sampling(0.0, limit=left)
        found = pipeline.apply(model, replace(inversion, region=region), TARGET, SETTINGS, sampling)
        differs = (found.result.latents[0, 0] - inversion.trajectory.clean[0]).abs().amax(0) > 1e-5
        assert differs.any() and not differs[~inside[0]].any()


def test_another_guidance_needs_no_other_inversion(model, inversion):
    """Guards ``optimize``: the same trajectory with embeddings for another guidance, by another preset."""
    other = pipeline.optimize(model, inversion, "paper", 2.0)
    assert other.trajectory is inversion.trajectory and other.null.guidance == 2.0 and other.null.pin is None
    assert not other.null.embeddings.equals(inversion.null.embeddings)


def test_what_does_not_belong_together_is_refused(model, inversion):
    """Guards the edge: another model, no null embeddings, a word that is nowhere; before the network is asked."""
    counter = Counted(model.denoiser)
    watched = replace(model, counter=counter)
    other = replace(inversion, fingerprint=replace(inversion.fingerprint, prediction="v_prediction"))
    for made, words, said in (
        (other, [], "another model"),
        (replace(inversion, null=None), [], "no null embeddings"),
        (inversion, ["zebra"], 'blend word "zebra" is in neither prompt'),
    ):
        with pytest.raises(InputError, match=said):
            pipeline.apply(watched, made, TARGET, EditSettings(blend=words))
    for made in (other, replace(inversion, null=None)):
        with pytest.raises(InputError):
            pipeline.reconstruct(watched, made)
    with pytest.raises(InputError, match="guidance must be"):
        pipeline.prepare(watched, photos(), SOURCE, STEPS, guidance=-1)
    with pytest.raises(InputError, match='there is no preset "best"; there are ' + ", ".join(PRESETS)):
        pipeline.prepare(watched, photos(), SOURCE, STEPS, "best")
    with pytest.raises(InputError, match="there is no edit"):
        pipeline.apply(watched, inversion, [])
    with pytest.raises(InputError, match="takes 90 tokens"):
        pipeline.prepare(watched, photos(), "a " * 90, STEPS)
    assert counter.forwards == 0


def test_a_poor_autoencoder_is_told_of(model):
    """Guards the word to the user: this one's weights are random."""
    told = []
    pipeline.prepare(replace(model, warn=told.append), photos(), SOURCE, 10, "direct")
    assert len(told) == 1 and "the model's autoencoder alone gives this photo back at" in told[0]


@pytest.mark.parametrize(("steps", "said"), [(1, "too few"), (10, ""), (50, ""), (501, "left in the noise")])
def test_steps_that_do_not_reach_the_noise_are_told(model, steps, said):
    """Guards numbers of steps at which an edit hardly changes the photo, or cannot keep it."""
    told, latents = [], model.encode_image(photos())
    speaking = replace(model, warn=told.append)
    with pytest.raises(ReachedError):
        pipeline.prepare_latents(replace(speaking, counter=Counted(stop)), latents, SOURCE, steps, "direct")
    assert len(told) == bool(said) and all(said in text for text in told)


class ReachedError(Exception):
    """The network was asked."""


def stop(*_, **__):
    raise ReachedError


def test_a_check_of_ones_own_is_asked(model, inversion):
    """Guards Python's edge: who wants to be told of drift by a function of their own is told by that one."""
    told = []
    other = replace(inversion, trajectory=replace(inversion.trajectory, latents=inversion.trajectory.latents * 1.5))
    sampling = Sampling(3.0, check=Check(told.append))
    pipeline.apply(model, other, TARGET, SETTINGS, sampling)
    assert len(told) == 1 and "no longer predicts" in told[0]
