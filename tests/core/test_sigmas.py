"""Which noise levels of ComfyUI a photo can be inverted on."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nullinv_core import InputError, Schedule
from nullinv_core.backends.comfy.sigmas import alphas_of, check_sigmas, first_other, nearest, sigma_of
from nullinv_core.schedule import check_levels, leading_schedule, scaled_linear_alphas

LEVELS = scaled_linear_alphas()
LEAST, MOST = sigma_of(LEVELS[0]), sigma_of(LEVELS[-1])


@given(st.floats(0.03, 14.6))
def test_sigma_and_alpha_are_one_level(sigma):
    """Guards the conversion, both ways."""
    assert math.isclose(sigma_of(alphas_of([sigma])[0]), sigma, rel_tol=1e-9)


@given(st.lists(st.floats(LEAST, MOST), min_size=1, max_size=9, unique=True), st.sampled_from([0.0, LEAST / 2]))
def test_any_levels_of_the_model_are_taken(inner, clean):
    """Guards against refusing what samplers use: any rising levels between the model's, from a clean end."""
    check_sigmas([clean, *sorted(inner)], LEAST, MOST)


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ([0.0, math.nan], "NaN or infinity"),
        ([0.0, 1.0, math.inf], "NaN or infinity"),
        ([0.0], "at least two"),
        ([], "at least two"),
        ([-1.0, 1.0], "down to 0"),
        ([0.0, 1.0, 1.0], "fall from step to step"),
        ([0.0, 2.0, 1.0], "fall from step to step"),
        ([2.0, 5.0, 14.0], "end at 2, where noise is left"),
        ([LEAST * 1.01, 1.0], "where noise is left"),
        ([0.0, 0.01, 1.0], "the model was trained on"),
        ([0.0, 1.0, 80.0], "go from 1 to 80, but the model was trained on 0.0292 to 14.615"),
    ],
)
def test_levels_that_lead_nowhere_are_refused(levels, message):
    """Guards each kind of SIGMAS that no photo can be inverted on."""
    with pytest.raises(InputError, match=message):
        check_sigmas(levels, LEAST, MOST)


@given(st.integers(1, 50), st.floats(0.0, 1.0))
def test_a_model_knows_its_own_levels(steps, share):
    """Guards reuse: whole timesteps and those between, the authors' clean end and none; no others."""
    own = leading_schedule(LEVELS, steps)
    check_levels(own, LEVELS)
    pairs = [(sigma_of(LEVELS[int(t)]), sigma_of(LEVELS[int(t) + 1])) for t in own.timesteps]
    between = [low ** (1 - share) * high**share for low, high in pairs]
    check_levels(Schedule(tuple(t + share for t in own.timesteps), (1.0, *alphas_of(between))), LEVELS)
    with pytest.raises(InputError, match="another noise schedule"):
        check_levels(Schedule(own.timesteps, (1.0, *(a * 0.99 for a in own.alphas_cumprod[1:]))), LEVELS)


@pytest.mark.parametrize("timestep", [0, 0.5, 1, 500, 998, 998.5, 999])
@pytest.mark.parametrize(("off", "known"), [(1.0, True), (1 - 9e-4, True), (1 - 1.1e-3, False)])
def test_a_level_is_known_wherever_it_lies_and_to_a_thousandth(timestep, off, known):
    """Guards the ends of what was trained, and how far a level may be off (files and models round)."""
    low, high = (sigma_of(LEVELS[int(t)]) for t in (timestep, min(timestep + 1, 999)))
    share = timestep - int(timestep)
    schedule = Schedule((timestep,), (1.0, off * alphas_of([low ** (1 - share) * high**share])[0]))
    if known:
        check_levels(schedule, LEVELS)
    else:
        with pytest.raises(InputError, match=rf"another noise schedule \(timestep {timestep:g}\)"):
            check_levels(schedule, LEVELS)


@pytest.mark.parametrize("timestep", [-0.5, 999.5, 1000, 1e9])
def test_timesteps_that_no_model_has_are_refused(timestep):
    """Guards levels beyond both ends, whose ᾱ is nobody's."""
    with pytest.raises(InputError, match="another noise schedule"):
        check_levels(Schedule((timestep,), (1.0, LEVELS[min(max(int(timestep), 0), 999)])), LEVELS)


@pytest.mark.parametrize(("share", "known"), [(1.0, True), (1 - 9e-4, True), (1 - 1.1e-3, False), (1 - 1.9e-3, False)])
def test_the_clean_end_is_no_noisier_than_the_models(share, known):
    """Guards the clean end: it has the noise of the model's first level at most, to a thousandth."""
    schedule = Schedule((501.0,), (share * LEVELS[0], LEVELS[501]))
    if known:
        check_levels(schedule, LEVELS)
    else:
        with pytest.raises(InputError, match="ends at another noise level"):
            check_levels(schedule, LEVELS)


def test_a_clean_end_with_noise_is_refused():
    """Guards reuse: a file whose path ends where the model still has noise."""
    with pytest.raises(InputError, match="ends at another noise level"):
        check_levels(Schedule((501.0,), (0.985, LEVELS[501])), LEVELS)


@given(st.sets(st.integers(0, 60), min_size=1).map(lambda numbers: [0.03 * 1.1**n for n in numbers]), st.data())
def test_a_sampler_on_an_inversions_levels_is_known(levels, data):
    """Property: any beginning of an inversion's way back has no other level; one level that is moved, left out at the
    start or put before it is found. A step is nearest to its own level."""
    levels = sorted(levels)
    assert [nearest(levels, level) for level in levels] == list(range(1, len(levels) + 1))
    taken = levels[::-1][: data.draw(st.integers(1, len(levels)))]
    assert first_other(levels, taken) is None
    place = data.draw(st.integers(0, len(taken) - 1))
    moved = taken[place] * 1.01
    assert first_other(levels, [*taken[:place], moved, *taken[place + 1 :]]) == moved
    if len(levels) > 1:
        assert first_other(levels, levels[-2::-1]) == levels[-2]
    assert first_other(levels, [20.0, *levels[::-1]]) == 20.0
