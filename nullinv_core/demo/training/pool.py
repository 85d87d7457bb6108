"""Training data on the device: pictures that are taken in as they are rendered, and what is drawn from them."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from .dataset import JUDGED, Pictures, pictures_path, read_pictures

CAPACITY = 160_000
"""Pictures that a pool has room for."""
FILES = 40
"""Files that are taken in at once."""


@dataclass
class Files:
    """Files of pictures in a folder, each handed out once, as they appear: those of some variations."""

    work: Path
    variations: range = range(JUDGED)
    taken: set[str] = field(default_factory=set)

    def fresh(self, most: int = 10**6) -> list[Path]:
        """At most so many finished files that were not handed out yet."""
        there = [p for p in (self.work / "pictures").glob("*.safetensors") if p.name not in self.taken]
        found = sorted((p for p in there if self.belongs(p)), key=lambda p: (p.name.split("-")[2:], p.name))
        self.taken.update(p.name for p in found[:most])
        return found[:most]

    def belongs(self, path: Path) -> bool:
        """Whether a file holds what would be rendered today: not other looks or shapes, nor another split."""
        variation, index = (int(number) for number in path.name.split("-")[1:3])
        return variation in self.variations and path == pictures_path(self.work, index, variation)

    def wait(self, least: int) -> list[Path]:
        """The files that there are, at least so many; says what makes them where they are still to come."""
        found = self.fresh()
        if len(found) < least:
            draws = f"python -m {pictures_path.__module__} --work {self.work}"
            print(f"waiting for pictures. A part alone draws none; this does: {draws} (how many: --help)", flush=True)
        while len(found) < least:
            time.sleep(0.2)
            found += self.fresh()
        return found


class Pool:
    """Rows of tensors of a fixed capacity, filled from the start; ``count`` of them are filled, float32 ().

    The tensors stay where they are, so that a captured training step sees what was added.
    """

    def __init__(self, device: str, capacity: int = CAPACITY, **like: tuple[tuple[int, ...], torch.dtype]) -> None:
        self.tensors = {k: torch.zeros((capacity, *s), dtype=d, device=device) for k, (s, d) in like.items()}
        self.count = torch.ones((), device=device)
        self.filled = 0

    def add(self, rows: dict[str, Tensor]) -> None:
        """Fill further rows, as far as there is room."""
        room = len(next(iter(self.tensors.values()))) - self.filled
        size = min(room, len(next(iter(rows.values()))))
        for name, part in rows.items():
            self.tensors[name][self.filled : self.filled + size].copy_(part[:size])
        self.filled += size
        self.count.fill_(max(1, self.filled))

    def draw(self, number: int) -> Tensor:
        """Rows drawn at random: int64 (number,)."""
        last = len(next(iter(self.tensors.values()))) - 1
        return (torch.rand(number, device=self.count.device) * self.count).long().clamp_max(last)


def feed(
    files: Files, prepare: Callable[[Pictures], dict[str, Tensor]], add: Callable[[dict[str, Tensor]], None], least: int
) -> Callable[..., None]:
    """Add ``least`` files now; return what adds new ones, a few at a time, when it is called in a loop.

    ``prepare`` runs beside the training, in a thread.
    """
    executor = ThreadPoolExecutor(1)

    def read() -> dict[str, Tensor] | None:
        paths = files.fresh(FILES)
        if not paths:
            time.sleep(1)
            return None
        return prepare(read_pictures(paths))

    for path in files.wait(least):
        add(prepare(read_pictures([path])))
    coming = executor.submit(read)

    def more(*_: object) -> None:
        nonlocal coming
        if coming.done():
            if (rows := coming.result()) is not None:
                add(rows)
            coming = executor.submit(read)

    return more
