"""Pivotal inversion (Mokady et al. 2022, section 3.2): DDIM inversion at w = 1 gives the pivot trajectory."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from ..denoiser import Denoiser, check_finite, no_gradients
from ..errors import InputError
from ..schedule import Schedule, ddim_inverse_step, predicted_clean
from ..types import Callback, Event, Trajectory, ignore

InversionMethod = Literal["ddim", "fixed-point"]


def invert(
    denoiser: Denoiser,
    latents: Tensor,
    context: Tensor,
    schedule: Schedule,
    callback: Callback = ignore,
    method: InversionMethod = "ddim",
) -> Trajectory:
    """Return the pivot trajectory of clean latents (B, C, h, w) under their prompts' context (B, tokens, width).

    ``ddim``: ε for the step from z*_{t-1} to z*_t is evaluated on z*_{t-1} at the target timestep t (eq. 3), with the
    source prompt alone. Costs T network samples an image. ``fixed-point``: the step back from z*_t has ε of z*_t, so
    the z*_t that retraces itself solves z*_t = step(z*_{t-1}, ε(z*_t, t)) (iterated from z*_{t-1}: Pan et al. 2023,
    arXiv 2309.04907). Here one iteration a step starts from the ε of the last two steps, extrapolated, which suits
    about equal steps; that costs T + 1 samples. Raises InputError for shapes that do not fit or another method,
    NonFiniteError for NaN.
    """
    if method not in get_args(InversionMethod):
        raise InputError(f'the inversion method is "ddim" or "fixed-point", not "{method}"')
    if latents.ndim != 4 or context.ndim != 3 or len(latents) != len(context):
        raise InputError(
            f"inversion needs latents (B, C, h, w) and a context (B, tokens, width) of the same B, "
            f"not {tuple(latents.shape)} and {tuple(context.shape)}"
        )
    if not bool(torch.isfinite(latents).all()):
        raise InputError("the image's latents hold NaN or infinity; encode the image in float32")
    trajectory = [latents]
    with no_gradients():
        expected = None
        if method == "fixed-point":
            expected = last = check_finite(denoiser(latents, schedule.level(1), context), schedule.level(1), 1)
        for step in range(1, schedule.steps + 1):
            level, here = schedule.level(step), trajectory[-1]
            there = here if expected is None else ddim_inverse_step(here, expected, schedule, step)
            epsilon = check_finite(denoiser(there, level, context), level, step)
            trajectory.append(ddim_inverse_step(here, epsilon, schedule, step))
            if expected is not None:
                expected, last = epsilon if step == 1 else 2 * epsilon - last, epsilon
            clean = predicted_clean(trajectory[-1], epsilon, level.alpha)
            callback(Event("invert", step, schedule.steps, clean))
        return Trajectory(torch.stack(trajectory), context, schedule)
