"""The command ``score``."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.progress import track

from ..errors import InputError
from ..settings import RULE
from . import models
from .console import console, warn
from .options import Device, takes

if TYPE_CHECKING:
    from ..scores.pixels import Measure
    from ..scores.rules import Rule

TORCHVISION = "torchvision"


@takes(RULE)
def score(
    *,
    pictures: Annotated[
        list[str], typer.Argument(help="A folder of edited pictures for each method, as FOLDER or NAME=FOLDER.")
    ],
    against: Annotated[Path, typer.Option(help="PIE-Bench's folder, or one of its layout.")],
    rule: str,
    against_truth: Annotated[
        bool, typer.Option("--against-truth", help="Measure the distance to the true answers in true_images too.")
    ] = False,
    clip: Annotated[Path | None, typer.Option(help="Folder of a CLIP model: CLIP similarity.")] = None,
    dino: Annotated[Path | None, typer.Option(help="Folder of DINO's ViT: structure distance.")] = None,
    lpips: Annotated[
        str, typer.Option(help="LPIPS: a .safetensors file of squeezenet1_1, or torchvision for the one it fetched.")
    ] = "",
    out: Annotated[
        Path | None, typer.Option(help="Folder for scores.md, .csv and .tex, and a line for each picture in .jsonl.")
    ] = None,
    format: Annotated[Literal["markdown", "csv", "latex"], typer.Option(help="What is printed.")] = "markdown",
    partial: Annotated[
        bool, typer.Option("--partial", help="Leave out edits of which a method's picture is missing or damaged.")
    ] = False,
    device: Device = "",
) -> None:
    """Say how good edited pictures are: any method's, against PIE-Bench or a folder like it."""
    if find_spec("torchmetrics") is None:
        raise InputError("score needs torchmetrics; python -m pip install torchmetrics")
    from ..files.atomic_write import whole_file
    from ..scores.pie_bench import pie_edits
    from ..scores.rules import RULES
    from ..scores.score import named_folders, score
    from ..scores.tables import FORMATS, SUFFIX, as_jsonl

    chosen, methods = RULES[rule], named_folders(pictures)
    if out is not None:
        models.check_folder(out)
    edits = list(pie_edits(against))
    if not edits:
        raise InputError(f'"{against}" names no edit')
    measures = _measures(chosen, against_truth, clip, dino, lpips, device)
    shown = track(edits, "scoring", console=console, transient=True)
    rows, left_out = score(shown, against, methods, measures, chosen, against_truth, partial)
    for sentence in left_out:
        warn(f"left out: {sentence}")
    if not rows:
        raise InputError(f'no edit of "{against}" has a picture of every method')
    typer.echo(FORMATS[format](rows, chosen), nl=False)
    if out is None:
        return
    out.mkdir(parents=True, exist_ok=True)
    about = {"methods": list(methods), "edits": len(edits), "left_out": left_out}
    texts = {SUFFIX[name]: made(rows, chosen) for name, made in FORMATS.items()}
    for suffix, text in (texts | {".jsonl": as_jsonl(rows, chosen, about)}).items():
        with whole_file(out / f"scores{suffix}") as partial_file:
            partial_file.write_text(text, encoding="utf-8")
    warn(f"written: {out / 'scores'} .md, .csv, .tex and .jsonl")


def _measures(
    rule: Rule, truth: bool, clip: Path | None, dino: Path | None, lpips: str, device: str
) -> dict[str, Measure]:
    from ..backends.diffusers.device import pick_device
    from ..scores.networks import clip_measures, lpips_measure, structure_measure
    from ..scores.pixels import kept_measures, truth_measures

    place = pick_device(device)
    measures = kept_measures(rule) | (truth_measures() if truth else {})
    if dino is not None:
        measures |= structure_measure(dino, place, rule)
    if lpips:
        measures |= lpips_measure(None if lpips == TORCHVISION else Path(lpips), place, rule)
    return measures | (clip_measures(clip, place, rule) if clip is not None else {})
