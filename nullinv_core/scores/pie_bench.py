"""PIE-Bench's own folder (Ju et al. 2023, arXiv 2310.01506): ``mapping_file.json`` and ``annotation_images/``.

The mapping names for each edit its picture, both prompts, the words that local blend goes by, and a mask as pairs of
start and length over the flattened 512×512 picture. True answers, where there are any, lie under ``true_images/`` by
the same names. The file may come from anywhere: what it claims is checked, and no path in it leads out of the folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ..errors import InputError, short
from .rules import SIDE

MAPPING, PHOTOS, TRUTHS = "mapping_file.json", "annotation_images", "true_images"
KINDS = (
    "random", "change object", "add object", "delete object", "change content", "change pose", "change colour",
    "change material", "change background", "change style",
)  # fmt: skip
"""By the dataset's ``editing_type_id``."""
LARGEST = 2**28
"""Most bytes of a mapping; PIE-Bench's has a few million."""
MOST_LETTERS = 10_000
"""Of a prompt."""


@dataclass(frozen=True)
class PieEdit:
    """One edit. ``picture``: relative to ``annotation_images``, without ``..``. Prompts have no brackets. ``blended``:
    the word of the source, then that of the edit. ``runs``: its mask, see ``decode_mask``."""

    name: str
    kind: str
    picture: PurePosixPath
    source_prompt: str
    edit_prompt: str
    blended: tuple[str, ...]
    runs: list[int]

    @property
    def changes(self) -> np.ndarray:
        """Where an edit may change it, bool (512, 512); decoded each time, for thousands of edits have as many."""
        return decode_mask(self.runs)

    @property
    def blend_words(self) -> list[str]:
        """Those that one of the prompts has; a few entries name one that neither has."""
        known = {*self.source_prompt.split(), *self.edit_prompt.split()}
        return [word for word in self.blended if word in known]


def pie_edits(folder: Path) -> Iterator[PieEdit]:
    """The edits of a folder, in its order. Raises InputError for a folder of another layout, and by its name for an
    entry that is none of PIE-Bench."""
    file = folder / MAPPING
    for name, entry in _mapping(file).items():
        try:
            yield _edit(folder / PHOTOS, name, entry)
        except (KeyError, TypeError, ValueError, IndexError, OverflowError, AttributeError, OSError) as error:
            raise InputError(
                f'entry "{short(name)}" of "{file}" is not one of PIE-Bench ({short(repr(error))})'
            ) from error


def _mapping(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise InputError(f'there is no file "{file}"; name the folder of PIE-Bench, or one like it')
    try:
        if file.stat().st_size > LARGEST:
            raise InputError(f'"{file}" is larger than {LARGEST >> 20} MB; PIE-Bench\'s has a few')
        entries = json.loads(file.read_text(encoding="utf-8"))
    except InputError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f'"{file}" cannot be read as PIE-Bench\'s mapping file ({short(str(error))})') from error
    if not isinstance(entries, dict):
        raise InputError(f'"{file}" does not map names to pictures, as PIE-Bench\'s mapping file does')
    return entries


def _edit(photos: Path, name: str, entry: dict[str, Any]) -> PieEdit:
    # a name becomes a file's
    if name in ("", ".", "..") or any(sign in name for sign in "/\\\0") or not name.isprintable():
        raise ValueError("its name cannot be a file's")
    source, edited = (plain(entry[key]) for key in ("original_prompt", "editing_prompt"))
    kind = int(entry["editing_type_id"])
    if not 0 <= kind < len(KINDS):
        raise ValueError(f"editing_type_id {kind} is none of 0…{len(KINDS) - 1}")
    picture = PurePosixPath(entry["image_path"])
    inside = (photos / picture).resolve().is_relative_to(photos.resolve())
    if picture.is_absolute() or ".." in picture.parts or "\\" in str(picture) or not picture.name or not inside:
        raise ValueError(f"{short(str(picture))} lies outside of {PHOTOS}")
    _check_runs(entry["mask"], SIDE * SIDE)
    return PieEdit(name, KINDS[kind], picture, source, edited, tuple(entry["blended_word"].split()), entry["mask"])


def plain(prompt: str) -> str:
    """A prompt without the brackets around what differs."""
    if len(prompt) > MOST_LETTERS:
        raise ValueError(f"a prompt has more than {MOST_LETTERS} characters")
    return prompt.replace("[", "").replace("]", "")


def decode_mask(runs: Sequence[int], side: int = SIDE) -> np.ndarray:
    """Where an edit may change a picture: bool (side, side). The border counts as changed, as the dataset's scores do.

    ``runs``: start and length, start and length, … over the flattened picture; what exceeds it is cut. Raises
    ValueError for any that begins outside of it, TypeError for what is no list of whole numbers.
    """
    starts, lengths = _check_runs(runs, side * side)
    # one more from each start on, one less from each end on: a million runs cost what one does
    depth = np.zeros(side * side + 1, np.int64)
    np.add.at(depth, starts, 1)
    np.add.at(depth, starts + np.minimum(lengths, side * side - starts), -1)
    picture = (depth.cumsum()[:-1] > 0).reshape(side, side)
    picture[[0, -1], :] = picture[:, [0, -1]] = True
    return picture


def _check_runs(runs: Sequence[int], pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """Starts and lengths of a mask; see ``decode_mask``."""
    if not isinstance(runs, list) or any(type(one) is not int for one in runs):
        raise TypeError("its mask is no list of whole numbers")
    starts, lengths = np.asarray(runs[0::2], np.int64), np.asarray(runs[1::2], np.int64)
    if len(starts) != len(lengths) or (starts < 0).any() or (lengths < 0).any() or (starts > pixels).any():
        raise ValueError("its mask is not made of starts and lengths inside the picture")
    return starts, lengths
