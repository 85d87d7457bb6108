"""Files of a model folder in diffusers' layout."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import comfy.utils
from torch import Tensor

from ..errors import InputError

PIECE = re.compile(r"-\d{5}-of-\d{5}")
"""In the name of a file that holds a piece of a large part."""


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
    """All tensors of a part's safetensors file, or of its pieces; the half-precision copy where there are both."""
    copies: dict[tuple[bool, bool, str], list[Path]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        name = PIECE.sub("", file.stem)
        copies.setdefault(("non_ema" in name, not name.endswith(".fp16"), name), []).append(file)
    if not copies:
        raise InputError(f'"{folder.name}" of the model folder has no .safetensors file')
    weights: dict[str, Tensor] = {}
    for file in copies[min(copies)]:
        weights |= comfy.utils.load_torch_file(str(file), safe_load=True)
    return weights


def check_whole(folder: Path, part: str, lacking: set[str]) -> None:
    """Raise InputError where a part of the model folder lacks weights."""
    if lacking:
        raise InputError(f'the {part} of "{folder.name}" lacks {len(lacking)} weights ({min(lacking)} …)')
