"""An edit in the photo's own size: models work on small pictures, cameras make large ones."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from ..errors import InputError
from .images import GRID

Size = tuple[int, int]
"""(height, width)."""


def margins(whole: Size, small: Size) -> Size:
    """Pixels that a picture of size ``whole`` loses above and below, and at each side, where its centre has the shape
    of ``small``; raises InputError where it is smaller than that."""
    if whole[0] < small[0] or whole[1] < small[1]:
        raise InputError(
            f"the photo, {whole[1]}×{whole[0]} pixels, is smaller than its edit, {small[1]}×{small[0]}; give the "
            "photo that was encoded"
        )
    scale = min(whole[0] / small[0], whole[1] / small[1])
    down, across = (round((long - short * scale) / 2) for long, short in zip(whole, small, strict=True))
    return down, across


def centre(photo: Tensor, size: Size) -> Tensor:
    """The centre of photos (B, H, W, 3) at a smaller ``size``, as it was encoded: float32 (B, h, w, 3) in 0…1."""
    height, width = photo.shape[1:3]
    down, across = margins((height, width), size)
    cropped = photo[:, down : height - down, across : width - across].float().movedim(-1, 1)
    return interpolate(cropped, size, mode="bicubic", antialias=True).movedim(1, -1).clamp(0, 1)


def check_full_size(full_size: bool, keep_pixels: bool) -> None:
    """Raise InputError where a result of the photo's own size is to have none of its pixels."""
    if full_size and not keep_pixels:
        raise InputError("full_size needs keep_pixels, as the photo's own pixels are what it keeps sharp; turn that on")


def larger(photo: Tensor, small: Tensor) -> Tensor:
    """Photos (B, H, W, 3) unless a side of them is shorter than ``small``'s, else those."""
    return photo if all(a >= b for a, b in zip(photo.shape[1:3], small.shape[1:3], strict=True)) else small


def as_encoded(photo: Tensor, size: Size) -> Tensor:
    """Photos (B, H, W, 3) less the rows and columns that an autoencoder leaves out where sides are no multiples of
    ``GRID``; ``size``: of what it decodes. As they are where that is not all that differs."""
    lost = photo.shape[1] - size[0], photo.shape[2] - size[1]
    if not all(0 <= pixels < GRID for pixels in lost):
        return photo
    top, left = lost[0] // 2, lost[1] // 2
    return photo[:, top : top + size[0], left : left + size[1]]


def at_full_size(photo: Tensor, edited: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Edits in the size of their photo, and the ``share`` of each pixel that is the edit's: what changed is enlarged,
    all else is the photo's own pixels.

    ``photo``: (B, H, W, 3) in 0…1. ``edited``: E edits of each, (B·E, h, w, 3), made of its ``centre``; ``share``:
    (B·E, h, w) in 0…1. Returns float32 (B·E, H, W, 3) and (B·E, H, W) in 0…1. Raises InputError for a photo that is
    smaller than its edits.
    """
    edits, size = len(edited) // len(photo), (edited.shape[1], edited.shape[2])
    results, shares = [], []
    for row, (picture, mask) in enumerate(zip(edited.float(), share.float(), strict=True)):
        whole = photo[row // edits].to(picture)
        small = centre(whole[None], size)[0]
        # one after the other: a camera's picture takes a hundred megabytes
        of_edit = torch.cat([picture - small, small, mask[..., None]], -1)
        change, blurred, changes = _enlarged(of_edit, (whole.shape[0], whole.shape[1])).split([3, 3, 1], -1)
        changes = changes.clamp(0, 1)
        # exactly the photo where neither says anything
        results.append((whole + change + changes * (blurred - whole)).clamp(0, 1))
        shares.append(changes[..., 0])
    return torch.stack(results), torch.stack(shares)


def _enlarged(values: Tensor, whole: Size) -> Tensor:
    """Values (h, w, C) of a picture's centre, over all of it, (H, W, C), by bicubic interpolation.

    Up to a latent position beyond the centre they go on as at its border; farther out, where somebody cropped the
    picture, they are 0.
    """
    size = (values.shape[0], values.shape[1])
    axes, inside = [], []
    for long, short, margin in zip(whole, size, margins(whole, size), strict=True):
        place = ((torch.arange(long, device=values.device) + 0.5 - margin) / (long - 2 * margin)) * 2 - 1
        rim = margin * short / (long - 2 * margin)
        axes.append(place)
        inside.append((place.abs() <= 1) | (rim <= GRID))
    down, across = torch.meshgrid(*axes, indexing="ij")
    grid = torch.stack([across, down], -1).to(values)[None]
    found = grid_sample(
        values.movedim(-1, 0)[None], grid, mode="bicubic", padding_mode="border", align_corners=False
    )  # fmt: skip
    return found[0].movedim(0, -1) * (inside[0][:, None] & inside[1])[..., None]
