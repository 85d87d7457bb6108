"""Replaced words that draw their own outline where the old word was: our addition to Prompt-to-Prompt.

The source's map of the old word holds the place, but with it the outline: a pig asked for in the place of a rabbit
keeps its ears. The new word's own map has the right outline, and wanders. So the old map is blurred until it says only
where, and the new word's own attention is weighed by it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from ..errors import InputError

BLUR = 1.5 / 16
"""Standard deviation of the blur, in sides of the picture (of the square of its area, where it is none)."""
MOST_GAIN = 4.0
"""How many times stronger a focused map may become at most to weigh what it did before."""


def focus(source: Tensor, own: Tensor, grid: tuple[int, int]) -> Tensor:
    """A replaced word's own attention, weighed by where the source attended to the old word.

    ``source``, ``own``: (…, positions, columns) on a grid (h, w), each ≥ 0. Returns own·G(source)/max G(source), where
    G blurs, scaled so that a column keeps its sum over all positions, by at most ``MOST_GAIN``. Same shape and dtype
    as ``own``; computed in float32 at least.
    """
    exact = torch.promote_types(own.dtype, torch.float32)
    where = _blur(source.to(exact), grid)
    tiny = torch.finfo(exact).tiny
    weighed = own.to(exact) * (where / where.amax(-2, keepdim=True).clamp_min(tiny))
    before, after = own.to(exact).sum(-2, keepdim=True), weighed.sum(-2, keepdim=True)
    return (weighed * (before / after.clamp_min(tiny)).clamp_max(MOST_GAIN)).to(own.dtype)


def halving(size: tuple[int, int], positions: int) -> tuple[int, int] | None:
    """(h, w) of the halving, rounded up, of latents of ``size`` that has so many positions; None where none has."""
    height, width = size
    while height * width > positions:
        height, width = -(-height // 2), -(-width // 2)
    return (height, width) if height * width == positions else None


def layer_grid(size: tuple[int, int], positions: int) -> tuple[int, int]:
    """(h, w) of a layer with so many positions, in a UNet that halves latents of ``size``, rounding up.

    Raises InputError where no halving has that many.
    """
    found = halving(size, positions)
    if found is None:
        raise InputError(
            f"the model attends to {positions} positions, which no halving of its latents ({size[0]}×{size[1]}) has, "
            "so replaced words cannot be focused; set focus_from to 1, or take out what rescales the model's layers"
        )
    return found


def _blur(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Gaussian blur over the grid; outside of it maps are 0. (…, positions, columns)."""
    sigma = BLUR * math.sqrt(grid[0] * grid[1])
    reach = math.ceil(3 * sigma)
    offsets = torch.arange(-reach, reach + 1, device=maps.device, dtype=maps.dtype)
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    images = maps.movedim(-1, -2).unflatten(-1, grid)
    flat = images.reshape(-1, 1, *grid)
    flat = conv2d(pad(flat, (reach, reach, 0, 0)), kernel[None, None, None])
    flat = conv2d(pad(flat, (0, 0, reach, reach)), kernel[None, None, :, None])
    return flat.reshape(images.shape).flatten(-2).movedim(-1, -2)
