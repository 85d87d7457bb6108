"""PIE-Bench's folder (Ju et al. 2023, arXiv 2310.01506): its ``mapping_file.json``, entry by entry."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError, short

MAPPING, PICTURES = "mapping_file.json", "annotation_images"
LARGEST = 2**28
"""Most bytes of a mapping file; the dataset's own takes two million."""


@dataclass(frozen=True)
class Entry:
    """One edit of the dataset.

    ``picture``: below ``annotation_images/``. ``source``, ``edit``: both texts, without the brackets around what
    changes. ``blended``: words that local blend goes by, the source's first; words that are in neither text are left
    out, as a few entries have them.
    """

    name: str
    picture: str
    source: str
    edit: str
    blended: tuple[str, ...]
    fields: dict[str, Any]


def entries(folder: Path) -> Iterator[Entry]:
    """Every entry, in the file's order. Raises InputError for a file of another layout."""
    file = folder / MAPPING
    try:
        with file.open(encoding="utf-8") as text:
            found = json.loads(text.read(LARGEST))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f'"{file}" cannot be read as PIE-Bench\'s mapping file ({short(str(error))}); get it again'
        ) from error
    if not isinstance(found, dict):
        raise InputError(f'"{file}" does not map names to pictures, as PIE-Bench\'s mapping file does')
    for name, fields in found.items():
        try:
            yield _entry(name, fields)
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f'entry "{short(name)}" of "{file}" is not one of PIE-Bench ({short(repr(error))})'
            ) from error


def _entry(name: str, fields: dict[str, Any]) -> Entry:
    source, edit = (_plain(fields[key]) for key in ("original_prompt", "editing_prompt"))
    known = {*source.split(), *edit.split()}
    blended = tuple(word for word in fields["blended_word"].split() if word in known)
    if not isinstance(fields["image_path"], str):
        raise TypeError("image_path is no text")
    return Entry(name, fields["image_path"], source, edit, blended, fields)


def _plain(text: str) -> str:
    return text.replace("[", "").replace("]", "")
