"""What an inversion method is: a function that climbs a schedule, its price and a line of help."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from ..schedule import Schedule

Predict = Callable[[Tensor, int], Tensor]
"""ε (B, C, h, w) for latents of that shape at the noise level of step 1 … T, under the source prompt."""
Climb = Callable[[Predict, Tensor, Schedule], Iterator[tuple[Tensor, Tensor]]]
"""From clean latents z*_0 (B, C, h, w): z*_t and the ε that led there, for t = 1 … T."""


@dataclass(frozen=True)
class Method:
    """An inversion method.

    ``name``: what people choose it by. ``climb``: the method. ``per_step`` and ``once``: network samples that it costs
    an image, at each step and over all. ``help``: one line for people.
    """

    name: str
    climb: Climb
    per_step: int
    once: int
    help: str

    def samples(self, steps: int) -> int:
        """Network samples that an image costs."""
        return self.per_step * steps + self.once
