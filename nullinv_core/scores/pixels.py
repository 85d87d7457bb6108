"""How like a reference a picture is, pixel by pixel: the figures that need no network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..photo.images import psnr, ssim
from .rules import NEAR, Rule


class Asked(Protocol):
    """What a picture is measured against: the photo (H, W, 3) in 0…1, the edit's prompt, where it may change the photo
    (bool, H×W), and the right answers, none where nobody knows."""

    @property
    def source(self) -> np.ndarray: ...
    @property
    def edit_prompt(self) -> str: ...
    @property
    def changes(self) -> np.ndarray: ...
    @property
    def truths(self) -> Sequence[np.ndarray]: ...


Measure = Callable[[np.ndarray, Asked], float | None]
"""A figure of an edited picture (H, W, 3) in 0…1; None where there is nothing to measure."""


@dataclass(frozen=True)
class Likeness:
    """How like a reference a picture is over a region: PSNR in dB up to ``NEAR``, SSIM up to 1."""

    psnr: float
    ssim: float


def likeness(picture: np.ndarray, reference: np.ndarray, region: np.ndarray) -> Likeness | None:
    """How like its reference a picture is over a region, bool (H, W); None where that is empty."""
    if not region.any():
        return None
    near = float(np.minimum(psnr(picture, reference, region), NEAR))
    return Likeness(near, ssim(picture, reference, region))


def nearest_truth(picture: np.ndarray, asked: Asked) -> np.ndarray:
    """The right answer that a picture is nearest to, where it may change."""
    errors = [float(((picture - truth)[asked.changes] ** 2).sum()) for truth in asked.truths]
    return asked.truths[int(np.argmin(errors))]


def gain(picture: np.ndarray, asked: Asked) -> float | None:
    """By how many dB a picture is nearer to the truth than the photo is, where it may change; both up to ``NEAR``."""
    if not asked.truths or not asked.changes.any():
        return None
    near, none = (psnr(one, nearest_truth(one, asked), asked.changes) for one in (picture, asked.source))
    return min(near, NEAR) - min(none, NEAR)


def kept_measures(rule: Rule) -> dict[str, Measure]:
    """PSNR in dB, MSE times 10000 and SSIM of what must be kept, against the photo."""

    def of_kept(compare: Callable[[np.ndarray, np.ndarray, np.ndarray | None], float]) -> Measure:
        def measure(picture: np.ndarray, asked: Asked) -> float | None:
            kept = ~asked.changes
            if not kept.any():
                return None
            if not rule.black:
                return compare(picture, asked.source, kept)
            return compare(picture * kept[..., None], asked.source * kept[..., None], None)

        return measure

    def error(picture: np.ndarray, photo: np.ndarray, kept: np.ndarray | None) -> float:
        squares = np.square(picture - photo)
        return 10_000 * float((squares if kept is None else squares[kept]).mean())

    return {
        "PSNR, kept": of_kept(lambda a, b, kept: min(rule.equal, psnr(a, b, kept))),
        "MSE, kept": of_kept(error),
        "SSIM, kept": of_kept(ssim),
    }


def truth_measures() -> dict[str, Measure]:
    """PSNR in dB and SSIM against the truth, where a picture may change, and the gain in dB."""

    def of_changed(compare: Callable[[np.ndarray, np.ndarray, np.ndarray], float]) -> Measure:
        return lambda picture, asked: (
            compare(picture, nearest_truth(picture, asked), asked.changes)
            if asked.truths and asked.changes.any()
            else None
        )

    return {
        "PSNR to truth": of_changed(lambda a, b, region: min(NEAR, psnr(a, b, region))),
        "SSIM to truth": of_changed(ssim),
        "gain": gain,
    }
