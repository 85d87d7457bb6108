"""What a batch's folder holds, in files that programs read: the same bytes however often the work was stopped."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..files.summary import safe
from .jobs import Job
from .journal import Row

RUN, LIST, TABLE = "run.json", "manifest.jsonl", "manifest.csv"
HEAD = ("name", "picture", "prompt", "edit", "file", "sha256", "state", "why")


def contents(jobs: Sequence[Job], rows: Mapping[str, Row], options: Mapping[str, Any]) -> dict[str, bytes]:
    """The manifest's files by name: what the run was, a line of JSON for each job, and a row of CSV for each file.

    Times are not in it; they stand in the journal.
    """
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(HEAD)
    lines = []
    for job in jobs:
        row = rows[job.name]
        files = dict(row.files or {})
        lines.append(json.dumps({**job.record(), "files": files, "state": row.state, "why": row.sentence}))
        writer.writerows(_cells(job, row, files))
    return {
        RUN: (json.dumps(dict(options), indent=1, sort_keys=True) + "\n").encode(),
        LIST: "".join(f"{line}\n" for line in lines).encode(),
        TABLE: table.getvalue().encode("utf-8", "replace"),
    }


def _cells(job: Job, row: Row, files: Mapping[str, str]) -> Iterator[list[str]]:
    own = [job.name, job.picture, job.prompt]
    if not files:
        yield [*map(safe, own), "", "", "", row.state, safe(row.sentence)]
    for place, (file, digest) in enumerate(files.items()):
        edit = job.edits[place] if place < len(job.edits) else ""
        yield [*map(safe, [*own, edit, file]), digest, row.state, ""]
