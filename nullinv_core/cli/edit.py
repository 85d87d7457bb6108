"""The command ``edit``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..errors import InputError, short
from ..files.atomic_write import check_outputs
from . import loading
from .checks import check_folder, check_text, numbered, read_from
from .options import Config, Device, InversionFile, OtherDtype, OtherModel
from .progress import progress
from .reference import kept_words, photo_of

if TYPE_CHECKING:
    from ..backends.diffusers import DiffusersModel
    from ..pipeline import Edited


def edit(
    inversion: InversionFile,
    prompt: Annotated[
        list[str],
        typer.Option(help="Edit prompt, (word:1.5) strengthens a word; give several for several edits in one run."),
    ],
    out: Annotated[Path, typer.Option(help="Picture to write, .png; several edits are numbered.")],
    mode: Annotated[
        Literal["auto", "replace", "refine"],
        typer.Option(help="replace: words stand in for words; refine: words are added or removed; auto: by the texts."),
    ] = "auto",
    cross_replace: Annotated[
        float, typer.Option(help="Share of the steps that keep the photo's layout; less gives more freedom.")
    ] = 0.8,
    self_replace: Annotated[float, typer.Option(help="Share of the steps that keep the photo's shapes.")] = 0.4,
    focus_from: Annotated[
        float, typer.Option(help="Share of the steps after which a new word draws its own outline; 1: never.")
    ] = 1.0,
    blend: Annotated[
        list[str] | None, typer.Option(help="Word whose region may change. Can be given several times.")
    ] = None,
    blend_exclude: Annotated[
        list[str] | None, typer.Option(help="Word whose region may not change. Can be given several times.")
    ] = None,
    weight: Annotated[
        list[str] | None, typer.Option(help="WORD=2.0 makes a word twice as strong. Can be given several times.")
    ] = None,
    fresh_noise: Annotated[
        float, typer.Option(help="Share of new noise that the edit starts with: room for something new.")
    ] = 0.0,
    steady: Annotated[
        list[str] | None, typer.Option(help="Word whose region gets no new noise. Can be given several times.")
    ] = None,
    noise_seed: Annotated[int, typer.Option(help="Which new noise: another number gives another answer.")] = 0,
    guidance: Annotated[float, typer.Option(help="Guidance; 0: that of `invert`.")] = 0.0,
    save_attention: Annotated[Path | None, typer.Option(help="Folder for a heat map per word.")] = None,
    reference: Annotated[
        Path | None,
        typer.Option(help="The photo: keeps its own pixels where the edit hardly differs, and says how much was kept."),
    ] = None,
    keep_photo: Annotated[bool, typer.Option(help="With --reference: keep the photo's own pixels.")] = True,
    model: OtherModel = "",
    device: Device = "",
    dtype: OtherDtype = None,
    config: Config = None,
) -> None:
    """Edit the picture: say what it should show instead.

    To remove a thing: --self-replace 0 --blend THING. To add one: --cross-replace 0.4 --self-replace 0
    --fresh-noise 0.8, and a --steady for each thing that stays.
    """
    from ..photo.images import read_picture, save_image
    from ..pipeline import apply
    from ..prompt_to_prompt.edit import EditSettings
    from ..schedule import check_guidance

    settings = EditSettings(
        mode=mode,
        cross_replace=cross_replace,
        self_replace=self_replace,
        focus_from=focus_from,
        weights=weights_of(weight or []),
        blend=blend or [],
        blend_exclude=blend_exclude or [],
        fresh_noise=fresh_noise,
        noise_seed=noise_seed,
        steady=steady or [],
    )
    check_guidance(guidance)
    for text in prompt:
        check_text(text)
    stored, model = loading.stored_inversion(inversion, model)
    if len(stored.prompts) != 1:
        raise InputError(f"this inversion holds {len(stored.prompts)} images; the command line edits one at a time")
    outputs, maps = numbered(out, len(prompt)), map_files(save_attention, len(prompt))
    if save_attention is not None:
        check_folder(save_attention)
    picture_file = None if reference is None else read_picture(reference)
    existing = [path for path in maps if os.path.isdir(path.parent)]
    check_outputs([*outputs, *existing], read_from(model, config, inversion, reference), ".png")
    loaded = loading.reopen(stored, model, device, dtype, config)
    photo = None if picture_file is None else photo_of(picture_file, reference, stored, loaded)
    with progress() as callback:
        found = apply(loaded, stored, prompt, settings, guidance, photo if keep_photo else None, callback)
    for path, picture, mask in zip(outputs, found.pictures, found.result.mask[0], strict=True):
        save_image(picture, path)
        typer.echo(f"saved: {path}" + ("" if photo is None else f" ({kept_words(picture, photo[0], mask)})"))
    if save_attention is not None:
        save_maps(save_attention, maps, loaded, found)


def save_maps(folder: Path, files: list[Path], model: DiffusersModel, found: Edited) -> None:
    """Write the heat map of each word of the source and of every edit."""
    import torch

    from ..figures import word_maps
    from ..photo.images import save_pil

    result = found.result
    if result.maps is None:
        raise InputError(
            "the model has no cross-attention of the size that maps are read at; leave out --save-attention"
        )
    folder.mkdir(parents=True, exist_ok=True)
    shown = torch.cat([model.decode(result.source), found.pictures])
    for path, picture, attention, one in zip(files, shown, result.maps[0].cpu(), found.prompts, strict=True):
        save_pil(word_maps(picture, attention, one), path)
    typer.echo(f"attention: {folder}")


def map_files(folder: Path | None, edits: int) -> list[Path]:
    names = ["source", *(f"edit-{i + 1}" for i in range(edits))]
    return [] if folder is None else [folder / f"{name}.png" for name in names]


def weights_of(texts: list[str]) -> dict[str, float]:
    """Factors by word from WORD=2.0 texts."""
    weights: dict[str, float] = {}
    for text in texts:
        word, _, value = text.rpartition("=")
        try:
            factor = float(value)
        except ValueError as error:
            raise InputError(f'--weight "{short(text)}" must look like WORD=2.0') from error
        if word in weights:
            raise InputError(f'--weight names "{short(word)}" twice; give each word one')
        weights[word] = factor
    return weights
