"""Which guidance the demo model edits best at: ``python -m benchmarks.edit_guidance --scenes 12``.

Runs the demo's edits (by default with the preset ``fast``) on tuning seeds, not those of the reported benchmark, at
several guidances and writes one row per guidance.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from nullinv_core.backends.diffusers import load_model
from nullinv_core.demo.run import demo_case
from nullinv_core.denoiser import Counted
from nullinv_core.presets import PRESETS

from .common import RESULTS, environment, markdown_table, write_json
from .speed import EditFigures, measure_edit, ours, scene_of

TUNING_SEED = 1_000


def main() -> None:
    """Command line of the sweep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=12)
    parser.add_argument("--guidances", type=float, nargs="+", default=[1.25, 1.5, 2.0, 3.0, 7.5])
    parser.add_argument("--preset", choices=list(PRESETS), default="fast")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--out", type=Path, default=RESULTS / "edit_guidance.json")
    options = parser.parse_args()
    model, run = load_model(options.model), ours(PRESETS[options.preset])
    edits: dict[float, list[EditFigures]] = {guidance: [] for guidance in options.guidances}
    for seed in range(TUNING_SEED, TUNING_SEED + options.scenes):
        case = demo_case(seed)
        plan, contexts, empty, latents = scene_of(model, case)
        prepared = None
        for guidance in options.guidances:
            if prepared is None or not prepared.null.pinned:
                prepared = run(model, Counted(model.denoiser), latents, contexts[:1], empty, guidance)
            edits[guidance].append(measure_edit(model, prepared, plan, contexts, guidance, case))
        print(f"{seed} {case.kind}: right at {[g for g, found in edits.items() if found[-1].judged_right]}", flush=True)
    rows, records = [], []
    for guidance, found in edits.items():
        record = {
            "guidance": guidance,
            "edits_judged_right": sum(e.judged_right for e in found),
            "background_psnr": float(np.median([e.background_psnr for e in found if e.background_psnr])),
            "changed_region_gain": float(np.median([e.changed_region_gain for e in found])),
        }
        records.append(record)
        rows.append(
            [f"{guidance:g}", f"{record['edits_judged_right']} of {options.scenes}",
             f"{record['background_psnr']:.1f}", f"{record['changed_region_gain']:+.1f}"]
        )  # fmt: skip
    table = markdown_table(["guidance", "judged right", "background, dB", "changed region against source, dB"], rows)
    write_json(
        options.out,
        {
            **environment(),
            "preset": options.preset,
            "scenes": options.scenes,
            "first_seed": TUNING_SEED,
            "rows": records,
        },
    )
    options.out.with_suffix(".md").write_text(table + "\n", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
