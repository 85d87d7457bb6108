"""Where edits start: at the photo's own noise, or with fresh noise where something new should be drawn.

What DDIM inversion makes of a flat region is flat as well, and from such noise sampling draws little else. Fresh noise
leaves an edit room (Nie et al. 2024, "The Blessing of Randomness", arXiv 2311.01410, find the same of whole paths), and
another seed another answer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..denoiser import Denoiser, check_finite
from ..errors import InputError
from ..types import Trajectory
from .control import EditBatch
from .edit import Edit
from .grids import map_grid
from .local_blend import region
from .maps import AttentionMaps, AttentionReader

MOST_PHOTO = 0.5
"""Largest ᾱ of a trajectory's end that may be mixed with fresh noise: the share of the photo's own power there."""
READ_AT = (0.3, 0.5, 0.7)
"""Shares of the steps at which the photo is looked at for its words: neither all noise nor all detail."""


def edit_start(denoiser: Denoiser, trajectory: Trajectory, edits: EditBatch) -> Tensor:
    """Latents that every branch starts from, (B, 1+E, C, h, w): z*_T, and its mix with fresh noise for the edits.

    √(1 - f²) z*_T + f n for a share f of fresh noise n, so that unit noise stays unit noise; f is 0 in the regions of
    the edit's steady words. Noise depends on the edit's seed alone, not on its place in the batch. Costs
    ``len(READ_AT)`` samples an image where some edit has steady words. Raises InputError for fresh noise where the
    trajectory ends with more photo than noise.
    """
    noisiest = trajectory.noisiest
    start = noisiest[:, None].repeat(1, edits.branches, 1, 1, 1)
    fresh = [edit for row in edits.edits for edit in row if edit.settings.fresh_noise]
    if fresh and trajectory.schedule.alphas_cumprod[-1] > MOST_PHOTO:
        raise InputError(
            "this inversion stops half way to noise, and fresh noise would wipe out the photo; invert on all noise "
            "levels, or leave out the fresh noise"
        )
    maps = word_maps(denoiser, trajectory) if any(bool(edit.steady.any()) for edit in fresh) else None
    for b, row in enumerate(edits.edits):
        for e, edit in enumerate(row, 1):
            if edit.settings.fresh_noise:
                share = edit.settings.fresh_noise * (1 - _steady(None if maps is None else maps[b], edit, noisiest))
                generator = torch.Generator().manual_seed(edit.settings.variant)
                noise = torch.randn(noisiest.shape[1:], generator=generator).to(noisiest)
                start[b, e] = (1 - share**2).sqrt() * noisiest[b] + share * noise
    return start


def word_maps(denoiser: Denoiser, trajectory: Trajectory) -> Tensor:
    """Mean cross-attention of the photo's own words along its trajectory: float32 (B, grid h, grid w, tokens)."""
    steps, clean = trajectory.schedule.steps, trajectory.clean
    maps = AttentionMaps(map_grid(clean.shape[-2], clean.shape[-1]))
    for step in sorted({max(1, round(share * steps)) for share in READ_AT}):
        level = trajectory.schedule.level(step)
        reader = AttentionReader(maps, slice(0, trajectory.batch))
        check_finite(denoiser(trajectory.latents[step], level, trajectory.context, reader), level, step)
    return maps.mean()[:, 0]


def _steady(maps: Tensor | None, edit: Edit, like: Tensor) -> Tensor:
    """1 in the regions of an edit's steady words and next to them, else 0: (1, h, w), or (1, 1, 1) without maps."""
    if maps is None:
        return like.new_zeros(1, 1, 1)
    tokens, size = edit.steady[:1].to(maps.device), (like.shape[-2], like.shape[-1])
    inside = region(maps[None], tokens, size, edit.settings.blend_threshold, pool=True)
    return inside[0].to(like)
