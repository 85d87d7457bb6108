"""Edits with a known answer, ours and every other way: ``python -m benchmarks.edit_quality --out DIR``.

Held-out scenes take turns through eleven kinds of edit; prompts, true answers and masks come from their generator. An
edit whose true answer the judge itself misreads is not asked for, another of its kind is. All
methods run on the same weights and pictures, and each picture is scored twice: as decoded, and with the photo's own
pixels where it hardly differs. Rows are kept in ``edit_quality.jsonl`` as they come, in order of scenes, and the same
command goes on where it stopped. Tables, plots and picture sheet are written at the end, or by ``--report``.

Every method is run at guidance 7.5 and at its best, which ``--tune DIR`` finds beforehand on scenes that are never
reported: ``--guidance 1,2.5,4,7.5 --scenes 12 --first-seed 30000 --out DIR``. With ``--pie-bench FOLDER --model
FOLDER`` the pictures are those of PIE-Bench (Ju et al. 2023), whose true edits nobody knows.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from nullinv_core.backends.diffusers import load_model
from nullinv_core.photo.composite import REACH, SEEN, UNSEEN

from . import edit_photo
from .common import check_installed, environment, known_records, read_records, write_json
from .edit_cases import EditTask, scene_task
from .edit_methods import DEFAULT, METHODS, UNGUIDED
from .edit_report import (
    Row,
    best_guidance,
    by_kind,
    by_method,
    by_pairs,
    grouped,
    guidance_table,
    named,
    overview,
    plot,
    row_from,
    sheet,
)
from .edit_run import Cell, MakeTask, Work, cells_of, run
from .pie_bench import pie_tasks

FIRST_SEED, TUNING_SEED = 40_000, 30_000
"""Scenes that nothing was tuned on, and those for that."""
SCENES = 200
USUAL_GUIDANCE = 7.5
"""Of Stable Diffusion's users, and of the published table of PIE-Bench."""
SHOWN = 12
"""Scenes on the picture sheet, drawn at random."""


def sections_of(rows: Sequence[Row], tuned: Mapping[str, float] | None) -> dict[str, list[Row]]:
    """Rows by what a table shows: the usual guidance, and each method at its best; of a tuning run nothing."""
    alone = [row for row in rows if row.method in UNGUIDED]
    guided = [row for row in rows if row.method not in UNGUIDED]
    guidances = {row.guidance for row in guided}
    if tuned:
        usual = [row for row in guided if row.guidance == USUAL_GUIDANCE]
        best = [row for row in guided if row.guidance == tuned.get(row.method)]
        found = {f"at {USUAL_GUIDANCE:g}": usual, "each at its best": best}
    else:
        found = {f"at {one:g}": guided for one in guidances} if len(guidances) == 1 else {}
    return {name: some + alone for name, some in found.items()}


def complete(rows: Sequence[Row]) -> list[Row]:
    """Rows of the tasks that every method, guidance and way of keeping the photo has."""
    cells = {(row.method, row.guidance, row.photo_kept) for row in rows}
    have: dict[str, set[Any]] = {}
    for row in rows:
        have.setdefault(row.task, set()).add((row.method, row.guidance, row.photo_kept))
    return [row for row in rows if have[row.task] == cells]


def write_report(
    out: Path, rows: Sequence[Row], about: dict[str, Any], tuned: Mapping[str, float] | None, pictured: Sequence[str]
) -> str:
    """Write tables, plots and the sheet of the ``pictured`` tasks to a folder; returns the tables."""
    tables = [overview(rows, USUAL_GUIDANCE, tuned)] if tuned else []
    for number, (title, some) in enumerate(sections_of(rows, tuned).items()):
        decoded, kept = ([row for row in some if row.photo_kept == own] for own in (False, True))
        judged = [by_kind(kept)] if any(row.scores.right is not None for row in kept) else []
        tables += [
            f"## Guidance {title}", "As decoded:", by_method(decoded), by_pairs(decoded, DEFAULT),
            "With the photo's own pixels where the picture hardly differs:", by_method(kept), *judged,
            by_pairs(kept, DEFAULT),
        ]  # fmt: skip
        ending = "" if number == 0 else f"_{number + 1}"
        plot(some, out / f"edit_quality{ending}.png", f"Guidance: {title}")
        methods = list(dict.fromkeys(map(named, kept)))
        sheet(out, pictured, methods, out / f"edit_quality_pictures{ending}.png")
    if not tables:
        tables = ["## Each guidance, as decoded", guidance_table(rows)]
    write_json(out / "edit_quality.json", about)
    text = "\n\n".join(tables)
    (out / "edit_quality.md").write_text(text + "\n", encoding="utf-8")
    return text


def shown(tasks: Sequence[str]) -> list[str]:
    """The tasks on the picture sheet, as far as a run comes."""
    chosen = np.random.default_rng(0).permutation(len(tasks))[:SHOWN]
    return [tasks[i] for i in sorted(chosen)]


def main() -> None:
    """Command line of the benchmark."""
    started, options = time.time(), _options()
    if not options.unscored:
        check_installed("torchmetrics", "matplotlib")
    wanted = options.methods
    guidances = [float(one) for one in (options.guidance or f"{USUAL_GUIDANCE}").split(",")]
    tuned = _tuned(options.tune) if options.tune else None
    if tuned is not None and set(wanted) - set(tuned):
        print(f"{options.tune} does not tell the best guidance of {', '.join(sorted(set(wanted) - set(tuned)))}")
    makers = _makers(options)
    settings = {
        "first_seed": options.first_seed, "pie_bench": options.pie_bench and str(options.pie_bench.resolve()),
        "model": options.model, "steps": edit_photo.STEPS, "keep_photo": [UNSEEN, SEEN, REACH],
        "measures": [bool(options.clip), bool(options.dino), options.lpips],
    }  # fmt: skip
    cells = cells_of(wanted, [*guidances, *([] if tuned is None else [tuned])])
    kept = options.out / "edit_quality.jsonl"
    begun, found = _rows(kept, settings)
    if not options.report:
        run(_work(options, cells, found, list(makers), started), list(makers.values()), options.workers)
        begun, found = _rows(kept, settings)
    # a pair of rows that a stop cut apart is there once more
    last = {(row.method, row.guidance, row.photo_kept, row.task): row for row in found}
    rows = [row for row in last.values() if (row.method, row.guidance) in cells and row.task in makers]
    order: dict[Cell, int] = {cell: place for place, cell in enumerate(cells)}
    rows.sort(key=lambda row: (order[row.method, row.guidance], row.photo_kept, row.task))
    whole_rows = complete(rows)
    tasks = {row.task for row in whole_rows}
    print(f"{len(tasks)} of {len(makers)} pictures have every method and guidance; {time.time() - started:.0f} s")
    if not tasks:
        return
    about = {
        **begun, **settings, "commit": sorted({row.commit for row in whole_rows}), "device": options.device,
        "guidance": guidances, "tuned": tuned, "edits": len(tasks), "reported_on": environment(),
    }  # fmt: skip
    pictured = [name for name in shown(list(makers)) if name in tasks]
    print(write_report(options.out, whole_rows, about, tuned, pictured))


def _options() -> argparse.Namespace:
    """What the user gave; ``methods`` as a list."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, help="by default 200, or all of PIE-Bench")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--pie-bench", type=Path, help="PIE-Bench's folder, in place of scenes")
    parser.add_argument("--methods", help="some of them, separated by commas")
    parser.add_argument("--guidance", help="one or several for all methods, separated by commas; by default 7.5")
    parser.add_argument("--tune", type=Path, help="--out of a run at several guidances: each method's best one as well")
    parser.add_argument("--workers", type=int, default=1, help="processes of one thread each")
    parser.add_argument("--batch", type=int, default=1, help="scenes that are edited together; on a GPU 100")
    parser.add_argument("--deadline", type=float, default=float("inf"), help="seconds after which to stop")
    parser.add_argument(
        "--unscored", action="store_true", help="only edit, as on a rented GPU; the same command without it goes on"
    )
    parser.add_argument(
        "--report", action="store_true", help="only tables, plots and sheet, of the rows that are there"
    )
    parser.add_argument("--all-pictures", action="store_true", help="keep those that are on no sheet as well")
    parser.add_argument("--commit", type=_commit, help="of the code, all 40 digits, where git cannot tell")
    parser.add_argument("--clip", type=Path, help="folder of a CLIP model: CLIP similarity")
    parser.add_argument("--dino", type=Path, help="folder of DINO's ViT: structure distance")
    parser.add_argument("--lpips", action="store_true", help="LPIPS, with torchvision's own weights")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--device", default="cpu", help="cuda: all edits are made there first, then scored on the CPU")
    parser.add_argument("--out", type=Path, required=True, help="folder; that of the table is benchmarks/results")
    options = parser.parse_args()
    options.methods = options.methods.split(",") if options.methods else list(METHODS)
    if unknown := set(options.methods) - set(METHODS):
        parser.error(f"methods are {', '.join(METHODS)}; not {', '.join(sorted(unknown))}")
    if min(options.workers, options.batch) < 1:
        parser.error("--workers and --batch are numbers from 1")
    if options.tune and not (options.tune / "edit_quality.jsonl").is_file():
        parser.error(f"there are no rows in {options.tune}; run at several guidances with --out {options.tune} first")
    return options


def _commit(text: str) -> str:
    """A commit's name as rows keep it."""
    if not re.fullmatch("[0-9a-f]{40}", text):
        raise argparse.ArgumentTypeError(f"a commit has 40 digits, 0-9 and a-f, not {text!r}")
    return text


def _work(
    options: argparse.Namespace, cells: tuple[Cell, ...], found: Sequence[Row], tasks: Sequence[str], started: float
) -> Work:
    """What processes are told, with the rows that are ``found`` already left out."""
    commit = options.commit or environment()["commit"]
    if found and {row.commit for row in found} != {commit}:
        print(f"goes on with rows of commit {', '.join(sorted({row.commit for row in found}))}")
    both = [(row.method, row.guidance, row.task, row.photo_kept) for row in found]
    whole = {one[:3] for one in both if one[3]} & {one[:3] for one in both if not one[3]}
    return Work(
        out=options.out, cells=cells, done=frozenset(whole), model=options.model, device=options.device,
        batch=options.batch, until=started + options.deadline, unscored=options.unscored, commit=commit,
        shown=None if options.all_pictures else frozenset(shown(tasks)),
        published=options.pie_bench is not None, lpips=options.lpips, clip=options.clip, dino=options.dino,
    )  # fmt: skip


def _makers(options: argparse.Namespace) -> dict[str, MakeTask]:
    """How to come by each task, by its name."""
    if options.pie_bench is None:
        seeds = range(options.first_seed, options.first_seed + (options.scenes or SCENES))
        return {str(seed): partial(scene_task, seed) for seed in seeds}
    side = load_model(options.model).native_size
    known = list(islice(pie_tasks(options.pie_bench, side), options.scenes))
    return {task.name: partial(_same, task) for task in known}


def _same(task: EditTask) -> EditTask:
    return task


def _tuned(folder: Path) -> dict[str, float]:
    """Each method's best guidance by the rows of a tuning run, on the scenes that all of them have; none of a method
    that was not run at every guidance."""
    _, records = read_records(folder / "edit_quality.jsonl")
    rows = [row_from(record) for record in records]
    guided = grouped([row for row in rows if row.method not in UNGUIDED], lambda row: row.method)
    guidances = {row.guidance for own in guided.values() for row in own}
    whole = [own for own in guided.values() if {row.guidance for row in own} == guidances]
    alone = [row for row in rows if row.method in UNGUIDED]
    shared = complete([row for own in whole for row in own])
    print(f"guidances by the {len({row.task for row in shared})} tuning scenes that every method has")
    return best_guidance([*shared, *alone])


def _rows(path: Path, settings: dict[str, Any]) -> tuple[dict[str, Any], list[Row]]:
    begun, records = known_records(path, settings)
    return begun, [row_from(record) for record in records]


if __name__ == "__main__":
    main()
