"""Files of a model folder in diffusers' layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import comfy.utils
from torch import Tensor

from ..errors import InputError


def read_config(path: Path) -> dict[str, Any]:
    """A JSON file of a model folder. Raises InputError where it is missing or broken."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f'"{path.parent.name}/{path.name}" of the model folder is missing or broken') from error
    if not isinstance(config, dict):
        raise InputError(f'"{path.parent.name}/{path.name}" of the model folder is broken')
    return config


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a part's safetensors file; the half-precision copy where there are both."""
    files = sorted(folder.glob("*.safetensors"), key=lambda f: ("non_ema" in f.name, ".fp16." not in f.name, f.name))
    if not files:
        raise InputError(f'"{folder.name}" of the model folder has no .safetensors file')
    weights: dict[str, Tensor] = comfy.utils.load_torch_file(str(files[0]), safe_load=True)
    return weights


def check_whole(folder: Path, part: str, lacking: set[str]) -> None:
    """Raise InputError where a part of the model folder lacks weights."""
    if lacking:
        raise InputError(f'the {part} of "{folder.name}" lacks {len(lacking)} weights ({min(lacking)} …)')
