"""Runs the edit benchmark: methods over tasks, by several processes, each row kept as it comes.

On a CPU every process edits and scores a few tasks at a time. On a GPU this process edits many tasks in one batch, and
the others score them: a small network's many short calls gain by batches, and drawing all the answers that the judge
without training compares with takes longer than the edits.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import cache
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nullinv_core import keep_photo
from nullinv_core.backends.diffusers import DiffusersModel, load_model
from nullinv_core.context import Context
from nullinv_core.demo.nearest import nearer
from nullinv_core.denoiser import AttentionControl, Counted, Denoiser
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
WAITING = 8
"""Scores that may wait for each process: a stop loses no more."""


@dataclass(frozen=True)
class Work:
    """What processes are told. ``until``: when to stop, by ``time.time``. ``shown``: tasks whose pictures are kept."""

    out: Path
    cells: tuple[Cell, ...]
    done: frozenset[tuple[str, float, str]] = frozenset()
    model: str = "demo"
    device: str = "cpu"
    batch: int = 1
    until: float = float("inf")
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

    def late(self) -> bool:
        """Whether it is time to stop, or the process that asked for this was ended."""
        asked_by = parent_process()
        return time.time() >= self.until or (asked_by is not None and not asked_by.is_alive())


@dataclass(frozen=True)
class Edited:
    """One method's picture of one task, (H, W, 3) as decoded, beside the decoded photo; its cost by itself."""

    task: EditTask
    cell: Cell
    picture: np.ndarray
    reconstructed: np.ndarray
    seconds: float
    forwards: float
    backwards: float


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
        for chunk in chunks:
            edit_and_score(work, chunk)
    elif work.device == "cpu":
        with pool(workers) as executor:
            for future in [executor.submit(edit_and_score, work, chunk) for chunk in chunks]:
                future.result()
    else:
        edit_here_score_there(work, chunks, workers)


def pool(workers: int) -> ProcessPoolExecutor:
    """Processes of one thread each."""
    # a forked process cannot use a GPU that its parent uses
    return ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (1,))


def edit_and_score(work: Work, makers: Sequence[MakeTask]) -> None:
    """All rows of a few tasks."""
    if not work.late():
        for found in edited(work, [make() for make in makers]):
            record(work, found)


def edit_here_score_there(work: Work, chunks: Sequence[Sequence[MakeTask]], workers: int) -> None:
    """As ``run``, on a GPU."""
    # with each picture, so without the long list of what is done
    told = replace(work, done=frozenset())
    with ExitStack() as stack:
        # a task stays with its process, which keeps the answers that it has drawn
        scorers = [stack.enter_context(pool(1)) for _ in range(workers)]
        waiting: deque[Future[None]] = deque()
        for chunk in chunks:
            if work.late():
                break
            made = [scorers[i % workers].submit(prepared, make) for i, make in enumerate(chunk)]
            tasks = [future.result() for future in made]
            place = {task.name: i % workers for i, task in enumerate(tasks)}
            waiting.extend(scorers[place[task.name]].submit(draw_answers, task) for task in tasks)
            for found in edited(work, tasks):
                waiting.append(scorers[place[found.task.name]].submit(record, told, found))
                while len(waiting) > WAITING * workers + len(tasks):
                    waiting.popleft().result()
        for future in waiting:
            future.result()


def prepared(make: MakeTask) -> EditTask:
    """The task."""
    return make()


def draw_answers(task: EditTask) -> None:
    """Draw what the judge without training compares with, so that it is there for every method."""
    if task.case is not None:
        nearer(task.source, task.case.target)


def edited(work: Work, tasks: Sequence[EditTask]) -> Iterator[Edited]:
    """Pictures of the tasks by all methods whose rows are not there, until it is time to stop."""
    left = [
        (name, guidance, [t for t in tasks if (name, guidance, t.name) not in work.done])
        for name, guidance in work.cells
    ]
    if not any(some for *_, some in left):
        return
    model = _model(work.model, work.device)
    photo = replace(photo_of(model, tasks), denoiser=Counted(Until(model.denoiser, work)))
    reconstructed = photo.reconstructed.numpy()
    for name, guidance, some in left:
        if not some:
            continue
        started = now(model.device)
        try:
            latents, (forwards, backwards) = photo.cost_of(lambda: METHODS[name](photo, guidance))  # noqa: B023
        except Late:
            return
        pictures = model.decode(latents).numpy()
        seconds, count = now(model.device) - started, len(tasks)
        for row, task in enumerate(tasks):
            if task in some:
                yield Edited(
                    task, (name, guidance), pictures[row], reconstructed[row], seconds / count, forwards / count,
                    backwards / count,
                )  # fmt: skip


def record(work: Work, found: Edited) -> None:
    """Score a picture as decoded and with the photo's own pixels, and keep both rows; pictures go beside them."""
    task, (name, guidance) = found.task, found.cell
    photo, own, decoded = (torch.from_numpy(x)[None] for x in (task.source, found.picture, found.reconstructed))
    pictures = {False: found.picture, True: keep_photo(photo, own, decoded)[0][0].numpy()}
    rows = []
    for photo_kept, picture in pictures.items():
        judged = scores(picture, task, _measures(work))
        rows.append(
            Row(
                name, photo_kept, task.name, task.kind, guidance, judged, found.seconds, found.forwards,
                found.backwards, work.commit,
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
