"""Whether a picture is a part of a photo: both in latents, by the structure that stands out from its surroundings.

An edit is as far from its photo as a part of it is; what it keeps, it keeps at its place. So a picture that resembles
an enlarged part of the photo more than the whole is a part of it, or of an edit of it, or another photo. Measured with
the demo model (scenes of 16×16 positions; 200 edits of ten kinds as they should come out; 800 parts, 1.25 to 4 times as
large, half of them of edits; 80 other scenes): 99 % of the parts are seen, 95 % of the other scenes, and 8 % of the
edits are taken for parts, nearly all of another place, style or pose; so are 5 of 25 edits that the demo model itself
makes (``fast``, 20 steps), which keep less of the photo. With eleven photos at 64×64 positions, their colours for
latents: all of 363 parts, and none of 55 copies in other colours or blurred. By their distance from the photo the same
parts (0.5 to 2.3 of its norm) and edits (0.04 to 1.9) cannot be told apart.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ZOOMS = (1.25, 1.5, 2.0, 3.0)
"""How many times larger than in the photo parts are looked for. Those in between resemble one of them enough."""
AROUND = 5
"""Positions across which structure stands out; the smallest part that is looked for."""
ROUNDING = 1e-5
"""Share of the largest value that rounding leaves of a flat picture."""


def is_part(latents: Tensor, photo: Tensor) -> bool:
    """Whether any of the latents (B, C, h, w) resembles an enlarged part of its photo, as large, more than the whole.

    False for latents without structure, such as empty ones.
    """
    outlines, own = _structure(photo), _structure(latents)
    whole, found = _likeness(own, outlines), torch.zeros(len(latents), device=latents.device)
    for zoom in ZOOMS:
        size = [round(side / zoom) for side in latents.shape[-2:]]
        if min(size) >= AROUND:
            part = F.interpolate(latents, size, mode="bilinear", antialias=True)
            found = torch.maximum(found, _likeness(_structure(part), outlines))
    return bool((found > whole).any())


def _structure(latents: Tensor) -> Tensor:
    """What is left without the mean around each position; nothing where only rounding is."""
    padded = F.pad(latents, (AROUND // 2,) * 4, mode="replicate")
    left = latents - F.avg_pool2d(padded, AROUND, stride=1)
    return left * (left.abs() > ROUNDING * latents.abs().amax())


def _likeness(part: Tensor, photo: Tensor) -> Tensor:
    """|cosine| of structure and the photo's at the place where it is the largest: (B,)."""
    window = torch.ones_like(part[:, :1])
    energy = _correlation(photo.square().sum(1, keepdim=True), window)
    # where a photo is flat, rounding resembles anything
    norms = energy.clamp(min=1e-4 * float(energy.max())).sqrt() * part.flatten(1).norm(dim=1).view(-1, 1, 1)
    return (_correlation(photo, part) / norms.clamp(min=1e-12)).abs().flatten(1).amax(1)


def _correlation(photo: Tensor, part: Tensor) -> Tensor:
    """Products of a part with the photo at every place where it lies inside: (B, h - h' + 1, w - w' + 1)."""
    (height, width), (high, wide) = photo.shape[-2:], part.shape[-2:]
    spectrum = torch.fft.rfft2(photo) * torch.fft.rfft2(part, s=(height, width)).conj()
    places = torch.fft.irfft2(spectrum, s=(height, width)).sum(1)
    return places[:, : height - high + 1, : width - wide + 1]
