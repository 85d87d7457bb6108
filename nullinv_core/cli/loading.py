"""The model of a command, and inversions with the model that made them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError, printable, short
from .progress import warn

if TYPE_CHECKING:
    from ..backends.diffusers import DiffusersModel
    from ..files.store import Inversion


def pick_device(device: str) -> str:
    import torch

    if device:
        try:
            # a device may have shapes alone: one number must come back
            torch.zeros(1, device=device).item()
        except (RuntimeError, AssertionError) as error:
            raise InputError(f'device "{device}" cannot be used here; try --device cpu') from error
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def load(model: str, device: str, dtype: str, config: Path | None = None) -> DiffusersModel:
    import torch

    from ..backends.diffusers import load_model

    return replace(load_model(model, pick_device(device), getattr(torch, dtype), config), warn=warn)


def stored_inversion(inversion: Path, model: str) -> tuple[Inversion, str]:
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
            f'"{inversion}" names the model "{short(stored.model)}", which is no folder or .safetensors file of this '
            "computer; say with --model which one to use"
        )
    return stored, stored.model


def is_local(name: str) -> bool:
    """Whether a path that stands in a file is the full one of a folder or .safetensors file here.

    What begins with two slashes, however they lean, Windows asks of another computer: not even looked for.
    """
    if name[:2].replace("\\", "/") == "//" or "\0" in name or not os.path.isabs(name):
        return False
    return os.path.isdir(name) or (name.endswith(".safetensors") and os.path.isfile(name))


def reopen(stored: Inversion, model: str, device: str, dtype: str | None, config: Path | None) -> DiffusersModel:
    """The model that made an inversion, checked to be that one."""
    if model == stored.model != "demo":
        warn(f'the model is "{printable(model)}", as the inversion file says; --model takes another')
    loaded = load(model, device, dtype or stored.precision, config)
    loaded.check_made(stored)
    return loaded
