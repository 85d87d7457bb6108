"""How like a reference a picture is, pixel by pixel: the figures that need no network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from ..photo.images import psnr, ssim
from .rules import NEAR, Rule

BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Weights of MS-SSIM's scales (Wang et al. 2003); pictures too small for all of them use the first ones."""
KERNEL = 11
"""Side of MS-SSIM's window."""


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
    """How like a reference a picture is over a region: PSNR in dB up to ``NEAR``, SSIM and MS-SSIM up to 1."""

    psnr: float
    ssim: float
    ms_ssim: float


def likeness(picture: np.ndarray, reference: np.ndarray, region: np.ndarray) -> Likeness | None:
    """How like its reference a picture is over a region, bool (H, W); None where that is empty."""
    if not region.any():
        return None
    a, b = (torch.from_numpy(np.array(x, np.float32)).movedim(-1, 0)[None] for x in (picture, reference))
    # MS-SSIM has no map: outside of the region the reference stands in for both
    inside = torch.where(torch.from_numpy(region), a, b)
    scales = BETAS[: most_scales(min(region.shape))]
    betas = tuple(weight / sum(scales) for weight in scales)
    multiscale = multiscale_structural_similarity_index_measure(
        inside, b, data_range=1.0, kernel_size=KERNEL, betas=betas
    )
    near = float(np.minimum(psnr(picture, reference, region), NEAR))
    return Likeness(near, ssim(picture, reference, region), float(multiscale))


def most_scales(side: int) -> int:
    """How many halvings of a picture still hold SSIM's window."""
    scales = 1
    while scales < len(BETAS) and side // 2**scales > KERNEL:
        scales += 1
    return scales


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
