"""What makes null-text inversion cheap: the loss looked at first, a better start, a budget, a pinned source branch."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nullinv_core import (
    PRESETS,
    Counted,
    EditSettings,
    InputError,
    Inversion,
    NullTextSettings,
    Pin,
    Sampling,
    batch_edits,
    edit,
    embed,
    invert,
    load_inversion,
    optimize_null_text,
    plan_edit,
    reconstruct,
    save_inversion,
)
from nullinv_core.context import stack
from nullinv_core.files.fingerprint import Fingerprint
from nullinv_core.null_text.presets.fast import FAST
from nullinv_core.null_text.settings import PAPER
from nullinv_core.schedule import ddim_step
from nullinv_core.shared_guidance import guidance_of_photo, without_shared

from .helpers import context_of, controlled, empty_context, latents_of, tiny_schedule, tiny_unet, word_prompt

SOURCE, EDIT = word_prompt("a red cat on grass"), word_prompt("a blue cat on grass")
STRICT = replace(FAST, early_stop=0.0, early_stop_growth=0.0, budget=0, inner_steps=3)


@pytest.fixture
def denoiser():
    return Counted(controlled(tiny_unet(torch.float64)))


def inverted(denoiser, prompts=(SOURCE,), steps=4):
    context = stack([context_of(p) for p in prompts])
    return invert(denoiser.denoiser, latents_of(len(prompts)), context, tiny_schedule(steps))


def test_where_the_loss_is_small_nothing_is_optimized(denoiser):
    """Guards the floor of the cost: a sample a step, two where the branches differ, and the start is the result."""
    trajectory = inverted(denoiser)
    easy = replace(FAST, early_stop=1e9)
    null, reached = optimize_null_text(denoiser, trajectory, empty_context(), easy)
    assert (denoiser.forwards, denoiser.backwards) == (4, 0)
    same, end = optimize_null_text(denoiser, trajectory, empty_context(), easy, only_text_differs=False)
    assert denoiser.forwards == 4 + 2 * 4
    assert same.embeddings.equals(null.embeddings) and torch.allclose(end, reached)
    assert torch.allclose(same.losses, null.losses)
    assert null.embeddings.equals(trajectory.context.expand(4, 1))
    assert int(null.iterations.sum()) == 0 and bool(null.losses.isfinite().all())
    # guided by the source prompt itself, the guidance falls out
    assert torch.allclose(reached, reconstruct(denoiser, trajectory, empty_context(), 1.0))


def test_every_iteration_costs_a_pass_forth_and_back(denoiser):
    """Guards the cost of the rest, and that ε is not computed again for the step."""
    null, _ = optimize_null_text(denoiser, inverted(denoiser), empty_context(), STRICT)
    assert null.iterations.tolist() == [[3]] * 4
    # at the noisiest step the first look is free: ∅ still is the source prompt
    assert (denoiser.forwards, denoiser.backwards) == (2 * 4 + 3 * 4, 3 * 4)


def test_a_budget_is_kept_by_each_image_alone(denoiser):
    """Guards the promise of a highest cost: over all steps no image takes more iterations than its budget."""
    prompts = (SOURCE, word_prompt("two dogs"))
    settings = replace(STRICT, budget=5)
    both, _ = optimize_null_text(denoiser, inverted(denoiser, prompts), empty_context(), settings)
    assert both.iterations.sum(0).tolist() == [5, 5]
    # spent from the noisiest step on
    assert both.iterations[:, 0].tolist() == [0, 0, 2, 3]


def test_a_batch_equals_its_single_runs(denoiser):
    """Guards early stops inside a batch: an image that is done does not move while the others go on, neither one
    that never moved nor one with Adam's momentum."""
    prompts = (SOURCE, word_prompt("two dogs"))
    trajectory = inverted(denoiser, prompts)
    before, after = (
        optimize_null_text(denoiser, trajectory, empty_context(), replace(STRICT, start="null", **one))[0].losses[-1]
        for one in ({"early_stop": 1e9}, {"inner_steps": 1})
    )
    # one image needs one iteration at the noisiest step, the other more; rounding decides nothing between two losses
    first = int(before.argmin())
    stop = float(before[first] + after[first]) / 2
    settings = replace(STRICT, start="null", early_stop=stop, inner_steps=6, relative=False)
    both, reached = optimize_null_text(denoiser, trajectory, empty_context(), settings)
    few, many = both.iterations[-1].sort().values.tolist()
    assert 0 < few < many
    for row in range(2):
        alone = replace(trajectory, latents=trajectory.latents[:, [row]], context=trajectory.context[[row]])
        null, z = optimize_null_text(denoiser, alone, empty_context(), settings)
        assert torch.equal(null.iterations[:, 0], both.iterations[:, row])
        assert torch.allclose(null.embeddings.text[:, 0], both.embeddings.text[:, row], rtol=1e-7, atol=1e-9)
        assert torch.allclose(z[0], reached[row], rtol=1e-7, atol=1e-9)


def test_looking_first_takes_the_authors_steps(denoiser):
    """Guards the shared optimizer: with one step a timestep and no stop, both orders find the same embeddings."""
    trajectory = inverted(denoiser)
    never = {"inner_steps": 2, "early_stop": 0.0, "early_stop_growth": 0.0}
    plain, _ = optimize_null_text(denoiser, trajectory, empty_context(), replace(PAPER, **never))
    tested, _ = optimize_null_text(denoiser, trajectory, empty_context(), NullTextSettings(**never, test_first=True))
    assert plain.embeddings.equals(tested.embeddings)


def edited(denoiser, trajectory, null, settings=EditSettings(), edits=(EDIT,), guidance=3.0):  # noqa: B008
    plans = [plan_edit(SOURCE, e, 4, settings) for e in edits]
    contexts = stack([context_of(e) for e in edits])[None]
    return edit(denoiser, trajectory, null, contexts, batch_edits([plans]), guidance)


def test_a_pinned_source_is_the_photo(denoiser):
    """Guards direct inversion: the source branch is the trajectory, to the bit, at one sample a step or none."""
    trajectory = inverted(denoiser)
    result = edited(denoiser, trajectory, Pin(empty_context()), edits=(EDIT, SOURCE))
    assert torch.equal(result.source, trajectory.clean)
    # cross-attention is replaced in three of the four steps; in the last no edit looks at the source
    assert denoiser.forwards == 3 * (1 + 2 * 2) + 2 * 2


def retraced(denoiser):
    """A trajectory that sampling the source prompt retraces exactly."""
    trajectory = inverted(denoiser)
    latents = [trajectory.noisiest]
    for steps in range(1, 5):
        batch = batch_edits([[plan_edit(SOURCE, SOURCE, 4)]])
        contexts = context_of(SOURCE)[None, None]
        latents.append(edit(denoiser, trajectory, empty_context(), contexts, batch, Sampling(1.0, steps=steps)).source)
    return replace(trajectory, latents=torch.stack(latents[::-1]))


def test_pinning_changes_nothing_where_the_source_keeps_to_the_trajectory(denoiser):
    """Guards the pinned sampler against the plain one, at a guidance of 1 on a trajectory that retraces itself."""
    exact = retraced(denoiser)
    settings = EditSettings(blend_words=["cat"], blend_threshold=0.6)
    plan = plan_edit(SOURCE, EDIT, 4, settings)
    contexts = context_of(EDIT)[None, None]
    free, pinned = (
        edit(
            denoiser,
            exact,
            Pin(empty_context()) if pin else empty_context(),
            contexts,
            batch_edits([[plan]]),
            Sampling(3.0, source_guidance=None if pin else 1.0),
        )
        for pin in (False, True)
    )
    assert torch.allclose(free.latents, pinned.latents, rtol=1e-9, atol=1e-12)
    assert torch.equal(free.mask, pinned.mask) and torch.allclose(free.maps, pinned.maps)


def test_the_photos_own_guidance_is_the_one_that_led_here(denoiser):
    """Guards ε(C) and ε(∅) of ``guidance_of_photo``: with it, a guided step from the trajectory is known beforehand."""
    trajectory = inverted(denoiser, (SOURCE, word_prompt("two dogs")))
    own = guidance_of_photo(denoiser, trajectory, empty_context())
    assert denoiser.forwards == 4 * 2
    for step in range(1, 5):
        level = trajectory.schedule.level(step)
        epsilon_null = denoiser(trajectory.latents[step], level, empty_context().expand(2))
        back = ddim_step(trajectory.latents[step], epsilon_null + own[step - 1], trajectory.schedule, step)
        assert torch.allclose(back, trajectory.latents[step - 1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("guidance", [1.5, 7.5, 30.0])
def test_an_edit_that_changes_nothing_keeps_the_photo_at_any_guidance(denoiser, guidance):
    """Guards what leaving out the shared guidance is for: where the prompts agree, an edit gains no contrast."""
    trajectory = retraced(denoiser)
    own = guidance_of_photo(denoiser, trajectory, empty_context())
    free, plain = (
        edited(denoiser, trajectory, pin, edits=(SOURCE,), guidance=guidance).latents[0]
        for pin in (Pin(empty_context(), own), Pin(empty_context()))
    )
    assert torch.allclose(free, trajectory.clean, rtol=1e-6, atol=1e-9)
    assert not torch.allclose(plain, trajectory.clean, rtol=1e-2)


def test_pinned_photos_with_several_edits_equal_their_single_runs(denoiser):
    """Guards the order of rows: every edit goes without what it shares with its own photo's guidance."""
    prompts = (SOURCE, word_prompt("a blue dog on sand"))
    trajectory = inverted(denoiser, prompts)
    own = guidance_of_photo(denoiser, trajectory, empty_context())
    texts = (("a blue cat on grass", "a red cat on sand"), ("a red dog on sand", "a blue dog on grass"))
    targets = [[word_prompt(text) for text in row] for row in texts]
    plans = [[plan_edit(source, t, 4) for t in row] for source, row in zip(prompts, targets, strict=True)]
    contexts = stack([stack([context_of(t) for t in row]) for row in targets])
    both = edit(denoiser, trajectory, Pin(empty_context(), own), contexts, batch_edits(plans), 5.0)
    for b in range(2):
        alone = replace(trajectory, latents=trajectory.latents[:, [b]], context=trajectory.context[[b]])
        for e in range(2):
            pin = Pin(empty_context(), own[:, [b]])
            one = edit(denoiser, alone, pin, contexts[[b]][:, [e]], batch_edits([[plans[b][e]]]), 5.0)
            assert torch.allclose(both.latents[b, e], one.latents[0, 0], rtol=1e-7, atol=1e-9)


def test_all_of_a_presets_work_is_told_and_can_be_stopped(denoiser):
    """Guards progress and cancel of ``embed``: the phases that its recipe names, each step of them in order."""
    for recipe in PRESETS.values():
        if recipe.optimization is PAPER:
            recipe = replace(recipe, optimization=replace(PAPER, inner_steps=1))
        events = []
        embed(denoiser, inverted(denoiser), empty_context(), recipe, 3.0, events.append)
        told = {phase: [e.step for e in events if e.phase == phase] for phase in dict.fromkeys(e.phase for e in events)}
        assert list(told) == list(recipe.lengths)
        assert all(sorted(set(steps)) == [1, 2, 3, 4] and steps == sorted(steps) for steps in told.values())
        assert all(e.total == 4 and bool(torch.isfinite(e.preview).all()) for e in events)

    class CancelledError(Exception):
        pass

    def cancel(event):
        raise CancelledError

    before = denoiser.forwards
    with pytest.raises(CancelledError):
        guidance_of_photo(denoiser, inverted(denoiser), empty_context(), cancel)
    assert denoiser.forwards == before + 1


vectors = st.lists(st.floats(-10, 10), min_size=4, max_size=4)


@given(edit_guidance=vectors, photo=vectors, share=st.floats(0, 1))
def test_what_is_shared_is_a_projection(edit_guidance, photo, share):
    """Guards ``without_shared`` by what it means, position by position."""
    g, p = (torch.tensor(v, dtype=torch.float64).reshape(4, 1, 1) for v in (edit_guidance, photo))
    rest = without_shared(g, p)
    taken = g - rest
    # what is taken lies along the photo's guidance and is no more than the whole of it
    assert float(taken.norm()) <= float(p.norm()) + 1e-9
    assert torch.allclose((taken * p).sum(), taken.norm() * p.norm(), atol=1e-6)
    # what is opposed or perpendicular to it stays; what is left within its length is perpendicular
    inner, whole = float((g * p).sum()), float((p * p).sum())
    if inner <= 0:
        assert torch.allclose(rest, g, atol=1e-9)
    elif inner <= whole:
        assert abs(float((rest * p).sum())) < 1e-6
    assert torch.allclose(without_shared(p * share, p), torch.zeros_like(p), atol=1e-9)
    assert torch.allclose(without_shared(p * (1 + share), p), p * share, atol=1e-9)
    # each position by itself
    both = without_shared(torch.cat([g, p], -1), torch.cat([p, p], -1))
    assert torch.allclose(both, torch.cat([rest, without_shared(p, p)], -1))


@pytest.mark.parametrize(
    "wrong", [{"start": "middle"}, {"budget": -1}, {"budget": 3, "test_first": False}, {"learning_rate": math.inf}]
)
def test_settings_that_make_no_sense_are_refused(wrong):
    """Guards the edges."""
    with pytest.raises(InputError):
        replace(FAST, **wrong)


@given(steps=st.integers(20, 60), spread=st.floats(0.1, 10.0))
def test_a_fixed_point_retraces_itself(steps, spread):
    """Guards the trajectory of ``fixed-point`` where ε is known: it is nearer to the one that sampling walks back."""

    def share(level):
        return (1 - level.alpha) ** 0.5 / (spread**2 * level.alpha + 1 - level.alpha)

    counted = Counted(lambda latents, level, context, attention=None, unconditional=0: share(level) * latents)
    context, latents, schedule = context_of(SOURCE)[None], latents_of(), tiny_schedule(steps)
    plain = invert(counted, latents, context, schedule)
    assert counted.forwards == steps
    fixed = invert(counted, latents, context, schedule, method="fixed-point")
    assert counted.forwards == 2 * steps + 1
    # an independent reference: each step's linear equation solved
    z = latents
    for step in range(1, steps + 1):
        before, after = (math.sqrt(schedule.alphas_cumprod[i]) for i in (step - 1, step))
        e = share(schedule.level(step))
        z = z * after / before / (1 - e * (math.sqrt(1 - after**2) - math.sqrt(1 - before**2) * after / before))
    # a share of the plain error, or little, for here and there that one is zero by chance
    little = 0.01 * float(latents.norm())
    assert float((fixed.noisiest - z).norm()) < max(0.7 * float((plain.noisiest - z).norm()), little)

    def off(trajectory):
        return float((reconstruct(counted, trajectory, context, 1.0) - latents).norm())

    assert off(fixed) < max(0.7 * off(plain), little)


def test_presets_say_how_edits_read_the_photo(denoiser, tmp_path):
    """Guards what a preset promises: cost, who guides the edits, and that a file keeps it."""
    assert {"fast", "direct"} == {
        name for name in ("fast", "paper", "negative-prompt", "direct") if PRESETS[name].pinned
    }
    assert PRESETS["fast"].unshared and not PRESETS["direct"].unshared
    for name, recipe in PRESETS.items():
        counter = Counted(denoiser.denoiser)
        trajectory = invert(counter, latents_of(), context_of(SOURCE)[None], tiny_schedule(4), method=recipe.inversion)
        if name == "paper":
            recipe = replace(recipe, optimization=replace(PAPER, inner_steps=1))
        null, reached = embed(counter, trajectory, empty_context(), recipe, 3.0)
        assert null.guidance == 3.0 and null.pinned == recipe.pinned
        if name != "paper":
            assert null.embeddings[0].equals(trajectory.context.to(torch.float32)) or recipe.optimization
        if name == "direct":
            assert counter.forwards == 4 and torch.equal(reached, trajectory.clean)
        inversion = Inversion(trajectory, null, ("a red cat on grass",), Fingerprint(digest="a model"))
        save_inversion(tmp_path / "one.safetensors", inversion)
        loaded = load_inversion(tmp_path / "one.safetensors").null
        assert loaded.pinned == null.pinned
        if not null.pinned:
            continue
        assert loaded.pin.null.equals(null.pin.null)
        assert (null.pin.guidance is not None) == recipe.unshared
        assert not recipe.unshared or torch.equal(loaded.pin.guidance, null.pin.guidance)
        # edits are guided by the empty prompt, whatever ∅_t is
        plans = batch_edits([[plan_edit(SOURCE, EDIT, 4)]])
        contexts = context_of(EDIT)[None, None]
        result = edit(denoiser, trajectory, null, contexts, plans, 5.0)
        assert torch.equal(result.source, trajectory.clean)
        plain = edit(denoiser, trajectory, Pin(empty_context(), null.pin.guidance), contexts, plans, 5.0)
        assert torch.allclose(result.latents, plain.latents, rtol=1e-6)
        with pytest.raises(InputError, match="guidance of its own"):
            edit(denoiser, trajectory, null, contexts, plans, Sampling(5.0, source_guidance=2.0))


def test_what_does_not_fit_is_refused(denoiser):
    """Guards the edges: an unknown method, an edit context of another batch."""
    with pytest.raises(InputError, match="fixed-point"):
        invert(denoiser, latents_of(), context_of(SOURCE)[None], tiny_schedule(4), method="newton")
    null, _ = optimize_null_text(denoiser, inverted(denoiser), empty_context(), replace(FAST, early_stop=1e9))
    with pytest.raises(InputError, match="null context of edits"):
        replace(null, pin=Pin(empty_context()))
    with pytest.raises(InputError, match="does not fit this trajectory"):
        edited(denoiser, inverted(denoiser), Pin(empty_context().expand(2)))
    with pytest.raises(InputError, match="pinned source"):
        replace(PRESETS["paper"], unshared=True)
    with pytest.raises(InputError, match="photo's own guidance"):
        replace(null, pin=Pin(empty_context()[None], torch.zeros(3, 1, 4, 8, 8)))
    with pytest.raises(InputError, match="photo's own guidance"):
        edited(denoiser, inverted(denoiser), Pin(empty_context(), torch.zeros(3, 1, 4, 8, 8)))


@pytest.mark.parametrize("preset", PRESETS)
def test_what_a_preset_makes_can_be_saved(tmp_path, preset):
    """Guards single steps and texts that are one: a file cannot hold one tensor under two names."""
    denoiser, context = controlled(tiny_unet(torch.float32)), context_of(SOURCE, torch.float32)
    trajectory = invert(denoiser, latents_of(dtype=torch.float32), context[None], tiny_schedule(1))
    null, _ = embed(denoiser, trajectory, context, PRESETS[preset], 7.5)
    save_inversion(tmp_path / "x.safetensors", Inversion(trajectory, null, ("a",), Fingerprint(digest="f" * 64)))
    assert load_inversion(tmp_path / "x.safetensors").null.embeddings.equals(null.embeddings)
