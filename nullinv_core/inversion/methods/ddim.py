"""DDIM inversion (Song et al. 2021, arXiv 2010.02502; Mokady et al. 2022, eq. 3)."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from ...schedule import Schedule, ddim_inverse_step
from ..method import Method, Predict


def ddim(predict: Predict, latents: Tensor, schedule: Schedule) -> Iterator[tuple[Tensor, Tensor]]:
    """ε for the step from z*_{t-1} to z*_t is that of z*_{t-1} at the noise level of t."""
    for step in range(1, schedule.steps + 1):
        epsilon = predict(latents, step)
        latents = ddim_inverse_step(latents, epsilon, schedule, step)
        yield latents, epsilon


METHOD = Method("ddim", ddim, per_step=1, once=0, help="as the paper has it")
