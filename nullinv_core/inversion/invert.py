"""Clean latents to the pivot trajectory, by the inversion method of a name."""

from __future__ import annotations

import torch
from torch import Tensor

from ..context import Context
from ..denoiser import Denoiser, check_finite, no_gradients
from ..errors import InputError
from ..schedule import Schedule, predicted_clean
from ..types import Callback, Event, Trajectory, ignore
from .methods import METHODS


def invert(
    denoiser: Denoiser,
    latents: Tensor,
    context: Context,
    schedule: Schedule,
    callback: Callback = ignore,
    method: str = "ddim",
) -> Trajectory:
    """Return the pivot trajectory of clean latents (B, C, h, w) under the context of their B prompts.

    The network is asked with the source prompt alone (Mokady et al. 2022, section 3.2). ``method``: a name of
    ``METHODS``, which has the costs too. Raises InputError for shapes that do not fit or another method,
    NonFiniteError for NaN.
    """
    if method not in METHODS:
        names = " or ".join(f'"{name}"' for name in METHODS)
        raise InputError(f'the inversion method is {names}, not "{method}"')
    if latents.ndim != 4 or context.text.ndim != 3 or len(latents) != len(context):
        raise InputError(
            f"inversion needs latents (B, C, h, w) and a context (B, tokens, width) of the same B, "
            f"not {tuple(latents.shape)} and {tuple(context.shape)}"
        )
    if not bool(torch.isfinite(latents).all()):
        raise InputError("the image's latents hold NaN or infinity; encode the image in float32")

    def predict(at: Tensor, step: int) -> Tensor:
        level = schedule.level(step)
        return check_finite(denoiser(at, level, context), level, step)

    trajectory = [latents]
    with no_gradients():
        for step, (reached, epsilon) in enumerate(METHODS[method].climb(predict, latents, schedule), 1):
            trajectory.append(reached)
            clean = predicted_clean(reached, epsilon, schedule.level(step).alpha)
            callback(Event("invert", step, schedule.steps, clean))
        return Trajectory(torch.stack(trajectory), context, schedule)
