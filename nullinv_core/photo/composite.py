"""The photo's own pixels where an edit hardly differs: what nobody asked to change is not redrawn either."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d, pad

from ..errors import InputError, NonFiniteError
from .full_size import Place, at_full_size, place_of, scaled_down

UNSEEN, SEEN = 0.03, 0.06
"""Differences, of 1 from black to white: up to the first a pixel is the photo's, from the second on the edit's."""
REACH = 2
"""Pixels to each side over which a difference is averaged, and by which what changed grows: no rim of it remains."""


def changed(edited: Tensor, reconstructed: Tensor) -> Tensor:
    """How much of each pixel is the edit's: float32 (B, H, W) in 0…1, smooth between ``UNSEEN`` and ``SEEN``.

    ``edited``, ``reconstructed``: decoded pictures (B, H, W, 3) in 0…1 of the edit and of the photo's own latents, so
    that what the autoencoder does to both does not count.
    """
    side = 2 * REACH + 1
    square = (edited.float() - reconstructed.float()).square().mean(-1)[:, None]
    around = avg_pool2d(pad(square, (REACH,) * 4, mode="replicate"), side, stride=1).sqrt()
    return max_pool2d(_seen(around), side, stride=1, padding=REACH)[:, 0]


def keep_photo(
    photo: Tensor, edited: Tensor, reconstructed: Tensor, place: Place | None = None
) -> tuple[Tensor, Tensor]:
    """Edited pictures with the photo's own pixels wherever they hardly differ, and ``changed``.

    Both are float32, (B·E, H, W, 3) and (B·E, H, W) in 0…1. Where the edit continues the colour of kept pixels around
    it, it follows what those are corrected by, so that no seam shows, as in gradient-domain compositing (Pérez et al.
    2003, "Poisson image editing"). ``photo``: (B, H, W, 3), before the autoencoder, or in a larger size, which both
    results then have (see ``at_full_size``); ``reconstructed``: (B, h, w, 3), after it; ``edited``: E edits of each.
    ``place``: where these lie in a larger photo; it is found by comparing with the reconstruction unless it is given.
    Raises InputError for pictures of other sizes or numbers, for another photo or a smaller one, NonFiniteError for an
    edit or a reconstruction with NaN.
    """
    if reconstructed.shape[1:] != edited.shape[1:] or len(edited) % len(photo) or len(photo) != len(reconstructed):
        raise InputError(
            f"the reconstruction {tuple(reconstructed.shape)} and the edits {tuple(edited.shape)} of the photo "
            f"{tuple(photo.shape)} must be pictures of one size (number, height, width, 3), and as many or several "
            "edits of each; decode both alike"
        )
    if photo.shape[1:] != edited.shape[1:]:
        place = place or place_of(photo, reconstructed)
        small = scaled_down(photo, place)
        return at_full_size(photo, small, *keep_photo(small, edited, reconstructed), place)
    edits = len(edited) // len(photo)
    for name, pictures in (("edited picture", edited), ("reconstruction", reconstructed)):
        if not bool(pictures.isfinite().all()):
            raise NonFiniteError(f"the {name} holds NaN or infinite values; decode it in float32")
    drawn = edited.float()
    kept, before = (p.to(drawn.device).float().repeat_interleave(edits, 0) for p in (photo, reconstructed))
    share = changed(drawn, before)
    around = extend(torch.cat([kept - drawn, drawn], -1).movedim(-1, 1), 1 - share[:, None]).movedim(1, -1)
    correction, colour = around.split(3, -1)
    # a new background beside a kept object is another colour, which that object's correction would tint
    follows = 1 - _seen((drawn - colour).square().mean(-1, keepdim=True).sqrt() / 2)
    # single pixels that the autoencoder lost are no drift of the picture around them
    followed = (drawn + follows * correction.clamp(-SEEN, SEEN)).clamp(0, 1)
    return torch.lerp(kept, followed, share[..., None]), share


def _seen(difference: Tensor) -> Tensor:
    share = ((difference - UNSEEN) / (SEEN - UNSEEN)).clamp(0, 1)
    return share * share * (3 - 2 * share)


def extend(values: Tensor, given: Tensor) -> Tensor:
    """Values (B, C, H, W) where ``given`` (B, 1, H, W) is 1, and a smooth continuation of them where it is 0.

    The pull-push method (Gortler et al. 1996, "The lumigraph", section 3.4): gaps are filled from a coarser copy. Zero
    where nothing is known.
    """
    weight = avg_pool2d(given, 2, ceil_mode=True, count_include_pad=False)
    mean = avg_pool2d(values * given, 2, ceil_mode=True, count_include_pad=False)
    mean = mean / weight.clamp_min(torch.finfo(weight.dtype).tiny)
    if max(mean.shape[-2:]) > 1:
        mean = extend(mean, (4 * weight).clamp(max=1))
    return torch.lerp(interpolate(mean, values.shape[-2:], mode="bilinear"), values, given)
