"""The command ``reconstruct``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from ..files.atomic_write import check_outputs
from . import models
from .console import progress, warn
from .options import Config, Device, InversionFile, OtherDtype, OtherModel
from .pictures import numbered, photo_of


def reconstruct(
    inversion: InversionFile,
    out: Annotated[Path, typer.Option(help="Picture to write, .png.")],
    reference: Annotated[Path | None, typer.Option(help="The photo, to say how near the result is.")] = None,
    model: OtherModel = "",
    device: Device = "",
    dtype: OtherDtype = None,
    config: Config = None,
) -> None:
    """Give the picture back from its file, to check it before you edit."""
    from .. import pipeline
    from ..photo.images import autoencoder_psnr, psnr, read_picture, save_image

    stored, place = models.stored(inversion, model)
    outputs = numbered(out, stored.trajectory.batch)
    if reference is not None and stored.trajectory.batch > 1:
        raise InputError(f"this inversion holds {stored.trajectory.batch} images; --reference is for one alone")
    picture_file = None if reference is None else read_picture(reference)
    check_outputs(outputs, models.read_from(place, config, inversion, reference), ".png")
    loaded = models.reopen(stored, place, device, dtype, config, named=bool(model))
    photo = None if picture_file is None else photo_of(picture_file, reference, stored, loaded)
    with progress() as callback:
        pictures = pipeline.reconstruct(loaded, stored, callback=callback)
    best, limit = loaded.decode(stored.trajectory.clean), "; --reference tells how near the photo is"
    if photo is not None:
        limit = f", which itself is {autoencoder_psnr(best, photo, warn):.1f} dB to the photo"
    for path, picture, wanted in zip(outputs, pictures, best, strict=True):
        save_image(picture, path)
        to_photo = "" if photo is None else f"{psnr(picture, photo[0]):.1f} dB to the photo; "
        typer.echo(f"saved: {path} ({to_photo}{psnr(picture, wanted):.1f} dB to what the autoencoder gives{limit})")
