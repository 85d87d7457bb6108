"""Pivotal inversion (Mokady et al. 2022, section 3.2): DDIM inversion at w = 1 gives the pivot trajectory."""

from __future__ import annotations

import torch
from torch import Tensor

from .denoiser import Denoiser, check_finite, no_gradients
from .errors import InputError
from .schedule import Schedule, ddim_inverse_step, predicted_clean
from .types import Callback, Event, Trajectory, ignore


def invert(
    denoiser: Denoiser, latents: Tensor, context: Tensor, schedule: Schedule, callback: Callback = ignore
) -> Trajectory:
    """Return the pivot trajectory of clean latents (B, C, h, w) under their prompts' context (B, tokens, width).

    ε for the step from z*_{t-1} to z*_t is evaluated on z*_{t-1} at the target timestep t (eq. 3), with the source
    prompt alone. Costs T network samples an image. Raises InputError for shapes that do not fit, NonFiniteError
    for NaN.
    """
    if latents.ndim != 4 or context.ndim != 3 or len(latents) != len(context):
        raise InputError(
            f"inversion needs latents (B, C, h, w) and a context (B, tokens, width) of the same B, "
            f"not {tuple(latents.shape)} and {tuple(context.shape)}"
        )
    if not bool(torch.isfinite(latents).all()):
        raise InputError("the image's latents hold NaN or infinity; encode the image in float32")
    trajectory = [latents]
    with no_gradients():
        for step in range(1, schedule.steps + 1):
            level = schedule.level(step)
            epsilon = check_finite(denoiser(trajectory[-1], level, context), level, step)
            trajectory.append(ddim_inverse_step(trajectory[-1], epsilon, schedule, step))
            clean = predicted_clean(trajectory[-1], epsilon, level.alpha)
            callback(Event("invert", step, schedule.steps, clean))
        return Trajectory(torch.stack(trajectory), context, schedule)
