"""Noise levels and DDIM steps."""

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nullinv_core.errors import InputError
from nullinv_core.schedule import (
    CLEAN,
    GUIDANCE,
    Schedule,
    check_guidance,
    ddim_inverse_step,
    ddim_step,
    epsilon_from_v,
    guide,
    leading_schedule,
    move,
    predicted_clean,
    scaled_linear_alphas,
    steps_of,
)

ALPHAS = scaled_linear_alphas()
levels = st.floats(0.004, 1.0)


def test_fifty_steps_are_the_authors_timesteps():
    """Guards the paper preset: t = 1, 21, …, 981 and the clean end at ᾱ_0."""
    schedule = leading_schedule(ALPHAS, 50)
    assert schedule.timesteps == tuple(float(t) for t in range(1, 1000, 20))
    assert schedule.alphas_cumprod[0] == ALPHAS[0]
    assert schedule.alphas_cumprod[-1] == ALPHAS[981]


def test_scaled_linear_matches_diffusers():
    """Guards ᾱ against the scheduler that real models carry."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    assert torch.allclose(torch.tensor(ALPHAS, dtype=torch.float32), scheduler.alphas_cumprod, rtol=1e-4)


def test_scaled_linear_is_exact():
    """Guards ᾱ to the last digits of a float64: the product of 1 - β, whose roots lie evenly between the ends'."""
    betas = np.linspace(math.sqrt(0.00085), math.sqrt(0.012), 1000) ** 2
    assert scaled_linear_alphas() == pytest.approx(np.cumprod(1 - betas).tolist(), rel=1e-12)


def test_a_step_matches_diffusers():
    """Guards eq. 2 against diffusers' DDIM scheduler, for ε- and v-prediction."""
    from diffusers import DDIMScheduler

    generator = torch.Generator().manual_seed(0)
    z, out = (torch.randn(1, 4, 8, 8, generator=generator) for _ in range(2))
    for kind in ("epsilon", "v_prediction"):
        scheduler = DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
            set_alpha_to_one=False, steps_offset=1, prediction_type=kind,
        )  # fmt: skip
        scheduler.set_timesteps(50)
        schedule = leading_schedule(scheduler.alphas_cumprod.tolist(), 50)
        for step in (1, 2, 25, 50):
            level = schedule.level(step)
            epsilon = out if kind == "epsilon" else epsilon_from_v(z, out, level.alpha)
            theirs = scheduler.step(out, int(level.timestep), z).prev_sample
            assert torch.allclose(ddim_step(z, epsilon, schedule, step), theirs, atol=1e-5)


@given(levels, levels, st.integers(0, 2**31))
def test_a_step_and_its_inverse_cancel(a, b, seed):
    """Guards the exactness of the inverse for a constant ε, between any two noise levels."""
    z, epsilon = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    assert torch.allclose(move(move(z, epsilon, a, b), epsilon, b, a), z, rtol=1e-9, atol=1e-9)


@given(st.integers(1, 1000).filter(lambda n: n != 1000))
def test_any_number_of_steps_goes_there_and_back(steps):
    """Guards schedules of every length: inverse and forward steps retrace each other."""
    schedule = leading_schedule(ALPHAS, steps)
    assert schedule.steps == steps
    z, epsilon = torch.randn(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(steps))
    there = ddim_inverse_step(z, epsilon, schedule, steps)
    assert torch.allclose(ddim_step(there, epsilon, schedule, steps), z, atol=1e-9)


@given(levels, st.integers(0, 2**31))
def test_v_and_epsilon_describe_the_same_point(alpha, seed):
    """Guards v-prediction: ε recovered from v = √ᾱ·ε - √(1-ᾱ)·z0 is the ε that made z."""
    clean, epsilon = torch.randn(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    z = math.sqrt(alpha) * clean + math.sqrt(1 - alpha) * epsilon
    v = math.sqrt(alpha) * epsilon - math.sqrt(1 - alpha) * clean
    assert torch.allclose(epsilon_from_v(z, v, alpha), epsilon, atol=1e-9)
    assert torch.allclose(predicted_clean(z, epsilon, alpha), clean, atol=1e-6)


def test_guidance_one_is_the_text_and_zero_the_null():
    """Guards the sign and ends of classifier-free guidance."""
    null, text = torch.tensor([1.0]), torch.tensor([3.0])
    assert guide(null, text, 1.0) == text and guide(null, text, 0.0) == null and guide(null, text, 7.5) == 16.0


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_impossible_step_counts_are_refused(steps):
    """Guards the edge: a sentence that names the range."""
    with pytest.raises(InputError, match="steps must be between 1 and 1000"):
        leading_schedule(ALPHAS, steps)


def test_as_many_steps_as_timesteps_are_too_many():
    """Guards the last count: timesteps begin at 1, so 1000 of them leave none to begin at."""
    with pytest.raises(InputError, match="1000 steps leave no room on 1000 timesteps"):
        leading_schedule(ALPHAS, 1000)
    assert leading_schedule(ALPHAS, 999).timesteps == tuple(range(1, 1000))


@pytest.mark.parametrize(
    ("timesteps", "alphas", "message"),
    [
        ((), (1.0,), "at least one step"),
        ((1.0,), (1.0,), "needs 2 values"),
        ((1.0,), (0.5, 0.9), "must fall"),
        ((400.0, 10.0), (1.0, 0.9, 0.4), "must rise"),
        ((float("nan"),), (1.0, 0.9), "must rise"),
        ((float("inf"),), (1.0, 0.9), "must rise"),
        ((1.0,), (0.5, 0.0), r"\(0, 1\]"),
        ((1.0,), (float("nan"), 0.5), r"\(0, 1\]"),
        ((-1.0,), (1.0, 0.5), "must rise"),
        ((1.0, 1.0), (1.0, 0.9, 0.4), "must rise"),
        ((1.0,), (1.5, 0.5), r"\(0, 1\]"),
        ((1.0, 2.0), (1.0, 0.5, 0.5), "must fall"),
        ((1.0,), (0.97, 0.5), "begins at 0.97, where noise is left"),
    ],
)
def test_broken_schedules_are_refused(timesteps, alphas, message):
    """Guards schedules given from outside."""
    with pytest.raises(InputError, match=message):
        Schedule(timesteps, alphas)


def test_the_ends_of_what_is_allowed_are_allowed():
    """Guards limits that count as inside: of a schedule and of guidance."""
    assert Schedule((0.0,), (CLEAN, 0.5)).steps == 1
    for guidance in GUIDANCE:
        check_guidance(guidance)
        with pytest.raises(
            InputError, match=re.escape(f"in 0…100, not {guidance + math.copysign(1e-3, guidance - 1)}")
        ):
            check_guidance(guidance + math.copysign(1e-3, guidance - 1))


@given(st.integers(0, 1000), st.integers(1, 999))
def test_a_share_of_the_steps_is_the_number_as_it_is_written(thousandths, steps):
    """Guards windows: 0.58 of 50 steps are 29, as whole numbers have it, whatever the nearest float is."""
    assert steps_of(thousandths / 1000, steps) == thousandths * steps // 1000
    assert steps_of(1 - thousandths / 1000, steps) == (1000 - thousandths) * steps // 1000
