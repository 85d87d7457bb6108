"""The scales of latents and contexts, in which the authors' constants mean the same for any model.

Stable Diffusion's latents at the noisiest step and its text encodings both have a root mean square of about 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ..types import Trajectory


@dataclass(frozen=True)
class Units:
    """Units of each image: a loss is in units of ``latents``², a step of ∅ in units of ``context``. Powers of two."""

    latents: tuple[float, ...]
    context: tuple[float, ...]

    def threshold(self, image: int, threshold: float) -> float:
        """A loss of an image, given in its units."""
        return threshold * self.latents[image] ** 2

    def rate(self, image: int, rate: float) -> float:
        """A step of an image's ∅, given in its units."""
        return rate * self.context[image]

    def gain(self, image: int) -> float:
        """What makes an image's gradient one in its units."""
        return self.context[image] / self.latents[image] ** 2


def plain_units(batch: int) -> Units:
    """Stable Diffusion's: the authors' constants as they are written."""
    return Units((1.0,) * batch, (1.0,) * batch)


def units_of(trajectory: Trajectory) -> Units:
    """The units of each image of a trajectory, exactly 1 at about Stable Diffusion's scales.

    The noisiest latents decide, which hold little of the photo, and the median of a text's tokens: the first is far
    larger than the others in some encoders.
    """
    # a Mac's GPU has no double precision
    latents = trajectory.noisiest.cpu().double().flatten(1).square().mean(1).sqrt()
    context = trajectory.context.text.cpu().double().square().mean(-1).sqrt().median(-1).values
    return Units(_powers(latents), _powers(context))


def _powers(scales: Tensor) -> tuple[float, ...]:
    """The nearest power of two of each scale; 1 where there is none."""
    finite = [float(s) if math.isfinite(s) and s > 0 else 1.0 for s in scales.tolist()]
    return tuple(2.0 ** round(math.log2(scale)) for scale in finite)
