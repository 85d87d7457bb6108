"""What commands show while they work, and what they say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

if TYPE_CHECKING:
    from PIL.Image import Image

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


def shows_pictures(out: Console) -> bool:
    """Whether a terminal shows what ``in_blocks`` draws: it has many colours, may use them, and knows the sign."""
    many = out.color_system in ("256", "truecolor")
    return out.is_terminal and many and not out.no_color and out.encoding.startswith("utf")


def in_blocks(picture: Image, columns: int, lines: int = 40) -> Text:
    """A small picture for a terminal that has colours: half a character a pixel, scaled down where it is larger."""
    scale = min(1.0, columns / picture.width, 2 * lines / picture.height)
    width, height = max(1, round(picture.width * scale)), max(1, round(picture.height * scale / 2)) * 2
    pixels = picture.resize((width, height)).tobytes()
    colours = [f"#{pixels[i : i + 3].hex()}" for i in range(0, len(pixels), 3)]
    text = Text()
    for upper in range(0, len(colours), 2 * width):
        lower = upper + width
        for above, below in zip(colours[upper:lower], colours[lower : lower + width], strict=True):
            text.append("▀", f"{above} on {below}")
        text.append("\n")
    return text


def warn(text: str) -> None:
    """Say something on the way, beside the results."""
    typer.echo(f"note: {text}", err=True)
