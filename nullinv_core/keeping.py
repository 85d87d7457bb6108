"""The photo's own pixels where an edit hardly differs: what nobody asked to change is not redrawn either."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from .errors import InputError

UNSEEN, SEEN = 0.03, 0.06
"""Differences, of 1 from black to white: up to the first a pixel is the photo's, from the second on the edit's."""
REACH = 2
"""Pixels to each side over which a difference is averaged, so that single ones do not decide alone."""


def changed(edited: Tensor, reconstructed: Tensor) -> Tensor:
    """How much of each pixel is the edit's: float32 (B, H, W) in 0…1, smooth between ``UNSEEN`` and ``SEEN``.

    ``edited``, ``reconstructed``: decoded pictures (B, H, W, 3) in 0…1 of the edit and of the photo's own latents, so
    that what the autoencoder does to both does not count.
    """
    square = (edited.float() - reconstructed.float()).square().mean(-1)[:, None]
    around = avg_pool2d(pad(square, (REACH,) * 4, mode="replicate"), 2 * REACH + 1, stride=1)[:, 0].sqrt()
    share = ((around - UNSEEN) / (SEEN - UNSEEN)).clamp(0, 1)
    return share * share * (3 - 2 * share)


def keep_photo(photo: Tensor, edited: Tensor, reconstructed: Tensor) -> tuple[Tensor, Tensor]:
    """Edited pictures (B·E, H, W, 3) in 0…1 with the photo's own pixels wherever they hardly differ, and ``changed``.

    ``photo``: (B, H, W, 3), before the autoencoder; ``reconstructed``: the same after it; ``edited``: E edits of each.
    Raises InputError for pictures of different sizes or numbers.
    """
    if photo.shape != reconstructed.shape or photo.shape[1:] != edited.shape[1:] or len(edited) % len(photo):
        raise InputError(
            f"photo {tuple(photo.shape)}, its reconstruction {tuple(reconstructed.shape)} and its edits "
            f"{tuple(edited.shape)} must be pictures of one size (number, height, width, 3); scale or crop the photo "
            "to the edit's size before it is inverted"
        )
    edits = len(edited) // len(photo)
    photo, reconstructed = (picture.to(edited).repeat_interleave(edits, 0) for picture in (photo, reconstructed))
    share = changed(edited, reconstructed)
    return torch.lerp(photo, edited, share[..., None].to(edited)), share
