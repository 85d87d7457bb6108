"""Ways to make null embeddings, from the authors' to none at all, by name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..editing import reconstruct
from ..errors import InputError
from ..inversion.ddim import InversionMethod
from ..shared_guidance import guidance_of_photo
from ..types import Callback, NullEmbeddings, Phase, Pin, Trajectory, ignore
from .optimization import FAST, PAPER, NullTextSettings, optimize_null_text


@dataclass(frozen=True)
class Recipe:
    """How a photo is prepared for edits.

    ``inversion``: see ``invert``. ``optimization``: constants, of which the guidance is not used; None puts the source
    prompt in place of optimized embeddings (Miyake et al. 2023, arXiv 2305.16807). ``pinned``: edits read their source
    branch from the trajectory and are guided by the empty prompt (Ju et al. 2023, arXiv 2310.01506). ``unshared``: what
    their guidance shares with the photo's own is left out (see ``without_shared``).
    """

    inversion: InversionMethod
    optimization: NullTextSettings | None
    pinned: bool
    unshared: bool = False

    def __post_init__(self) -> None:
        if self.unshared and not self.pinned:
            raise InputError("only edits of a pinned source branch can leave out what their guidance shares with it")

    @property
    def lengths(self) -> dict[Phase, int]:
        """Phases of ``embed`` in their order, and how long one step of each is against the others'."""
        found: dict[Phase, int] = {}
        if self.optimization is not None:
            # where the loss is tested first, most steps take no iteration
            found["optimize"] = 1 if self.optimization.test_first else self.optimization.inner_steps
        elif not self.pinned:
            found["sample"] = 1
        return found | {"pin": 1} if self.unshared else found


PresetName = Literal["fast", "paper", "negative-prompt", "direct"]
PRESETS: dict[PresetName, Recipe] = {
    "fast": Recipe("fixed-point", FAST, pinned=True, unshared=True),
    "paper": Recipe("ddim", PAPER, pinned=False),
    "negative-prompt": Recipe("ddim", None, pinned=False),
    "direct": Recipe("ddim", None, pinned=True),
}


def embed(
    denoiser: Denoiser,
    trajectory: Trajectory,
    null_context: Tensor,
    recipe: Recipe,
    guidance: float,
    callback: Callback = ignore,
    only_text_differs: bool = True,
) -> tuple[NullEmbeddings, Tensor]:
    """Null embeddings of a trajectory for a guidance, and the latents z_0 that the source branch reaches with them.

    ``null_context``: the empty prompt's encoding, (tokens, width) or (B, tokens, width). Whatever the recipe, the
    embeddings lead any sampler back towards the photo; without optimization less exactly. ``only_text_differs``: see
    ``optimize_null_text``.
    """
    trajectory.check_context(null_context, "null context")
    if recipe.optimization is not None:
        settings = replace(recipe.optimization, guidance=guidance)
        null, reached = optimize_null_text(denoiser, trajectory, null_context, settings, callback, only_text_differs)
    else:
        null, reached = of_source(trajectory, guidance), trajectory.clean
        if not recipe.pinned:
            reached = reconstruct(denoiser, trajectory, null, guidance, callback=callback)
    if recipe.pinned:
        empty = null_context.detach().to(null.embeddings.dtype)
        own = guidance_of_photo(denoiser, trajectory, empty, callback) if recipe.unshared else None
        null = replace(null, pin=Pin(empty.expand(trajectory.batch, *empty.shape[-2:]).clone(), own))
    return null, reached


def of_source(trajectory: Trajectory, guidance: float) -> NullEmbeddings:
    """The source prompt's context as the null embedding of every step; losses of 0, since none was measured."""
    steps, batch, context = trajectory.schedule.steps, trajectory.batch, trajectory.context
    exact = context.detach().to(torch.promote_types(context.dtype, torch.float32))
    # a copy even of a single step: a file cannot hold one tensor under two names
    rows = exact.repeat(steps, 1, 1, 1)
    losses = torch.zeros(steps, batch)
    return NullEmbeddings(rows, trajectory.schedule, guidance, losses, losses.long())
