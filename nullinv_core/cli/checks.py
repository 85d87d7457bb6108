"""Cheap checks, before anything is loaded."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import InputError
from ..files.atomic_write import check_writable


def check_folder(folder: Path) -> None:
    """Raise InputError where ``folder`` could not be made or written to; make nothing yet."""
    place = folder
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not os.path.isdir(place):
        raise InputError(f'cannot make the folder "{folder}": "{place}" is not a folder')
    check_writable(place / "file")


def check_text(text: str) -> None:
    from ..prompt_to_prompt.emphasis import without_marks

    if not without_marks(text).strip():
        raise InputError("the --prompt is empty; say what the picture shows")


def check_steps(steps: int) -> None:
    from ..schedule import leading_schedule, scaled_linear_alphas

    leading_schedule(scaled_linear_alphas(), steps)


def read_from(model: str, config: Path | None, *files: Path | None) -> list[Path]:
    """The files and folders that a command reads, which it may not write over."""
    if not model.strip():
        raise InputError("--model is empty; name a diffusers folder, a .safetensors checkpoint, or demo")
    if config is not None and not os.path.isdir(config):
        raise InputError(f'there is no folder "{config}"; --config names a diffusers folder')
    own = None if model == "demo" else Path(model)
    return [path for path in (own, config, *files) if path is not None]


def numbered(out: Path, count: int) -> list[Path]:
    return [out] if count == 1 else [out.with_stem(f"{out.stem}-{i + 1}") for i in range(count)]
