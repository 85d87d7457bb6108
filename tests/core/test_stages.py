"""What every stage asks of the network, what it tells while it works, and which step it blames."""

import math
import re
from dataclasses import replace
from itertools import groupby

import pytest
import torch

from nullinv_core import (
    EditSettings,
    InputError,
    NonFiniteError,
    NullTextSettings,
    Pin,
    Sampling,
    Trajectory,
    batch_edits,
    edit,
    invert,
    optimize_null_text,
    plan_edit,
    reconstruct,
)
from nullinv_core.context import Context, stack
from nullinv_core.denoiser import Layer
from nullinv_core.null_text.embedding import embed, of_source
from nullinv_core.null_text.presets import PRESETS
from nullinv_core.schedule import Schedule, ddim_inverse_step, ddim_step, guide, predicted_clean
from nullinv_core.shared_guidance import guidance_of_photo

from .helpers import context_of, empty_context, latents_of, tiny_schedule, word_prompt

SOURCE, EDIT = word_prompt("a red cat on grass"), word_prompt("a blue cat on grass")
STEPS, BATCH = 4, 2
SCHEDULE = tiny_schedule(STEPS)
TEXT = stack([context_of(SOURCE), context_of(EDIT)])
EDITS = batch_edits([[plan_edit(SOURCE, EDIT, STEPS, EditSettings())] * 2] * BATCH)
EDIT_TEXT = context_of(EDIT).expand(BATCH, 2)
DOWN = list(range(STEPS, 0, -1))


def network(latents, level, context, attention=None, unconditional=0):
    """A cheap ε that depends on all it is told."""
    return 0.4 * (1 - level.alpha) ** 0.5 * latents + 0.2 * context.text.mean((1, 2))[:, None, None, None].to(latents)


def trajectory_of(denoiser=network, dtype=torch.float64):
    return invert(denoiser, latents_of(BATCH).to(dtype), TEXT.to(dtype), SCHEDULE)


STAGES = {
    "invert": lambda n, t, null, tell: invert(n, t.clean, t.context, SCHEDULE, tell),
    "fixed-point": lambda n, t, null, tell: invert(n, t.clean, t.context, SCHEDULE, tell, "fixed-point"),
    "optimize": lambda n, t, null, tell: optimize_null_text(n, t, null, NullTextSettings(inner_steps=2), tell),
    "look first": lambda n, t, null, tell: optimize_null_text(
        n, t, null, NullTextSettings(inner_steps=2, test_first=True, budget=5), tell),
    "reconstruct": lambda n, t, null, tell: reconstruct(n, t, null, 7.5, callback=tell),
    "edit": lambda n, t, null, tell: edit(n, t, null, EDIT_TEXT.to(t.context), EDITS, 7.5, tell),
    "pinned edit": lambda n, t, null, tell: edit(n, t, Pin(null), EDIT_TEXT.to(t.context), EDITS, 7.5, tell),
    "unshared edit": lambda n, t, null, tell: edit(
        n, t, Pin(null, t.latents[1:]), EDIT_TEXT.to(t.context), EDITS, 7.5, tell),
    "pin": lambda n, t, null, tell: guidance_of_photo(n, t, null, tell),
}  # fmt: skip
EVENTS = {
    "invert": "invert", "fixed-point": "invert", "optimize": "optimize", "look first": "optimize",
    "reconstruct": "sample", "edit": "sample", "pinned edit": "sample", "unshared edit": "sample", "pin": "pin",
}  # fmt: skip
ASKED = {"invert": DOWN[::-1], "fixed-point": [1, *DOWN[::-1]]}
every_stage = pytest.mark.parametrize("stage", STAGES)


class Recorder:
    """A denoiser that remembers what it was asked, and gives NaN in one call."""

    def __init__(self, broken=-1):
        self.calls, self.broken = [], broken

    def __call__(self, latents, level, context, attention=None, unconditional=0):
        self.calls.append((latents.detach(), level, context.map(torch.detach), unconditional))
        return network(latents, level, context) * (float("nan") if len(self.calls) == self.broken + 1 else 1.0)

    @property
    def steps(self):
        return [SCHEDULE.timesteps.index(level.timestep) + 1 for _, level, _, _ in self.calls]


@every_stage
def test_every_call_is_at_the_level_of_its_step(stage):
    """Guards which noise levels the network is asked at, and in which order."""
    asked = Recorder()
    STAGES[stage](asked, trajectory_of(), empty_context(), lambda event: None)
    assert all(level == SCHEDULE.level(step) for step, (_, level, _, _) in zip(asked.steps, asked.calls, strict=True))
    steps = asked.steps if stage in ASKED else [step for step, _ in groupby(asked.steps)]
    assert steps == ASKED.get(stage, DOWN)


@every_stage
def test_unconditional_rows_come_first_and_are_counted(stage):
    """Guards ``unconditional``, which tells rows apart: so many rows of the empty prompt, then texts alone."""
    asked, texts = Recorder(), [*TEXT]
    STAGES[stage](asked, trajectory_of(), empty_context(), lambda event: None)
    for latents, _, context, unconditional in asked.calls:
        assert len(latents) == len(context)
        assert [any(row.equals(text) for text in texts) for row in context] == [
            index >= unconditional for index in range(len(context))
        ]
        if 2 * unconditional == len(context):
            assert torch.equal(latents[:unconditional], latents[unconditional:])


UNGUIDED = {
    "reconstruct": lambda n, t, null, w: reconstruct(n, t, null, w),
    "edit": lambda n, t, null, w: edit(n, t, null, EDIT_TEXT.to(t.context), EDITS, w).latents,
    "pinned edit": lambda n, t, null, w: edit(n, t, Pin(null), EDIT_TEXT.to(t.context), EDITS, w).latents,
    "optimize": lambda n, t, null, w: optimize_null_text(n, t, null, NullTextSettings(w))[1],
    "optimize, keep the best": lambda n, t, null, w: optimize_null_text(
        n, t, null, NullTextSettings(w, keep_best=True))[1],
    "optimize, look first": lambda n, t, null, w: optimize_null_text(
        n, t, null, NullTextSettings(w, start="source", test_first=True))[1],
}  # fmt: skip


@pytest.mark.parametrize("stage", UNGUIDED)
def test_at_a_guidance_of_one_nothing_is_asked_without_text(stage):
    """Guards the cost where ∅ takes no part (models made for cfg 1), and that the result is that of the equation."""
    asked, trajectory = Recorder(), trajectory_of()
    found = UNGUIDED[stage](asked, trajectory, empty_context(), 1.0)
    assert len(asked.calls) == STEPS and not any(unconditional for *_, unconditional in asked.calls)
    # where it does take part, but not so that one would see it
    assert found == pytest.approx(UNGUIDED[stage](network, trajectory, empty_context(), 1 + 1e-9), abs=1e-7)


def test_the_photo_is_guided_by_its_own_guidance():
    """Guards that ∅ is asked where the edits have a guidance of 1 and the photo has not."""
    asked, trajectory = Recorder(), trajectory_of()
    sampling = Sampling(1.0, source_guidance=3.0)
    edit(asked, trajectory, empty_context(), EDIT_TEXT.to(trajectory.context), EDITS, sampling)
    assert all(2 * unconditional == len(latents) for latents, *_, unconditional in asked.calls)


def test_at_a_guidance_of_one_null_embeddings_are_where_they_start():
    """Guards that nothing moves what takes no part, and that the losses are those of the photo's way all the same."""
    trajectory = trajectory_of()
    null, reached = optimize_null_text(network, trajectory, empty_context(), NullTextSettings(1.0))
    assert null.embeddings.equals(empty_context().to(null.embeddings).expand(STEPS, BATCH))
    assert not null.iterations.any()
    assert torch.allclose(null.losses[0], (reached - trajectory.clean).square().mean((1, 2, 3)).to(null.losses))


@pytest.mark.parametrize("stage", ["reconstruct", "edit", "pinned edit", "unshared edit", "pin"])
@pytest.mark.parametrize("images", [0, 1, BATCH])
def test_null_contexts_of_any_form_and_precision_fit(stage, images):
    """Guards plain null contexts: of one image, of each or of none, they are the same rows in the texts' precision."""
    trajectory, results = trajectory_of(dtype=torch.float32), []
    for null in (empty_context(torch.float32), empty_context().expand(images) if images else empty_context()):
        asked = Recorder()
        results.append(STAGES[stage](asked, trajectory, null, lambda event: None))
        assert {context.text.dtype for _, _, context, _ in asked.calls} == {torch.float32}
    a, b = (r if isinstance(r, torch.Tensor) else r.latents for r in results)
    assert torch.equal(a, b)


@every_stage
def test_nan_of_any_call_is_blamed_on_its_step(stage):
    """Guards the error: whichever call gives NaN, it names the step and timestep that the network was asked at."""
    trajectory, clean = trajectory_of(), Recorder()
    STAGES[stage](clean, trajectory, empty_context(), lambda event: None)
    for call, step in enumerate(clean.steps):
        blamed = re.escape(f"at step {step} (timestep {SCHEDULE.timesteps[step - 1]:g})")
        with pytest.raises(NonFiniteError, match=blamed):
            STAGES[stage](Recorder(call), trajectory, empty_context(), lambda event: None)


@every_stage
def test_every_step_is_told_with_the_picture_that_it_implies(stage):
    """Guards progress and previews: all steps are counted, and where ε never changes every preview is the photo."""
    epsilon = latents_of(1, seed=9)

    def constant(latents, level, context, attention=None, unconditional=0):
        return epsilon + 0 * context.text.sum((1, 2))[:, None, None, None].expand(latents.shape)

    events, trajectory = [], trajectory_of(constant)
    STAGES[stage](constant, trajectory, empty_context(), events.append)
    told = [(e.phase, e.step, e.total) for e in events]
    assert [one for one, _ in groupby(told)] == [(EVENTS[stage], step, STEPS) for step in range(1, STEPS + 1)]
    photo = predicted_clean(trajectory.clean, epsilon, SCHEDULE.alphas_cumprod[0])
    for event in events:
        copies = len(event.preview) // BATCH
        assert copies == (2 if "edit" in stage else 1)
        assert torch.allclose(event.preview, photo.repeat_interleave(copies, 0), atol=1e-6)


def test_a_fixed_point_is_looked_for_where_the_last_two_steps_point():
    """Guards the method against its description: one iteration, from the ε of the last two steps, extrapolated."""

    def bent(latents, level, context, attention=None, unconditional=0):
        return torch.tanh(latents) * (1 - level.alpha) ** 0.5

    latents, seen = [latents_of()], []
    for step in range(1, STEPS + 1):
        guess = 2 * seen[-1] - seen[-2] if len(seen) > 1 else (seen or [bent(latents[0], SCHEDULE.level(1), None)])[-1]
        seen.append(bent(ddim_inverse_step(latents[-1], guess, SCHEDULE, step), SCHEDULE.level(step), None))
        latents.append(ddim_inverse_step(latents[-1], seen[-1], SCHEDULE, step))
    found = invert(bent, latents_of(), TEXT[:1], SCHEDULE, method="fixed-point")
    assert torch.allclose(found.latents, torch.stack(latents), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    ("latents", "context"),
    [((2, 4, 8), (2, 5, 6)), ((2, 4, 8, 8), (2, 6)), ((2, 4, 8, 8), (1, 5, 6)), ((1, 2, 4, 8, 8), (1, 5, 6))],
)
def test_an_inversion_needs_pictures_and_a_text_for_each(latents, context):
    """Guards the shapes, each by itself."""
    with pytest.raises(InputError, match=re.escape(f"{latents} and {context}")):
        invert(network, torch.zeros(latents), Context(torch.zeros(context)), SCHEDULE)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("images", [0, 1, BATCH])
def test_a_preset_gives_what_edits_need(name, images):
    """Guards what a preset hands on: its guidance, the empty prompt's rows of every image, the photo's own guidance."""
    trajectory, recipe = trajectory_of(dtype=torch.float32), PRESETS[name]
    null_context = empty_context().expand(images) if images else empty_context()
    null, reached = embed(network, trajectory, null_context, recipe, 3.5)
    # the authors' embeddings start from the empty prompt's rows, in their precision; all others from the source's
    exact = torch.float64 if name == "paper" else torch.float32
    assert (null.guidance, null.pinned, null.embeddings.text.dtype) == (3.5, recipe.pinned, exact)
    if recipe.optimization is None:
        assert null.embeddings.equals(trajectory.context.expand(STEPS, BATCH)) and not null.losses.any()
        wanted = trajectory.clean if recipe.pinned else reconstruct(network, trajectory, null, 1.0)
        assert torch.equal(reached, wanted)
    if recipe.pinned:
        rows = empty_context(torch.float32)
        assert null.pin.null.equals(rows.expand(BATCH)) and null.pin.null.text.dtype == torch.float32
        assert (null.pin.guidance is None) != recipe.unshared
        if recipe.unshared:
            assert torch.equal(null.pin.guidance, guidance_of_photo(network, trajectory, rows))
    with pytest.raises(InputError, match=r"^a null context "):
        embed(network, trajectory, Context(empty_context().text[1:]), recipe, 3.5)


def test_a_preset_looks_for_free_where_it_may():
    """Guards ``only_text_differs``: a backend whose unconditional rows differ pays for the first look at each step."""
    calls = []
    for only_text_differs in ({}, {"only_text_differs": True}, {"only_text_differs": False}):
        asked = Recorder()
        recipe = replace(PRESETS["fast"], optimization=replace(PRESETS["fast"].optimization, early_stop=math.inf))
        embed(asked, trajectory_of(), empty_context(), recipe, 3.5, **only_text_differs)
        calls.append(len(asked.calls))
    assert calls == [2 * STEPS, 2 * STEPS, 3 * STEPS]


def test_the_source_text_as_null_text_is_sampled_without_guidance_where_it_may():
    """Guards the price of ``negative-prompt``: both predictions of a step are one. Where the branches differ by more
    than their text both are made, and the latents are those of the guidance that was asked for."""
    trajectory, reached, rows = trajectory_of(), [], []
    for only_text_differs in (True, False):
        asked = Recorder()
        null, latents = embed(
            asked, trajectory, empty_context(), PRESETS["negative-prompt"], 3.5, only_text_differs=only_text_differs
        )
        rows.append(sum(len(call[0]) for call in asked.calls))
        reached.append(latents)
        assert null.guidance == 3.5
    assert rows == [STEPS * BATCH, 2 * STEPS * BATCH]
    assert torch.allclose(*reached) and torch.equal(reached[1], reconstruct(network, trajectory, null, 3.5))


def test_the_sources_rows_in_half_precision_are_stored_in_float32():
    """Guards files, whose embeddings are float32 whatever the text encoder ran in."""
    trajectory = trajectory_of(dtype=torch.float16)
    assert of_source(trajectory, 2.0).embeddings.text.dtype == torch.float32
    assert of_source(trajectory, 2.0).embeddings[1].equals(trajectory.context.to(torch.float32))


def of_images(null, images):
    """Null embeddings of some of the images."""
    return replace(
        null,
        embeddings=null.embeddings[:, images],
        losses=null.losses[:, images],
        iterations=null.iterations[:, images],
    )


def test_null_embeddings_serve_the_trajectory_that_they_are_of():
    """Guards files that are put together: as many images, or one for all; the same noise levels, not their number."""
    trajectory = trajectory_of()
    null, _ = optimize_null_text(network, trajectory, empty_context(), NullTextSettings(inner_steps=1))
    of_one = reconstruct(network, trajectory, of_images(null, [0]), 7.5)
    assert torch.equal(of_one[0], reconstruct(network, trajectory, null, 7.5)[0])
    assert torch.equal(of_one, reconstruct(network, trajectory, of_images(null, [0, 0]), 7.5))
    three = replace(trajectory, latents=trajectory.latents[:, [0, 1, 0]], context=TEXT[[0, 1, 0]])
    levels = Schedule(SCHEDULE.timesteps, (*SCHEDULE.alphas_cumprod[:-1], SCHEDULE.alphas_cumprod[-1] / 2))
    pin = Pin(empty_context().expand(BATCH), trajectory.latents[1:, ..., :-1])
    for wrong, of in (
        (of_images(null, [0, 1, 0]), trajectory), (null, three), (replace(null, schedule=levels), trajectory),
    ):  # fmt: skip
        with pytest.raises(InputError, match=f"4 steps and {wrong.embeddings.shape[1]} images do not belong to a traj"):
            reconstruct(network, of, wrong, 7.5)
    with pytest.raises(InputError, match="does not belong to a trajectory of 4 steps and 2 images"):
        STAGES["edit"](network, trajectory, replace(null, pin=pin), lambda event: None)


def test_an_edit_ends_after_it_has_begun():
    """Guards skipped beside fewer steps: where nothing of an edit is left, the photo would come back unchanged."""
    trajectory = trajectory_of()
    ends_first = Sampling(7.5, steps=2, path="random", skipped=0.5)
    with pytest.raises(InputError, match="skipped leaves out the first 2 steps, and the edit ends after 2"):
        edit(network, trajectory, Pin(empty_context()), EDIT_TEXT.to(trajectory.context), EDITS, ends_first)


@pytest.mark.parametrize("steps", [-1, 0, STEPS + 1])
def test_an_edit_takes_some_steps_and_no_more_than_there_are(steps):
    """Guards the end step: one step is enough, none is no edit."""
    trajectory = trajectory_of()
    first = edit(network, trajectory, empty_context(), EDIT_TEXT, EDITS, Sampling(7.5, steps=1))
    assert first.latents.shape == (BATCH, 2, *trajectory.clean.shape[1:])
    with pytest.raises(InputError, match=f"between 1 and 4 steps, not {steps}"):
        edit(network, trajectory, empty_context(), EDIT_TEXT, EDITS, Sampling(7.5, steps=steps))


def test_guidance_is_as_exact_as_the_latents():
    """Guards float64: the source branch of an edit is the reconstruction, at a guidance that no float32 is."""
    trajectory = trajectory_of()
    source = edit(network, trajectory, empty_context(), EDIT_TEXT, EDITS, 7.3).source
    assert torch.allclose(source, reconstruct(network, trajectory, empty_context(), 7.3), rtol=1e-12, atol=1e-13)


def looking_at(size, edits):
    """The network, with attention of its own making on a grid of that size, for so many edits of each picture."""
    maps = torch.rand(1 + edits, 2, size[0] * size[1], SOURCE.length, generator=torch.Generator().manual_seed(3)) ** 8

    def looking(latents, level, context, attention=None, unconditional=0):
        assert attention.weighs(Layer("cross", size[0] * size[1]))
        attention.weigh(maps.repeat(BATCH, 1, 1, 1).double(), Layer("cross", size[0] * size[1]))
        return network(latents, level, context)

    return looking


@pytest.mark.parametrize("size", [(16, 24), (24, 16)])
def test_a_blend_keeps_to_its_mask_in_pictures_that_are_not_square(size):
    """Guards the mask's sides: as the latents', and outside of it an edit is its own photo's source."""
    latents = torch.randn(STEPS + 1, BATCH, 4, *size, generator=torch.Generator().manual_seed(4)).double()
    settings = [EditSettings(blend_words=["cat"], blend_threshold=0.5), EditSettings(exclude_words=["grass"])]
    edits = batch_edits([[plan_edit(SOURCE, EDIT, STEPS, one) for one in settings]] * BATCH)
    found = edit(looking_at(size, 2), Trajectory(latents, TEXT, SCHEDULE), empty_context(), EDIT_TEXT, edits, 7.5)
    assert found.maps.shape == (BATCH, 3, *size, SOURCE.length) and found.mask.shape == (BATCH, 2, *size)
    # the second picture's source text is the edit's
    moved = (found.latents != found.source[:, None])[0].any(1)
    assert torch.equal(moved, found.mask[0]) and all(0.05 < float(one.double().mean()) < 0.99 for one in found.mask[0])


@pytest.mark.parametrize("taken", range(1, STEPS + 1))
def test_excluded_words_hold_their_region_until_their_end(taken):
    """Guards ``exclude_end``: before it the region is the photo's, step for step; after it the edit draws there too."""
    latents = torch.randn(STEPS + 1, BATCH, 4, 16, 16, generator=torch.Generator().manual_seed(4)).double()
    settings = EditSettings(exclude_words=["grass"], blend_start=0.0, exclude_end=0.5, cross_replace=0.0)
    edits = batch_edits([[plan_edit(SOURCE, EDIT, STEPS, settings)] * 2] * BATCH)
    sampling = Sampling(7.5, steps=taken)
    found = edit(
        looking_at((16, 16), 2), Trajectory(latents, TEXT, SCHEDULE), empty_context(), EDIT_TEXT, edits, sampling
    )
    moved = (found.latents != found.source[:, None])[0].any(1)
    assert not found.mask.all()
    assert moved.all() if taken > STEPS // 2 else torch.equal(moved, found.mask[0])


@pytest.mark.parametrize("only_text_differs", [True, False])
def test_looks_at_the_loss_are_counted_from_one(only_text_differs):
    """Guards what progress says of the optimization, whether the first look is free or not."""
    events, settings = [], NullTextSettings(start="source", inner_steps=2, test_first=True, early_stop=0, budget=3)
    trajectory = trajectory_of()
    null, _ = optimize_null_text(network, trajectory, empty_context(), settings, events.append, only_text_differs)
    for step in range(1, STEPS + 1):
        counts = [event.iteration for event in events if event.step == step]
        # the free look at the noisiest step and the one after it are of the same embedding
        assert counts == [1] * (only_text_differs and step == 1) + list(range(1, counts[-1] + 1))
        assert counts[-1] == int(null.iterations[STEPS - step].max()) + 1


@pytest.mark.parametrize("trained", [False, True])
def test_a_network_without_a_gradient_is_a_sentence(trained):
    """Guards attention kernels that cannot be differentiated, in networks whose weights have gradients or none."""
    weight = torch.ones((), dtype=torch.float64, requires_grad=trained)

    def deaf(latents, level, context, attention=None, unconditional=0):
        return weight * network(latents, level, context.map(torch.detach))

    for settings in (NullTextSettings(), NullTextSettings(test_first=True)):
        with pytest.raises(InputError, match="passes no gradient to its context; turn off custom attention kernels"):
            optimize_null_text(deaf, trajectory_of(), empty_context(), settings)


def test_a_step_ends_once_its_loss_is_below_the_threshold():
    """Guards the early stop to the last bit: a loss that is the threshold itself is not below it."""
    trajectory = replace(trajectory_of(), latents=trajectory_of().latents[:, :1], context=TEXT[:1])
    never = NullTextSettings(test_first=True, inner_steps=1, early_stop=math.inf)
    loss = float(optimize_null_text(network, trajectory, empty_context(), never)[0].losses[-1])
    for stop, taken in ((loss, 1), (math.nextafter(loss, math.inf), 0)):
        settings = replace(never, early_stop=stop, early_stop_growth=0.0)
        null, _ = optimize_null_text(network, trajectory, empty_context(), settings)
        assert int(null.iterations[-1]) == taken


def test_the_loss_is_the_distance_to_the_trajectory():
    """Guards what the optimization aims at, step by step: the next latents of the trajectory, no others."""
    trajectory, never = trajectory_of(), NullTextSettings(test_first=True, early_stop=math.inf)
    null, _ = optimize_null_text(network, trajectory, empty_context(), never)
    latents = trajectory.noisiest
    for step in DOWN:
        rows = (empty_context().expand(BATCH), TEXT)
        epsilon = guide(*(network(latents, SCHEDULE.level(step), one) for one in rows), 7.5)
        latents = ddim_step(latents, epsilon, SCHEDULE, step)
        wanted = (latents - trajectory.latents[step - 1]).square().mean((1, 2, 3))
        assert torch.allclose(null.losses[step - 1], wanted)
