"""Ways to make null embeddings, from the authors' to none at all, by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor

from .denoiser import Denoiser
from .editing import reconstruct
from .null_text import FAST, PAPER, NullTextSettings, optimize_null_text
from .types import Callback, NullEmbeddings, Trajectory, ignore

Preset = Literal["paper", "fast", "negative-prompt", "direct"]
PRESETS: tuple[Preset, ...] = get_args(Preset)
OPTIMIZED: dict[str, NullTextSettings] = {"paper": PAPER, "fast": FAST}


def embed(
    denoiser: Denoiser,
    trajectory: Trajectory,
    null_context: Tensor,
    method: Preset | NullTextSettings,
    guidance: float,
    callback: Callback = ignore,
) -> tuple[NullEmbeddings, Tensor]:
    """Null embeddings of a trajectory for a guidance, and the latents z_0 that the source branch reaches with them.

    ``method``: constants of an optimization, or a preset. ``paper``: the authors' constants. ``fast``: the same method,
    started where little is left to optimize, and edits read the source branch from the trajectory.
    ``negative-prompt``: the source prompt in place of an optimized embedding (Miyake et al. 2023). ``direct``: the
    empty prompt, and the source branch pinned to the trajectory (Ju et al. 2023).
    """
    if method == "direct":
        return constant(trajectory, null_context, guidance, pinned=True), trajectory.clean
    if method == "negative-prompt":
        null = constant(trajectory, trajectory.context, guidance)
        return null, reconstruct(denoiser, trajectory, null, guidance, callback=callback)
    settings = replace(settings_of(method), guidance=guidance)
    null, reached = optimize_null_text(denoiser, trajectory, null_context, settings, callback)
    return replace(null, pinned=method == "fast"), reached


def settings_of(method: Preset | NullTextSettings) -> NullTextSettings:
    """The constants of a method that optimizes."""
    return method if isinstance(method, NullTextSettings) else OPTIMIZED[method]


def constant(trajectory: Trajectory, context: Tensor, guidance: float, pinned: bool = False) -> NullEmbeddings:
    """One context (tokens, width) or (B, tokens, width) as the null embedding of every step."""
    steps, batch = trajectory.schedule.steps, trajectory.batch
    rows = context.detach().float().expand(steps, batch, *context.shape[-2:]).contiguous()
    losses = torch.zeros(steps, batch)
    return NullEmbeddings(rows, trajectory.schedule, guidance, losses, losses.long(), pinned)
