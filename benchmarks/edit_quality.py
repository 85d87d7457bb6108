"""Edits with a known answer, ours and every other way: ``python -m benchmarks.edit_quality --out DIR``.

Held-out scenes take turns through eleven kinds of edit; prompts, true answers and masks come from their generator. An
edit whose true answer the judge itself misreads is not asked for, another of its kind is. All
methods run on the same weights and pictures, and each picture is scored twice: as decoded, and with the photo's own
pixels where it hardly differs. Rows are kept in ``edit_quality.jsonl``, pictures beside it, and the same command goes
on where it stopped; ``--part 1/2`` and ``--part 2/2`` may run side by side. Tables, plot and picture sheet are written
at the end. With ``--pie-bench FOLDER --model FOLDER`` the pictures are those of PIE-Bench (Ju et al. 2023), whose true
edits nobody knows.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nullinv_core import keep_photo
from nullinv_core.backends.diffusers import DiffusersModel, load_model
from nullinv_core.images import save_image
from nullinv_core.keeping import REACH, SEEN, UNSEEN

from .common import add_records, environment, known_records, now, write_json
from .edit_cases import EditTask, scene_task
from .edit_methods import DEFAULT, METHODS, STEPS, Photo, photo_of
from .edit_report import Row, by_kind, by_method, by_pairs, named, picture_of, plot, sheet
from .edit_scores import scores, scores_from
from .learned_scores import Measure, clip_measures, lpips_measure, structure_measure
from .pie_bench import pie_tasks, published_measures

FIRST_SEED = 40_000
"""Scenes that nothing was tuned on."""
SCENES = 200
PIE_GUIDANCE = 7.5
"""At which the published table of PIE-Bench was made."""
SHOWN = 12
"""Scenes on the picture sheet, drawn at random."""


def write_report(out: Path, rows: Sequence[Row], about: dict[str, Any]) -> str:
    """Write rows, tables, plot and sheet to a folder; returns the tables."""
    decoded, kept = ([row for row in rows if row.photo_kept == own] for own in (False, True))
    judged = [by_kind(kept)] if any(row.scores.right is not None for row in kept) else []
    tables = "\n\n".join(
        ["As decoded:", by_method(decoded), "With the photo's own pixels where the picture hardly differs:",
         by_method(kept), *judged, by_pairs(kept, DEFAULT)]
    )  # fmt: skip
    write_json(out / "edit_quality.json", about)
    (out / "edit_quality.md").write_text(tables + "\n", encoding="utf-8")
    plot(rows, out / "edit_quality.png")
    methods, tasks = list(dict.fromkeys(map(named, kept))), list(dict.fromkeys(r.task for r in rows))
    chosen = np.random.default_rng(0).permutation(len(tasks))[:SHOWN]
    sheet(out, [tasks[i] for i in sorted(chosen)], methods, out / "edit_quality_pictures.png")
    return tables


def run_method(
    model: DiffusersModel, photo: Photo, name: str, guidance: float | None, out: Path, measures: Mapping[str, Measure],
    commit: str = "",
) -> list[Row]:  # fmt: skip
    """A method's rows on a photo, as decoded and with the photo's own pixels; its pictures go to ``out``."""
    method, suited = METHODS[name]
    task, used = photo.task, guidance or suited
    started = now(model.device)
    edited = model.decode(method(photo, used))
    seconds = now(model.device) - started
    source = torch.from_numpy(task.source)[None]
    pictures = {False: edited, True: keep_photo(source, edited, photo.reconstructed)[0]}
    rows = []
    for photo_kept, picture in pictures.items():
        array = picture[0].cpu().numpy()
        judged = scores(array, task, measures)
        rows.append(Row(name, photo_kept, task.name, task.kind, used, seconds, judged, commit))
        _keep(out, task, named(rows[-1]), array)
    return rows


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, help="by default 200, or all of PIE-Bench")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--pie-bench", type=Path, help="PIE-Bench's folder, in place of scenes")
    parser.add_argument("--methods", help="some of them, separated by commas")
    parser.add_argument("--guidance", type=float, help="one for all methods; by default the one that suits each")
    parser.add_argument("--part", default="1/1", help="2/3: the second of three runs that share the work; no report")
    parser.add_argument("--clip", type=Path, help="folder of a CLIP model: CLIP similarity")
    parser.add_argument("--dino", type=Path, help="folder of DINO's ViT: structure distance")
    parser.add_argument("--lpips", action="store_true", help="LPIPS, with torchvision's own weights")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, required=True, help="folder; that of the table is benchmarks/results")
    options = parser.parse_args()
    wanted = options.methods.split(",") if options.methods else list(METHODS)
    if set(wanted) - set(METHODS):
        parser.error(f"methods are {', '.join(METHODS)}; not {', '.join(sorted(set(wanted) - set(METHODS)))}")
    part, parts = (int(n) if n.isdigit() else 0 for n in f"{options.part}/".split("/")[:2])
    if not 1 <= part <= parts:
        parser.error(f"--part is as 1/2, not {options.part}")
    seeds = range(options.first_seed, options.first_seed + (options.scenes or SCENES))
    model = load_model(options.model, options.device)
    pictures = None if options.pie_bench is None else pie_tasks(options.pie_bench, model.native_size)
    known = None if pictures is None else list(islice(pictures, options.scenes))
    names = list(map(str, seeds)) if known is None else [task.name for task in known]
    if known is not None and options.guidance is None:
        options.guidance = PIE_GUIDANCE
    measures = {} if known is None else published_measures()
    measures |= lpips_measure(options.device) if options.lpips else {}
    measures |= clip_measures(options.clip, options.device) if options.clip else {}
    measures |= structure_measure(options.dino, options.device) if options.dino else {}
    settings = {
        "first_seed": options.first_seed, "pie_bench": options.pie_bench and str(options.pie_bench.resolve()),
        "model": options.model, "device": options.device, "steps": STEPS,
        "guidance": options.guidance or {name: suited for name, (_, suited) in METHODS.items()},
        "keep_photo": [UNSEEN, SEEN, REACH], "measures": list(measures),
    }  # fmt: skip
    kept = options.out / "edit_quality.jsonl"
    begun, found = _rows(kept, settings)
    commit = environment()["commit"]
    if begun["commit"] != commit:
        print(f"goes on with rows of commit {begun['commit']}")
    done = {(row.method, row.task, row.photo_kept) for row in found}
    for index in range(part - 1, len(names), parts):
        missing = [name for name in wanted if not {(name, names[index], own) for own in (False, True)} <= done]
        if not missing:
            continue
        task = scene_task(seeds[index]) if known is None else known[index]
        photo = photo_of(model, task)
        _keep(options.out, task, "source", task.source)
        if task.truths:
            _keep(options.out, task, "truth", task.truths[0])
        for name in missing:
            rows = run_method(model, photo, name, options.guidance, options.out, measures, commit)
            add_records(kept, [asdict(row) for row in rows])
            print(f"{task.name} {task.kind:18s} {name:20s} {rows[0].scores}", flush=True)
    if parts > 1:
        return
    begun, found = _rows(kept, settings)
    # a pair of rows that a stop cut apart is there once more
    last = {(row.method, row.photo_kept, row.task): row for row in found}
    rows = [row for row in last.values() if row.method in wanted and row.task in names]
    rows.sort(key=lambda row: (list(METHODS).index(row.method), row.photo_kept, row.task))
    about = {**begun, **settings, "commit": sorted({row.commit for row in rows})}
    print(write_report(options.out, rows, about))


def _rows(path: Path, settings: dict[str, Any]) -> tuple[dict[str, Any], list[Row]]:
    begun, records = known_records(path, settings)
    return begun, [Row(**{**r, "scores": scores_from(r["scores"])}) for r in records]


def _keep(out: Path, task: EditTask, name: str, picture: np.ndarray) -> None:
    path = picture_of(out, task.name, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(picture, path)


if __name__ == "__main__":
    main()
