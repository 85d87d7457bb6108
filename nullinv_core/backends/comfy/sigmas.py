"""ComfyUI's noise levels, SIGMAS, and the core's: σ² = (1-ᾱ)/ᾱ. Needs nothing of ComfyUI."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise, zip_longest

from ...errors import InputError
from ...schedule import SAME_LEVEL


def sigma_of(alpha: float) -> float:
    """ComfyUI's noise level σ of ᾱ."""
    return math.sqrt((1 - alpha) / alpha)


def alphas_of(sigmas: Iterable[float]) -> tuple[float, ...]:
    """ᾱ of ComfyUI's noise levels."""
    return tuple(1 / (1 + sigma * sigma) for sigma in sigmas)


def nearest(levels: Sequence[float], sigma: float) -> int:
    """The step 1 … T whose noise level is nearest to ``sigma``, by its logarithm. ``levels``: σ of every step."""
    distances = [abs(math.log(level) - math.log(max(sigma, 1e-6))) for level in levels]
    return 1 + distances.index(min(distances))


def first_other(levels: Sequence[float], sigmas: Sequence[float]) -> float | None:
    """The first of a sampler's noise levels, falling, that is not the step's at its place; ``levels`` rise."""
    steps = zip_longest(sigmas, reversed(levels[-len(sigmas) :]), fillvalue=0.0)
    return next((s for s, level in steps if not math.isclose(s, level, rel_tol=SAME_LEVEL)), None)


def check_sigmas(levels: list[float], least: float, most: float) -> None:
    """Raise InputError for noise levels, rising, that do not lead from a photo to noise that the model knows.

    ``least`` and ``most``: the model's own first and last level.
    """
    if not all(map(math.isfinite, levels)):
        raise InputError("SIGMAS hold NaN or infinity; connect those of a scheduler")
    if len(levels) < 2 or levels[0] < 0 or any(b <= a for a, b in pairwise(levels)):
        raise InputError("SIGMAS must fall from step to step down to 0, at least two of them")
    if levels[0] > least * (1 + SAME_LEVEL):
        raise InputError(
            f"these SIGMAS end at {levels[0]:.3g}, where noise is left, but a photo has no noise; connect all of them, "
            "or low_sigmas of Split Sigmas"
        )
    if levels[1] < least * (1 - SAME_LEVEL) or levels[-1] > most * (1 + SAME_LEVEL):
        raise InputError(
            f"these SIGMAS go from {levels[1]:.3g} to {levels[-1]:.5g}, but the model was trained on {least:.3g} to "
            f"{most:.5g}; choose the scheduler's sigma_min and sigma_max inside that range"
        )
