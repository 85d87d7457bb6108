"""Files of a model folder in diffusers' layout, as ComfyUI reads them."""

from __future__ import annotations

from pathlib import Path

import comfy.utils
from torch import Tensor

from ..errors import InputError
from .model_folder import variant_of, weight_files


def read_weights(folder: Path, part: str) -> dict[str, Tensor]:
    """All tensors of a part's safetensors file, or of its pieces; the half-precision copy where there are both."""
    weights: dict[str, Tensor] = {}
    for file in weight_files(folder, part)[variant_of(folder, part, half=True)]:
        weights |= comfy.utils.load_torch_file(str(file), safe_load=True)
    return weights


def check_whole(folder: Path, part: str, lacking: set[str]) -> None:
    """Raise InputError where a part of the model folder lacks weights."""
    if lacking:
        raise InputError(f'the {part} of "{folder.name}" lacks {len(lacking)} weights ({min(lacking)} …)')
