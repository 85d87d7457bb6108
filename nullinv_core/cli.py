"""The command line: ``python -m nullinv_core demo | invert | reconstruct | edit``."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.util import find_spec
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from .errors import InputError, NonFiniteError, printable, short
from .files.atomic_write import check_outputs, check_writable
from .null_text.presets import DEFAULT, PRESETS, explained

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from .backends.diffusers import DiffusersModel
    from .files.store import Inversion
    from .types import Callback, Event

app = typer.Typer(
    help="Edit real images by their text prompt: null-text inversion and Prompt-to-Prompt.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
console = Console(stderr=True)

DEVICE_HELP = "cpu, cuda or mps; by default a GPU if there is one."
Device = Annotated[str, typer.Option(help=DEVICE_HELP)]
Precision = Literal["float32", "bfloat16", "float16"]
if TYPE_CHECKING:
    Preset = str
else:
    Preset = Literal[tuple(PRESETS)]
Dtype = Annotated[Precision, typer.Option(help="Precision of the network.")]
OtherDtype = Annotated[Precision | None, typer.Option(help="Precision of the network; by default that of `invert`.")]
InversionFile = Annotated[Path, typer.Option(help="File that `invert` wrote.")]
OtherModel = Annotated[str, typer.Option(help="Where the model is now, if it moved since `invert`.")]
Config = Annotated[
    Path | None,
    typer.Option(help="For a .safetensors checkpoint: a diffusers folder that says how to build it; rarely needed."),
]
DEMO_SEED = 5
"""What the demo shows unless asked for another: a cat that becomes a dog."""
PHASES = {"invert": "inverting", "optimize": "optimizing", "pin": "pinning", "sample": "sampling"}


@app.callback()
def _options(debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False) -> None:
    pass


@contextmanager
def _progress() -> Iterator[Callback]:
    """A progress bar per phase with the live loss, as a callback for the core."""
    columns = (TextColumn("{task.description:<11}"), BarColumn(), TextColumn("{task.completed:>3.0f}/{task.total:.0f}"))
    bars = Progress(*columns, TimeElapsedColumn(), TextColumn("{task.fields[note]}"), console=console)
    tasks: dict[tuple[str, int], TaskID] = {}
    runs: dict[str, tuple[int, int]] = {}

    def show(event: Event) -> None:
        # nothing is shown before there is something to show: an error may come first
        bars.start()
        run, last = runs.get(event.phase, (0, 0))
        run += event.step < last
        runs[event.phase] = (run, event.step)
        key = (event.phase, run)
        if key not in tasks:
            tasks[key] = bars.add_task(PHASES[event.phase], total=event.total, note="")
        note = "" if event.loss is None else f"loss {max(event.loss):.1e} (iteration {event.iteration})"
        bars.update(tasks[key], completed=event.step, note=note)

    try:
        yield show
    finally:
        if tasks:
            bars.stop()


def _warn(text: str) -> None:
    typer.echo(f"note: {text}", err=True)


def _pick_device(device: str) -> str:
    import torch

    if device:
        try:
            # a device may have shapes alone: one number must come back
            torch.zeros(1, device=device).item()
        except (RuntimeError, AssertionError) as error:
            raise InputError(f'device "{device}" cannot be used here; try --device cpu') from error
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _load(model: str, device: str, dtype: str, config: Path | None = None) -> DiffusersModel:
    import torch

    from .backends.diffusers import load_model

    return replace(load_model(model, _pick_device(device), getattr(torch, dtype), config), warn=_warn)


def _check_folder(folder: Path) -> None:
    """Raise InputError where ``folder`` could not be made or written to; make nothing yet."""
    place = folder
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not os.path.isdir(place):
        raise InputError(f'cannot make the folder "{folder}": "{place}" is not a folder')
    check_writable(place / "file")


def _check_text(text: str) -> None:
    from .prompt_to_prompt.emphasis import without_marks

    if not without_marks(text).strip():
        raise InputError("the --prompt is empty; say what the picture shows")


def _check_steps(steps: int) -> None:
    from .schedule import leading_schedule, scaled_linear_alphas

    leading_schedule(scaled_linear_alphas(), steps)


def _read_from(model: str, config: Path | None, *files: Path | None) -> list[Path]:
    """The files and folders that a command reads, which it may not write over."""
    if not model.strip():
        raise InputError("--model is empty; name a diffusers folder, a .safetensors checkpoint, or demo")
    if config is not None and not os.path.isdir(config):
        raise InputError(f'there is no folder "{config}"; --config names a diffusers folder')
    own = None if model == "demo" else Path(model)
    return [path for path in (own, config, *files) if path is not None]


def _stored(inversion: Path, model: str) -> tuple[Inversion, str]:
    """An inversion with null embeddings, and the name of its model."""
    from .files.store import load_inversion

    stored = load_inversion(inversion)
    if stored.null is None:
        raise InputError(f'"{inversion}" holds no null embeddings; invert the image again')
    if model:
        return stored, model
    if not stored.model:
        raise InputError(f'"{inversion}" does not say which model made it; name it with --model')
    if stored.model != "demo" and not _is_local(stored.model):
        raise InputError(
            f'"{inversion}" names the model "{short(stored.model)}", which is no folder or .safetensors file of this '
            "computer; say with --model which one to use"
        )
    return stored, stored.model


def _is_local(name: str) -> bool:
    """Whether a path that stands in a file is the full one of a folder or .safetensors file here.

    What begins with two slashes, however they lean, Windows asks of another computer: not even looked for.
    """
    if name[:2].replace("\\", "/") == "//" or "\0" in name or not os.path.isabs(name):
        return False
    return os.path.isdir(name) or (name.endswith(".safetensors") and os.path.isfile(name))


def _reopen(stored: Inversion, model: str, device: str, dtype: str | None, config: Path | None) -> DiffusersModel:
    """The model that made an inversion, checked to be that one."""
    if model == stored.model != "demo":
        _warn(f'the model is "{printable(model)}", as the inversion file says; --model takes another')
    loaded = _load(model, device, dtype or stored.precision, config)
    loaded.check_made(stored)
    return loaded


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the pictures and report.json.")] = Path("demo-out"),
    seed: Annotated[int, typer.Option(min=0, help="Which scene and edit.")] = DEMO_SEED,
    steps: Annotated[int, typer.Option(help="DDIM steps.")] = 50,
    guidance: Annotated[float, typer.Option(help="Guidance of the reconstruction.")] = 7.5,
) -> None:
    """Invert, reconstruct and edit a scene that the demo model never saw."""
    from .demo.run import demo_case, run_case, write_demo
    from .schedule import check_guidance

    check_guidance(guidance)
    _check_steps(steps)
    _check_folder(out)
    model = _load("demo", "cpu", "float32")
    with _progress() as callback:
        report, pictures = run_case(model, demo_case(seed), seed, steps, guidance, callback=callback)
    write_demo(out, report, pictures)
    table = Table(title=f'"{report.source_prompt}" -> "{report.edit_prompt}"', show_header=False)
    for name, value in asdict(report).items():
        if name.startswith(("psnr", "background", "changed")):
            table.add_row(name, f"{value:.2f} dB")
        elif name.startswith(("edit_judged", "unet")):
            table.add_row(name, str(value))
        elif name.startswith("seconds"):
            table.add_row(name, f"{value:.1f} s")
    Console().print(table)
    typer.echo(f"pictures: {out.resolve()}")


@app.command()
def invert(
    model: Annotated[str, typer.Option(help='Diffusers folder, .safetensors checkpoint, or "demo".')],
    image: Annotated[
        Path, typer.Option(help="The picture. It is scaled and keeps its shape; transparent parts become white.")
    ],
    prompt: Annotated[str, typer.Option(help="What the picture shows; (word:1.5) stresses a word, as in ComfyUI.")],
    out: Annotated[Path, typer.Option(help="File to write, .safetensors.")],
    steps: Annotated[int, typer.Option(help="More steps follow the picture more closely.")] = 50,
    guidance: Annotated[float, typer.Option(help="Guidance that reconstruction and edits will use.")] = 7.5,
    preset: Annotated[Preset, typer.Option(help=f"How null embeddings are made. {explained()}.")] = DEFAULT,
    inner_steps: Annotated[
        int | None, typer.Option(help="Optimizer rounds for each step, at most; for presets that optimize.")
    ] = None,
    low_memory: Annotated[
        bool | None, typer.Option(help="Save memory while optimizing, which is slower; by default only if needed.")
    ] = None,
    size: Annotated[int, typer.Option(help="Shorter side in pixels; 0: what the model was trained at.")] = 0,
    square: Annotated[bool, typer.Option(help="Crop the picture's middle to a square, as the authors do.")] = False,
    device: Device = "",
    dtype: Dtype = "float32",
    config: Config = None,
) -> None:
    """Prepare a picture for edits, and save the result in one file."""
    from .files.store import save_inversion
    from .null_text.presets import PRESETS
    from .photo.images import GRID, check_side, fitted_size, load_image, psnr, read_picture
    from .pipeline import prepare
    from .schedule import check_guidance

    picture = read_picture(image)
    check_outputs([out], _read_from(model, config, image), ".safetensors")
    check_guidance(guidance)
    _check_steps(steps)
    _check_text(prompt)
    recipe = PRESETS[preset]
    if recipe.optimization is None and (inner_steps is not None or low_memory is not None):
        raise InputError(f"--preset {preset} optimizes nothing; leave out --inner-steps and --low-memory")
    if recipe.optimization is not None and inner_steps is not None:
        recipe = replace(recipe, optimization=replace(recipe.optimization, inner_steps=inner_steps))
    if size:
        check_side(size)
        fitted_size(*((size, size) if square else picture.size), size, GRID)
    loaded = replace(_load(model, device, dtype, config), checkpointing=low_memory)
    side = loaded.check_size(size or loaded.native_size)
    photo = load_image(picture, side, 0 if square else loaded.factor)
    with _progress() as callback:
        found = prepare(loaded, photo, prompt, steps, recipe, guidance, callback)
    save_inversion(out, found)
    decibels = psnr(loaded.decode(found.trajectory.clean), photo)
    typer.echo(f"saved: {out} (the autoencoder alone gives the photo back at {decibels:.1f} dB)")


@app.command()
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
    from . import pipeline
    from .photo.images import psnr, read_picture, save_image

    stored, model = _stored(inversion, model)
    outputs = _numbered(out, stored.trajectory.batch)
    if reference is not None and stored.trajectory.batch > 1:
        raise InputError(f"this inversion holds {stored.trajectory.batch} images; --reference is for one alone")
    picture_file = None if reference is None else read_picture(reference)
    check_outputs(outputs, _read_from(model, config, inversion, reference), ".png")
    loaded = _reopen(stored, model, device, dtype, config)
    photo = None if picture_file is None else _photo(picture_file, reference, stored, loaded)
    with _progress() as callback:
        pictures = pipeline.reconstruct(loaded, stored, callback=callback)
    best, limit = loaded.decode(stored.trajectory.clean), "; --reference tells how near the photo is"
    if photo is not None:
        limit = f", which itself is {_autoencoded(best, photo):.1f} dB to the photo"
    for path, picture, wanted in zip(outputs, pictures, best, strict=True):
        save_image(picture, path)
        to_photo = "" if photo is None else f"{psnr(picture, photo[0]):.1f} dB to the photo; "
        typer.echo(f"saved: {path} ({to_photo}{psnr(picture, wanted):.1f} dB to what the autoencoder gives{limit})")


@app.command()
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
    import torch

    from .figures import word_maps
    from .photo.images import read_picture, save_image, save_pil
    from .pipeline import apply
    from .prompt_to_prompt.edit import EditSettings
    from .schedule import check_guidance

    settings = EditSettings(
        mode=mode,
        cross_replace=cross_replace,
        self_replace=self_replace,
        focus_from=focus_from,
        weights=_weights(weight or []),
        blend=blend or [],
        blend_exclude=blend_exclude or [],
        fresh_noise=fresh_noise,
        noise_seed=noise_seed,
        steady=steady or [],
    )
    check_guidance(guidance)
    for text in prompt:
        _check_text(text)
    stored, model = _stored(inversion, model)
    if len(stored.prompts) != 1:
        raise InputError(f"this inversion holds {len(stored.prompts)} images; the command line edits one at a time")
    outputs, maps = _numbered(out, len(prompt)), _map_files(save_attention, len(prompt))
    if save_attention is not None:
        _check_folder(save_attention)
    picture_file = None if reference is None else read_picture(reference)
    existing = [path for path in maps if os.path.isdir(path.parent)]
    check_outputs([*outputs, *existing], _read_from(model, config, inversion, reference), ".png")
    loaded = _reopen(stored, model, device, dtype, config)
    photo = None if picture_file is None else _photo(picture_file, reference, stored, loaded)
    with _progress() as callback:
        found = apply(loaded, stored, prompt, settings, guidance, photo if keep_photo else None, callback)
    pictures, result = found.pictures, found.result
    for path, picture, mask in zip(outputs, pictures, result.mask[0], strict=True):
        save_image(picture, path)
        typer.echo(f"saved: {path}" + ("" if photo is None else f" ({_kept(picture, photo[0], mask)})"))
    if save_attention is None:
        return
    if result.maps is None:
        raise InputError(
            "the model has no cross-attention of the size that maps are read at; leave out --save-attention"
        )
    save_attention.mkdir(parents=True, exist_ok=True)
    shown = torch.cat([loaded.decode(result.source), pictures])
    for path, picture, attention, one in zip(maps, shown, result.maps[0].cpu(), found.prompts, strict=True):
        save_pil(word_maps(picture, attention, one), path)
    typer.echo(f"attention: {save_attention}")


def _photo(picture: Image, name: Path | None, stored: Inversion, loaded: DiffusersModel) -> Tensor:
    """The photo of an inversion, (1, H, W, 3), scaled and cropped as it was; raises InputError for another one."""
    from .photo.images import load_image

    inverted = stored.trajectory.clean
    height, width = (n * loaded.factor for n in inverted.shape[-2:])
    photo = load_image(picture, (width, height))
    latents = loaded.encode_image(photo)
    # half precision and another way of scaling stay far below this, another photo above
    if float((latents.to(inverted) - inverted).square().mean().sqrt() / inverted.std()) > 0.2:
        raise InputError(f'--reference "{name}" is not the photo that was inverted; give that one, or leave it out')
    return photo


def _autoencoded(decoded: Tensor, photo: Tensor) -> float:
    """PSNR of a photo (1, H, W, 3) as the autoencoder alone gives it back; warns of a low one."""
    from .photo.images import autoencoder_warning, psnr

    decibels = psnr(decoded, photo)
    warning = autoencoder_warning(decibels)
    if warning is not None:
        _warn(warning)
    return decibels


def _kept(picture: Tensor, photo: Tensor, mask: Tensor) -> str:
    """How well a picture (H, W, 3) keeps the photo outside of its blend mask, bool (h, w), in words."""
    import numpy as np
    from torch.nn.functional import interpolate

    from .photo.images import from_pil, psnr, ssim, to_pil

    outside = ~interpolate(mask[None, None].float(), picture.shape[:2])[0, 0].bool().cpu().numpy()
    if not outside.any():
        return "everything may change; give --blend words for a region that may not"
    saved = from_pil(to_pil(picture))[0]
    decibels = psnr(saved, photo, outside)
    words = f"outside of the blend mask {'equal to the photo' if np.isinf(decibels) else f'{decibels:.1f} dB'}"
    if find_spec("torchmetrics") is None:
        return f"{words}; SSIM needs torchmetrics (pip install torchmetrics)"
    return f"{words}, SSIM {ssim(saved, photo, outside):.4f}"


def _numbered(out: Path, count: int) -> list[Path]:
    return [out] if count == 1 else [out.with_stem(f"{out.stem}-{i + 1}") for i in range(count)]


def _map_files(folder: Path | None, edits: int) -> list[Path]:
    names = ["source", *(f"edit-{i + 1}" for i in range(edits))]
    return [] if folder is None else [folder / f"{name}.png" for name in names]


def _weights(texts: list[str]) -> dict[str, float]:
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


def main() -> None:
    """Entry point: errors that are meant for people, and what the system refuses, end in one line and exit status 2."""
    if isinstance(sys.stdout, TextIOWrapper):
        # a path or a word that the terminal cannot show stops nothing
        sys.stdout.reconfigure(errors="backslashreplace")
    debug = "--debug" in sys.argv
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    try:
        app(arguments)
    except (InputError, NonFiniteError, OSError) as error:
        if debug:
            traceback.print_exc()
        unexpected = isinstance(error, OSError)
        # libraries write paragraphs
        typer.echo(f"error: {printable(short(str(error), 300)) if unexpected else error}", err=True)
        if unexpected and isinstance(sys.stdout, TextIOWrapper):
            # where it is the output itself, Python would try it once more at the end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(2)
