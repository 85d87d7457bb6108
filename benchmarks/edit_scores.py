"""How good an edited picture is, inside and outside of what may change, by measures that need no download."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

import numpy as np
import torch
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from nullinv_core.demo.judge import wrong_edit
from nullinv_core.demo.nearest import nearer
from nullinv_core.photo.images import from_pil, psnr, ssim, to_pil

from .edit_cases import EditTask
from .learned_scores import Measure

BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Weights of MS-SSIM's scales (Wang et al. 2003); pictures too small for all of them use the first ones."""
KERNEL = 11
"""Side of MS-SSIM's window."""
BEST = 60.0
"""dB that equal regions count as, so that they have a mean; rounding to 8 bits alone makes 59."""


@dataclass(frozen=True)
class Likeness:
    """How like a reference a picture is over a region: PSNR in dB up to ``BEST``, SSIM and MS-SSIM up to 1."""

    psnr: float
    ssim: float
    ms_ssim: float


@dataclass(frozen=True)
class Scores:
    """Figures of an edited picture.

    ``kept``: to the source, where nothing may change; None where everything may. ``changed``: to the true edit, where
    it may; None where nobody knows that. ``gain``: by how many dB the edit is nearer to the truth there than the source
    is. ``asked``: whether the judge sees the asked toys, colours, place and whatever else the edit asks for in the
    picture as saved; None where nobody knows them. ``right``: whether the picture is also nearer to the true edit than
    to the photo and to all else that could have been asked for (``nearest``). ``extra``: further figures by name, as
    those of ``learned_scores``.
    """

    kept: Likeness | None
    changed: Likeness | None
    gain: float | None
    asked: bool | None
    right: bool | None
    extra: Mapping[str, float] = field(default_factory=dict)


def scores(edited: np.ndarray, task: EditTask, measures: Mapping[str, Measure] | None = None) -> Scores:
    """Scores of a picture (H, W, 3) in 0…1; ``measures``: further ones."""
    found = {name: measure(edited, task) for name, measure in (measures or {}).items()}
    extra = {name: value for name, value in found.items() if value is not None}
    changes = task.changes
    kept = likeness(edited, task.source, ~changes)
    asked = right = None
    if task.case is not None:
        saved = from_pil(to_pil(edited))[0].numpy()
        asked = not wrong_edit(saved, task.case)
        truth = task.truths[0]
        moved = float(np.square(saved - truth).mean()) < float(np.square(saved - task.source).mean())
        right = asked and moved and not nearer(saved, task.case.target)
    if not task.truths:
        return Scores(kept, None, None, asked, right, extra)
    changed = likeness(edited, nearest_truth(edited, task), changes)
    none = psnr(task.source, nearest_truth(task.source, task), changes)
    return Scores(kept, changed, None if changed is None else changed.psnr - none, asked, right, extra)


def nearest_truth(picture: np.ndarray, task: EditTask) -> np.ndarray:
    """The right answer that a picture is nearest to, where it may change."""
    errors = [float(((picture - truth)[task.changes] ** 2).sum()) for truth in task.truths]
    return task.truths[int(np.argmin(errors))]


def scores_from(record: dict[str, Any]) -> Scores:
    """Scores that were kept as JSON."""
    kept, changed = (None if record[key] is None else Likeness(**record[key]) for key in ("kept", "changed"))
    return Scores(**{**record, "kept": kept, "changed": changed})


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
    near = float(np.minimum(psnr(picture, reference, region), BEST))
    return Likeness(near, ssim(picture, reference, region), float(multiscale))


def most_scales(side: int) -> int:
    """How many halvings of a picture still hold SSIM's window."""
    scales = 1
    while scales < len(BETAS) and side // 2**scales > KERNEL:
        scales += 1
    return scales


def interval(values: list[float], seed: int = 0, draws: int = 2000) -> tuple[float, float, float]:
    """Mean with its 95 % bootstrap interval: (mean, low, high)."""
    sample = np.asarray(values, np.float64)
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
