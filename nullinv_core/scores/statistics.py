"""Means with their 95 % intervals, and whether two methods differ on the same pictures."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb, sqrt

import numpy as np

EXACT = 14
"""Pairs up to which every assignment of signs is tried."""
DRAWS = 20_000
"""Random ones beyond that; the least p-value is 1 in so many."""


def interval(values: Sequence[float], seed: int = 0, draws: int = 2000) -> tuple[float, float, float]:
    """Mean with its 95 % bootstrap interval: (mean, low, high); both ends NaN where the mean is infinite."""
    sample = np.asarray(values, np.float64)
    if not np.isfinite(sample).all():
        return float(sample.mean()), np.nan, np.nan
    rng = np.random.default_rng(seed)
    means = sample[rng.integers(len(sample), size=(draws, len(sample)))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(sample.mean()), float(low), float(high)


def share_interval(right: int, of: int) -> tuple[float, float, float]:
    """A share with its 95 % interval (Wilson 1927): (share, low, high), all in 0…1; wider than none at 0 and at 1."""
    z = 1.959964
    middle, spread = right + z * z / 2, z * sqrt(right * (of - right) / of + z * z / 4)
    share, low, high = right / of, (middle - spread) / (of + z * z), (middle + spread) / (of + z * z)
    # at none and at all the ends are 0 and 1 but for rounding
    return share, min(share, max(0.0, low)), max(share, min(1.0, high))


def paired_p(differences: Sequence[float], seed: int = 0) -> float:
    """How likely a mean difference of at least this size is where two methods are alike: two-sided, in 0…1.

    The sign-flip permutation test (Fisher 1935, "The Design of Experiments", section 21): if the methods are alike,
    each picture's difference may have either sign. Exact for up to ``EXACT`` differences that are not 0, else by random
    signs.
    """
    sample = np.asarray(differences, np.float64)
    sample = sample[sample != 0]
    if not len(sample) or not np.isfinite(sample).all():
        return 1.0
    seen = abs(sample.sum())
    # sums of the same numbers in another order differ by rounding
    least = seen - 1e-9 * np.abs(sample).sum()
    if len(sample) <= EXACT:
        bits = (np.arange(2 ** len(sample))[:, None] >> np.arange(len(sample))) & 1
        return float((np.abs((1 - 2 * bits) @ sample) >= least).mean())
    rng, beyond = np.random.default_rng(seed), 0
    for _ in range(DRAWS // 1000):
        signs = 1 - 2 * rng.integers(2, size=(1000, len(sample)), dtype=np.int8)
        beyond += int((np.abs(signs @ sample) >= least).sum())
    return (1 + beyond) / (1 + DRAWS)


def sign_p(first: int, second: int) -> float:
    """How likely so uneven a count is where two methods are alike: the exact two-sided sign test, in 0…1.

    ``first``, ``second``: pictures on which one of them alone is right. If the methods are alike, either is as likely.
    """
    count = first + second
    tail = sum(comb(count, few) for few in range(min(first, second) + 1))
    return min(1.0, 2 * tail / 2**count)


def holm(p_values: Sequence[float]) -> list[float]:
    """The same p-values corrected for their number (Holm 1979), in the same order."""
    found, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(np.argsort(p_values, kind="stable").tolist()):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        found[place] = largest
    return found
