"""The whole chain in two calls, for people who want one node."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import comfy.utils
import torch
from torch import Tensor

from ...files.store import Inversion
from ...null_text.recipe import Recipe
from ...null_text.settings import PAPER
from ...photo.images import GRID, autoencoder_psnr, fitted_size, opaque
from ...pipeline import apply, prepare_latents
from ...settings import STRENGTH, EditSettings
from .checks import check_model
from .host import progress
from .jobs import Latent
from .model import ComfyModel
from .notices import log
from .sampling import embeddings_of
from .text import lines_of, read_texts

GAP = 8
"""Pixels between the pictures of a before-and-after strip."""
PINNED = Recipe("fixed-point", None, pinned=True, unshared=True)
"""Edits with a pinned source use no optimized embedding, so none is made."""


def settings_of(strength: float, blend: list[str]) -> EditSettings:
    """Replace windows for a strength in 0 (keep everything) … 1 (change freely)."""
    STRENGTH.check(strength)
    return EditSettings(cross_replace=1.0 - 0.6 * strength, self_replace=0.8 - 0.8 * strength, blend_words=blend)


def fit(image: Tensor, size: int, grid: int) -> Tensor:
    """An IMAGE (B, H, W, 3) whose shorter side is ``size``, cropped at the centre to multiples of ``grid`` pixels."""
    height, width = image.shape[1:3]
    wanted = fitted_size(width, height, max(size, grid), grid)
    scaled = comfy.utils.common_upscale(image.movedim(-1, 1), *wanted, "lanczos", "center")
    result: Tensor = scaled.movedim(1, -1)
    return result


def check_texts(model: Any, clip: Any, source: str, edits: str, strength: float, blend: list[str]) -> None:
    """Raise InputError for all that is known to be wrong before a photo is inverted."""
    check_model(model)
    read_texts(clip, source, edits, settings_of(strength, blend))


def invert_photo(
    model: Any, clip: Any, vae: Any, image: Tensor, source: str, size: int, steps: int
) -> tuple[Inversion, Latent]:
    """What every edit of a photo can start from, and the photo's LATENT."""
    check_model(model)
    here = ComfyModel(model, clip=clip, vae=vae)
    latent = {"samples": vae.encode(fit(opaque(image), size, GRID))}
    callback = progress(model, invert=steps, pin=steps)
    # of a pinned source no embedding depends on the guidance
    inversion, _ = prepare_latents(
        here, here.latents(latent["samples"]), source, steps, PINNED, PAPER.guidance, callback
    )
    return inversion, latent


def edit_photo(
    model: Any, clip: Any, vae: Any, image: Tensor, inversion: Inversion, latent: Latent, edits: str,
    strength: float, blend: list[str], size: int, guidance: float, keep_pixels: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Edited pictures (B·E, H, W, 3), and each beside its photo.

    ``inversion`` and ``latent``: of ``invert_photo``. ``keep_pixels``: see ``keep_photo``.
    """
    photo, here = fit(opaque(image), size, GRID), ComfyModel(model, clip=clip, vae=vae)
    ours = replace(inversion, null=replace(embeddings_of(inversion), guidance=guidance))
    callback = progress(model, sample=inversion.trajectory.schedule.steps)
    found = apply(here, ours, lines_of(edits), settings_of(strength, blend), guidance, callback=callback)
    if keep_pixels:
        # of the photo's own LATENT: scaled in and out again it may have changed a bit
        decoded = vae.decode(latent["samples"])
        autoencoder_psnr(decoded, photo, log)
        found = found.keeping(photo, decoded)
    edited = found.pictures.to(photo)
    before = photo.repeat_interleave(len(found.prompts) - 1, 0)
    gap = before.new_ones(len(before), before.shape[1], GAP, 3)
    return edited, torch.cat([before, gap, edited], 2)
