"""PIE-Bench's own folder (Ju et al. 2023, arXiv 2310.01506) as tasks of the edit benchmark.

``mapping_file.json`` names for each picture its file under ``annotation_images/``, both prompts, the words that local
blend goes by, and a mask as pairs of start and length over the flattened 512×512 picture. Where a true answer lies
under ``true_images/`` by the same name, as ``pie_folder`` writes them, edits are measured against it too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from nullinv_core import EditSettings, InputError
from nullinv_core.batch.pie import MAPPING, PICTURES, Entry, entries
from nullinv_core.photo.images import load_image, psnr, ssim

from .edit_cases import EditTask
from .edit_scores import BEST
from .learned_scores import Measure

SIDE = 512
"""Pixels of the pictures that the masks were drawn on."""
KINDS = (
    "random", "change object", "add object", "delete object", "change content", "change pose", "change colour",
    "change material", "change background", "change style",
)  # fmt: skip
"""By the dataset's ``editing_type_id``."""
CROSS, SELF, STRENGTH = 0.4, 0.6, 2.0
"""Replace windows and the weight of the new word with which the published rows were made."""


def pie_tasks(folder: Path, side: int = SIDE) -> Iterator[EditTask]:
    """The edits of a PIE-Bench folder, in its order, in pictures of ``side`` pixels.

    Raises InputError for a folder of another layout.
    """
    file = folder / MAPPING
    for entry in entries(folder):
        try:
            yield _task(folder / PICTURES, entry, side)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise InputError(f'entry "{entry.name}" of "{file}" is not one of PIE-Bench ({error!r})') from error


def _task(pictures: Path, entry: Entry, side: int) -> EditTask:
    path = (pictures / entry.picture).resolve()
    if not path.is_relative_to(pictures.resolve()) or os.sep in entry.name:
        raise ValueError(f"{entry.picture} lies outside of {PICTURES}")
    words = entry.fields["blended_word"].split()
    truth = pictures.parent / "true_images" / path.relative_to(pictures.resolve())
    nearest = ((np.arange(side) + 0.5) * SIDE / side).astype(np.int64)
    return EditTask(
        name=entry.name,
        kind=KINDS[int(entry.fields["editing_type_id"])],
        source=load_image(path, side)[0].numpy(),
        source_prompt=entry.source,
        edit_prompt=entry.edit,
        changes=decode_mask(entry.fields["mask"])[nearest][:, nearest],
        settings=EditSettings(
            mode="refine",
            cross_replace=CROSS,
            self_replace=SELF,
            weights={word: STRENGTH for word in words[1:] if word in entry.edit.split()},
            blend_words=entry.blended,
        ),
        truths=(load_image(truth, side)[0].numpy(),) if truth.is_file() else (),
    )


def decode_mask(runs: list[int], side: int = SIDE) -> np.ndarray:
    """Where an edit may change a picture: bool (side, side). The border counts as changed, as the dataset's scores do.

    ``runs``: start and length, start and length, … over the flattened picture. Raises ValueError for any outside of it.
    """
    starts, lengths = np.asarray(runs[0::2], np.int64), np.asarray(runs[1::2], np.int64)
    if len(starts) != len(lengths) or (starts < 0).any() or (lengths < 0).any() or (starts > side * side).any():
        raise ValueError("its mask is not made of starts and lengths inside the picture")
    mask = np.zeros(side * side, bool)
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        mask[start : start + length] = True
    picture = mask.reshape(side, side)
    picture[[0, -1], :] = picture[:, [0, -1]] = True
    return picture


def published_measures() -> dict[str, Measure]:
    """PSNR in dB, MSE times 10000 and SSIM as in the published table: of pictures that are black where they may change.

    The more an edit may change, the better they look; ``Scores.kept`` counts the other pixels alone. None where the
    whole picture may change, as there.
    """

    def masked(measure: Callable[[np.ndarray, np.ndarray], float]) -> Measure:
        def measured(picture: np.ndarray, task: EditTask) -> float | None:
            kept = ~task.changes[..., None]
            return measure(picture * kept, task.source * kept) if kept.any() else None

        return measured

    return {
        "published PSNR": masked(lambda a, b: min(BEST, psnr(a, b))),
        "published MSE": masked(lambda a, b: 10_000 * float(np.square(a - b).mean())),
        "published SSIM": masked(ssim),
    }
