"""A batch from its list to its manifest. Only this process touches the output folder; workers compute."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from ..errors import InputError, short
from ..files.ordinary import open_ordinary
from ..photo.picture_file import LARGEST_FILE
from . import journal, manifest
from .compute import SIZES, About, Options, Outcome, Picture, Worker, files_of, size_on_disk
from .jobs import MOST_EDITS, Job, Jobs, real
from .journal import Journal, Row
from .plan import Group, Size, plan

WRITING = ".writing"
"""Name of the file that is being written; what a kill left of it goes with the next one."""
MEASURED = "auto"
PROBED = 1000
"""Pictures whose sizes are looked at before the number is chosen."""
Task = tuple[int, Group]
"""A group and its number in the journal."""
Load = Callable[[Group], list[Picture]]
"""Reads the pictures of a group, when a worker is ready for them."""


class Workers(Protocol):
    """Where groups are computed."""

    def about(self) -> About:
        """What their model is."""
        ...

    def best_batch(self, size: Size, edits: int, most: int) -> int:
        """See ``Worker``."""
        ...

    def compute(self, tasks: Iterable[Task], load: Load) -> Iterator[tuple[Task, list[Outcome]]]:
        """What becomes of each group, as they are done."""
        ...

    def close(self) -> None:
        """End them."""
        ...


class Here:
    """One worker, in this process."""

    def __init__(self, options: Options) -> None:
        self._worker = Worker(options)
        self.about, self.best_batch = self._worker.about, self._worker.best_batch

    def compute(self, tasks: Iterable[Task], load: Load) -> Iterator[tuple[Task, list[Outcome]]]:
        """See ``Workers``."""
        for task in tasks:
            yield task, self._worker.compute(task[1], load(task[1]))

    def close(self) -> None:
        """See ``Workers``."""


@dataclass(frozen=True)
class Progress:
    """What is said after every group: jobs in all, done and failed ones, how many of these this run made, and what the
    group's worker has to tell."""

    total: int
    done: int
    failed: int
    made: int
    notes: tuple[str, ...] = ()


def run(
    jobs: Jobs, options: Options, out: Path, workers: Callable[[Options], Workers], batch: int | str = MEASURED,
    retry: bool = False, tell: Callable[[Progress], None] = lambda progress: None,
) -> tuple[dict[str, Row], dict[str, Any]]:  # fmt: skip
    """Do what is left of a list, and write its manifest; returns what became of every job, and the run's options.

    ``workers``: makes them; called only where something is left. ``batch``: pictures at once, or "auto". ``retry``:
    once more those that failed. Raises InputError where the folder was begun with other options, or another process
    works in it.
    """
    out.mkdir(parents=True, exist_ok=True)
    with journal.opened(out) as book, ExitStack() as stack:
        known = book.options()
        wanted = _begun(known, options, batch)
        about: About | None = None

        @cache
        def ready() -> Workers:
            made = workers(replace(options, threads=wanted["threads"]))
            stack.callback(made.close)
            return made

        rows = book.rows()
        new, touched = _news(jobs, rows)
        book.record(touched)
        if new or not known:
            about = ready().about()
            if known:
                _check_model(known, about)
        if about is not None and not known:
            known = {**wanted, "fingerprint": about.fingerprint, "precision": about.precision, "device": about.device}
            known["batch"] = batch if isinstance(batch, int) else _measured(jobs, ready(), about)
            book.keep(known)
        if new:
            for job in new:
                _clear(rows.get(job.name), out)
            seen = {job.name: " ".join(_stamp(jobs, job)) for job in new}
            book.add(plan(new, [_size(jobs, job, about) for job in new], known["batch"]), seen)
            rows = book.rows()
        rows = {job.name: rows[job.name] for job in jobs.jobs}
        if left := _left(jobs.jobs, rows, out, options.inversions, retry):
            if about is None:
                _check_model(known, ready().about())
            _work(book, jobs, ready(), rows, left, out, tell)
        for name, content in manifest.contents(jobs.jobs, rows, known).items():
            write(out, name, content)
    return rows, known


SHAPING = (
    "steps", "guidance", "preset", "inner_steps", "size", "square", "keep_pixels", "inversions", "dtype",
)  # fmt: skip
"""Options that all results of a folder share."""


def _begun(known: Mapping[str, Any], options: Options, batch: int | str) -> dict[str, Any]:
    """The options that a folder's results have, which are those that it was begun with."""
    wanted = {name: getattr(options, name) for name in SHAPING}
    for name, value in wanted.items():
        if name in known and known[name] != value:
            spoken = name.replace("_", "-")
            raise InputError(
                f"this folder was begun with --{spoken} {known[name]}, not {value}; give the same, or another --out"
            )
    if known and batch not in (MEASURED, known["batch"]):
        raise InputError(
            f"this folder was begun with --batch {known['batch']}; leave --batch out, or give another --out"
        )
    return {**wanted, "threads": known.get("threads", options.threads)}


def _check_model(known: Mapping[str, Any], there: About) -> None:
    for name, what in (
        ("fingerprint", "another model"),
        ("precision", "another precision"),
        ("device", "another device"),
    ):
        if known[name] != getattr(there, name):
            of = "" if name == "fingerprint" else f" ({known[name]})"
            raise InputError(f"this folder was begun with {what}{of}; take that, or give another --out")


def _news(jobs: Jobs, rows: Mapping[str, Row]) -> tuple[list[Job], list[Row]]:
    """The jobs that the journal does not know as they are now: their texts and settings, or their pictures, are others;
    and rows of pictures that are the same under another time."""
    new, touched = [], []
    for job in jobs.jobs:
        row = rows.get(job.name)
        if row is None or row.digest != job.digest:
            new.append(job)
            continue
        there = _stamp(jobs, job)
        # of a picture that is gone, what was made stays
        if not there or row.picture.split(" ")[:2] == there:
            continue
        if row.state == "waiting":
            new.append(job)
        elif now := _content(jobs, job)[1]:
            if now.rpartition(" ")[2] == row.picture.rpartition(" ")[2]:
                touched.append(replace(row, picture=now))
            else:
                new.append(job)
    return new, touched


def _stamp(jobs: Jobs, job: Job) -> list[str]:
    """Size and time of a job's picture, which another one hardly has; empty where there is none."""
    try:
        found = os.stat(jobs.path(job))
    except (OSError, InputError):
        return []
    return [str(found.st_size), str(found.st_mtime_ns)]


def _clear(row: Row | None, out: Path) -> None:
    """Remove what was made for a job that is done again: nobody should take it for the new result."""
    if row is None:
        return
    own = files_of(Job(row.name, "", "", ("",) * MOST_EDITS), inversions=True)
    try:
        for name in set(row.files or ()) & set(own):
            _inside(out, name).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f'cannot remove "{short(str(error.filename))}": {error.strerror}') from error


def _measured(jobs: Jobs, workers: Workers, about: About) -> int:
    """How many pictures go through the network at once, by the largest of them."""
    sizes = [size for job in jobs.jobs[:PROBED] if (size := _size(jobs, job, about)) is not None]
    if not sizes:
        return 1
    largest = max(sizes, key=lambda size: size[0] * size[1])
    return workers.best_batch(largest, max(len(job.edits) for job in jobs.jobs), min(len(jobs.jobs), SIZES[-1]))


def _size(jobs: Jobs, job: Job, about: About | None) -> Size | None:
    try:
        return None if about is None else about.fitted(size_on_disk(jobs.path(job)))
    except InputError:
        # what is wrong is said when the picture's turn comes
        return None


def _left(jobs: Sequence[Job], rows: Mapping[str, Row], out: Path, inversions: bool, retry: bool) -> set[str]:
    """Names of the jobs that are still to be done: also those whose files are gone."""

    def undone(job: Job) -> bool:
        state = rows[job.name].state
        if state == "done":
            return not all(os.path.isfile(out / name) for name in files_of(job, inversions))
        return state == "waiting" or retry

    return {job.name for job in jobs if undone(job)}


def _work(
    book: Journal, jobs: Jobs, workers: Workers, rows: dict[str, Row], left: set[str], out: Path,
    tell: Callable[[Progress], None],
) -> None:  # fmt: skip
    """Compute the groups of what is ``left``, and keep what comes; ``rows`` and ``left`` follow it."""
    tasks = ((number, book.group(number)) for number in sorted({rows[name].of_group for name in left}))
    states = Counter("waiting" if name in left else row.state for name, row in rows.items())
    tell(Progress(len(rows), states["done"], states["failed"], 0))
    made = 0
    pictures: dict[str, str] = {}

    def load(group: Group) -> list[Picture]:
        found = [_content(jobs, job) for job in group.jobs]
        pictures.update((job.name, stamp) for job, (_, stamp) in zip(group.jobs, found, strict=True))
        return [content for content, _ in found]

    for (number, group), outcomes in workers.compute(tasks, load):
        became = []
        for job, outcome in zip(group.jobs, outcomes, strict=True):
            # a group holds jobs, too, that are done, in another group now, or not in the list any more
            row = rows.get(job.name)
            if row is not None and job.name in left and row.of_group == number:
                became.append(_kept(replace(row, picture=pictures[job.name]), outcome, out))
        book.record(became)
        rows |= {row.name: row for row in became}
        left -= {row.name for row in became}
        states.update(row.state for row in became)
        made += len(became)
        tell(Progress(len(rows), states["done"], states["failed"], made, outcomes[0].notes))


def _kept(row: Row, outcome: Outcome, out: Path) -> Row:
    for name, content in outcome.files.items():
        write(out, name, content)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in outcome.files.items()}
    state: journal.State = "failed" if outcome.sentence else "done"
    return replace(row, state=state, sentence=outcome.sentence, files=digests, seconds=outcome.seconds)


def _content(jobs: Jobs, job: Job) -> tuple[Picture, str]:
    """The content of a job's picture, or why there is none; and what tells it from others: size, time, SHA-256."""
    try:
        with open_ordinary(jobs.path(job)) as file:
            found, data = os.fstat(file.fileno()), file.read(LARGEST_FILE + 1)
    except FileNotFoundError:
        return f'there is no picture "{short(job.picture)}"', ""
    except OSError as error:
        return f'the picture "{short(job.picture)}" cannot be read ({error.strerror})', ""
    except InputError as error:
        return str(error), ""
    if len(data) > LARGEST_FILE:
        return f'"{short(job.picture)}" is larger than 1 GB; save it again as PNG', ""
    return data, f"{found.st_size} {found.st_mtime_ns} {hashlib.sha256(data).hexdigest()}"


def write(out: Path, name: str, content: bytes) -> None:
    """Write a file of the output folder, whole or not at all. Raises InputError where the disk does not take it.

    The journal's lock keeps others out, so one name for what is being written is enough; ``whole_file`` would list a
    folder of many thousand pictures for each.
    """
    path = _inside(out, name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # made here, so that it is no link that somebody else has put there
        (out / WRITING).unlink(missing_ok=True)
        with (out / WRITING).open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(out / WRITING, path)
    except OSError as error:
        raise InputError(f'cannot write "{short(str(path))}": {error.strerror}') from error


def _inside(out: Path, name: str) -> Path:
    """The place of a file of the output folder; raises InputError where a link leads out of it."""
    path = out / name
    if not Path(real(path.parent)).is_relative_to(real(out)):
        raise InputError(f'"{short(str(path.parent))}" leads out of the folder by a link; remove the link')
    return path
