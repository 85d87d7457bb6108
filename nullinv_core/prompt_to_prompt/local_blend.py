"""Local blend (Hertz et al. 2022, section 3.2 "local editing"; authors' code): keep the source outside a mask."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d

from .edit import Edit


def region(maps: Tensor, tokens: Tensor, size: tuple[int, int], threshold: float, pool: bool) -> Tensor:
    """Where the chosen tokens are attended to: bool (branches, 1, *size).

    ``maps``: (branches, h, w, K), summed or averaged; ``tokens``: (branches, K) 0 or 1. The chosen tokens' maps are
    summed, 3×3 max-pooled if asked, divided by their maximum and compared with the threshold. No token: nowhere.
    """
    chosen = (maps * tokens[:, None, None].to(maps)).sum(-1)[:, None]
    if pool:
        chosen = max_pool2d(chosen, 3, stride=1, padding=1)
    chosen = interpolate(chosen, size=size)
    peak = chosen.amax((2, 3), keepdim=True)
    return (chosen / peak.clamp_min(torch.finfo(chosen.dtype).tiny)) > threshold


def blend_mask(maps: Tensor, edit: Edit, size: tuple[int, int], excluding: bool = True) -> Tensor:
    """Where an edit may change the latents: bool (1, *size). ``maps``: (2, h, w, K), source and edit branch.

    Source region or edit region, minus the excluded words' regions if ``excluding``; everywhere where no word was
    given.
    """
    threshold = edit.settings.blend_threshold
    inside = torch.ones(1, *size, dtype=torch.bool, device=maps.device)
    if bool(edit.blend.any()):
        inside = region(maps, edit.blend.to(maps.device), size, threshold, pool=True).any(0)
    if excluding and bool(edit.exclude.any()):
        inside = inside & ~region(maps, edit.exclude.to(maps.device), size, threshold, pool=False).any(0)
    return inside


def uses_blend(edit: Edit, index: int = 0) -> bool:
    """Whether local blend acts on an edit in a step or later."""
    return bool(edit.blend_window[index:].any())
