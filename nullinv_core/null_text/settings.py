"""Constants of null-text optimization; those that people set are declared in ``settings``. Nothing here needs
PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..errors import InputError
from ..schedule import check_guidance
from ..settings import EARLY_STOP, GUIDANCE, LEARNING_RATE, OF_CUSTOM, OPTIMIZE_POOLED, ROUNDS


@dataclass(frozen=True)
class NullTextSettings:
    """Constants of the optimization; the defaults are the authors' (preset ``paper``).

    ``guidance`` w. ``inner_steps`` N: Adam steps per timestep at most, at least one is always taken.
    ``learning_rate`` at the noisiest step; it falls linearly with the timesteps, by a hundredth of it at each.
    ``early_stop`` and ``early_stop_growth``: a timestep ends once its loss is below early_stop + growth·i, i = 0 at
    the noisiest step.

    What the authors do not have: ``start``: ∅_T starts from the empty prompt's encoding ("null") or from the source
    prompt's ("source"), where guided sampling is already close to the pivot. ``test_first``: the loss is looked at
    before the first Adam step, which is left out where it is small enough. ``budget``: Adam steps over the whole
    trajectory at most, 0 for no limit; timesteps near the image come last and go without when it is spent.
    ``keep_best``: ∅_t is the best that was seen at its timestep, not the last. ``relative``: the learning rate and the
    losses above are in units of the context's and the latents' own scale (see ``units``). ``optimize_pooled``: where
    contexts have a pooled vector, that of ∅ moves with its tokens.
    """

    guidance: float = GUIDANCE.default
    inner_steps: int = ROUNDS.default
    learning_rate: float = LEARNING_RATE.default
    early_stop: float = EARLY_STOP.default
    early_stop_growth: float = 2e-5
    start: Literal["null", "source"] = "null"
    test_first: bool = False
    budget: int = 0
    keep_best: bool = False
    relative: bool = False
    optimize_pooled: bool = OPTIMIZE_POOLED.default

    def __post_init__(self) -> None:
        check_guidance(self.guidance)
        for setting in OF_CUSTOM:
            setting.check_rule(getattr(self, setting.name))
        if self.start not in ("null", "source"):
            raise InputError(f'start must be "null" or "source", not "{self.start}"')
        if self.budget < 0 or (self.budget and not self.test_first):
            raise InputError("a budget is a number of optimizer steps from 1, and needs test_first")

    def rate(self, index: int, steps: int) -> float:
        """Learning rate of the ``index``-th timestep from the noisiest; stays positive beyond 100 steps."""
        return self.learning_rate * (1 - index / max(100, steps))

    def threshold(self, index: int) -> float:
        """Loss under which the ``index``-th timestep from the noisiest ends early."""
        return self.early_stop + self.early_stop_growth * index

    def most_iterations(self, steps: int) -> int:
        """Adam steps that an image may take over a trajectory of so many steps."""
        return self.budget or self.inner_steps * steps


PAPER = NullTextSettings()
