"""The command ``invert``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from ..files.atomic_write import check_outputs
from ..settings import GUIDANCE, INNER_STEPS, OWN_SIZE, PRESET, STEPS
from . import models
from .console import progress
from .options import ADVANCED, Config, Device, Dtype, takes


@takes(STEPS, GUIDANCE, PRESET, OWN_SIZE, INNER_STEPS)
def invert(
    *,
    model: Annotated[str, typer.Option(help='Diffusers folder, .safetensors checkpoint, or "demo".')],
    image: Annotated[
        Path, typer.Option(help="The picture. It is scaled and keeps its shape; transparent parts become white.")
    ],
    prompt: Annotated[str, typer.Option(help="What the picture shows; (word:1.5) stresses a word, as in ComfyUI.")],
    out: Annotated[Path, typer.Option(help="File to write, .safetensors.")],
    steps: int,
    guidance: float,
    preset: str,
    size: int,
    inner_steps: int | None,
    square: Annotated[bool, typer.Option(help="Crop the picture's middle to a square, as the authors do.")] = False,
    low_memory: Annotated[
        bool | None,
        typer.Option(
            help="Save memory while optimizing, which is slower; by default only if needed.", rich_help_panel=ADVANCED
        ),
    ] = None,
    device: Device = "",
    dtype: Dtype = "float32",
    config: Config = None,
) -> None:
    """Prepare a picture for edits, and save the result in one file."""
    from ..files.store import save_inversion
    from ..null_text.presets import PRESETS
    from ..photo.images import GRID, check_side, fitted_size, load_image, read_picture
    from ..pipeline import encode, prepare_latents
    from ..schedule import check_guidance

    picture = read_picture(image)
    check_outputs([out], models.read_from(model, config, image), ".safetensors")
    check_guidance(guidance)
    models.check_steps(steps)
    models.check_inner_steps(inner_steps)
    models.check_text(prompt)
    recipe = PRESETS[preset]
    if recipe.optimization is None and (inner_steps is not None or low_memory is not None):
        raise InputError(f"--preset {preset} optimizes nothing; leave out --inner-steps and --low-memory")
    if recipe.optimization is not None and inner_steps is not None:
        recipe = replace(recipe, optimization=replace(recipe.optimization, inner_steps=inner_steps))
    if size:
        check_side(size)
        fitted_size(*((size, size) if square else picture.size), size, GRID)
    loaded = replace(models.load(model, device, dtype, config), checkpointing=low_memory)
    side = loaded.check_size(size or loaded.native_size)
    photo = load_image(picture, side, 0 if square else loaded.factor)
    latents, decibels = encode(loaded, photo, prompt, steps)
    with progress() as callback:
        found, _ = prepare_latents(loaded, latents, prompt, steps, recipe, guidance, callback)
    save_inversion(out, found)
    typer.echo(f"saved: {out} (the autoencoder alone gives the photo back at {decibels:.1f} dB)")
