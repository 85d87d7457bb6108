"""What an inversion file holds, and how one is read: nothing in it is believed before it was checked.

``docs/inversion-file.md`` has the same for people.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from ..errors import InputError, short
from ..prompt_to_prompt.emphasis import check_text
from ..schedule import check_guidance

FORMAT = "nullinv-inversion"
VERSION = 2
READABLE = (1, 2)
"""Version 1 held another fingerprint."""
HEADER = "inversion"
"""The metadata entry, JSON, that holds all that is no tensor."""
LARGEST = 8 * 2**30
"""Most bytes of a file, saved or read: several times what fifty steps of eight SDXL pictures take."""
LARGEST_HEADER = 2**20
"""Most bytes of what a file says of its tensors, with its metadata."""
FEWER = "invert fewer pictures at once"
TOO_LARGE = f'"{{}}" is larger than {LARGEST / 2**30:g} GB; {FEWER}'
PRECISIONS = ("float32", "bfloat16", "float16")
SIZES = 6
"""Numbers that SDXL is told: the picture's width and height as it was, its crop, its width and height as it is."""
LARGEST_SIZE = 2**16
"""Most pixels of one of these."""
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
AXES = {"T": 1000, "B": 4096, "C": 64, "h": 4096, "w": 4096, "K": 2**14, "W": 2**14}
"""Most of each axis: steps, pictures, channels, rows and columns of latents, tokens and their width. Least is 1."""


class Field(NamedTuple):
    """A tensor of the file: its axes by the letters of ``AXES`` ("T+1": one more), its types, whether every file has
    it, and the field without which it makes no sense."""

    axes: str
    types: tuple[torch.dtype, ...] = FLOATS
    required: bool = False
    needs: str = ""


FIELDS = {
    "trajectory": Field("T+1 B C h w", required=True),
    "context": Field("B K W", required=True),
    "timesteps": Field("T", required=True),
    "alphas_cumprod": Field("T+1", required=True),
    "region": Field("B h w", (torch.bool, torch.uint8)),
    "null_embeddings": Field("T B K W"),
    "losses": Field("T B", needs="null_embeddings"),
    "iterations": Field("T B", (torch.int64, torch.int32), needs="null_embeddings"),
    "edit_null": Field("B K W", needs="null_embeddings"),
    "photo_guidance": Field("T B C h w", needs="edit_null"),
}


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of an inversion file, in memory of their own: what becomes of the file does not touch them.

    Raises InputError that says what is wrong with the file.
    """
    # a large file of another kind is not read for its first words
    tensors, header = read_tensors(path, "inversion", "invert the image again", lambda header: _metadata(path, header))
    metadata = _metadata(path, header)
    try:
        check_tensors(tensors)
        check_metadata(metadata, "null_embeddings" in tensors)
    except InputError as error:
        raise InputError(f'"{path}" is damaged: {error}; invert the image again') from error
    return tensors, metadata


def read_tensors(
    path: Path, what: str, remedy: str, check: Callable[[bytes], object] = bool
) -> tuple[dict[str, Tensor], bytes]:
    """Tensors of a safetensors file and its header, in memory of their own. ``what``: it should be, for people;
    ``remedy``: what to do about a damaged one; ``check``: of the header, before the rest is read.

    Raises InputError for a file that is missing, too large or damaged.
    """
    if not os.path.isfile(path):
        raise InputError(f'there is no {what} file "{path}"')
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise InputError(f'there is no {what} file "{path}"')
            if found.st_size > LARGEST:
                raise InputError(TOO_LARGE.format(path))
            length = int.from_bytes(file.read(8), "little")
            if length <= found.st_size - 8:
                if length > LARGEST_HEADER:
                    raise InputError(f'"{path}" is a safetensors file but not an {what}')
                check(file.read(length))
            file.seek(0)
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise InputError(f'"{path}" cannot be read ({error.strerror})') from error
    if len(data) > LARGEST:
        raise InputError(TOO_LARGE.format(path))
    try:
        tensors = load(data)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        reason = short(str(error))
        raise InputError(f'"{path}" is not a whole safetensors file ({reason}); {remedy}') from error
    return tensors, data[8 : 8 + length]


def noted(header: bytes, name: str) -> dict[str, Any]:
    """The JSON object that the header of a safetensors file has among its metadata; empty where it has none.

    Raises ValueError or RecursionError for what is no JSON.
    """
    whole = json.loads(header)
    metadata = whole.get("__metadata__") if isinstance(whole, dict) else None
    text = metadata.get(name) if isinstance(metadata, dict) else None
    found = json.loads(text) if isinstance(text, str) else None
    return found if isinstance(found, dict) else {}


def _metadata(path: Path, header: bytes) -> dict[str, Any]:
    try:
        metadata = noted(header, HEADER)
    except (ValueError, RecursionError) as error:
        raise InputError(f'"{path}" has a damaged header; invert the image again') from error
    if metadata.get("format") != FORMAT:
        raise InputError(f'"{path}" is a safetensors file but not an inversion')
    version = metadata.get("version")
    if type(version) is not int or version not in READABLE:
        readable = " and ".join(map(str, READABLE))
        raise InputError(
            f'"{path}" has the format version {str(version)[:20]}, this program reads {readable}; '
            "invert the image again"
        )
    return metadata


def check_tensors(tensors: dict[str, Tensor]) -> None:
    """Raise InputError unless the tensors are those of ``FIELDS``, and their axes agree."""
    others = sorted(set(tensors) - set(FIELDS))
    if others:
        raise InputError(f'it has the field "{others[0][:100]}", which no inversion has')
    sizes: dict[str, int] = {}
    for name, (axes, types, required, needs) in FIELDS.items():
        if name not in tensors:
            if required:
                raise InputError(f"it has no {name}")
            continue
        if needs and needs not in tensors:
            raise InputError(f"it has {name} without {needs}")
        tensor = tensors[name]
        if tensor.dtype not in types:
            raise InputError(f"{name} has the type {str(tensor.dtype).removeprefix('torch.')}")
        letters = axes.split()
        if tensor.ndim != len(letters):
            raise InputError(f"{name} has {tensor.ndim} axes, not {len(letters)} ({axes})")
        for letter, found in zip(letters, tensor.shape, strict=True):
            axis, more = letter[0], letter.endswith("+1")
            size = sizes.setdefault(axis, found - more)
            if found - more != size or not 1 <= size <= AXES[axis]:
                raise InputError(f"{name} has the shape {tuple(tensor.shape)}, which does not fit ({axes})")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{name} holds NaN or infinity")
    if "null_embeddings" in tensors and not {"losses", "iterations"} <= set(tensors):
        raise InputError("it has null_embeddings without losses and iterations")


def check_metadata(metadata: dict[str, Any], optimized: bool) -> None:
    """Raise InputError unless every entry is of its kind. ``optimized``: whether there are null embeddings."""
    prompts, sizes, guidance = metadata.get("prompts"), metadata.get("sizes", []), metadata.get("guidance")
    if not isinstance(prompts, list) or not all(isinstance(text, str) for text in (*prompts, metadata.get("model"))):
        raise InputError("its prompts or model are not texts")
    for text in (*prompts, metadata["model"]):
        check_text(text)
    if metadata.get("precision") not in PRECISIONS:
        raise InputError(f"its precision is not one of {', '.join(PRECISIONS)}")
    if (guidance is not None) != optimized or type(guidance) not in (int, float, type(None)):
        raise InputError("its guidance is not a number" if optimized else "it has a guidance without null_embeddings")
    if guidance is not None:
        check_guidance(guidance)
    if not isinstance(sizes, list) or len(sizes) not in (0, SIZES):
        raise InputError("its sizes are not six numbers of pixels")
    if any(type(n) is not int or abs(n) > LARGEST_SIZE for n in sizes):
        raise InputError("its sizes are not six numbers of pixels")
