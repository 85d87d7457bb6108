"""Which guidance the demo model edits best at: ``python -m benchmarks.edit_guidance --scenes 12``.

Runs the demo's edits (preset ``fast``) on tuning seeds, not those of the reported benchmark, at several guidances and
writes one row per guidance.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from nullinv_core.backends.diffusers import load_model
from nullinv_core.demo.run import demo_case, run_case

from .common import RESULTS, environment, markdown_table, write_json

TUNING_SEED = 1_000


def main() -> None:
    """Command line of the sweep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=12)
    parser.add_argument("--guidances", type=float, nargs="+", default=[1.25, 1.5, 2.0, 3.0, 7.5])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--out", type=Path, default=RESULTS / "edit_guidance.json")
    options = parser.parse_args()
    model, rows, records = load_model(options.model), [], []
    for guidance in options.guidances:
        seeds = range(TUNING_SEED, TUNING_SEED + options.scenes)
        reports = [run_case(model, demo_case(s), s, guidance=guidance, edit_guidance=guidance)[0] for s in seeds]
        gains = [r.changed_region_psnr - r.changed_region_psnr_of_source for r in reports]
        record = {
            "guidance": guidance,
            "edits_judged_right": sum(r.edit_judged_right for r in reports),
            "background_psnr": float(np.median([r.background_psnr for r in reports])),
            "changed_region_gain": float(np.median(gains)),
        }
        records.append(record)
        rows.append(
            [f"{guidance:g}", f"{record['edits_judged_right']} of {options.scenes}",
             f"{record['background_psnr']:.1f}", f"{record['changed_region_gain']:+.1f}"]
        )  # fmt: skip
        print(rows[-1], flush=True)
    table = markdown_table(["guidance", "judged right", "background, dB", "changed region against source, dB"], rows)
    write_json(options.out, {**environment(), "scenes": options.scenes, "first_seed": TUNING_SEED, "rows": records})
    options.out.with_suffix(".md").write_text(table + "\n", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
