"""The photo beside a result: whether it is the one, and how much of it was kept."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from .progress import warn

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from ..backends.diffusers import DiffusersModel
    from ..files.store import Inversion


def photo_of(picture: Image, name: Path | None, stored: Inversion, loaded: DiffusersModel) -> Tensor:
    """The photo of an inversion, (1, H, W, 3), scaled and cropped as it was; raises InputError for another one."""
    from ..photo.images import load_image

    inverted = stored.trajectory.clean
    height, width = (n * loaded.factor for n in inverted.shape[-2:])
    photo = load_image(picture, (width, height))
    latents = loaded.encode_image(photo)
    # half precision and another way of scaling stay far below this, another photo above
    if float((latents.to(inverted) - inverted).square().mean().sqrt() / inverted.std()) > 0.2:
        raise InputError(f'--reference "{name}" is not the photo that was inverted; give that one, or leave it out')
    return photo


def autoencoded(decoded: Tensor, photo: Tensor) -> float:
    """PSNR of a photo (1, H, W, 3) as the autoencoder alone gives it back; warns of a low one."""
    from ..photo.images import autoencoder_warning, psnr

    decibels = psnr(decoded, photo)
    warning = autoencoder_warning(decibels)
    if warning is not None:
        warn(warning)
    return decibels


def kept_words(picture: Tensor, photo: Tensor, mask: Tensor) -> str:
    """How well a picture (H, W, 3) keeps the photo outside of its blend mask, bool (h, w), in words."""
    import numpy as np
    from torch.nn.functional import interpolate

    from ..photo.images import from_pil, psnr, ssim, to_pil

    outside = ~interpolate(mask[None, None].float(), picture.shape[:2])[0, 0].bool().cpu().numpy()
    if not outside.any():
        return "everything may change; give --blend words for a region that may not"
    saved = from_pil(to_pil(picture))[0]
    decibels = psnr(saved, photo, outside)
    words = f"outside of the blend mask {'equal to the photo' if np.isinf(decibels) else f'{decibels:.1f} dB'}"
    if find_spec("torchmetrics") is None:
        return f"{words}; SSIM needs torchmetrics (pip install torchmetrics)"
    return f"{words}, SSIM {ssim(saved, photo, outside):.4f}"
