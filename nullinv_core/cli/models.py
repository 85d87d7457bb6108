"""What is checked before a model is loaded, and the models."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError, printable, short
from ..files.atomic_write import check_takes_files
from ..settings import INNER_STEPS
from .console import warn

if TYPE_CHECKING:
    from ..backends.diffusers import DiffusersModel
    from ..files.store import Inversion


def load(model: str, device: str, dtype: str, config: Path | None = None) -> DiffusersModel:
    import torch

    from ..backends.diffusers import load_model
    from ..backends.diffusers.device import pick_device

    return replace(load_model(model, pick_device(device), getattr(torch, dtype), config), warn=warn)


def check_folder(folder: Path) -> None:
    """Raise InputError where ``folder`` could not be made or written to; make nothing yet."""
    place = folder
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not os.path.isdir(place):
        raise InputError(f'cannot make the folder "{folder}": "{place}" is not a folder')
    check_takes_files(place)


def check_text(text: str) -> None:
    from ..prompt_to_prompt.emphasis import without_marks

    if not without_marks(text).strip():
        raise InputError("the --prompt is empty; say what the picture shows")


def check_steps(steps: int) -> None:
    from ..schedule import leading_schedule, scaled_linear_alphas

    leading_schedule(scaled_linear_alphas(), steps)


def check_inner_steps(steps: int | None) -> None:
    if steps is not None:
        INNER_STEPS.check(steps)


def read_from(model: str, config: Path | None, *files: Path | None) -> list[Path]:
    """The files and folders that a command reads, which it may not write over."""
    if not model.strip():
        raise InputError("--model is empty; name a diffusers folder, a .safetensors checkpoint, or demo")
    if config is not None and not os.path.isdir(config):
        raise InputError(f'there is no folder "{config}"; --config names a diffusers folder')
    own = None if model == "demo" else Path(model)
    return [path for path in (own, config, *files) if path is not None]


def stored(inversion: Path, model: str) -> tuple[Inversion, str]:
    """An inversion with null embeddings, and the name of its model."""
    from ..files.store import load_inversion

    stored = load_inversion(inversion)
    if stored.null is None:
        raise InputError(f'"{inversion}" holds no null embeddings; invert the image again')
    if model:
        return stored, model
    if not stored.model:
        raise InputError(f'"{inversion}" does not say which model made it; name it with --model')
    if stored.model != "demo" and not is_local(stored.model):
        raise InputError(
            f'"{inversion}" was made with the model "{short(stored.model)}", which is not the full path of a folder or '
            ".safetensors file on this computer; say with --model where it is"
        )
    return stored, stored.model


def is_local(name: str) -> bool:
    """Whether a path that stands in a file is the full one of a folder or .safetensors file here.

    What begins with two slashes, however they lean, Windows asks of another computer: not even looked for.
    """
    if name[:2].replace("\\", "/") == "//" or "\0" in name or not os.path.isabs(name):
        return False
    return os.path.isdir(name) or (name.endswith(".safetensors") and os.path.isfile(name))


def reopen(
    stored: Inversion, model: str, device: str, dtype: str | None, config: Path | None, named: bool
) -> DiffusersModel:
    """The model that made an inversion, checked to be that one. ``named``: the user has named it."""
    if not named and model != "demo":
        warn(f'the model is "{printable(model)}", as the inversion file says; --model takes another')
    loaded = load(model, device, dtype or stored.precision, config)
    loaded.check_made(stored)
    return loaded
