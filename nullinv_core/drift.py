"""Whether a model still predicts the trajectory that it made: what sees every difference, listed or not.

Patches of the model, a LoRA, noise levels, another text: whatever differs from the inversion, ε differs. The DDIM step
along ε of a stored latent must lead to the next stored latent (Mokady et al. 2022, eq. 2 and 3).

Distances are ‖ε - ε*‖ / ‖ε*‖, the largest of all images. Measured with the demo model (8, 20 and 50 steps, both methods
of inversion, three scenes) against a trajectory made in float32. ``from_inversion``: 1e-6 by the same model, 0.0003 to
0.0005 in float16, 0.003 to 0.005 in bfloat16; 0.015 to 0.03 with weights rounded to eight bits, which is another model;
0.007 to 0.015 with a LoRA that costs a reconstruction of 53 dB fifteen, 0.003 to 0.008 with one half as strong, which
costs it nine; 0.09 to 0.18 with another colour or toy in the text, 0.02 with another hat.
``from_prediction`` has the inversion's own error on top, in the first half of the steps: of ``fixed-point`` 0.0001 at
50 steps, 0.0009 at 20 and 0.03 at 8, of ``ddim`` 0.04, 0.1 and 0.23.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .denoiser import Denoiser, check_finite
from .schedule import ddim_inverse_step, epsilon_between, shift, steps_of
from .types import Trajectory

ASKED_AT = 0.8
"""Share of the steps, from clean to noise, at which the network is asked."""
CLOSE = 0.005
"""Up to this distance nothing is asked any further."""
TOLERANCES = {torch.float64: 0.005, torch.float32: 0.005, torch.float16: 0.005, torch.bfloat16: 0.02}
"""Distances that rounding explains, by what the network computes in: other attention kernels, TF32 and batches of other
sizes among it."""


@dataclass(frozen=True)
class Check:
    """Who is told, in a sentence, where a model no longer predicts a trajectory. ``dtype``: what it computes in."""

    warn: Callable[[str], None]
    dtype: torch.dtype = torch.float32

    @property
    def tolerance(self) -> float:
        """The distance that rounding explains."""
        return TOLERANCES.get(self.dtype, CLOSE)

    def __call__(self, denoiser: Denoiser, trajectory: Trajectory) -> bool:
        """Ask the network; warn where its answer is not that of the inversion, and return whether it is."""
        limit = self.tolerance + rounding(trajectory)
        found = from_inversion(denoiser, trajectory, limit)
        holds = found <= limit
        if not holds:
            self.warn(
                f"the model no longer predicts this photo as it did at the inversion ({100 * found:.2g} % off), so "
                "the result drifts from the photo. Something differs: a patch on the model (FreeU, IPAdapter; "
                "ToMe acts at random), a LoRA, a ControlNet, the noise schedule or the text; use what the photo was "
                "inverted with, or invert again"
            )
        return holds


def apart(epsilon: Tensor, wanted: Tensor) -> float:
    """Largest relative distance of ε of any image, (B, C, h, w) each."""
    distance = (epsilon - wanted).flatten(1).norm(dim=1) / wanted.flatten(1).norm(dim=1)
    return float(distance.max())


def stored(trajectory: Trajectory, step: int) -> Tensor:
    """ε* that led from z*_{t-1} to z*_t at ``step`` = t in 1 … T: (B, C, h, w)."""
    return epsilon_between(trajectory.latents[step], trajectory.latents[step - 1], trajectory.schedule, step)


def from_prediction(epsilon: Tensor, trajectory: Trajectory, step: int) -> float:
    """Distance of ε(z*_t, C), as a sampler predicts it anyway, from ε*. Costs nothing."""
    return apart(epsilon, stored(trajectory, step))


def from_inversion(denoiser: Denoiser, trajectory: Trajectory, enough: float = CLOSE) -> float:
    """Distance of ε*, at one of the first steps, from what the network now predicts where ``invert`` asked it.

    That place follows from the stored latents: for ``fixed-point`` it is where the ε* of the two steps before lead to,
    for ``ddim`` z*_{t-1}. The second is asked where the first is not close ``enough``; the smaller distance counts.
    Costs a call of a sample an image, or two; none at a single step, where the place is not known: 0.
    """
    schedule, step = trajectory.schedule, _asked(trajectory)
    if step < 2:
        return 0.0
    before, wanted, last = trajectory.latents[step - 1], stored(trajectory, step), stored(trajectory, step - 1)
    expected = last if step == 2 else 2 * last - stored(trajectory, step - 2)
    level, found = schedule.level(step), math.inf
    for place in (ddim_inverse_step(before, expected, schedule, step), before):
        if found > enough:
            found = min(found, apart(check_finite(denoiser(place, level, trajectory.context), level, step), wanted))
    return found


def rounding(trajectory: Trajectory) -> float:
    """Distance that the type of the stored latents explains: two of them are subtracted, and divided by little."""
    alphas, step = trajectory.schedule.alphas_cumprod, _asked(trajectory)
    return torch.finfo(trajectory.latents.dtype).eps / abs(shift(alphas[step], alphas[step - 1]))


def _asked(trajectory: Trajectory) -> int:
    """The step at which the network is asked: late enough for it to see the photo, early enough for patches that act at
    the first steps alone."""
    steps = trajectory.schedule.steps
    return min(max(2, steps - steps_of(1 - ASKED_AT, steps)), steps)
