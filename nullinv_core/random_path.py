"""Edits beside the photo with random noise, in place of its trajectory: edit-friendly DDPM inversion
(Huberman-Spiegelglas et al. 2023, arXiv 2304.06140).

Every z_t is the photo with noise of its own. The noise n_t of a step is what leads from one to the next, and an edit
takes the same. That needs no inversion, and it holds more of the photo.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import sqrt

import torch
from torch import Tensor

from .schedule import Schedule, predicted_clean
from .types import Trajectory


def random_path(trajectory: Trajectory, seeds: Sequence[int]) -> Trajectory:
    """z_t = √ᾱ_t z_0 + √(1-ᾱ_t) n of each image, with other noise n at each step (eq. 5).

    ``seeds``: one of each image; its noise depends on nothing else.
    """
    alphas, clean = trajectory.schedule.alphas_cumprod, trajectory.clean
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    latents = [clean]
    for alpha in alphas[1:]:
        noise = torch.stack([torch.randn(clean.shape[1:], generator=each) for each in generators]).to(clean)
        latents.append(sqrt(alpha) * clean + sqrt(1 - alpha) * noise)
    return replace(trajectory, latents=torch.stack(latents))


def mean_and_deviation(latents: Tensor, epsilon: Tensor, schedule: Schedule, step: int) -> tuple[Tensor, float]:
    """μ_t and σ_t of the step from z_t to z_{t-1}: DDIM at η = 1 (Song et al. 2020, arXiv 2010.02502, eq. 12, 16)."""
    alpha, before = schedule.alphas_cumprod[step], schedule.alphas_cumprod[step - 1]
    variance = (1 - before) / (1 - alpha) * (1 - alpha / before)
    clean = predicted_clean(latents, epsilon, alpha)
    return sqrt(before) * clean + sqrt(1 - before - variance) * epsilon, sqrt(variance)


def step_beside(latents: Tensor, epsilon: Tensor, following: Tensor, schedule: Schedule, step: int) -> Tensor:
    """z_{t-1} of each branch, (B, branches, C, h, w) like ``latents`` z_t and their ε; the photo's is the first.

    μ_t of the branch, and what leads the photo from its own μ_t to its z_{t-1} (eq. 6). ``following``: that, (B, C, h,
    w).
    """
    mean, _ = mean_and_deviation(latents, epsilon, schedule, step)
    found = following[:, None] + (mean - mean[:, :1])
    found[:, 0] = following
    return found
