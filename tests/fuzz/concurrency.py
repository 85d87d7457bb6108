"""Many processes at the same names, some of them killed: ``python -m tests.fuzz --saves 2000``.

Eight write one picture, one inversion and numbered files, over and over; eight read the first two. Writers are killed
at random moments, and others take their places.
"""

import multiprocessing
import random
import tempfile
import time
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import numpy as np
import torch

from nullinv_core import load_inversion, save_inversion
from nullinv_core.files.atomic_write import PREFIX, numbered_file
from nullinv_core.photo.images import read_picture, save_image

from ..core.test_store import some_inversion
from .runner import listed

CONTEXT = multiprocessing.get_context("forkserver")
# imported once, not by each process
CONTEXT.set_forkserver_preload(["tests.fuzz.concurrency"])
PROCESSES = 8
"""Writers, and readers."""
MOST_SECONDS = 600
PICTURE, INVERSION = "photo.png", "photo.safetensors"


@dataclass
class Figures:
    """``unannounced``: numbered files whose writer was killed before it could say so."""

    saves: int
    reads: int
    kills: int
    unannounced: int
    hidden_after_kills: int
    seconds: float

    __str__ = listed


def pixels_of(mark):
    """A picture that only this mark has: (48, 48, 3) bytes, the mark itself in the first."""
    pixels = np.random.default_rng(mark).integers(0, 256, (48, 48, 3), np.uint8)
    pixels[0, 0] = mark >> 16, mark >> 8 & 255, mark & 255
    return pixels


def inversion_of(mark):
    """An inversion that only this mark has, with the mark as its model."""
    return replace(some_inversion(seed=mark), model=str(mark))


def text_of(mark):
    return f"{mark} " * 2000


def save_both(folder, mark):
    save_image(pixels_of(mark) / np.float32(255), folder / PICTURE)
    save_inversion(folder / INVERSION, inversion_of(mark))


def write(folder, number, log, stop):
    """Save under all names until ``stop`` is there; log each numbered file once it is saved."""
    for mark in count(1000 * number):
        if stop.exists():
            return
        save_both(folder, mark)
        path = numbered_file(folder / "photo", ".txt", lambda place, mark=mark: place.write_text(text_of(mark)))
        with log.open("a") as file:
            file.write(f"{path.name} {mark}\n")


def read(folder, log, stop):
    """Read picture and inversion until ``stop`` is there; raises AssertionError for one that nobody wrote as it is."""
    reads = 0
    while not stop.exists():
        pixels = np.asarray(read_picture(folder / PICTURE))
        first, second, third = map(int, pixels[0, 0])
        assert np.array_equal(pixels, pixels_of(first << 16 | second << 8 | third)), "a torn picture"
        found = load_inversion(folder / INVERSION)
        wanted = inversion_of(int(found.model))
        assert torch.equal(found.trajectory.latents, wanted.trajectory.latents), "a torn inversion"
        assert found.null.embeddings.equals(wanted.null.embeddings), "a torn inversion"
        reads += 1
        log.write_text(str(reads))


def crowd(saves, kills, seed=0):
    """Figures of so many saves and kills. Raises AssertionError where something was torn, lost or left over."""
    rng, started = random.Random(seed), time.monotonic()
    with tempfile.TemporaryDirectory() as work:
        folder, logs, stop = Path(work) / "files", Path(work) / "logs", Path(work) / "stop"
        folder.mkdir()
        logs.mkdir()
        save_both(folder, 0)
        numbers = count(1)

        def start(target, *arguments):
            process = CONTEXT.Process(target=target, args=(folder, *arguments, stop))
            process.start()
            return process

        def writer():
            number = next(numbers)
            return start(write, number, logs / f"writer-{number}")

        writers = [writer() for _ in range(PROCESSES)]
        readers = [start(read, logs / f"reader-{number}") for number in range(PROCESSES)]
        moments = sorted(rng.randrange(saves) for _ in range(kills))
        try:
            while len(_announced(logs)) < saves or len(list(logs.glob("reader-*"))) < PROCESSES:
                assert all(process.exitcode is None for process in (*writers, *readers)), "a process failed; see above"
                assert time.monotonic() - started < MOST_SECONDS, "too slow"
                while moments and len(_announced(logs)) >= moments[0]:
                    moments.pop(0)
                    time.sleep(rng.uniform(0, 0.02))
                    victim = writers.pop(rng.randrange(len(writers)))
                    victim.kill()
                    victim.join()
                    writers.append(writer())
                time.sleep(0.005)
            stop.touch()
            for process in (*writers, *readers):
                process.join(60)
                assert process.exitcode == 0, "a process failed; see above"
        finally:
            for process in (*writers, *readers):
                process.kill()
                process.join()
        found = _checked(folder, _announced(logs), kills)
        reads = sum(int(log.read_text()) for log in logs.glob("reader-*"))
        return Figures(len(_announced(logs)), reads, kills, *found, round(time.monotonic() - started, 1))


def _announced(logs):
    """(name, mark) of each numbered file whose writer said that it is saved; half a line says nothing."""
    lines = [line for log in logs.glob("writer-*") for line in log.read_text().splitlines(keepends=True)]
    return [tuple(line.split()) for line in lines if line.endswith("\n")]


def _checked(folder, announced, kills):
    """How many numbered files nobody announced, and how many hidden folders there were until the next save."""
    names = [name for name, _ in announced]
    assert len(set(names)) == len(names), "two writers got one number"
    for name, mark in announced:
        assert (folder / name).read_text() == text_of(int(mark)), f"{name} is lost"
    marks = [(folder / name).read_text().split()[0] for name in sorted(path.name for path in folder.glob("*.txt"))]
    assert len(set(marks)) == len(marks), "one file is there twice"
    assert len(marks) - len(names) <= kills
    hidden = [path for path in folder.iterdir() if path.name.startswith(PREFIX)]
    assert len(hidden) <= kills
    save_both(folder, 0)
    left = {path.name for path in folder.iterdir()} - {f"photo_{i + 1:05d}.txt" for i in range(len(marks))}
    assert left == {PICTURE, INVERSION}, f"left over: {left}"
    return len(marks) - len(names), len(hidden)
