"""What must hold whatever the network is."""

import dataclasses

import pytest
import torch

from nullinv_core import (
    PRESETS,
    Counted,
    EditSettings,
    InputError,
    NonFiniteError,
    NullTextSettings,
    Sampling,
    Trajectory,
    batch_edits,
    edit,
    embed,
    invert,
    optimize_null_text,
    plan_edit,
    reconstruct,
)
from nullinv_core.context import Context, stack
from nullinv_core.null_text.settings import PAPER
from nullinv_core.schedule import Schedule, ddim_step, guide
from nullinv_core.types import ignore

from .helpers import context_of, controlled, empty_context, latents_of, tiny_schedule, tiny_unet, word_prompt

SOURCE = word_prompt("a red cat on grass")
EDIT = word_prompt("a blue cat on grass")
QUICK = NullTextSettings(inner_steps=2)


@pytest.fixture
def denoiser():
    return controlled(tiny_unet(torch.float64))


def inverted(denoiser, batch=1, steps=4, prompt=SOURCE):
    context = context_of(prompt)[None].expand(batch)
    return invert(denoiser, latents_of(batch), context, tiny_schedule(steps))


def edited(denoiser, trajectory, null, prompt, settings, guidance=7.5):
    plan = plan_edit(SOURCE, prompt, trajectory.schedule.steps, settings)
    contexts = context_of(prompt)[None, None].expand(trajectory.batch, 1)
    return edit(denoiser, trajectory, null, contexts, batch_edits([[plan]] * trajectory.batch), guidance)


def close(a, b, tolerance=1e-9):
    return bool((a - b).norm() <= tolerance * b.norm())


def test_guidance_one_with_the_source_prompt_reconstructs():
    """Guards the pivot: at w = 1 the way back leads to the image, the better the finer the steps.

    The network is the exact one for Gaussian data, so only the discretization keeps the two apart.
    """

    def gaussian(latents, level, context, attention=None, unconditional=0):
        return (1 - level.alpha) ** 0.5 / (0.25 * level.alpha + 1 - level.alpha) * latents

    def error(steps):
        trajectory = invert(gaussian, latents_of(2), context_of(SOURCE)[None].expand(2), tiny_schedule(steps))
        back = reconstruct(gaussian, trajectory, empty_context(), 1.0)
        return float((back - trajectory.clean).norm() / trajectory.clean.norm())

    assert error(500) < 0.02 < error(20)


def test_guidance_one_retraces_a_constant_epsilon_exactly():
    """Guards the loop's bookkeeping: for constant ε inversion and sampling are each other's inverse."""
    epsilon = latents_of(1, seed=9)
    trajectory = invert(
        lambda z, *rest, **more: epsilon.expand_as(z), latents_of(), context_of(SOURCE)[None], tiny_schedule()
    )
    back = reconstruct(lambda z, *rest, **more: epsilon.expand_as(z), trajectory, empty_context(), 1.0)
    assert close(back, trajectory.clean)


@pytest.mark.parametrize("mode", ["replace", "refine", "auto"])
def test_an_edit_that_changes_no_word_gives_the_reconstruction(denoiser, mode):
    """Guards the edit path: equal prompts, any mode, equal the plain reconstruction."""
    trajectory = inverted(denoiser)
    null, reached = optimize_null_text(denoiser, trajectory, empty_context(), QUICK)
    result = edited(denoiser, trajectory, null, SOURCE, EditSettings(mode=mode))
    assert close(result.latents[:, 0], reached) and close(result.source, reached)


def test_the_source_branch_of_an_edit_is_the_reconstruction(denoiser):
    """Guards the source branch: edits beside it in the batch leave it alone."""
    trajectory = inverted(denoiser)
    null, reached = optimize_null_text(denoiser, trajectory, empty_context(), QUICK)
    result = edited(denoiser, trajectory, null, EDIT, EditSettings(weights={"blue": 3.0}))
    assert close(result.source, reached)
    assert not close(result.latents[:, 0], reached, 1e-3)


def test_weight_one_changes_nothing_and_other_weights_do(denoiser):
    """Guards the equalizer: 1.0 is the identity, 3.0 is not."""
    trajectory, null = inverted(denoiser), empty_context()
    plain, one, three = (
        edited(denoiser, trajectory, null, EDIT, EditSettings(weights=w)).latents
        for w in ({}, {"cat": 1.0}, {"cat": 3.0})
    )
    assert torch.equal(plain, one)
    assert not close(plain, three, 1e-4)


def test_windows_of_no_length_are_a_plain_prompt_swap(denoiser):
    """Guards the windows: nothing replaced at all is sampling with the other prompt."""
    trajectory, null = inverted(denoiser), empty_context()
    result = edited(denoiser, trajectory, null, EDIT, EditSettings(cross_replace=0.0, self_replace=0.0))
    swap = reconstruct(denoiser, trajectory, null, 7.5, context_of(EDIT)[None])
    assert close(result.latents[:, 0], swap)


def test_a_words_own_window_overrides_the_common_one(denoiser):
    """Guards per-word windows: a word can start later and end earlier than the others."""
    plan = plan_edit(SOURCE, EDIT, 10, EditSettings(cross_replace=0.8, word_windows={"blue": (0.2, 0.5)}))
    token = EDIT.tokens_of_word(1)[0]
    assert plan.cross_window[:, token].nonzero().flatten().tolist() == [2, 3, 4]
    assert plan.cross_window[:, token + 1].nonzero().flatten().tolist() == list(range(8))


def test_windows_end_where_their_number_says():
    """Guards windows over 50 steps, of which 0.58 are 29 and 0.29 to 0.57 are 14 to 28."""
    plan = plan_edit(SOURCE, EDIT, 50, EditSettings(cross_replace=0.58, self_replace=(0.29, 0.57), focus_from=0.58))
    assert plan.cross_window[:, 0].sum() == 29 and plan.self_window.nonzero().flatten().tolist() == list(range(14, 28))
    assert plan.focus_window.any(1).nonzero().flatten().tolist() == list(range(29, 50))


def test_local_blend_keeps_the_source_outside_its_mask(denoiser):
    """Guards local blend: outside the reported mask the edit equals the source branch to the bit, inside it differs."""
    trajectory, null = inverted(denoiser), empty_context()
    settings = EditSettings(blend_words=["cat"], blend_threshold=0.75)
    result = edited(denoiser, trajectory, null, EDIT, settings)
    mask = result.mask[:, 0, None].expand_as(result.source)
    assert 0 < mask.double().mean() < 1
    assert torch.equal(result.latents[:, 0][~mask], result.source[~mask])
    assert not torch.equal(result.latents[:, 0][mask], result.source[mask])


def test_excluded_words_shrink_the_mask(denoiser):
    """Guards exclude words: their region leaves the mask."""
    trajectory, null = inverted(denoiser), empty_context()
    plain = edited(denoiser, trajectory, null, EDIT, EditSettings(blend_words=["cat"], blend_threshold=0.6)).mask
    less = edited(
        denoiser,
        trajectory,
        null,
        EDIT,
        EditSettings(blend_words=["cat"], exclude_words=["grass"], blend_threshold=0.6),
    ).mask
    assert less.sum() < plain.sum() and not (less & ~plain).any()


def test_a_batch_equals_its_single_runs(denoiser):
    """Guards batches: each image keeps its own loss, stop, embedding and edit."""
    prompts = [SOURCE, word_prompt("two dogs")]
    context, latents = stack([context_of(p) for p in prompts]), latents_of(2)
    schedule = tiny_schedule()
    first = optimize_null_text(
        denoiser, invert(denoiser, latents, context, schedule), empty_context(), NullTextSettings(inner_steps=1)
    )[0].losses[-1]
    settings = NullTextSettings(inner_steps=3, early_stop=float(first.mean()))

    def run(rows):
        trajectory = invert(denoiser, latents[rows], context[rows], schedule)
        null, reached = optimize_null_text(denoiser, trajectory, empty_context(), settings)
        plans = [[plan_edit(p, EDIT, 4), plan_edit(p, SOURCE, 4)] for p in prompts[rows]]
        contexts = stack([context_of(EDIT), context_of(SOURCE)])[None].expand(len(plans), 2)
        return null, reached, edit(denoiser, trajectory, null, contexts, batch_edits(plans), 7.5).latents

    both, singles = run(slice(0, 2)), [run(slice(i, i + 1)) for i in range(2)]
    assert both[0].iterations[:, 0].tolist() != both[0].iterations[:, 1].tolist()
    for row, single in enumerate(singles):
        assert torch.equal(both[0].iterations[:, row], single[0].iterations[:, 0])
        assert close(both[0].embeddings.text[:, row], single[0].embeddings.text[:, 0], 1e-7)
        assert close(both[1][row], single[1][0], 1e-7) and close(both[2][row], single[2][0], 1e-7)


def test_optimization_lowers_the_loss():
    """Guards that the optimization optimizes: ten steps end nearer to the pivot than one."""
    denoiser = controlled(tiny_unet(torch.float64))
    trajectory = inverted(denoiser, steps=10)
    one, ten = (
        optimize_null_text(denoiser, trajectory, empty_context(), NullTextSettings(guidance=2.0, inner_steps=n))[1]
        for n in (1, 10)
    )
    assert (ten - trajectory.clean).norm() < (one - trajectory.clean).norm()


def test_the_gradient_is_the_finite_difference():
    """Guards the backward pass of the optimizer's own first step against central differences of the loss."""
    denoiser, null = controlled(tiny_unet(torch.float64)), empty_context()[None].text
    trajectory = inverted(denoiser)
    schedule, settings = trajectory.schedule, NullTextSettings(inner_steps=1)

    def loss(embedding):
        epsilon = guide(
            denoiser(trajectory.noisiest, schedule.level(4), Context(embedding)),
            denoiser(trajectory.noisiest, schedule.level(4), trajectory.context), 7.5,
        )  # fmt: skip
        return (ddim_step(trajectory.noisiest, epsilon, schedule, 4) - trajectory.latents[3]).square().mean()

    moved = optimize_null_text(denoiser, trajectory, Context(null), settings)[0].at(4).text - null
    # the first Adam step moves every entry by the learning rate against the sign of its gradient
    assert torch.allclose(moved.abs(), torch.full_like(moved, 1e-2), rtol=1e-3)
    for place in ((0, 0, 0), (0, 3, 5), (0, 9, 11)):
        nudge = torch.zeros_like(null)
        nudge[place] = 1e-5
        slope = float(loss(null + nudge) - loss(null - nudge))
        assert slope != 0 and (slope > 0) == (float(moved[place]) < 0)


def test_gradients_survive_half_precision():
    """Guards the loss scale: gradients that vanish in float16 still move ∅ as they do in float32, and no further."""
    schedule, z, null = tiny_schedule(1), latents_of(1, 64, torch.float32), empty_context(torch.float32)

    def network(dtype):
        def denoiser(latents, level, context, attention=None, unconditional=0):
            everywhere = 1e-3 * context.text.mean((1, 2))[:, None, None, None].expand(latents.shape)
            return 0.1 * latents + everywhere.to(dtype).to(latents.dtype)

        return denoiser

    text = null[None].map(lambda encoding: encoding + 0.5)
    epsilon = guide(*(network(torch.float32)(z, None, c) for c in (null[None], text)), 7.5)
    trajectory = Trajectory(torch.stack([ddim_step(z, epsilon, schedule, 1) + 1e-4, z]), text, schedule)
    half, full = (
        optimize_null_text(network(dtype), trajectory, null, NullTextSettings(inner_steps=1))[0].at(1).text - null.text
        for dtype in (torch.float16, torch.float32)
    )
    # gradients as small as Adam's epsilon: a step shorter than the learning rate shows that the scale was taken out
    assert 1e-5 < full.abs().max() < 0.9e-2
    assert torch.allclose(half, full, rtol=0.1)


def test_counts_are_samples(denoiser):
    """Guards the cost figures: T to invert, 2·T + inner to optimize, 2·(1+E)·T to edit."""
    counted = Counted(denoiser)
    trajectory = inverted(counted, batch=2)
    assert (counted.forwards, counted.backwards) == (8, 0)
    null, _ = optimize_null_text(counted, trajectory, empty_context(), QUICK)
    inner = int(null.iterations.sum())
    assert (counted.forwards, counted.backwards) == (8 + 16 + inner, inner)
    before = counted.forwards
    edited(counted, trajectory, null, EDIT, EditSettings())
    assert counted.forwards - before == 2 * 2 * 2 * 4


def test_callbacks_see_every_step_and_can_cancel(denoiser):
    """Guards progress, preview and cancel: events in order with finite previews; an exception stops at once."""
    events = []
    trajectory = invert(denoiser, latents_of(), context_of(SOURCE)[None], tiny_schedule(), events.append)
    optimize_null_text(denoiser, trajectory, empty_context(), QUICK, events.append)
    reconstruct(denoiser, trajectory, empty_context(), 7.5, callback=events.append)
    assert [e.phase for e in events] == ["invert"] * 4 + ["optimize"] * 8 + ["sample"] * 4
    assert [e.step for e in events if e.phase == "sample"] == [1, 2, 3, 4]
    assert all(torch.isfinite(e.preview).all() and e.preview.shape == (1, 4, 8, 8) for e in events)
    assert all(e.loss is not None and e.iteration in (1, 2) for e in events if e.phase == "optimize")

    class CancelledError(Exception):
        pass

    def cancel(event):
        raise CancelledError

    counted = Counted(denoiser)
    with pytest.raises(CancelledError):
        optimize_null_text(counted, trajectory, empty_context(), QUICK, cancel)
    assert counted.forwards == 2


@pytest.mark.parametrize("bad_call", [0, 2])
def test_nan_is_reported_with_its_step(denoiser, bad_call):
    """Guards half precision: NaN from the network names the step and the way out."""
    calls = []

    def broken(latents, level, context, attention=None, unconditional=0):
        calls.append(level)
        return denoiser(latents, level, context) * (float("nan") if len(calls) - 1 == bad_call else 1.0)

    with pytest.raises(NonFiniteError, match=f"at step {bad_call + 1} .*float32 or bfloat16"):
        inverted(broken)


def edited_with(denoiser, trajectory, null, callback=ignore, **options):
    plan = plan_edit(SOURCE, EDIT, trajectory.schedule.steps)
    contexts = context_of(EDIT)[None, None].expand(trajectory.batch, 1)
    return edit(
        denoiser,
        trajectory,
        null,
        contexts,
        batch_edits([[plan]] * trajectory.batch),
        Sampling(7.5, **options),
        callback,
    )


def test_a_limit_keeps_the_source_outside(denoiser):
    """Guards masks: outside the limit an edit equals its source, inside it moves; the mask says so."""
    trajectory = inverted(denoiser, batch=2)
    null, _ = optimize_null_text(denoiser, trajectory, empty_context(), QUICK)
    limit = torch.zeros(2, 8, 8, dtype=torch.bool)
    limit[0, 2:5, 3:7] = True
    result = edited_with(denoiser, trajectory, null, limit=limit)
    moved = (result.latents[:, 0] - result.source).abs().amax(1) > 0
    assert torch.equal(moved, limit) and torch.equal(result.mask[:, 0], limit)


def test_the_source_may_have_a_guidance_of_its_own(denoiser):
    """Guards separate guidance: the source follows its own, the edit the other."""
    trajectory, null = inverted(denoiser), empty_context()
    own = edited_with(denoiser, trajectory, null, source_guidance=1.0)
    assert close(own.source, reconstruct(denoiser, trajectory, null, 1.0))
    assert not close(own.source, edited_with(denoiser, trajectory, null).source)


def test_an_edit_may_end_early(denoiser):
    """Guards the end step: the source of two of four steps is the reconstruction's state after two."""
    trajectory, seen = inverted(denoiser), []
    result = edited_with(denoiser, trajectory, empty_context(), steps=2, callback=seen.append)
    latents = trajectory.noisiest
    for step in (4, 3):
        level = trajectory.schedule.level(step)
        epsilon = guide(*(denoiser(latents, level, c) for c in (empty_context()[None], trajectory.context)), 7.5)
        latents = ddim_step(latents, epsilon, trajectory.schedule, step)
    assert close(result.source, latents) and [(e.step, e.total) for e in seen] == [(1, 2), (2, 2)]


def test_the_same_inputs_give_the_same_bytes(denoiser):
    """Guards determinism on the CPU."""
    runs = []
    for _ in range(2):
        trajectory = inverted(denoiser)
        null, _ = optimize_null_text(denoiser, trajectory, empty_context(), QUICK)
        runs.append((null.embeddings.text, edited(denoiser, trajectory, null, EDIT, EditSettings()).latents))
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_inference_mode_around_the_core_does_no_harm(denoiser):
    """Guards hosts that run nodes under inference mode: results stay ordinary tensors and gradients flow."""
    with torch.inference_mode():
        context, null = (one.map(lambda encoding: encoding + 0) for one in (context_of(SOURCE)[None], empty_context()))
        latents = latents_of() + 0
        assert latents.is_inference() and null.text.is_inference()
        trajectory = invert(denoiser, latents, context, tiny_schedule())
        null, _ = optimize_null_text(denoiser, trajectory, null, QUICK)
    assert not null.embeddings.text.is_inference() and not trajectory.latents.is_inference()


def test_a_schedule_from_outside_is_used_as_it_is(denoiser):
    """Guards foreign schedules: fractional timesteps and a clean end at ᾱ = 1."""
    schedule = Schedule((10.5, 400.25, 990.0), (1.0, 0.95, 0.4, 0.006))
    trajectory = invert(denoiser, latents_of(), context_of(SOURCE)[None], schedule)
    null, reached = optimize_null_text(denoiser, trajectory, empty_context(), QUICK)
    assert close(reconstruct(denoiser, trajectory, null, 7.5), reached)


def test_the_paper_preset_has_the_authors_constants():
    """Guards N, w, the learning rate's fall and the growing threshold; beyond 100 steps the rate stays positive."""
    assert (PAPER.guidance, PAPER.inner_steps) == (7.5, 10)
    assert [PAPER.rate(i, 50) for i in (0, 1, 49)] == pytest.approx([1e-2, 9.9e-3, 5.1e-3])
    assert [PAPER.threshold(i) for i in (0, 1, 49)] == pytest.approx([1e-5, 3e-5, 99e-5])
    assert min(PAPER.rate(i, 500) for i in range(500)) > 0


def test_previews_keep_the_whole_batch(denoiser):
    """Guards live previews: images that ended early stay in the picture while others go on."""
    trajectory, events = inverted(denoiser, batch=2), []
    noisiest = optimize_null_text(denoiser, trajectory, empty_context(), NullTextSettings(inner_steps=1))[0].losses[-1]
    settings = NullTextSettings(inner_steps=3, early_stop=float(noisiest.mean()))
    null, _ = optimize_null_text(denoiser, trajectory, empty_context(), settings, events.append)
    assert null.iterations[:, 0].tolist() != null.iterations[:, 1].tolist()
    assert {e.preview.shape for e in events} == {trajectory.clean.shape} and {len(e.loss) for e in events} == {2}


def test_inputs_that_do_not_fit_are_refused(denoiser):
    """Guards the edges: one sentence each for shapes, counts, words and settings."""
    trajectory = inverted(denoiser)
    null, _ = optimize_null_text(denoiser, trajectory, empty_context(), QUICK)
    shorter = dataclasses.replace(
        null,
        embeddings=null.embeddings[1:],
        schedule=tiny_schedule(3),
        losses=null.losses[1:],
        iterations=null.iterations[1:],
    )
    plan = plan_edit(SOURCE, EDIT, 4)
    contexts, two = context_of(EDIT)[None, None], empty_context().expand(2)
    cases = [
        ("same B", lambda: invert(denoiser, latents_of(2), context_of(SOURCE)[None], tiny_schedule())),
        ("NaN", lambda: invert(denoiser, latents_of() * float("nan"), context_of(SOURCE)[None], tiny_schedule())),
        ("do not belong", lambda: reconstruct(denoiser, trajectory, shorter, 7.5)),
        ("need contexts", lambda: edit(denoiser, trajectory, null, contexts[0], batch_edits([[plan]]), 7.5)),
        ("planned for 7 steps", lambda: edit(
            denoiser, trajectory, null, contexts, batch_edits([[plan_edit(SOURCE, EDIT, 7)]]), 7.5)),
        ("between 1 and 4 steps", lambda: edited_with(denoiser, trajectory, null, steps=5)),
        ("a limit for 1 images", lambda: edited_with(denoiser, trajectory, null, limit=torch.ones(8, 8) > 0)),
        ("guidance must be a number", lambda: edited_with(denoiser, trajectory, null, source_guidance=float("nan"))),
        ("same number of edits", lambda: batch_edits([[plan], []])),
        ("same number of tokens", lambda: batch_edits([[plan, plan_edit(SOURCE, EDIT, 9)]])),
        ("does not fit this trajectory", lambda: reconstruct(denoiser, trajectory, two, 7.5)),
        ("does not fit this trajectory", lambda: reconstruct(denoiser, trajectory, Context(two.text[:, :-1]), 7.5)),
        ("does not fit this trajectory", lambda: reconstruct(denoiser, trajectory, Context(two.text[0, 0]), 7.5)),
        ("does not fit this trajectory", lambda: edited_with(denoiser, trajectory, two)),
        ("does not fit this trajectory", lambda: optimize_null_text(denoiser, trajectory, two, QUICK)),
        ("does not fit this trajectory", lambda: embed(denoiser, trajectory, two, PRESETS["direct"], 7.5)),
        ("the context must be", lambda: reconstruct(denoiser, trajectory, null, 7.5, two)),
        ("need contexts", lambda: edit(
            denoiser, trajectory, null, Context(contexts.text[..., :-1]), batch_edits([[plan]]), 7.5)),
        ("must be a number in ±1000", lambda: EditSettings(weights={"a": float("inf")})),
        ("must be a number in ±1000", lambda: EditSettings(weights={"a": 1e39})),
        ("at least 1", lambda: NullTextSettings(inner_steps=0)),
        ("must be positive", lambda: NullTextSettings(learning_rate=0.0)),
        ("guidance must be a number in 0…100", lambda: NullTextSettings(guidance=float("nan"))),
        ("guidance must be a number in 0…100", lambda: NullTextSettings(guidance=-3.0)),
        ("guidance must be a number in 0…100", lambda: reconstruct(denoiser, trajectory, null, float("inf"))),
        ("must be a number in ±1000", lambda: EditSettings(weights={"cat": float("nan")})),
        ("lists of words", lambda: EditSettings(blend_words="cat")),
        ("cross replace must lie", lambda: EditSettings(cross_replace=1.5)),
        ("blend threshold", lambda: EditSettings(blend_threshold=-1)),
        ("weight word", lambda: plan_edit(SOURCE, EDIT, 4, EditSettings(weights={"dog": 2.0}))),
        ("in neither prompt", lambda: plan_edit(SOURCE, EDIT, 4, EditSettings(blend_words=["dog"]))),
        ("cannot be repeated to one length", lambda: plan_edit(SOURCE, word_prompt("a", 11), 4)),
    ]  # fmt: skip
    for message, call in cases:
        with pytest.raises(InputError, match=message):
            call()
