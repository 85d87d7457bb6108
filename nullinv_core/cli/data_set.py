"""The commands ``inspect``, ``index``, ``export`` and ``import``: inversion files as a data set."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from ..errors import InputError
from ..files.atomic_write import check_outputs, check_suffix, check_writable, whole_file
from ..settings import GUIDANCE, OWN_SIZE
from . import models
from .console import in_blocks, progress, shows_pictures, warn
from .options import Config, Device, Dtype, takes, typed

if TYPE_CHECKING:
    from ..backends.diffusers import DiffusersModel
    from ..files.exchange import Exchanged
    from ..types import Trajectory

LINES = {
    "notebook": "latents, uncond_embeddings = list(t['ddim_latents']), list(t['uncond_embeddings'])",
    "diffusers": "inverted_latent, uncond_embeddings = t['inverted_latent'], t['uncond_embeddings']",
}
"""How the other program takes what was exported; ``t``: the loaded file."""
File = Annotated[Path, typer.Argument(help="File that `invert`, `batch` or Save Inversion wrote.", show_default=False)]


def inspect(
    file: File,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON, for programs.")] = False,
    thumbnail: Annotated[
        Path | None, typer.Option(help="PNG to write: the first eight photos, small and rough.")
    ] = None,
) -> None:
    """Say what an inversion file holds; no model is loaded."""
    if thumbnail:
        check_outputs([thumbnail], [file], ".png")
    from ..files.store import load_inversion
    from ..files.summary import curve, summary
    from ..files.summary import thumbnail as thumbnail_of
    from ..photo.images import save_image, to_pil

    found = load_inversion(file)
    told = asdict(summary(file, found))
    if thumbnail:
        save_image(thumbnail_of(found), thumbnail)
        typer.echo(f"saved: {thumbnail}", err=as_json)
    if as_json:
        typer.echo(json.dumps({**told, "curve": curve(found)}))
        return
    table = Table(show_header=False, box=None)
    for name, value in told.items():
        if value not in ("", None, ()) and name != "file":
            table.add_row(name, " | ".join(value) if name == "prompts" else str(value))
    if line := curve(found):
        table.add_row("losses", f"{line} (the noisiest step first)")
    out = Console(markup=False, highlight=False)
    out.print(table)
    if shows_pictures(out):
        try:
            out.print(in_blocks(to_pil(thumbnail_of(found)), out.width))
        except InputError as error:
            warn(str(error))


def index(
    folder: Annotated[Path, typer.Argument(help="Folder of inversion files.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Table to write, .csv or .jsonl.")],
) -> None:
    """List every inversion file of a folder, and check each."""
    check_suffix(out, ".csv", ".jsonl")
    check_writable(out)
    from ..files.summary import as_lines, as_table, index

    rows = list(index(folder))
    with whole_file(out) as place:
        text = as_table(rows) if out.suffix.lower() == ".csv" else as_lines(rows)
        place.write_text(text, encoding="utf-8", errors="replace", newline="\n")
    damaged = sum(bool(row.why) for row in rows)
    typer.echo(f"saved: {out} ({len(rows)} files, {damaged} of them damaged)")


def export(
    file: File,
    out: Annotated[Path, typer.Option(help="File to write, .safetensors.")],
    to: Annotated[
        Literal["notebook", "diffusers"],
        typer.Option(help="For whom: the authors' notebook, or diffusers' pipeline_null_text_inversion."),
    ] = "notebook",
) -> None:
    """Write latents and null embeddings as the authors' notebook or diffusers' community pipeline has them."""
    check_outputs([out], [file], ".safetensors")
    from ..files.exchange import export
    from ..files.store import load_inversion

    export(out, load_inversion(file), to)
    typer.echo(f"saved: {out}; there: t = safetensors.torch.load_file({str(out)!r}); {LINES[to]}")


@takes(GUIDANCE, OWN_SIZE)
def take(
    context: typer.Context,
    *,
    file: Annotated[Path, typer.Argument(help="Tensors of the other program, .safetensors.", show_default=False)],
    model: Annotated[str, typer.Option(help="The model that made them.")],
    out: Annotated[Path, typer.Option(help="Inversion file to write, .safetensors.")],
    prompt: Annotated[str, typer.Option(help="What the picture shows; needed if the file does not say.")] = "",
    image: Annotated[
        Path | None,
        typer.Option(help="The picture; needed if the file has null embeddings alone, as diffusers' cache."),
    ] = None,
    square: Annotated[bool, typer.Option(help="Crop the picture's middle to a square, as the authors do.")] = False,
    guidance: float,
    size: int,
    device: Device = "",
    dtype: Dtype = "float32",
    config: Config = None,
) -> None:
    """Take over what the authors' notebook or diffusers' community pipeline made (or `export`)."""
    from ..files.exchange import imported, read_exchanged
    from ..files.store import save_inversion
    from ..schedule import check_guidance

    found = read_exchanged(file)
    check_outputs([out], models.read_from(model, config, file, image), ".safetensors")
    text = prompt or found.prompt
    models.check_text(text)
    said = "guidance" in typed(context, {"guidance": guidance})
    scale = guidance if said or found.guidance is None else found.guidance
    check_guidance(scale)
    if found.latents is None and image is None:
        raise InputError(f'"{file}" has null embeddings alone; give the picture too, with --image')
    if found.latents is not None and (image is not None or square or size):
        raise InputError(f'"{file}" has the picture\'s latents; leave out --image, --size and --square')
    loaded = models.load(model, device, dtype, config)
    trajectory = _trajectory(loaded, found, text, image, size, square)
    rest = {"fingerprint": loaded.fingerprint, "model": loaded.place, "precision": loaded.precision}
    save_inversion(out, imported(found, trajectory, text, float(scale), **rest))
    typer.echo(f"saved: {out}")


def _trajectory(
    loaded: DiffusersModel, found: Exchanged, prompt: str, image: Path | None, size: int, square: bool
) -> Trajectory:
    """The latents of a file; where it has none, those of the picture by plain DDIM, as both programs invert."""
    from ..files.exchange import trajectory_of
    from ..null_text.recipe import Recipe
    from ..photo.images import load_image
    from ..pipeline import encode, prepare_latents

    steps = len(found.embeddings)
    if found.latents is not None:
        (context,) = loaded.contexts([loaded.prompt(prompt)])
        return trajectory_of(found, context.to("cpu"), loaded.schedule(steps), loaded.denoiser.unet.config.in_channels)
    side = loaded.check_size(size or loaded.native_size)
    photo = load_image(image or Path(), side, 0 if square else loaded.factor)
    latents, _ = encode(loaded, photo, prompt, steps)
    with progress() as callback:
        inversion, _ = prepare_latents(loaded, latents, prompt, steps, Recipe("ddim", None, pinned=True), 1.0, callback)
    return inversion.trajectory
