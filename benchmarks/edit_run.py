"""Runs the edit benchmark: methods over tasks, by several processes, each row kept as it comes.

Every process edits and scores a few tasks at a time. On a GPU this process edits all tasks first, in large batches, and
keeps their latents; the processes score them afterwards, on the CPU: drawing all the answers that the judge without
training compares with takes longer than the edits. A run that is stopped in between goes on from the latents, on a
machine without a GPU as well.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from nullinv_core import keep_photo
from nullinv_core.backends.diffusers import DiffusersModel, load_model
from nullinv_core.context import Context
from nullinv_core.denoiser import AttentionControl, Counted, Denoiser
from nullinv_core.files.atomic_write import whole_file
from nullinv_core.files.store import write_tensors
from nullinv_core.photo.images import save_image
from nullinv_core.schedule import NoiseLevel
from nullinv_core.scores.networks import clip_measures, lpips_measure, structure_measure
from nullinv_core.scores.pixels import Measure
from nullinv_core.scores.rules import PNP

from .common import add_records, now
from .edit_cases import EditTask
from .edit_methods import METHODS, UNGUIDED
from .edit_photo import photo_of
from .edit_report import Row, named, picture_of
from .edit_scores import scores
from .pie_bench import published_measures

Cell = tuple[str, float]
"""A method and its guidance."""
MakeTask = Callable[[], EditTask]


@dataclass(frozen=True)
class Work:
    """What processes are told. ``until``: when to stop, by ``time.time``. ``unscored``: latents are kept, and that is
    all. ``shown``: tasks whose pictures are kept."""

    out: Path
    cells: tuple[Cell, ...]
    done: frozenset[tuple[str, float, str]] = frozenset()
    model: str = "demo"
    device: str = "cpu"
    batch: int = 1
    until: float = float("inf")
    unscored: bool = False
    commit: str = ""
    shown: frozenset[str] | None = None
    published: bool = False
    lpips: bool = False
    clip: Path | None = None
    dino: Path | None = None

    @property
    def rows(self) -> Path:
        """The file of rows."""
        return self.out / "edit_quality.jsonl"

    @property
    def latents(self) -> Path:
        """The folder of latents that a GPU has made."""
        return self.out / "latents"

    def left(self, tasks: Sequence[EditTask]) -> dict[Cell, list[str]]:
        """For each method and guidance the names of the tasks whose rows are not there; those with none left out."""
        found = {cell: [t.name for t in tasks if (*cell, t.name) not in self.done] for cell in self.cells}
        return {cell: names for cell, names in found.items() if names}

    def late(self) -> bool:
        """Whether it is time to stop, or the process that asked for this was ended."""
        asked_by = parent_process()
        return time.time() >= self.until or (asked_by is not None and not asked_by.is_alive())


@dataclass(frozen=True)
class Cost:
    """What the edit of one picture takes by itself. ``forwards``, ``backwards``: samples through the network."""

    seconds: float
    forwards: float
    backwards: float


@dataclass(frozen=True, eq=False)
class Made:
    """One method's clean latents by the names of the tasks, (C, h, w), float32, on the CPU; ``commit``: of the code."""

    cell: Cell
    latents: dict[str, Tensor]
    cost: Cost
    commit: str


@dataclass(frozen=True, eq=False)
class Edited:
    """One method's picture of one task, (H, W, 3) as decoded, beside the decoded photo."""

    task: EditTask
    cell: Cell
    picture: np.ndarray
    reconstructed: np.ndarray
    cost: Cost
    commit: str


def cells_of(methods: Sequence[str], guidances: Sequence[float | dict[str, float]]) -> tuple[Cell, ...]:
    """Every method at every guidance, one for all or what there is for each, none twice; those that are not guided
    once."""
    cells = []
    for name in methods:
        found = [one if isinstance(one, float) else one.get(name) for one in guidances]
        cells += [(name, 1.0 if name in UNGUIDED else one) for one in found if one is not None]
    return tuple(dict.fromkeys(cells))


class Late(Exception):  # noqa: N818
    """It is time to stop."""


@dataclass(frozen=True)
class Until:
    """A denoiser that raises Late when it is time."""

    denoiser: Denoiser
    work: Work

    def __call__(
        self, latents: Tensor, level: NoiseLevel, context: Context, attention: AttentionControl | None = None,
        unconditional: int = 0,
    ) -> Tensor:  # fmt: skip
        """See ``Denoiser``."""
        if self.work.late():
            raise Late
        return self.denoiser(latents, level, context, attention, unconditional)


def run(work: Work, makers: Sequence[MakeTask], workers: int) -> None:
    """Make the rows that are not there yet, in order of tasks: a stop leaves the first ones whole."""
    chunks = [makers[i : i + work.batch] for i in range(0, len(makers), work.batch)]
    if workers == 1:
        run_all(work, chunks, map)
    else:
        with pool(workers) as executor:
            run_all(work, chunks, executor.map)


def run_all(work: Work, chunks: Sequence[Sequence[MakeTask]], spread: Callable[..., Iterable[Any]]) -> None:
    """As ``run``; ``spread`` is ``map``, or that of several processes."""
    if work.unscored or work.device != "cpu":
        for chunk in chunks:
            if not work.late():
                edit_ahead(work, list(spread(prepared, chunk)))
        chunks = [] if work.unscored else [[make] for chunk in chunks for make in chunk]
    for _ in spread(partial(edit_and_score, replace(work, device="cpu")), chunks):
        pass


def pool(workers: int) -> ProcessPoolExecutor:
    """Processes of one thread each."""
    # a forked process cannot use a GPU that its parent uses
    return ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (1,))


def prepared(make: MakeTask) -> EditTask:
    """The task."""
    return make()


def edit_ahead(work: Work, tasks: Sequence[EditTask]) -> None:
    """Keep the latents that are not there yet of all methods."""
    left, there = work.left(tasks), kept_latents(work.latents, tasks)
    for made in edits(work, tasks, _lacking(left, there)):
        keep_latents(work.latents, made)


def _lacking(left: Mapping[Cell, Sequence[str]], there: Container[tuple[Cell, str]]) -> list[Cell]:
    """Methods and guidances of which some task has no latents."""
    return [cell for cell, names in left.items() if any((cell, name) not in there for name in names)]


def edit_and_score(work: Work, makers: Sequence[MakeTask]) -> None:
    """All rows of a few tasks."""
    if not work.late():
        for found in edited(work, [make() for make in makers]):
            record(work, found)


def edits(work: Work, tasks: Sequence[EditTask], cells: Sequence[Cell]) -> Iterator[Made]:
    """Latents of the tasks by some methods, until it is time to stop."""
    if not cells:
        return
    model, count = _model(work.model, work.device), len(tasks)
    photo = photo_of(model, tasks)
    photo = replace(photo, denoiser=Counted(Until(model.denoiser, work)))
    for name, guidance in cells:
        started = now(model.device)
        try:
            latents, (forwards, backwards) = photo.cost_of(lambda: METHODS[name](photo, guidance))  # noqa: B023
        except Late:
            return
        cost = Cost((now(model.device) - started) / count, forwards / count, backwards / count)
        by_task = dict(zip((task.name for task in tasks), latents.float().cpu().contiguous(), strict=True))
        yield Made((name, guidance), by_task, cost, work.commit)


def edited(work: Work, tasks: Sequence[EditTask]) -> Iterator[Edited]:
    """Pictures of the tasks by all methods whose rows are not there, until it is time to stop."""
    left, there = work.left(tasks), kept_latents(work.latents, tasks)
    if not left:
        return
    missing = _lacking(left, there)
    new = edits(work, tasks, missing)
    model = _model(work.model, work.device)
    photos = torch.stack([torch.from_numpy(task.source) for task in tasks])
    reconstructed = model.decode(model.encode_image(photos)).numpy()
    for cell, names in left.items():
        made = next(new, None) if cell in missing else None
        if made is None and cell in missing:
            return
        for task, photo in zip(tasks, reconstructed, strict=True):
            if task.name in names:
                found = made or there[cell, task.name]
                picture = model.decode(found.latents[task.name][None].to(model.device))[0].numpy()
                yield Edited(task, cell, picture, photo, found.cost, found.commit)


def keep_latents(folder: Path, made: Made) -> None:
    """Write latents to a file of their own."""
    method, guidance = made.cell
    about = {"method": method, "guidance": guidance, "cost": asdict(made.cost), "commit": made.commit}
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{re.sub('[^a-zA-Z0-9]+', '-', method)}-{guidance:g}-{next(iter(made.latents))}"
    with whole_file(folder / f"{name}.safetensors") as place:
        write_tensors(place, made.latents, {"about": json.dumps(about)})


def kept_latents(folder: Path, tasks: Sequence[EditTask]) -> dict[tuple[Cell, str], Made]:
    """What ``keep_latents`` has written of some tasks, by method, guidance and task."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["about"])
            own = set(file.keys())
            latents = {task.name: file.get_tensor(task.name) for task in tasks if task.name in own}
        made = Made((about["method"], about["guidance"]), latents, Cost(**about["cost"]), about["commit"])
        found.update({(made.cell, name): made for name in latents})
    return found


def record(work: Work, found: Edited) -> None:
    """Score a picture as decoded and with the photo's own pixels, and keep both rows; pictures go beside them."""
    task, (name, guidance), cost = found.task, found.cell, found.cost
    photo, own, decoded = (torch.from_numpy(x)[None] for x in (task.source, found.picture, found.reconstructed))
    pictures = {False: found.picture, True: keep_photo(photo, own, decoded)[0][0].numpy()}
    rows = []
    for photo_kept, picture in pictures.items():
        judged = scores(picture, task, _measures(work))
        rows.append(
            Row(
                name, photo_kept, task.name, task.kind, guidance, judged, cost.seconds, cost.forwards, cost.backwards,
                found.commit,
            )
        )  # fmt: skip
        if work.shown is None or task.name in work.shown:
            _keep(work.out, task, named(rows[-1]), picture)
            _keep(work.out, task, "source", task.source)
            if task.truths:
                _keep(work.out, task, "truth", task.truths[0])
    add_records(work.rows, [_short(asdict(row)) for row in rows])


def _short(value: Any) -> Any:
    """The same with five digits to each number: thousands of rows stay small."""
    if isinstance(value, dict):
        return {key: _short(one) for key, one in value.items()}
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _keep(out: Path, task: EditTask, name: str, picture: np.ndarray) -> None:
    path = picture_of(out, task.name, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        save_image(picture, path)


@cache
def _model(path: str, device: str) -> DiffusersModel:
    # rounded to ten bits, as a GPU does by default, convolutions lead inversions astray
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = False, True
    return load_model(path, device)


@cache
def _measures(work: Work) -> dict[str, Measure]:
    measures = published_measures() if work.published else {}
    measures |= lpips_measure(rule=PNP) if work.lpips else {}
    measures |= clip_measures(work.clip) if work.clip else {}
    return measures | (structure_measure(work.dino) if work.dino else {})
