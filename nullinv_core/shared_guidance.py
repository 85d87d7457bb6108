"""What guidance would do to the photo itself, and the guidance of its edits without that."""

from __future__ import annotations

import torch
from torch import Tensor

from .context import Context
from .denoiser import Denoiser, check_finite, no_gradients
from .schedule import epsilon_between, predicted_clean
from .types import Callback, Event, Trajectory, ignore


def guidance_of_photo(
    denoiser: Denoiser, trajectory: Trajectory, null_context: Context, callback: Callback = ignore
) -> Tensor:
    """ε(C) - ε(∅) of the photo along its trajectory: (T, B, C, h, w), step 1 first. Costs T samples an image.

    Where guidance would push the photo itself. ε(C) is the one that leads down the trajectory, ε(∅) that of
    ``null_context``, of one text or of B.
    """
    schedule, batch, found = trajectory.schedule, trajectory.batch, []
    with no_gradients():
        null = null_context.expand(batch).to(trajectory.context)
        for step in range(schedule.steps, 0, -1):
            level, latents = schedule.level(step), trajectory.latents[step]
            epsilon_null = check_finite(denoiser(latents, level, null, unconditional=batch), level, step)
            epsilon_text = epsilon_between(latents, trajectory.latents[step - 1], schedule, step)
            found.append(epsilon_text - epsilon_null)
            clean = predicted_clean(latents, epsilon_text, level.alpha)
            callback(Event("pin", schedule.steps - step + 1, schedule.steps, clean))
        return torch.stack(found[::-1])


def without_shared(guidance: Tensor, photo: Tensor) -> Tensor:
    """Guidance of an edit less the part that it shares with the photo's: both (…, C, h, w), a vector per position.

    That part is its projection onto the photo's guidance, from none to the whole of it. A photo was never guided, so
    guidance that would change it even without an edit is left out; what the edit asks for beyond it stays.
    """
    along = (guidance * photo).sum(-3, keepdim=True) / photo.square().sum(-3, keepdim=True)
    return guidance - along.nan_to_num(0.0).clamp(0, 1) * photo
