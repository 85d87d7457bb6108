"""How good an edited picture is, inside and outside of what may change, by measures that need no download."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nullinv_core.demo.judge import wrong_edit
from nullinv_core.demo.nearest import nearer
from nullinv_core.photo.images import from_pil, to_pil
from nullinv_core.scores.pixels import Likeness, Measure, gain, likeness, nearest_truth

from .edit_cases import EditTask


@dataclass(frozen=True)
class Scores:
    """Figures of an edited picture.

    ``kept``: to the source, where nothing may change; None where everything may. ``changed``: to the true edit, where
    it may; None where nobody knows that. ``gain``: by how many dB the edit is nearer to the truth there than the source
    is. ``asked``: whether the judge sees the asked toys, colours, place and whatever else the edit asks for in the
    picture as saved; None where nobody knows them. ``right``: whether the picture is also nearer to the true edit than
    to the photo and to all else that could have been asked for (``nearest``). ``extra``: further figures by name, as
    those of ``nullinv_core.scores``.
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
    return Scores(kept, changed, gain(edited, task), asked, right, extra)


def scores_from(record: dict[str, Any]) -> Scores:
    """Scores that were kept as JSON.

    Older rows have an MS-SSIM, too. It is left out: it was a mean over the whole picture, in which what lies outside of
    the region counted as equal.
    """
    kept, changed = (
        None if found is None else Likeness(found["psnr"], found["ssim"])
        for found in (record["kept"], record["changed"])
    )
    return Scores(**{**record, "kept": kept, "changed": changed})
