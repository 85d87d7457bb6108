"""What goes through the network together: fixed by the list of jobs, whatever is done already.

The last bits of a result depend on how many pictures are computed at once, and with presets that stop early on which.
So a group is always computed whole, and it never changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .jobs import Job

Size = tuple[int, int]


@dataclass(frozen=True)
class Group:
    """Jobs that are computed together. ``size``: (width, height) that their pictures are scaled to; None where that is
    not known, as the picture could not be read when it was planned."""

    size: Size | None
    jobs: tuple[Job, ...]


def plan(jobs: Sequence[Job], sizes: Sequence[Size | None], batch: int) -> list[Group]:
    """Groups of at most ``batch`` jobs of one size and one number of edits, in the order of their first jobs.

    ``sizes``: of each job's picture as it will be computed; jobs without one stay alone.
    """
    groups: list[list[int]] = []
    open_groups: dict[tuple[Size, int], list[int]] = {}
    for place, (job, size) in enumerate(zip(jobs, sizes, strict=True)):
        if size is None:
            groups.append([place])
            continue
        key = size, len(job.edits)
        if len(open_groups.get(key, ())) in (0, batch):
            open_groups[key] = []
            groups.append(open_groups[key])
        open_groups[key].append(place)
    return [Group(sizes[places[0]], tuple(jobs[place] for place in places)) for places in groups]
