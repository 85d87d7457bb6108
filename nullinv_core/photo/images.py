"""Pictures on disk and as tensors: sRGB, float32 (B, H, W, 3) in 0…1, as ComfyUI has them."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ..errors import InputError
from ..files.atomic_write import check_suffix, whole_file
from .picture_file import check_claims, decoding, opened, orientation

LARGEST_SIDE = 4096
"""Most pixels along a side of a picture that is worked on."""
GRID = 8
"""Pixels per latent position of Stable Diffusion's autoencoders."""
BACKGROUND = (255, 255, 255)
"""What shows through a picture's transparent parts: white."""
GREY = ("1", "L", "LA")
SAMPLE_FORMAT, UNSIGNED = 339, 1
"""The TIFF tag that says what the numbers are, and that they are whole and not signed."""
PHOTOMETRIC, WHITE_IS_ZERO, BITS = 262, 0, 258
"""The TIFF tags for what black and white are, that white is 0, and for how many bits a number has."""
PERCEPTUAL = b"\0"
"""The rendering intent in a PNG's sRGB chunk. An embedded profile would carry the time that it was made at."""
ROUNDING = 0.01
"""How far beyond 0…1 pixels may lie."""
FAITHFUL = 25.0
"""PSNR in dB from which on an autoencoder keeps a photo: below, people see at once what it lost."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
"""What makes a picture upright, by its ``orientation``."""
MOST_PROFILE = 2**24
"""Most bytes of a colour profile; those of printers take two million."""


def pixels_of(latents: Tensor) -> tuple[int, int]:
    """Width and height in pixels of the pictures of some latents (…, h, w)."""
    high, wide = latents.shape[-2:]
    return GRID * wide, GRID * high


def check_side(side: int, grid: int = GRID, least: int = GRID) -> int:
    """Return a picture's shorter side in pixels; raise InputError where no model could work on it."""
    if not least <= side <= LARGEST_SIDE or side % grid:
        raise InputError(f"size must be a multiple of {grid} from {least} to {LARGEST_SIDE}, not {side}")
    return side


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


def load_image(picture: Path | str | io.BytesIO | Image.Image, size: int | tuple[int, int], grid: int = 0) -> Tensor:
    """Read a picture, scale it and crop its centre: sRGB, float32 (1, H, W, 3) in 0…1.

    ``picture``: a file, its content, or a picture of Pillow's. ``size``: (width, height), or the side of a square; with
    a ``grid`` the shorter side of a picture that keeps its shape, but for what its sides exceed multiples of so many
    pixels by.

    Raises InputError as ``read_picture`` and ``fitted_size``.
    """
    upright = read_picture(picture)
    wanted = (size, size) if isinstance(size, int) else size
    if isinstance(size, int) and grid:
        wanted = fitted_size(*upright.size, size, grid)
    if upright.size != wanted:
        upright = ImageOps.fit(upright, wanted, Image.Resampling.LANCZOS)
    return from_pil(upright)


def read_picture(picture: Path | str | io.BytesIO | Image.Image) -> Image.Image:
    """A file, its content, or a picture of Pillow's, as 8-bit RGB in sRGB: upright by its EXIF, over white where it is
    transparent.

    Of several pictures in a file it is the first. A colour profile that is broken, of other channels than the picture
    or of more than 16 MB counts as none, and so do broken notes (EXIF). Numbers of other kinds than 8 bits are scaled
    to it (see ``_white``).

    Raises InputError for a file that is missing, in none of ``picture_file.FORMATS``, damaged, larger than 100
    megapixels or than 1 GB.
    """
    name = f'"{picture}"' if isinstance(picture, Path | str) else "the picture"
    if isinstance(picture, Path | str) and not os.path.isfile(picture):
        raise InputError(f"there is no image file {name}")
    with decoding(name):
        if isinstance(picture, Image.Image):
            check_claims(picture, name)
            return _over_white(picture, name)
        with opened(picture, name) as file:
            file.load()
            # some formats have their notes behind the pixels
            check_claims(file, name)
            return _over_white(file, name)


def _over_white(picture: Image.Image, name: str) -> Image.Image:
    picture.load()
    turn = TURNS.get(orientation(picture))
    upright = picture if turn is None else picture.transpose(turn)
    alpha = None
    if picture.mode.startswith(("I", "F")):
        numbers, clear = np.asarray(upright), picture.info.get("transparency")
        alpha = None if clear is None else Image.fromarray(np.where(numbers == clear, 0, 255).astype(np.uint8))
        upright = _eight_bits(numbers, picture, name)
    elif upright.has_transparency_data:
        alpha = upright.convert("RGBA").getchannel("A")
    flat = Image.new("RGB", upright.size, BACKGROUND)
    flat.paste(_srgb(upright, picture.info.get("icc_profile")), mask=alpha)
    return flat


def _srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """RGB of an 8-bit picture whose colours are by an ICC profile; without one, they are sRGB."""
    if not profile or len(profile) > MOST_PROFILE:
        return picture.convert("RGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        channels = {"GRAY": "L", "CMYK": "CMYK", "RGB": "RGB"}[source.profile.xcolor_space.strip()]
        if (picture.mode == "CMYK") != (channels == "CMYK") or (channels == "L" and picture.mode not in GREY):
            return picture.convert("RGB")
        converted = ImageCms.profileToProfile(
            picture.convert(channels), source, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (OSError, KeyError, ImageCms.PyCMSError):
        # as browsers do
        return picture.convert("RGB")
    return converted or picture.convert("RGB")


def _eight_bits(numbers: np.ndarray, picture: Image.Image, name: str) -> Image.Image:
    """A grey picture of the numbers of ``picture``; of 16 bits the upper half, where Pillow would clip."""
    if not np.isfinite(numbers).all():
        raise InputError(f"{name} holds NaN or infinite numbers; save it again as an 8-bit or 16-bit picture")
    unsigned = picture.mode == "I" and _tag(picture, SAMPLE_FORMAT, 2) == UNSIGNED
    if unsigned:
        # Pillow knows signed ones alone
        numbers = numbers.view(np.uint32)
    white = _white(picture, float(numbers.max()), unsigned, name)
    if picture.format == "TIFF" and picture.mode != "F" and _tag(picture, PHOTOMETRIC) == WHITE_IS_ZERO:
        # Pillow turns those of 8 bits alone
        numbers = white - numbers.clip(0, white).astype(np.int64)
    if white == 65535:
        scaled = numbers.clip(0).astype(np.uint32) >> 8
    else:
        scaled = np.rint(numbers.clip(0, white).astype(np.float64) * (255 / white))
    return Image.fromarray(scaled.astype(np.uint8))


def _tag(picture: Image.Image, number: int, otherwise: int = -1) -> int:
    """The first value of a TIFF's tag."""
    found = getattr(picture, "tag_v2", {}).get(number, otherwise)
    return int(found[0] if isinstance(found, tuple) else found)


def _white(picture: Image.Image, most: float, unsigned: bool, name: str) -> float:
    """The number that means white in a picture of 16 or 32 bits or of floats, whose largest number is ``most``.

    Floats go to 1, or to 255 as Pillow makes them. 32-bit integers go to 255, to 65535 or to the largest that there
    is: to the first of these that is not exceeded.
    """
    if picture.mode == "F":
        if 2 < most < 16 or most > 255:
            raise InputError(f"{name} holds numbers up to {most:g}; scale them to 0…1 and save it again")
        return 1.0 if most <= 2 else 255.0
    if picture.mode != "I" and picture.format == "TIFF":
        return 2 ** min(_tag(picture, BITS, 16), 16) - 1
    if picture.mode != "I" or picture.format in ("PNG", "PPM"):
        return 65535
    return next(white for white in (255, 65535, 2**32 - 1 if unsigned else 2**31 - 1) if most <= white)


def check_pixels(images: Tensor | np.ndarray, what: str, axes: int = 4) -> None:
    """Raise InputError unless ``images`` are floats (B, H, W, 3), or (H, W, 3) with 3 ``axes``, in 0…1."""
    values = torch.as_tensor(images)
    shape = "(B, H, W, 3)" if axes == 4 else "(H, W, 3)"
    if values.ndim != axes or values.shape[-1] != 3 or not values.numel():
        raise InputError(f"{what} must have the shape {shape}, not {tuple(values.shape)}")
    if not values.is_floating_point():
        raise InputError(f"{what} must be floats in 0…1, not {values.dtype}; divide 8-bit values by 255")
    if not bool(values.isfinite().all()):
        raise InputError(f"{what} holds NaN or infinite values")
    low, high = values.min().item(), values.max().item()
    if low < -ROUNDING or high > 1 + ROUNDING:
        raise InputError(f"{what} must lie in 0…1, not in {low:.4g}…{high:.4g}; scale or clamp it")


def opaque(images: Tensor) -> Tensor:
    """Pictures (B, H, W, 3) as they are; with alpha (B, H, W, 4) over white. Raises InputError for other channels."""
    if images.ndim != 4 or images.shape[-1] not in (3, 4):
        raise InputError(f"pictures must have the shape (B, H, W, 3), or 4 with alpha, not {tuple(images.shape)}")
    if images.shape[-1] == 3:
        return images
    colour, alpha = images.split([3, 1], -1)
    return colour * alpha + torch.tensor(BACKGROUND, dtype=images.dtype, device=images.device) / 255 * (1 - alpha)


def to_pil(image: Tensor | np.ndarray) -> Image.Image:
    """A picture (H, W, 3) in 0…1 as 8-bit RGB."""
    return Image.fromarray((np.asarray(image).clip(0, 1) * 255).round().astype(np.uint8))


def from_pil(picture: Image.Image) -> Tensor:
    """A picture as float32 (1, H, W, 3) in 0…1; its colours as ``read_picture`` reads them."""
    return torch.from_numpy(np.asarray(read_picture(picture), np.float32) / 255)[None]


def save_image(image: Tensor | np.ndarray, path: Path | str) -> None:
    """Write a picture (H, W, 3) in 0…1 as PNG, marked as sRGB.

    Raises InputError for another shape or other numbers, a name that does not end in .png, and where the folder or disk
    does not take it.
    """
    check_pixels(image, "the picture", 3)
    save_pil(to_pil(image), path)


def save_pil(picture: Image.Image, path: Path | str) -> None:
    """Write a finished picture as PNG, marked as sRGB. Raises InputError as ``save_image``."""
    check_suffix(Path(path), ".png")
    with whole_file(Path(path)) as partial:
        partial.write_bytes(png(picture))


def png(picture: Image.Image) -> bytes:
    """A finished picture as the content of a PNG file, marked as sRGB."""
    mark, content = PngInfo(), io.BytesIO()
    mark.add(b"sRGB", PERCEPTUAL)
    picture.save(content, format="PNG", pnginfo=mark)
    return content.getvalue()


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


def autoencoder_warning(decibels: float) -> str | None:
    """What to tell where the autoencoder alone gives a photo back no better than this PSNR, or None."""
    if decibels >= FAITHFUL:
        return None
    return (
        f"the model's autoencoder alone gives this photo back at {decibels:.1f} dB, and no reconstruction comes "
        "closer; it cannot draw such photos at this size, or it belongs to another model"
    )


def autoencoder_psnr(decoded: Tensor, photo: Tensor, tell: Callable[[str], None]) -> float:
    """PSNR in dB of photos (B, H, W, 3) after the autoencoder alone; the user is told of a low one."""
    decibels = psnr(decoded.cpu(), photo.cpu())
    warning = autoencoder_warning(decibels)
    if warning is not None:
        tell(warning)
    return decibels


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
