"""Replaced words that draw their own outline where the old word was: our addition to Prompt-to-Prompt.

The source's map of the old word holds the place, but with it the outline: a pig asked for in the place of a rabbit
keeps its ears. The new word's own map has the right outline, and wanders. So the old map is blurred until it says only
where, and the new word's own attention is weighed by it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from ...denoiser import Layer
from ..attention_edit import Here, Plans, ProbabilityEdit, stacked
from ..grids import layer_grid

ORDER = 3
BLUR = 1.5 / 16
"""Standard deviation of the blur, in sides of the picture (of the square of its area, where it is none)."""
MOST_GAIN = 4.0
"""How many times stronger a focused map may become at most to weigh what it did before."""


@dataclass(frozen=True)
class Focus(ProbabilityEdit):
    """Some ``tokens`` attend by themselves, where the source attended to the old word.

    ``mapping``: (B, E, K, tokens). ``equalizer``: (B, E, 1, 1, tokens).
    """

    tokens: tuple[int, ...]
    mapping: Tensor
    equalizer: Tensor

    def wants(self, layer: Layer, size: tuple[int, int]) -> bool:
        """All cross-attention."""
        return layer.part == "cross"

    def rewrite(self, source: Tensor, unedited: Tensor, edited: Tensor, here: Here) -> Tensor:
        """``edited``, with the focused words drawn by themselves."""
        columns = list(self.tokens)
        old = torch.einsum("bxhpk,bekl->behpl", source, self.mapping.to(source))
        new = focus(old, unedited[..., columns], layer_grid(here.size, unedited.shape[-2]))
        new = new * self.equalizer.to(new)
        result = edited.clone()
        result[..., columns] = torch.where(here.window[..., columns], new, edited[..., columns])
        return result


def planned(plans: Plans) -> Focus | None:
    """What ``focus_from`` asks for."""
    window = stacked(plans, lambda edit: edit.focus_window)
    tokens = window.flatten(0, 2).any(0).nonzero().flatten().tolist()
    if not tokens:
        return None
    mapping = stacked(plans, lambda edit: edit.alignment.mapping)[..., tokens]
    equalizer = stacked(plans, lambda edit: edit.equalizer[None, None])[..., tokens]
    return Focus(window, tuple(tokens), mapping, equalizer)


def focus(source: Tensor, unedited: Tensor, grid: tuple[int, int]) -> Tensor:
    """A replaced word's own attention, weighed by where the source attended to the old word.

    ``source``, ``unedited``: (…, positions, columns) on a grid (h, w), each ≥ 0. Returns
    unedited·G(source)/max G(source), where G blurs, scaled so that a column keeps its sum over all positions, by at
    most ``MOST_GAIN``. Same shape and dtype as ``unedited``; computed in float32 at least.
    """
    exact = torch.promote_types(unedited.dtype, torch.float32)
    where = _blur(source.to(exact), grid)
    tiny = torch.finfo(exact).tiny
    weighed = unedited.to(exact) * (where / where.amax(-2, keepdim=True).clamp_min(tiny))
    before, after = unedited.to(exact).sum(-2, keepdim=True), weighed.sum(-2, keepdim=True)
    return (weighed * (before / after.clamp_min(tiny)).clamp_max(MOST_GAIN)).to(unedited.dtype)


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
