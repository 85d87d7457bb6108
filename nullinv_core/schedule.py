"""Noise levels, the DDIM step and its inverse (Song et al. 2021, arXiv 2010.02502; Mokady et al. 2022, eq. 2 and 3).

Latents are variance preserving: z_t = √ᾱ_t·z_0 + √(1-ᾱ_t)·ε. Steps are numbered 1 … T from clean to noise; level 0
is the clean end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from .errors import InputError, short

if TYPE_CHECKING:
    from torch import Tensor

GUIDANCE = (0.0, 100.0)
"""Least and most guidance scale, wherever one is given."""
ROUNDING = 1e-6
"""Far more than floats are off by, far less than a share that anybody writes."""
CLEAN = 0.98
"""Least ᾱ of a clean end: pictures hold no noise. Stable Diffusion's own first level has 0.999."""
NOISY = 0.03
"""Most ᾱ of a noisiest level that is noise: all numbers of steps from 8 to 200 end below it."""
FEW = 8
"""From so many steps on, edits follow the photo."""
SAME_LEVEL = 1e-3
"""Relative distance of ᾱ at which two noise levels count as one."""


class NoiseLevel(NamedTuple):
    """Where on the schedule a network is asked: its ``timestep`` (0…999 for Stable Diffusion) and ᾱ in 0…1."""

    timestep: float
    alpha: float


@dataclass(frozen=True)
class Schedule:
    """T steps from clean to noisiest.

    ``timesteps``: t_1 … t_T, ascending. ``alphas_cumprod``: ᾱ_0 … ᾱ_T, descending, one more than the timesteps;
    ᾱ_0 belongs to the clean end.
    """

    timesteps: tuple[float, ...]
    alphas_cumprod: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.timesteps:
            raise InputError("a schedule needs at least one step")
        if len(self.alphas_cumprod) != len(self.timesteps) + 1:
            raise InputError(
                f"a schedule of {len(self.timesteps)} steps needs {len(self.timesteps) + 1} values of alphas_cumprod "
                f"(the clean end included), not {len(self.alphas_cumprod)}"
            )
        if any(not b > a for a, b in pairwise((-1.0, *self.timesteps, math.inf))):
            raise InputError("timesteps must rise from the clean end to the noisiest step")
        if any(not 0 < a <= 1 for a in self.alphas_cumprod):
            raise InputError("alphas_cumprod must lie in (0, 1]")
        if any(b >= a for a, b in pairwise(self.alphas_cumprod)):
            raise InputError("alphas_cumprod must fall from the clean end to the noisiest step")
        if self.alphas_cumprod[0] < CLEAN:
            raise InputError(
                f"a schedule begins at the clean picture, and alphas_cumprod begins at {self.alphas_cumprod[0]:.3g}, "
                "where noise is left; take in the levels below"
            )

    @property
    def steps(self) -> int:
        """T, the number of steps."""
        return len(self.timesteps)

    def level(self, step: int) -> NoiseLevel:
        """Noise level of step 1 … T."""
        return NoiseLevel(self.timesteps[step - 1], self.alphas_cumprod[step])


def scaled_linear_alphas(beta_start: float = 0.00085, beta_end: float = 0.012, train_steps: int = 1000) -> list[float]:
    """ᾱ of every training timestep of Stable Diffusion's ``scaled_linear`` schedule."""
    import torch

    betas = torch.linspace(beta_start**0.5, beta_end**0.5, train_steps, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0).tolist()


def leading_schedule(alphas_cumprod: Sequence[float], steps: int) -> Schedule:
    """The authors' schedule: "leading" spacing, t = 1, 1 + 1000//T, … (1, 21, …, 981 for 50 steps).

    ``alphas_cumprod`` holds ᾱ of every training timestep; the clean end has that of timestep 0, as with
    ``set_alpha_to_one=False``. Raises InputError where that many steps do not exist.
    """
    trained = len(alphas_cumprod)
    if not 1 <= steps <= trained:
        raise InputError(f"steps must be between 1 and {trained}, not {steps}")
    spacing = trained // steps
    timesteps = [i * spacing + 1 for i in range(steps)]
    if timesteps[-1] >= trained:
        raise InputError(f"{steps} steps leave no room on {trained} timesteps; ask for fewer")
    return Schedule(
        tuple(float(t) for t in timesteps),
        (float(alphas_cumprod[0]), *(float(alphas_cumprod[t]) for t in timesteps)),
    )


def doubts(schedule: Schedule) -> str:
    """A sentence where edits on a schedule's steps come out badly; else nothing."""
    if schedule.steps < FEW:
        return (
            f"{schedule.steps} steps are too few to change a photo and keep it; take 20 or more, with Turbo, Lightning "
            "and LCM models too"
        )
    if schedule.alphas_cumprod[-1] > NOISY:
        return (
            f"with {schedule.steps} steps a part of the photo is left in the noise, so edits change it less; take a "
            "number from 20 to 100"
        )
    return ""


def check_levels(schedule: Schedule, trained: Sequence[float]) -> None:
    """Raise InputError unless a schedule is on the noise levels of a model: ᾱ of every step is the one that its
    timestep has, and the clean end has no more noise than the first of them. ``trained``: ᾱ of every training timestep.
    """
    last = len(trained) - 1
    for timestep, alpha in zip(schedule.timesteps, schedule.alphas_cumprod[1:], strict=True):
        if not (0 <= timestep <= last and math.isclose(_between(trained, timestep), alpha, rel_tol=SAME_LEVEL)):
            raise InputError(
                f"this inversion was made on another noise schedule (timestep {timestep:g}); invert the image again"
            )
    if schedule.alphas_cumprod[0] < trained[0] * (1 - SAME_LEVEL):
        raise InputError("this inversion's noise schedule ends at another noise level; invert the image again")


def _between(trained: Sequence[float], timestep: float) -> float:
    """ᾱ at a timestep between those that were trained, by the logarithm of σ² = (1-ᾱ)/ᾱ."""
    below = math.floor(timestep)
    low, high = (math.log(max(1 - a, 1e-12) / a) for a in (trained[below], trained[min(below + 1, len(trained) - 1)]))
    return 1 / (1 + math.exp(low + (timestep - below) * (high - low)))


def move(latents: Tensor, epsilon: Tensor, alpha_from: float, alpha_to: float) -> Tensor:
    """Carry latents from one noise level to another along a fixed ε; exact in both directions.

    Mokady et al. 2022, eq. 2 (to less noise) and eq. 3 (to more): z' = √(ᾱ'/ᾱ)·z + √ᾱ'·(√(1/ᾱ'-1) - √(1/ᾱ-1))·ε.
    """
    return math.sqrt(alpha_to / alpha_from) * latents + shift(alpha_from, alpha_to) * epsilon


def shift(alpha_from: float, alpha_to: float) -> float:
    """Factor of ε in ``move``: √ᾱ'·(√(1/ᾱ'-1) - √(1/ᾱ-1))."""
    return math.sqrt(alpha_to) * (math.sqrt(1 / alpha_to - 1) - math.sqrt(1 / alpha_from - 1))


def ddim_step(latents: Tensor, epsilon: Tensor, schedule: Schedule, step: int) -> Tensor:
    """z_{t-1} from z_t at ``step`` = t in 1 … T (eq. 2, σ = 0)."""
    return move(latents, epsilon, schedule.alphas_cumprod[step], schedule.alphas_cumprod[step - 1])


def ddim_inverse_step(latents: Tensor, epsilon: Tensor, schedule: Schedule, step: int) -> Tensor:
    """z_t from z_{t-1} at ``step`` = t in 1 … T (eq. 3)."""
    return move(latents, epsilon, schedule.alphas_cumprod[step - 1], schedule.alphas_cumprod[step])


def epsilon_between(latents: Tensor, following: Tensor, schedule: Schedule, step: int) -> Tensor:
    """The ε whose DDIM step leads from z_t to ``following`` z_{t-1} at ``step`` = t in 1 … T (eq. 2, solved)."""
    alpha_from, alpha_to = schedule.alphas_cumprod[step], schedule.alphas_cumprod[step - 1]
    return (following - math.sqrt(alpha_to / alpha_from) * latents) / shift(alpha_from, alpha_to)


def predicted_clean(latents: Tensor, epsilon: Tensor, alpha: float) -> Tensor:
    """The clean latents that (z_t, ε) imply: what a preview shows."""
    return (latents - math.sqrt(1 - alpha) * epsilon) / math.sqrt(alpha)


def epsilon_from_v(latents: Tensor, velocity: Tensor, alpha: float) -> Tensor:
    """ε of a v-prediction network (Salimans & Ho 2022, arXiv 2202.00512, appendix D): ε = √ᾱ·v + √(1-ᾱ)·z."""
    return math.sqrt(alpha) * velocity + math.sqrt(1 - alpha) * latents


def check_guidance(guidance: float) -> None:
    """Raise InputError for a guidance scale outside of ``GUIDANCE``."""
    least, most = GUIDANCE
    if not least <= guidance <= most:
        raise InputError(f"guidance must be a number in {least:g}…{most:g}, not {short(str(guidance))}")


def steps_of(share: float, steps: int) -> int:
    """How many whole steps a share in 0…1 is, as the authors' int() has it, but of the number as it is written.

    0.58 of 50 are 29, though the product of the nearest floats is a little less.
    """
    return math.floor(share * steps + ROUNDING)


def guide(epsilon_null: Tensor, epsilon_text: Tensor, guidance: float | Tensor) -> Tensor:
    """Classifier-free guidance (Mokady et al. 2022, eq. 1): w·ε(C) + (1-w)·ε(∅)."""
    return epsilon_null + guidance * (epsilon_text - epsilon_null)
