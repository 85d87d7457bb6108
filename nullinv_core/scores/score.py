"""All pictures of several methods against one folder of edits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import InputError, printable
from .pictures import SUFFIXES, picture_of, read_edited, read_photo, size_of
from .pie_bench import PHOTOS, TRUTHS, PieEdit
from .pixels import Measure
from .rules import Rule


@dataclass(frozen=True)
class Column:
    """How a figure is shown. ``unit``: what it was multiplied by. ``more``: whether more is better."""

    more: bool
    unit: str = ""
    digits: int = 2


COLUMNS = {
    "structure": Column(False, "×10³"),
    "PSNR, kept": Column(True, "dB"),
    "LPIPS, kept": Column(False, "×10³"),
    "MSE, kept": Column(False, "×10⁴"),
    "SSIM, kept": Column(True, "", 4),
    "CLIP": Column(True, "×10²"),
    "CLIP, edited part": Column(True, "×10²"),
    "PSNR to truth": Column(True, "dB"),
    "SSIM to truth": Column(True, "", 4),
    "gain": Column(True, "dB"),
}
"""Every figure by name, in the order of the published table."""


@dataclass(frozen=True)
class Scored:
    """One picture of one method, and its figures by name; those that it has none of are left out."""

    method: str
    edit: str
    kind: str
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Asked:
    """See ``pixels.Asked``."""

    source: np.ndarray
    edit_prompt: str
    changes: np.ndarray
    truths: tuple[np.ndarray, ...]


def named_folders(texts: Sequence[str]) -> dict[str, Path]:
    """Methods by name, from FOLDER or NAME=FOLDER; the name of a folder is its own.

    Raises InputError for a folder that is not there, and for a name that comes twice.
    """
    found: dict[str, Path] = {}
    for text in texts:
        name, sign, place = ("", "", text) if Path(text).is_dir() else text.partition("=")
        folder = Path(place if sign else text)
        if not folder.is_dir():
            raise InputError(f'there is no folder "{folder}"; name a method\'s pictures as FOLDER or NAME=FOLDER')
        name = printable(name if sign else folder.resolve().name)
        if not name.strip() or name in found:
            raise InputError(f'two methods are called "{name}"; name them apart, as NAME=FOLDER')
        found[name] = folder
    return found


def score(
    edits: Iterable[PieEdit], folder: Path, methods: Mapping[str, Path], measures: Mapping[str, Measure], rule: Rule,
    truths: bool = False, partial: bool = False,
) -> tuple[list[Scored], list[str]]:  # fmt: skip
    """Figures of every edit's picture by every method, and a sentence for each edit that was left out.

    ``folder``: PIE-Bench's, or one like it. ``truths``: read the true answers as well. ``partial``: an edit of which a
    picture is missing or damaged is left out for all methods; else it raises InputError.
    """
    rows: list[Scored] = []
    left_out: list[str] = []
    for edit in edits:
        try:
            asked, pictures = _read(edit, folder, methods, rule, truths)
        except InputError as error:
            if not partial:
                raise InputError(f"{error}; --partial leaves such edits out") from error
            left_out.append(str(error))
            continue
        for method, picture in pictures.items():
            figures = {name: measure(picture, asked) for name, measure in measures.items()}
            known = {name: value for name, value in figures.items() if value is not None}
            rows.append(Scored(method, edit.name, edit.kind, known))
    return rows, left_out


def _read(
    edit: PieEdit, folder: Path, methods: Mapping[str, Path], rule: Rule, truths: bool
) -> tuple[_Asked, dict[str, np.ndarray]]:
    photo = folder / PHOTOS / edit.picture
    truth = folder / TRUTHS / edit.picture
    if truths and not truth.is_file():
        raise InputError(f'edit "{edit.name}" has no true answer "{truth}"')
    asked = _Asked(
        read_photo(photo, rule), edit.edit_prompt, edit.changes, (read_photo(truth, rule),) if truths else ()
    )
    pictures, size = {}, size_of(photo)
    for method, own in methods.items():
        path = picture_of(own, edit)
        if path is None:
            raise InputError(
                f'"{own}" has no picture of edit "{edit.name}": {edit.picture} or {edit.name} with one of '
                f"{', '.join(SUFFIXES)}"
            )
        pictures[method] = read_edited(path, size, rule)
    return asked, pictures
