"""Pictures on disk and as tensors: float32 (B, H, W, 3) in 0…1, as ComfyUI has them."""

from __future__ import annotations

import math
import os
import struct
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from .errors import InputError
from .files import whole_file

LARGEST = 100_000_000
"""Most pixels of a picture that is read."""
LARGEST_SIDE = 4096
"""Most pixels along a side of a picture that is worked on."""
UNREADABLE = (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError, struct.error)
"""What Pillow's readers raise for damaged files."""


def fitted_size(width: int, height: int, size: int, grid: int) -> tuple[int, int]:
    """(width, height) of a picture whose shorter side becomes ``size``, cropped to multiples of ``grid`` pixels.

    Raises InputError where the longer one would exceed ``LARGEST_SIDE``.
    """
    scale = size / min(width, height)
    across, down = (max(grid, round(side * scale) // grid * grid) for side in (width, height))
    if max(across, down) > LARGEST_SIDE:
        raise InputError(
            f"the picture would be {across}×{down} pixels, a side may have {LARGEST_SIDE}; take a smaller size, or "
            "crop the picture"
        )
    return across, down


def load_image(path: Path | str, size: int | tuple[int, int], grid: int = 0) -> Tensor:
    """Read a picture, scale it and crop its centre: float32 (1, H, W, 3) in 0…1.

    ``size``: (width, height), or the side of a square; with a ``grid`` the shorter side of a picture that keeps its
    shape, but for what its sides exceed multiples of so many pixels by.

    Raises InputError for a file that is missing, no picture, or larger than 100 megapixels, and as ``fitted_size``.
    """
    path = Path(path)
    if not os.path.isfile(path):
        raise InputError(f'there is no image file "{path}"')
    try:
        with warnings.catch_warnings():
            # our own limit, below, is the stricter one
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                _check_pixels(path, *picture.size)
                upright = _rgb(ImageOps.exif_transpose(picture))
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise InputError(f'"{path}" is larger than {LARGEST // 10**6} megapixels; scale it down') from error
    except UNREADABLE as error:
        raise InputError(f'"{path}" cannot be read as an image; give a PNG, JPEG or WebP file') from error
    wanted = (size, size) if isinstance(size, int) else size
    if isinstance(size, int) and grid:
        wanted = fitted_size(*upright.size, size, grid)
    if upright.size != wanted:
        upright = ImageOps.fit(upright, wanted, Image.Resampling.LANCZOS)
    return from_pil(upright)


def _check_pixels(path: Path, width: int, height: int) -> None:
    if width * height > LARGEST:
        raise InputError(f'"{path}" has {width}×{height} pixels; scale it to at most {LARGEST // 10**6} megapixels')


def _rgb(picture: Image.Image) -> Image.Image:
    """8-bit RGB; 16-bit grey keeps its upper half, which a plain conversion would clip."""
    if picture.mode.startswith("I"):
        picture = Image.fromarray((np.asarray(picture).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    return picture.convert("RGB")


def to_pil(image: Tensor | np.ndarray) -> Image.Image:
    """A picture (H, W, 3) in 0…1 as 8-bit RGB."""
    return Image.fromarray((np.asarray(image).clip(0, 1) * 255).round().astype(np.uint8))


def from_pil(picture: Image.Image) -> Tensor:
    """A picture as float32 (1, H, W, 3) in 0…1."""
    return torch.from_numpy(np.asarray(picture.convert("RGB"), np.float32) / 255)[None]


def save_image(image: Tensor | np.ndarray, path: Path | str) -> None:
    """Write a picture (H, W, 3) in 0…1 as PNG. Raises InputError where that is not possible."""
    save_pil(to_pil(image), path)


def save_pil(picture: Image.Image, path: Path | str) -> None:
    """Write a finished picture as PNG. Raises InputError where that is not possible."""
    with whole_file(Path(path)) as partial:
        picture.save(partial, format="PNG")


def psnr(image: Tensor | np.ndarray, reference: Tensor | np.ndarray, mask: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB of pictures in 0…1, over the pixels of ``mask`` (H, W) if given.

    Infinite for equal pictures; NaN where the mask is empty.
    """
    error = (np.asarray(image, np.float64) - np.asarray(reference, np.float64)) ** 2
    chosen = error if mask is None else error[..., mask, :]
    if chosen.size == 0:
        return math.nan
    mean = float(chosen.mean())
    return math.inf if mean == 0 else -10 * math.log10(mean)


def ssim(image: Tensor | np.ndarray, reference: Tensor | np.ndarray, mask: np.ndarray | None = None) -> float:
    """Structural similarity (Wang et al. 2004) of pictures (H, W, 3) in 0…1, at most 1: its mean over a mask (H, W).

    Windows of 11×11 that reach into the mask count by their centre. NaN where the mask is empty. Needs torchmetrics.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    a, b = (torch.from_numpy(np.array(x, np.float32)).movedim(-1, 0)[None] for x in (image, reference))
    _, each = structural_similarity_index_measure(a, b, data_range=1.0, return_full_image=True)
    values = each[0].mean(0).numpy()
    chosen = values if mask is None else values[mask]
    return float(chosen.mean()) if chosen.size else math.nan
