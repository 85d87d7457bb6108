"""What the edit benchmark makes of its rows: tables, a plot of what is kept against what is right, a picture sheet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from nullinv_core.figures import side_by_side
from nullinv_core.images import save_pil

from .common import markdown_table
from .edit_scores import Scores, interval


@dataclass(frozen=True)
class Row:
    """One method on one task. ``photo_kept``: with the photo's own pixels where the picture hardly differs."""

    method: str
    photo_kept: bool
    task: str
    kind: str
    guidance: float
    seconds: float
    scores: Scores


def named(row: Row) -> str:
    """What a row's line, point or picture is called."""
    return f"{row.method}, photo kept" if row.photo_kept else row.method


def mean_of(rows: Sequence[Row], name: str) -> tuple[float, float, float] | None:
    """Mean of a score ("gain", "kept.psnr", "learned.CLIP" …) with its interval, over the rows that have it."""
    part, _, figure = name.partition(".")
    found = [getattr(row.scores, part) for row in rows]
    if part == "learned":
        found = [one.get(figure) for one in found]
    elif figure:
        found = [None if one is None else getattr(one, figure) for one in found]
    values = [float(one) for one in found if one is not None and np.isfinite(one)]
    return interval(values) if values else None


def by_method(rows: Sequence[Row]) -> str:
    """One line a method: means with 95 % bootstrap intervals, of the scores that any row has."""
    columns = {
        "as asked": ("asked", "{:.0%}"), "edits right": ("right", "{:.0%} ({:.0%}-{:.0%})"),
        "kept, dB": ("kept.psnr", "{:.1f} ({:.1f}-{:.1f})"),
        "kept, SSIM": ("kept.ssim", "{:.3f}"), "kept, MS-SSIM": ("kept.ms_ssim", "{:.3f}"),
        "changed, dB": ("changed.psnr", "{:.1f} ({:.1f}-{:.1f})"), "gain, dB": ("gain", "{:+.1f}"),
        "changed, SSIM": ("changed.ssim", "{:.3f}"), "changed, MS-SSIM": ("changed.ms_ssim", "{:.3f}"),
    }  # fmt: skip
    learned = dict.fromkeys(name for row in rows for name in row.scores.learned)
    columns |= {name: (f"learned.{name}", "{:.2f}") for name in learned}
    columns = {head: (name, form) for head, (name, form) in columns.items() if mean_of(rows, name)}
    lines = []
    for method, own in grouped(rows, named).items():
        cells = [(mean_of(own, name), form) for name, form in columns.values()]
        guidance = f"{own[0].guidance:g}"
        lines.append([method, guidance, *("" if m is None else form.format(*m) for m, form in cells), str(len(own))])
    return markdown_table(["method", "guidance", *columns, "edits"], lines)


def by_kind(rows: Sequence[Row]) -> str:
    """Edits judged right, kind by kind, of those that a judge can tell."""
    rows = [row for row in rows if row.scores.right is not None]
    kinds = list(grouped(rows, lambda row: row.kind))
    lines = []
    for method, own in grouped(rows, named).items():
        groups = grouped(own, lambda row: row.kind)
        cells = [(sum(bool(r.scores.right) for r in groups.get(k, [])), len(groups.get(k, []))) for k in kinds]
        lines.append([method, *(f"{right} of {of}" if of else "" for right, of in cells)])
    return markdown_table(["edits right", *kinds], lines)


def grouped(rows: Sequence[Row], key: Callable[[Row], str]) -> dict[str, list[Row]]:
    """Rows by what ``key`` says of them, in order of appearance."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def plot(rows: Sequence[Row], path: Path) -> None:
    """What is kept against how near the edit is to the truth, and against the share that is right: a point a method."""
    from matplotlib.figure import Figure

    figure = Figure((11, 4.5), layout="constrained")
    for axes, (name, label) in zip(
        figure.subplots(1, 2),
        (("changed.psnr", "where it should change, against the truth, dB"), ("right", "share of edits right")),
        strict=True,
    ):
        for method, own in grouped(rows, named).items():
            x, y = mean_of(own, "kept.psnr"), mean_of(own, name)
            if x is None or y is None:
                continue
            axes.errorbar(
                x[0], y[0], xerr=[[x[0] - x[1]], [x[2] - x[0]]], yerr=[[y[0] - y[1]], [y[2] - y[0]]],
                fmt="o", capsize=2, linewidth=0.7, label=method,
            )  # fmt: skip
            axes.annotate(method, (x[0], y[0]), xytext=(4, 4), textcoords="offset points", fontsize=7)
        axes.set(xlabel="where nothing should change, against the photo, dB", ylabel=label)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def sheet(folder: Path, tasks: Sequence[str], methods: Sequence[str], path: Path) -> None:
    """Pictures of some tasks, one line each: source, truth, every method."""
    strips = []
    for task in tasks:
        names = [name for name in ("source", "truth", *methods) if picture_of(folder, task, name).is_file()]
        pictures = {}
        for name in names:
            with Image.open(picture_of(folder, task, name)) as picture:
                pictures[name] = np.asarray(picture.convert("RGB"), np.float32) / 255
        strips.append(side_by_side(pictures))
    width = max(strip.width for strip in strips)
    whole = Image.new("RGB", (width, sum(strip.height for strip in strips)), "white")
    top = 0
    for strip in strips:
        whole.paste(strip, (0, top))
        top += strip.height
    save_pil(whole, path)


def picture_of(folder: Path, task: str, name: str) -> Path:
    """Where a task's picture lies."""
    return folder / "pictures" / task / f"{name.replace(' ', '_').replace('/', '_')}.png"
