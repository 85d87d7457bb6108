"""The command ``edit``."""

from __future__ import annotations

import os
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError
from ..files.atomic_write import check_outputs
from ..settings import BY_KIND, EDIT, FULL_SIZE, KEEP_PIXELS, SAME_GUIDANCE, SAMPLE_LATER
from . import models
from .console import progress
from .options import Config, Device, InversionFile, OtherDtype, OtherModel, edit_settings, takes, typed
from .pictures import check_own_pixels, numbered, photo_of, with_own_pixels

if TYPE_CHECKING:
    from torch import Tensor

    from ..pipeline import Edited


@takes(
    *BY_KIND, *EDIT, SAME_GUIDANCE, *SAMPLE_LATER,
    replace(KEEP_PIXELS, help=f"{KEEP_PIXELS.help} Needs --reference."),
    replace(FULL_SIZE, help=FULL_SIZE.help.replace("keep_pixels", "--reference and --keep-pixels")),
)  # fmt: skip
def edit(
    context: typer.Context,
    *,
    inversion: InversionFile,
    prompt: Annotated[
        list[str],
        typer.Option(help="Edit prompt, (word:1.5) strengthens a word; give several for several edits in one run."),
    ],
    out: Annotated[Path, typer.Option(help="Picture to write, .png; several edits are numbered.")],
    guidance: float,
    path: Any,
    skipped: float,
    reference: Annotated[
        Path | None,
        typer.Option(help="The photo. Says how much of it was kept, and keeps its own pixels."),
    ] = None,
    keep_pixels: bool,
    full_size: bool,
    save_attention: Annotated[Path | None, typer.Option(help="Folder for a heat map per word.")] = None,
    model: OtherModel = "",
    device: Device = "",
    dtype: OtherDtype = None,
    config: Config = None,
    **given: Any,
) -> None:
    """Edit the picture: say what it should show instead.

    To remove a thing: --kind remove --blend-words THING. To add one: --kind add --blend-words THING --exclude-words
    THINGS, those that stay. Another place: --kind background --exclude-words THINGS.
    """
    import torch

    from ..editing import check_sampling
    from ..photo.images import read_picture, save_image
    from ..pipeline import Sampling, apply, null_of

    settings = edit_settings(typed(context, given))
    check_own_pixels(typed(context, {"keep_pixels": keep_pixels}), full_size, keep_pixels, reference)
    for text in prompt:
        models.check_text(text)
    stored, place = models.stored(inversion, model)
    if len(stored.prompts) != 1:
        raise InputError(f"this inversion holds {len(stored.prompts)} images; the command line edits one at a time")
    sampling = Sampling(guidance, path=path, skipped=skipped, maps=save_attention is not None)
    check_sampling(null_of(stored), sampling)
    outputs, maps = numbered(out, len(prompt)), _map_files(save_attention, len(prompt))
    picture_file = None if reference is None else read_picture(reference)
    existing = [path for path in maps if os.path.isdir(path.parent)]
    check_outputs([*outputs, *existing], models.read_from(place, config, inversion, reference), ".png")
    loaded = models.reopen(stored, place, device, dtype, config, named=bool(model))
    photo = None if picture_file is None else photo_of(picture_file, reference, stored, loaded)
    with progress() as callback:
        found = apply(loaded, stored, prompt, settings, sampling, callback=callback)
    whole = picture_file if full_size else None
    found, saved = with_own_pixels(found, photo if keep_pixels else None, whole, stored, loaded)
    for file, picture, worked_on, mask in zip(outputs, saved, found.pictures, found.result.mask[0], strict=True):
        save_image(picture, file)
        typer.echo(f"saved: {file}" + ("" if photo is None else f" ({_kept(worked_on, photo[0], mask)})"))
    if save_attention is not None:
        _save_maps(save_attention, maps, found, torch.cat([loaded.decode(found.result.source), found.pictures]))


def _save_maps(folder: Path, files: list[Path], found: Edited, pictures: Tensor) -> None:
    """Write heat maps of every word, over the photo and over each edit."""
    from ..figures import word_maps
    from ..photo.images import save_pil

    maps = found.result.maps
    if maps is None:
        raise InputError(
            "the model has no cross-attention of the size that maps are read at; leave out --save-attention"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for path, picture, attention, prompt in zip(files, pictures, maps[0].cpu(), found.prompts, strict=True):
        save_pil(word_maps(picture, attention, prompt), path)
    typer.echo(f"attention: {folder}")


def _kept(picture: Tensor, photo: Tensor, mask: Tensor) -> str:
    """How well a picture (H, W, 3) keeps the photo outside of its blend mask, bool (h, w), in words."""
    import numpy as np
    from torch.nn.functional import interpolate

    from ..photo.images import from_pil, psnr, ssim, to_pil

    outside = ~interpolate(mask[None, None].float(), picture.shape[:2])[0, 0].bool().cpu().numpy()
    if not outside.any():
        return "everything may change; give --blend-words for a region that may not"
    saved = from_pil(to_pil(picture))[0]
    decibels = psnr(saved, photo, outside)
    words = f"outside of the blend mask {'equal to the photo' if np.isinf(decibels) else f'{decibels:.1f} dB'}"
    if find_spec("torchmetrics") is None:
        return f"{words}; SSIM needs torchmetrics (pip install torchmetrics)"
    return f"{words}, SSIM {ssim(saved, photo, outside):.4f}"


def _map_files(folder: Path | None, edits: int) -> list[Path]:
    if folder is None:
        return []
    models.check_folder(folder)
    return [folder / f"{name}.png" for name in ("source", *(f"edit-{i + 1}" for i in range(edits)))]
