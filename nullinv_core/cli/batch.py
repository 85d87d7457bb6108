"""The command ``batch``."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..batch.jobs import OF_LIST, Defaults, Jobs, read_job_file, read_jobs, real, unread
from ..errors import InputError, short
from ..files.job_file import RUN
from ..prompt_to_prompt.emphasis import check_text
from ..prompt_to_prompt.kinds import layered
from ..settings import BY_KIND, EDIT, GUIDANCE, INNER_STEPS, KEEP_PIXELS, LISTS, OWN_SIZE, PRESET, STEPS
from . import models
from .console import console, warn
from .options import Config, Device, Dtype, takes, typed

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..batch.compute import Options
    from ..batch.journal import Row
    from ..batch.run import Progress as Made
    from ..batch.run import Workers

SHOWN = 20
"""Failures that are listed, of which all stand in the manifest; and notes."""
OF_RUN = {one.name: one for one in (STEPS, GUIDANCE, PRESET, OWN_SIZE, KEEP_PIXELS)}
KINDS: dict[str, type | tuple[type, ...]] = {"int": int, "float": (int, float), "bool": bool, "choice": str}
"""What a job file has for each kind of setting."""


Source = Annotated[
    Path,
    typer.Argument(
        help="A folder of pictures, with a .txt file beside each: what it shows, then an edit in each line. Or a .csv "
        "or .jsonl list, or a folder of PIE-Bench.",
        show_default=False,
    ),
]
Out = Annotated[Path, typer.Option(help="Folder to write to. The same command goes on where it was stopped.")]
Model = Annotated[str, typer.Option(help='Diffusers folder, .safetensors checkpoint, or "demo".')]
Prompt = Annotated[str, typer.Option(help="What pictures show that do not say so themselves.")]
Edits = Annotated[
    list[str] | None,
    typer.Option(help="What pictures that do not say so should show instead. Can be given several times."),
]
JobFile = Annotated[
    Path | None, typer.Option(help="Settings from ComfyUI: what Save Batch Job wrote. Options given here win.")
]
Pictures = Annotated[
    Path | None, typer.Option(help="Folder from which a list names its pictures; by default the list's own.")
]
Inversions = Annotated[bool, typer.Option(help="Write an inversion file of each picture too; then no edit is needed.")]
HowMany = Annotated[
    str,
    typer.Option(
        help="auto: one for each GPU; a number; or ray://HOST:PORT, a Ray cluster of your own. More than one needs "
        "ray (pip install ray)."
    ),
]
Together = Annotated[
    str, typer.Option(help="Pictures that go through the network together; auto: as many as is fastest here.")
]


@takes(*BY_KIND, *EDIT, STEPS, GUIDANCE, PRESET, OWN_SIZE, INNER_STEPS, KEEP_PIXELS)
def batch(
    context: typer.Context,
    source: Source,
    *,
    out: Out,
    model: Model = "",
    prompt: Prompt = "",
    edit: Edits = None,
    job: JobFile = None,
    pictures: Pictures = None,
    steps: int,
    guidance: float,
    preset: str,
    size: int,
    inner_steps: int | None,
    keep_pixels: bool,
    square: Annotated[bool, typer.Option(help="Crop the pictures' middle to a square, as the authors do.")] = False,
    inversions: Inversions = False,
    workers: HowMany = "auto",
    batch: Together = "auto",
    retry: Annotated[bool, typer.Option(help="Once more those that failed.")] = False,
    device: Device = "",
    dtype: Dtype = "float32",
    config: Config = None,
    **given: Any,
) -> None:
    """Edit a folder of pictures, or a list of them; on one computer or on many.

    Stop it at any time: the same command goes on, and nothing is done twice. Exit status 1: some pictures failed.
    """
    own = {"prompt": prompt, "edit": tuple(edit or ()), "model": model, "steps": steps, "guidance": guidance,
           "preset": preset, "size": size, "keep_pixels": keep_pixels}  # fmt: skip
    defaults, run_options = _with_job(job, typed(context, {**own, **given}), own)
    jobs = read_jobs(source, defaults, pictures, out, edits_needed=not inversions)
    _check_out(out, jobs, source, job)
    if os.path.isdir(source) and (left := unread(source, out)):
        more = f" and {len(left) - 1} more" * (len(left) > 1)
        warn(f'"{short(str(left[0]))}"{more}: captioned, but not of a kind that is read; save as PNG or JPEG')
    options = _options(run_options, square=square, inversions=inversions, inner_steps=inner_steps, dtype=dtype,
                       config="" if config is None else str(config), device=device)  # fmt: skip
    models.read_from(options.model, config)
    models.check_folder(out)
    count = _batch(batch)
    start, threads = _workers(workers, device)

    from dataclasses import replace

    from ..batch.run import run

    try:
        with _progress() as tell:
            rows, _ = run(jobs, replace(options, threads=threads), out, start, count, retry, tell)
    except SystemExit:
        warn("the same command goes on from here")
        raise
    _report(jobs, rows, out)


def _with_job(job: Path | None, said: Mapping[str, Any], own: Mapping[str, Any]) -> tuple[Defaults, dict[str, Any]]:
    """What a job file says, and before it what the options ``said``: of every picture, and of the run."""
    defaults, of_run = (Defaults(), {}) if job is None else read_job_file(job)
    settings = {name: said[name] for name in OF_LIST if name in said}
    settings = {name: ",".join(value) if _is_list(name) else value for name, value in settings.items()}
    for name, value in of_run.items():
        kinds = KINDS[OF_RUN[name].kind] if name in OF_RUN else str
        if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
            raise InputError(f'"{job}" has a {name} of the wrong kind; write the file again with Save Batch Job')
        if isinstance(value, str):
            check_text(value)
        if name in OF_RUN:
            OF_RUN[name].check(value)
    whole = Defaults(
        said.get("prompt", defaults.prompt), said.get("edit", defaults.edits), layered(defaults.settings, settings)
    )
    return whole, {name: said.get(name, of_run.get(name, own[name])) for name in RUN}


def _is_list(name: str) -> bool:
    return any(one.name == name and one.kind in LISTS for one in EDIT)


def _options(run: dict[str, Any], **more: Any) -> Options:
    from ..batch.compute import Options
    from ..photo.images import check_side
    from ..schedule import check_guidance

    options = Options(**{**run, "guidance": float(run["guidance"])}, **more)
    models.check_steps(options.steps)
    check_guidance(options.guidance)
    if options.size:
        check_side(options.size)
    models.check_inner_steps(options.inner_steps)
    if options.recipe.optimization is None and options.inner_steps is not None:
        raise InputError(f"--preset {options.preset} optimizes nothing; leave out --inner-steps")
    return options


def _check_out(out: Path, jobs: Jobs, source: Path, job: Path | None) -> None:
    """Raise InputError where what is written could take the place of what is read."""
    there, root = real(out), real(jobs.root)
    if Path(root).is_relative_to(there):
        raise InputError(f'--out "{out}" holds the pictures themselves; give another folder')
    for file in (source, job):
        if file is not None and os.path.isfile(file) and Path(real(file)).is_relative_to(there):
            raise InputError(f'"{file}" lies in --out, where it may be written over; give another folder')
    if Path(there).is_relative_to(root):
        for one in jobs.jobs:
            if real(jobs.path(one)).startswith(there + os.sep):
                raise InputError(f'the picture "{one.picture}" lies in --out; give another folder')


def _batch(text: str) -> int | str:
    if text == "auto":
        return text
    if not 1 <= _number(text) <= 4096:
        raise InputError(f'--batch must be auto or a number from 1 to 4096, not "{short(text)}"')
    return _number(text)


def _number(text: str) -> int:
    """A whole number as people write it; 0 for anything else, and for more digits than any that is taken."""
    return int(text) if text.isdecimal() and len(text) < 10 else 0


def _workers(text: str, device: str) -> tuple[Callable[[Options], Workers], int]:
    """What starts so many workers, and the threads that each has on a CPU."""
    import torch

    from ..batch.run import Here

    at = text if text.startswith("ray://") else ""
    gpus = torch.cuda.device_count() if device in ("", "cuda") else 0
    if not at and text != "auto" and not 1 <= _number(text) <= 10_000:
        raise InputError(f'--workers must be auto, a number, or ray://HOST:PORT, not "{short(text)}"')
    count = 0 if at else max(1, gpus) if text == "auto" else _number(text)
    # a number for each level of nested threads, of which the first is ours
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    threads = _number(asked) or max(1, torch.get_num_threads() // max(count, 1))
    if count == 1:
        return Here, threads
    if find_spec("ray") is None:
        if text == "auto":
            warn(f"one of {gpus} GPUs is used; for all of them: pip install ray")
            return Here, threads
        raise InputError(f"--workers {text} needs ray; python -m pip install ray")
    from ..batch.cluster import cluster

    return cluster(count, at), threads


@contextmanager
def _progress() -> Iterator[Callable[[Made], None]]:
    """A bar over all pictures, and what is left."""
    columns = (TextColumn("pictures"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[failed]}"))
    bar = Progress(*columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=console)
    task = bar.add_task("", total=None, failed="")

    told: set[str] = set()

    def tell(made: Made) -> None:
        bar.start()
        for note in set(made.notes) - told if len(told) < SHOWN else ():
            told.add(note)
            bar.console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
        failed = f"{made.failed} failed" if made.failed else ""
        bar.update(task, total=made.total, completed=made.done + made.failed, failed=failed)

    try:
        yield tell
    finally:
        if bar.live.is_started:
            bar.stop()


def _report(jobs: Jobs, rows: Mapping[str, Row], out: Path) -> None:
    failed = [rows[job.name] for job in jobs.jobs if rows[job.name].state == "failed"]
    for row in failed[:SHOWN]:
        typer.echo(f"failed: {row.name}: {row.sentence}", err=True)
    if len(failed) > SHOWN:
        typer.echo(f"… and {len(failed) - SHOWN} more, see the manifest", err=True)
    typer.echo(f"done: {len(rows) - len(failed)} of {len(rows)} pictures, listed in {out / 'manifest.csv'}")
    if failed:
        typer.echo("--retry tries those that failed once more", err=True)
        raise typer.Exit(1)
