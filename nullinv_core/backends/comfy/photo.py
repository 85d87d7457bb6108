"""The whole chain in two calls, for people who want one node."""

from __future__ import annotations

from dataclasses import dataclass, replace

import comfy.utils
import torch
from torch import Tensor

from ...files.store import Inversion
from ...null_text.recipe import Recipe
from ...null_text.settings import PAPER
from ...photo.full_size import check_full_size, larger
from ...photo.images import GRID, autoencoder_psnr, fitted_size, opaque
from ...pipeline import apply, prepare_latents
from ...settings import EditSettings
from .checks import check_model, check_part
from .host import progress
from .jobs import plain_samples
from .model import ComfyModel
from .notices import log, tell
from .protocols import Clip, Latent, Patcher, Vae
from .sampling import embeddings_of
from .text import lines_of, read_texts

GAP = 8
"""Pixels between the pictures of a before-and-after strip."""
PINNED = Recipe("fixed-point", None, pinned=True, unshared=True)
"""Edits with a pinned source use no optimized embedding, so none is made."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What Load Checkpoint gives."""

    model: Patcher
    clip: Clip
    vae: Vae


@dataclass(frozen=True)
class Wanted:
    """What Edit Photo is asked for. ``edits``: a text in each line. ``settings``: see ``suited``. ``keep_pixels``: see
    ``keep_photo``. ``full_size``: see ``at_full_size``."""

    edits: str
    settings: EditSettings
    guidance: float
    keep_pixels: bool
    full_size: bool = False


def fit(image: Tensor, size: int, grid: int) -> Tensor:
    """An IMAGE (B, H, W, 3) whose shorter side is ``size``, cropped at the centre to multiples of ``grid`` pixels."""
    height, width = image.shape[1:3]
    wanted = fitted_size(width, height, max(size, grid), grid)
    scaled = comfy.utils.common_upscale(image.movedim(-1, 1), *wanted, "lanczos", "center")
    result: Tensor = scaled.movedim(1, -1)
    return result


def check_texts(given: Checkpoint, source: str, wanted: Wanted) -> None:
    """Raise InputError for all that is known to be wrong before a photo is inverted."""
    check_model(given.model)
    check_part(given.vae, "VAE")
    check_full_size(wanted.full_size, wanted.keep_pixels)
    read_texts(given.clip, source, wanted.edits, wanted.settings)


def invert_photo(given: Checkpoint, image: Tensor, size: int, source: str, steps: int) -> tuple[Inversion, Latent]:
    """What every edit of a photo can start from, and the photo's LATENT."""
    check_model(given.model)
    here = ComfyModel(given.model, clip=given.clip, vae=given.vae)
    latent: Latent = {"samples": given.vae.encode(fit(opaque(image), size, GRID))}
    samples = plain_samples(latent, here.family)
    # a scheduler may make one step more than asked for
    schedule = here.schedule(steps)
    length = schedule.steps
    callback = progress(given.model, invert=length, pin=length)
    # of a pinned source no embedding depends on the guidance
    inversion, _ = prepare_latents(here, here.latents(samples), source, steps, PINNED, PAPER.guidance, callback)
    return inversion, latent


def edit_photo(
    given: Checkpoint, image: Tensor, size: int, inversion: Inversion, latent: Latent, wanted: Wanted
) -> tuple[Tensor, Tensor]:
    """Edited pictures (B·E, H, W, 3), and each beside its photo. ``inversion`` and ``latent``: of ``invert_photo``."""
    photo, here = fit(opaque(image), size, GRID), ComfyModel(given.model, clip=given.clip, vae=given.vae)
    ours = replace(inversion, null=replace(embeddings_of(inversion), guidance=wanted.guidance))
    callback = progress(given.model, sample=inversion.trajectory.schedule.steps)
    found = apply(here, ours, lines_of(wanted.edits), wanted.settings, wanted.guidance, callback=callback)
    if wanted.keep_pixels:
        # of the photo's own LATENT: scaled in and out again it may have changed a bit
        decoded = given.vae.decode(latent["samples"])
        autoencoder_psnr(decoded, photo, log)
        photo = larger(opaque(image), photo, tell) if wanted.full_size else photo
        found = found.keeping(photo, decoded)
    edited = found.pictures.to(photo)
    before = photo.repeat_interleave(len(found.prompts) - 1, 0)
    gap = before.new_ones(len(before), before.shape[1], GAP, 3)
    return edited, torch.cat([before, gap, edited], 2)
