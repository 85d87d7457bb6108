"""What the edit benchmark makes of its rows: tables, a plot of what is kept against what is right, a picture sheet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nullinv_core.figures import side_by_side
from nullinv_core.photo.images import save_pil
from nullinv_core.scores.statistics import interval, share_interval, sign_p
from nullinv_core.scores.tables import markdown_table

from .edit_cases import SINGLE
from .edit_methods import UNGUIDED
from .edit_scores import Scores, scores_from

MARKERS = "osD^v<>PX*hd"
PHOTO_KEPT = ", photo kept"
TILE = 144
"""Pixels of a picture on the sheet; its label fits."""


@dataclass(frozen=True)
class Row:
    """One method on one task. ``photo_kept``: with the photo's own pixels where the picture hardly differs.

    ``seconds``: beside what was made for other methods before. ``forwards``, ``backwards``: samples through the network
    that the method takes by itself, the mean of those that were edited together. ``commit``: of the code that edited.
    """

    method: str
    photo_kept: bool
    task: str
    kind: str
    guidance: float
    scores: Scores
    seconds: float = 0.0
    forwards: float = 0.0
    backwards: float = 0.0
    commit: str = ""


def row_from(record: dict[str, Any]) -> Row:
    """A row that was kept as JSON."""
    return Row(**{**record, "scores": scores_from(record["scores"])})


def named(row: Row) -> str:
    """What a row's line, point or picture is called."""
    return f"{row.method} at {row.guidance:g}" + PHOTO_KEPT * row.photo_kept


def best_guidance(rows: Sequence[Row]) -> dict[str, float]:
    """Each method's guidance under which most edits are right as decoded; of equals, that of the best gain."""
    found = {}
    for method, own in grouped([row for row in rows if not row.photo_kept], lambda row: row.method).items():
        by_guidance = grouped(own, lambda row: f"{row.guidance:g}")
        found[method] = max(by_guidance.values(), key=_goodness)[0].guidance
    return found


def _goodness(rows: Sequence[Row]) -> tuple[int, float]:
    gain = mean_of(rows, "gain")
    return sum(bool(row.scores.right) for row in rows), -np.inf if gain is None else gain[0]


def guidance_table(rows: Sequence[Row]) -> str:
    """Edits right and gain of each method at each guidance, as decoded; the best in bold type."""
    rows = [row for row in rows if not row.photo_kept]
    guidances = sorted({row.guidance for row in rows})
    best, lines = best_guidance(rows), []
    for method, own in grouped(rows, lambda row: row.method).items():
        cells = []
        for guidance in guidances:
            some = [row for row in own if row.guidance == guidance]
            right, gain = _goodness(some) if some else (0, 0.0)
            cell = f"{right}, {gain:+.1f}" if some else ""
            cells.append(f"**{cell}**" if some and guidance == best[method] else cell)
        lines.append([method, *cells])
    tasks = len({row.task for row in rows})
    return markdown_table([f"right of {tasks}, gain in dB", *(f"{one:g}" for one in guidances)], lines)


def front(rows: Sequence[Row]) -> set[str]:
    """Methods that no other beats in both what is kept and how many edits are right; one that edits nothing keeps all
    and does not count."""
    points = {}
    for name, own in grouped([row for row in rows if row.method not in UNGUIDED], named).items():
        kept, right = mean_of(own, "kept.psnr"), mean_of(own, "right")
        if kept is not None and right is not None:
            points[name] = (kept[0], right[0])
    return {a for a, p in points.items() if not any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in points.values())}


def mean_of(rows: Sequence[Row], name: str) -> tuple[float, float, float] | None:
    """Mean of a score ("gain", "kept.psnr", "extra.CLIP" …) with its 95 % interval, over the rows that have it."""
    part, _, figure = name.partition(".")
    found = [getattr(row.scores, part) for row in rows]
    if part == "extra":
        found = [one.get(figure) for one in found]
    elif figure:
        found = [None if one is None else getattr(one, figure) for one in found]
    values = [one for one in found if one is not None]
    if not values:
        return None
    return share_interval(sum(values), len(values)) if isinstance(values[0], bool) else interval(values)


def by_method(rows: Sequence[Row]) -> str:
    """One line a method: means and shares with 95 % intervals, of the scores that any row has."""
    columns = {
        "as asked": ("asked", "{:.0%}"), "edits right": ("right", "{:.0%} ({:.0%}-{:.0%})"),
        "kept, dB": ("kept.psnr", "{:.1f} ({:.1f}-{:.1f})"),
        "kept, SSIM": ("kept.ssim", "{:.3f}"),
        "changed, dB": ("changed.psnr", "{:.1f} ({:.1f}-{:.1f})"), "gain, dB": ("gain", "{:+.1f}"),
        "changed, SSIM": ("changed.ssim", "{:.3f}"),
    }  # fmt: skip
    extra = dict.fromkeys(name for row in rows for name in row.scores.extra)
    columns |= {name: (f"extra.{name}", "{:.2f}") for name in extra}
    columns = {head: (name, form) for head, (name, form) in columns.items() if mean_of(rows, name)}
    lines, best = [], front(rows)
    for name, own in grouped(rows, named).items():
        cells = [(mean_of(own, score), form) for score, form in columns.values()]
        lines.append(
            [own[0].method, f"{own[0].guidance:g}", *("" if m is None else form.format(*m) for m, form in cells),
             *(["yes" if name in best else ""] if best else []), samples_of(own, "+"), str(len(own))]
        )  # fmt: skip
    return markdown_table(["method", "guidance", *columns, *["on the front"][: len(best)], "samples", "edits"], lines)


def samples_of(rows: Sequence[Row], joined: str) -> str:
    """Samples through the network of an edit: forwards, and backwards where there are some."""
    forwards, backwards = (np.mean([getattr(row, way) for row in rows]) for way in ("forwards", "backwards"))
    return f"{forwards:.0f}" + f" {joined} {backwards:.0f} back" * bool(backwards)


TITLES = {
    "fast": "**`fast`**", "paper": "`paper`: null-text inversion and Prompt-to-Prompt", "direct": "`direct`",
    "negative-prompt": "`negative-prompt`", "random path": "path `random`",
    "virtual inversion": "virtual inversion (InfEdit)", "DDIM + P2P": "DDIM inversion and Prompt-to-Prompt",
    "DDIM + prompt": "DDIM inversion, only the prompt changes",
    "null-text + prompt": "null-text inversion, only the prompt changes",
}  # fmt: skip
"""What docs/results.md calls methods whose name says too little."""


def overview(rows: Sequence[Row], usual: float, best: Mapping[str, float]) -> str:
    """The table of docs/results.md, the photo's pixels kept: at the ``usual`` guidance, and at each method's best."""
    rows = [row for row in rows if row.photo_kept and row.method not in UNGUIDED]
    lines = []
    for method, own in grouped([row for row in rows if row.guidance == usual], lambda row: row.method).items():
        there = [row for row in rows if row.method == method and row.guidance == best.get(method)]
        at_best = [_in_short(there), f"{best[method]:g}", samples_of(there, "and")] if there else [""] * 3
        lines.append([TITLES.get(method, method), _in_short(own), samples_of(own, "and"), *at_best])
    count = len({row.task for row in rows})
    return markdown_table(
        [f"right of {count}, kept, gain in dB", f"at {usual:g}", "samples", "at its best", "guidance", "samples there"],
        lines,
    )


def _in_short(rows: Sequence[Row]) -> str:
    """How many edits are right, what is kept, what is gained."""
    kept, gain = mean_of(rows, "kept.psnr"), mean_of(rows, "gain")
    right = sum(bool(row.scores.right) for row in rows)
    return ", ".join([f"{right}", f"{kept[0]:.1f}" if kept else "", *([f"{gain[0]:+.1f}"] if gain else [])])


def by_kind(rows: Sequence[Row]) -> str:
    """Edits judged right, kind by kind, of those that a judge can tell."""
    rows = [row for row in rows if row.scores.right is not None]
    kinds = list(grouped(rows, lambda row: row.kind))
    lines = []
    for own in grouped(rows, named).values():
        groups = grouped(own, lambda row: row.kind)
        cells = [(sum(bool(r.scores.right) for r in groups.get(k, [])), len(groups.get(k, []))) for k in kinds]
        single = [bool(r.scores.right) for r in own if r.kind in SINGLE]
        cells.append((sum(single), len(single)))
        lines.append([own[0].method, *(f"{right} of {of}" if of else "" for right, of in cells)])
    return markdown_table(["edits right", *kinds, "all of a single attribute"], lines)


def by_pairs(rows: Sequence[Row], default: str) -> str:
    """Each method against the default on the same tasks: whose edits alone are right, how likely chance alone makes
    these counts so uneven (``sign_p``), and mean differences."""
    groups = grouped(rows, lambda row: row.method)
    ours = {row.task: row.scores for row in groups.pop(default, [])}
    lines = []
    for method, own in groups.items():
        both = [(row.scores, ours[row.task]) for row in own if row.task in ours]
        judged = [(bool(a.right), bool(b.right)) for a, b in both if a.right is not None and b.right is not None]
        kept = [a.kept.psnr - b.kept.psnr for a, b in both if a.kept and b.kept]
        gained = [a.gain - b.gain for a, b in both if a.gain is not None and b.gain is not None]
        cells = ["{:+.1f} ({:+.1f} to {:+.1f})".format(*interval(found)) if found else "" for found in (kept, gained)]
        alone = judged.count((False, True)), judged.count((True, False))
        p = sign_p(*alone)
        lines.append([method, *map(str, alone), f"{p:.3f}" if p >= 0.001 else "< 0.001", *cells])
    return markdown_table(
        [f"against {default}", f"only {default} right", "only it right", "p of a sign test", "kept, dB more",
         "gain, dB more"], lines
    )  # fmt: skip


def grouped(rows: Sequence[Row], key: Callable[[Row], str]) -> dict[str, list[Row]]:
    """Rows by what ``key`` says of them, in order of appearance."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


PLOTTED = {
    "changed.psnr": "where it should change, against the truth, dB", "right": "share of edits right",
    "extra.CLIP, edited part": "CLIP similarity of the edited part", "extra.CLIP": "CLIP similarity",
}  # fmt: skip


def plot(rows: Sequence[Row], path: Path, title: str) -> None:
    """What is kept against how good the edit is, a point a method: as decoded above, with the photo's pixels below.

    ``title``: of the whole. A method that edits nothing has no point: it keeps all, and the others would lie in a
    corner. Nothing is written where no score says how good an edit is.
    """
    from matplotlib.figure import Figure

    rows = [row for row in rows if row.method not in UNGUIDED]
    shown = [name for name in PLOTTED if mean_of(rows, name)][:2]
    if not shown:
        return
    figure = Figure((5 * len(shown) + 2, 8), layout="constrained")
    figure.suptitle(title)
    both = ((False, "as decoded"), (True, "with the photo's own pixels"))
    for line, (photo_kept, which) in zip(figure.subplots(2, len(shown), squeeze=False), both, strict=True):
        for axes, name in zip(line, shown, strict=True):
            _points(axes, [row for row in rows if row.photo_kept == photo_kept], name)
            axes.set(xlabel="where nothing should change, against the photo, dB", ylabel=PLOTTED[name], title=which)
            axes.grid(alpha=0.3)
    figure.legend(*line[0].get_legend_handles_labels(), loc="outside right center")
    figure.savefig(path, dpi=100)


def _points(axes: Any, rows: Sequence[Row], name: str) -> None:
    from matplotlib import colormaps

    strong, pale = (colormaps["tab20"].colors[first::2] for first in (0, 1))  # type: ignore[attr-defined]
    groups, guidances = grouped(rows, lambda row: row.method), {row.guidance for row in rows}
    for own, marker, colour in zip(groups.values(), cycle(MARKERS), cycle((*strong, *pale))):
        x, y = mean_of(own, "kept.psnr"), mean_of(own, name)
        label = own[0].method if len(guidances) == 1 else f"{own[0].method} at {own[0].guidance:g}"
        if x is None or y is None:
            continue
        axes.errorbar(
            x[0], y[0], xerr=[[x[0] - x[1]], [x[2] - x[0]]], yerr=[[y[0] - y[1]], [y[2] - y[0]]],
            fmt=marker, color=colour, markersize=8, capsize=2, linewidth=0.6, label=label,
        )  # fmt: skip


def sheet(folder: Path, tasks: Sequence[str], methods: Sequence[str], path: Path) -> None:
    """Pictures of some tasks, one line each: source, truth, every method. Nothing is written where there are none."""
    strips = []
    for task in tasks:
        names = [name for name in ("source", "truth", *methods) if picture_of(folder, task, name).is_file()]
        pictures = {}
        for name in names:
            with Image.open(picture_of(folder, task, name)) as picture:
                pictures[name.removesuffix(PHOTO_KEPT).split(" at ")[0]] = (
                    np.asarray(picture.convert("RGB"), np.float32) / 255
                )
        if pictures:
            strips.append(side_by_side(pictures, TILE))
    if not strips:
        return
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
