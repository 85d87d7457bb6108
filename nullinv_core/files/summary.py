"""What an inversion file holds, in words and numbers: for ``inspect``, and for an index over a folder of them."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from torch import Tensor

from ..errors import InputError
from ..families import with_pooled
from ..photo.images import pixels_of
from ..photo.preview import preview
from .fingerprint import sha256_of
from .store import Inversion, load_inversion

BLOCKS = "▁▂▃▄▅▆▇█"
MOST_SHOWN = 8
"""Photos on a thumbnail."""


@dataclass(frozen=True)
class Summary:
    """An inversion file. ``pixels``: "width×height" of each photo, eight for each latent. ``iterations``: of all steps
    and photos. ``loss``: the largest of the last step. ``edits``: how they read the photo. ``fingerprint``: SHA-256 of
    what tells the model. ``why``: what is wrong with the file, and then the rest is empty."""

    file: str
    bytes: int = 0
    prompts: tuple[str, ...] = ()
    steps: int = 0
    guidance: float | None = None
    pixels: str = ""
    model: str = ""
    precision: str = ""
    edits: str = ""
    iterations: int = 0
    loss: float | None = None
    fingerprint: str = ""
    why: str = ""


def summary(path: Path, inversion: Inversion) -> Summary:
    """The summary of a file that was read."""
    trajectory, null = inversion.trajectory, inversion.null
    width, height = pixels_of(trajectory.clean)
    edits = "" if null is None else "from its path" if null.pinned else "by null embeddings"
    return Summary(
        str(path), os.path.getsize(path), inversion.prompts, trajectory.schedule.steps,
        None if null is None else null.guidance, f"{width}×{height}", inversion.model, inversion.precision, edits,
        0 if null is None else int(null.iterations.sum()), None if null is None else float(null.losses[0].max()),
        sha256_of(inversion.fingerprint),
    )  # fmt: skip


def in_words(inversion: Inversion) -> str:
    """An inversion in one line: the model, how many photos, their size, the steps, the guidance."""
    trajectory, null = inversion.trajectory, inversion.null
    width, height = pixels_of(trajectory.clean)
    photos = "1 photo" if trajectory.batch == 1 else f"{trajectory.batch} photos"
    embeddings = "no null embeddings" if null is None else f"null embeddings for guidance {null.guidance:g}"
    model = f' with "{inversion.model}"' if inversion.model else ""
    return (
        f"made{model} in {inversion.precision}: {photos} of {width}×{height} pixels, "
        f"{trajectory.schedule.steps} steps, {embeddings}"
    )


def curve(inversion: Inversion, columns: int = 60) -> str:
    """The largest loss of each step, the noisiest first, as a line of blocks on a logarithmic scale with its ends.

    Empty where nothing was optimized.
    """
    if inversion.null is None or not bool(inversion.null.losses.any()):
        return ""
    losses = inversion.null.losses.max(1).values.flip(0).tolist()
    each = math.ceil(len(losses) / columns)
    logs = [math.log10(max(*losses[i : i + each], 1e-12)) for i in range(0, len(losses), each)]
    low, high = min(logs), max(logs)
    blocks = "".join(BLOCKS[round((log - low) / ((high - low) or 1) * (len(BLOCKS) - 1))] for log in logs)
    return f"{blocks}  {10**low:.1e} … {10**high:.1e}"


def thumbnail(inversion: Inversion) -> Tensor:
    """The first ``MOST_SHOWN`` photos side by side, rough, without a model: float32 (h, photos · w, 3) in 0…1, a pixel
    for each latent. Raises InputError as ``preview``."""
    trajectory = inversion.trajectory
    shown = preview(trajectory.clean[:MOST_SHOWN], with_pooled(trajectory.context.pooled is not None))
    return shown.transpose(0, 1).flatten(1, 2)


def index(folder: Path) -> Iterator[Summary]:
    """Every inversion file of a folder and those in it, in the order of their names; each is read and checked whole."""
    if not os.path.isdir(folder):
        raise InputError(f'there is no folder "{folder}"')
    for where, folders, names in os.walk(folder):
        folders.sort()
        for path in (Path(where, name) for name in sorted(names) if name.endswith(".safetensors")):
            name = path.relative_to(folder).as_posix()
            try:
                yield replace(summary(path, load_inversion(path)), file=name)
            except InputError as error:
                yield Summary(name, why=str(error))


def as_lines(rows: Sequence[Summary]) -> str:
    """An index as JSONL."""
    return "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)


def as_table(rows: Sequence[Summary]) -> str:
    """An index as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([one.name for one in fields(Summary)])
    for row in rows:
        cells = {**asdict(row), "prompts": " | ".join(row.prompts)}
        writer.writerow([safe(cell) if isinstance(cell, str) else cell for cell in cells.values()])
    return text.getvalue()


def safe(text: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
