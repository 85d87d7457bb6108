"""What commands show while they work, and what they say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from ..types import Callback, Event

console = Console(stderr=True)
PHASES = {"invert": "inverting", "optimize": "optimizing", "pin": "pinning", "sample": "sampling"}


@contextmanager
def progress() -> Iterator[Callback]:
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
        # a stop may come while the first bar is drawn
        if bars.live.is_started:
            bars.stop()


def warn(text: str) -> None:
    """Say something on the way, beside the results."""
    typer.echo(f"note: {text}", err=True)
