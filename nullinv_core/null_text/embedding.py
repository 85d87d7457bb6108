"""Null embeddings of a trajectory by a recipe, from the authors' to none at all."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..context import Context
from ..denoiser import Denoiser
from ..editing import reconstruct
from ..shared_guidance import guidance_of_photo
from ..types import Callback, NullEmbeddings, Pin, Trajectory, ignore
from .optimization import optimize_null_text
from .recipe import Recipe


def embed(
    denoiser: Denoiser,
    trajectory: Trajectory,
    null_context: Context,
    recipe: Recipe,
    guidance: float,
    callback: Callback = ignore,
    only_text_differs: bool = True,
) -> tuple[NullEmbeddings, Tensor]:
    """Null embeddings of a trajectory for a guidance, and the latents z_0 that the source branch reaches with them.

    ``null_context``: of the empty prompt, once or for each of B images. Whatever the recipe, the embeddings lead any
    sampler back towards the photo; without optimization less exactly. ``only_text_differs``: see
    ``optimize_null_text``. Then the source prompt as ∅ predicts what the text predicts: any guidance reaches the same
    latents, and they are sampled without.
    """
    trajectory.check_context(null_context, "null context")
    if recipe.optimization is not None:
        settings = replace(recipe.optimization, guidance=guidance)
        null, reached = optimize_null_text(denoiser, trajectory, null_context, settings, callback, only_text_differs)
    else:
        null, reached = of_source(trajectory, guidance), trajectory.clean
        if not recipe.pinned:
            sampled = 1.0 if only_text_differs else guidance
            reached = reconstruct(denoiser, trajectory, null, sampled, callback=callback)
    if recipe.pinned:
        empty = null_context.map(torch.detach).to(null.embeddings.text.dtype)
        of_photo = guidance_of_photo(denoiser, trajectory, empty, callback) if recipe.unshared else None
        null = replace(null, pin=Pin(empty.expand(trajectory.batch).map(torch.clone), of_photo))
    return null, reached


def of_source(trajectory: Trajectory, guidance: float) -> NullEmbeddings:
    """The source prompt's context as the null embedding of every step; losses of 0, since none was measured."""
    steps, batch, context = trajectory.schedule.steps, trajectory.batch, trajectory.context
    exact = context.map(torch.detach).to(torch.promote_types(context.text.dtype, torch.float32))
    # a copy even of a single step: a file cannot hold one tensor under two names
    rows = exact.expand(steps, batch).map(torch.clone)
    losses = torch.zeros(steps, batch)
    return NullEmbeddings(rows, trajectory.schedule, guidance, losses, losses.long())
