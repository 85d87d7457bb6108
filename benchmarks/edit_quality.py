"""Edits with a known answer, ours and every other way: ``python -m benchmarks.edit_quality --scenes 100 --out DIR``.

Held-out scenes take turns through eight kinds of edit; prompts, true answers and masks come from their generator. All
methods run on the same weights and pictures. A row a method and scene is kept in ``edit_quality.jsonl``, its picture
beside it, and the same command goes on where it stopped; tables, plot and picture sheet are written at the end. With
``--pie-bench FOLDER --model FOLDER`` the pictures are those of PIE-Bench (Ju et al. 2023), without true edits.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from nullinv_core.backends.diffusers import load_model
from nullinv_core.images import save_image

from .common import RESULTS, environment, known_records, write_json
from .edit_cases import EditTask, scene_task
from .edit_methods import METHODS, photo_of
from .edit_report import Row, by_kind, by_method, picture_of, plot, sheet
from .edit_scores import scores, scores_from
from .pie_bench import pie_tasks

FIRST_SEED = 40_000
"""Scenes that nothing was tuned on."""
PIE_GUIDANCE = 7.5
"""At which the published table of PIE-Bench was made."""
SHOWN = 12
"""Scenes on the picture sheet, drawn at random."""


def write_report(out: Path, rows: Sequence[Row], about: dict[str, Any]) -> str:
    """Write rows, tables, plot and sheet to a folder; returns the tables."""
    methods, tasks = list(dict.fromkeys(r.method for r in rows)), list(dict.fromkeys(r.task for r in rows))
    tables = by_method(rows) + "\n\n" + by_kind(rows)
    write_json(out / "edit_quality.json", {**about, "rows": [asdict(row) for row in rows]})
    (out / "edit_quality.md").write_text(tables + "\n", encoding="utf-8")
    plot(rows, out / "edit_quality.png")
    chosen = np.random.default_rng(0).permutation(len(tasks))[:SHOWN]
    sheet(out, [tasks[i] for i in sorted(chosen)], methods, out / "edit_quality_pictures.png")
    return tables


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--pie-bench", type=Path, help="PIE-Bench's folder, in place of scenes")
    parser.add_argument("--methods", help="some of them, separated by commas")
    parser.add_argument("--guidance", type=float, help="one for all methods; by default the one that suits each")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    wanted = options.methods.split(",") if options.methods else list(METHODS)
    if set(wanted) - set(METHODS):
        parser.error(f"methods are {', '.join(METHODS)}; not {', '.join(sorted(set(wanted) - set(METHODS)))}")
    seeds = range(options.first_seed, options.first_seed + options.scenes)
    known = None if options.pie_bench is None else list(islice(pie_tasks(options.pie_bench), options.scenes))
    if known is not None and options.guidance is None:
        options.guidance = PIE_GUIDANCE
    model = load_model(options.model, options.device)
    settings = {
        "guidance": options.guidance, "first_seed": options.first_seed if known is None else None,
        "model": options.model, "device": options.device,
    }  # fmt: skip
    kept = options.out / "edit_quality.jsonl"
    rows = [Row(**{**r, "scores": scores_from(r["scores"])}) for r in known_records(kept, settings)]
    done = {(row.method, row.task) for row in rows}
    names = set()
    for task in known if known is not None else map(scene_task, seeds):
        names.add(task.name)
        missing = [name for name in wanted if (name, task.name) not in done]
        if not missing:
            continue
        photo = photo_of(model, task)
        _keep(options.out, task, "source", task.source)
        if task.truth is not None:
            _keep(options.out, task, "truth", task.truth)
        for name in missing:
            method, suited = METHODS[name]
            guidance = options.guidance or suited
            started = time.perf_counter()
            edited = model.decode(method(photo, guidance))[0].cpu().numpy()
            seconds = time.perf_counter() - started
            _keep(options.out, task, name, edited)
            rows.append(Row(name, task.name, task.kind, guidance, seconds, scores(edited, task)))
            with kept.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(rows[-1])) + "\n")
            print(f"{task.name} {task.kind:18s} {name:20s} {rows[-1].scores}", flush=True)
    rows = [row for row in rows if row.method in wanted and row.task in names]
    rows.sort(key=lambda row: (list(METHODS).index(row.method), row.task))
    print(write_report(options.out, rows, {**environment(), **settings}))


def _keep(out: Path, task: EditTask, name: str, picture: np.ndarray) -> None:
    path = picture_of(out, task.name, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(picture, path)


if __name__ == "__main__":
    main()
