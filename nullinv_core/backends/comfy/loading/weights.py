"""Files of a model folder in diffusers' layout, as ComfyUI reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import comfy.utils
import torch
from torch import Tensor

from ....errors import InputError, short
from ...model_folder import variant_of, weight_files


def read_weights(folder: Path, part: str) -> dict[str, Tensor]:
    """All tensors of a part's safetensors file, or of its pieces; the half-precision copy where there are both."""
    weights: dict[str, Tensor] = {}
    for file in weight_files(folder, part)[variant_of(folder, part, half=True)]:
        weights |= comfy.utils.load_torch_file(str(file), safe_load=True)
    return weights


def check_whole(folder: Path, part: str, wanted: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Raise InputError where weights of a part are lacking, or shaped otherwise than they are wanted."""
    if missing := set(wanted) - set(weights):
        raise lacking(folder, part, missing)
    for name, weight in wanted.items():
        if weight.shape != weights[name].shape:
            raise InputError(
                f'the {part} of "{folder.name}" has weights of another shape than its configuration asks for '
                f"({name}: {list(weights[name].shape)}, not {list(weight.shape)}); get a complete copy of the model"
            )


def lacking(folder: Path, part: str, names: set[str]) -> InputError:
    """The error for a part of a folder without these weights."""
    return InputError(f'the {part} of "{folder.name}" lacks {len(names)} weights ({min(names)} …)')


@contextmanager
def told(folder: Path, part: str) -> Iterator[None]:
    """Whatever ComfyUI raises while it builds a part of a folder becomes one sentence. A lack of memory stays what it
    is: ComfyUI makes room then."""
    try:
        yield
    except (InputError, MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:
        found = short(str(error) or type(error).__name__, 200)
        raise InputError(
            f'the {part} of "{folder.name}" cannot be read ({found}); get a complete copy of the model'
        ) from error
