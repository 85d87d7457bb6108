"""Inversions that look for the fixed point of each step: the z*_t whose own ε leads back to z*_{t-1}."""

from __future__ import annotations

import torch
from torch import Tensor

from nullinv_core import Trajectory
from nullinv_core.context import Context
from nullinv_core.denoiser import Denoiser, check_finite, no_gradients
from nullinv_core.schedule import Schedule, ddim_inverse_step

from .edit_photo import Photo

ITERATIONS = 5
"""Of AIDI, a step."""
ROUNDS, RATE, SMALL = 25, 1e-3, 5e-6
"""SPDInv: gradient steps at most, AdamW's learning rate, and the residual that is small enough; its authors'."""


def residual(
    denoiser: Denoiser, there: Tensor, here: Tensor, context: Context, schedule: Schedule, step: int
) -> Tensor:
    """Mean square, (B,), of z_t less the inversion step from z_{t-1} along ε(z_t, t): 0 at the fixed point."""
    return (there - _step(denoiser, there, here, context, schedule, step)).square().mean((1, 2, 3))


def _step(denoiser: Denoiser, at: Tensor, here: Tensor, context: Context, schedule: Schedule, step: int) -> Tensor:
    """z_t from ``here`` z_{t-1} along the ε of latents ``at`` step t."""
    level = schedule.level(step)
    return ddim_inverse_step(here, check_finite(denoiser(at, level, context), level, step), schedule, step)


def aidi(photo: Photo, iterations: int = ITERATIONS) -> Trajectory:
    """Accelerated iterative diffusion inversion, empirical variant (Pan et al. 2023, arXiv 2309.04907, section 3.2).

    z_t^{k+1} is the step along ε at the mean of the last two iterates, which damps their swinging; z_t^0 = z_{t-1}.
    """
    context, schedule, latents = photo.source, photo.schedule, [photo.latents]
    with no_gradients():
        for step in range(1, schedule.steps + 1):
            here = last = latents[-1]
            there = _step(photo.denoiser, here, here, context, schedule, step)
            for _ in range(iterations - 1):
                last, there = there, _step(photo.denoiser, (last + there) / 2, here, context, schedule, step)
            latents.append(there)
    return Trajectory(torch.stack(latents), context, schedule)


def spd(photo: Photo, rounds: int = ROUNDS) -> Trajectory:
    """Source prompt disentangled inversion (Li et al. 2024, arXiv 2403.11105, eq. 9 and algorithm 1).

    Each z_t of DDIM inversion is moved by gradient steps on its ``residual``, until that is small; pictures that are
    done leave the batch.
    """
    context, schedule, latents = photo.source, photo.schedule, [photo.latents]
    with no_gradients():
        for step in range(1, schedule.steps + 1):
            here = latents[-1]
            start = _step(photo.denoiser, here, here, context, schedule, step)
            latents.append(_descended(photo.denoiser, start, here, context, schedule, step, rounds))
    return Trajectory(torch.stack(latents), context, schedule)


def _descended(
    denoiser: Denoiser, start: Tensor, here: Tensor, context: Context, schedule: Schedule, step: int, rounds: int
) -> Tensor:
    rows = [row.clone().requires_grad_(True) for row in start]
    optimizer = torch.optim.AdamW(rows, lr=RATE)
    left = list(range(len(rows)))
    for _ in range(rounds):
        with torch.enable_grad():
            there = torch.stack([rows[i] for i in left])
            losses = residual(denoiser, there, here[left], context[left], schedule, step)
            optimizer.zero_grad()
            losses.sum().backward()
        optimizer.step()
        left = [i for i, loss in zip(left, losses.tolist(), strict=True) if loss >= SMALL]
        if not left:
            break
    return torch.stack([row.detach() for row in rows])
