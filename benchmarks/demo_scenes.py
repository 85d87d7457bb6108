"""The demo's main job over many held-out scenes: ``python -m benchmarks.demo_scenes --scenes 20``.

Writes one row per scene and the medians that the README quotes to ``benchmarks/results/demo_scenes.json``, the table
beside it as Markdown, and a sheet of all comparisons as JPEG.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

import numpy as np

from nullinv_core.backends.diffusers import load_model
from nullinv_core.demo.run import DemoReport, DemoSetup, demo_case, run_case
from nullinv_core.null_text.presets import PRESETS
from nullinv_core.photo.images import to_pil
from nullinv_core.scores.tables import markdown_table

from .common import RESULTS, environment, write_json

MEDIANS = (
    "psnr_autoencoder", "psnr_ddim", "psnr_null_text", "psnr_null_text_vs_autoencoder", "background_psnr",
    "changed_region_psnr", "changed_region_psnr_of_source", "unet_forwards", "unet_backwards", "seconds_invert",
    "seconds_optimize", "seconds_optimize_edit", "seconds_edit",
)  # fmt: skip


def summary(reports: list[DemoReport]) -> dict[str, float]:
    """Medians over scenes, the median gain in the changed region, and how many edits were judged right."""
    medians = {name: float(np.median([getattr(r, name) for r in reports])) for name in MEDIANS}
    gains = [r.changed_region_psnr - r.changed_region_psnr_of_source for r in reports]
    return medians | {
        "changed_region_gain": float(np.median(gains)),
        "edits_judged_right": sum(r.edit_judged_right for r in reports),
        "scenes": len(reports),
    }


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--preset", choices=list(PRESETS), default="fast")
    parser.add_argument("--edit-guidance", type=float, help="by default the one that suits the preset")
    parser.add_argument("--out", type=Path, default=RESULTS / "demo_scenes.json")
    options = parser.parse_args()
    model, reports, rows = load_model(options.model), [], []
    setup = DemoSetup(preset=options.preset, edit_guidance=options.edit_guidance or 0.0)
    for seed in range(options.first_seed, options.first_seed + options.scenes):
        report, p = run_case(model, demo_case(seed), seed, setup)
        reports.append(report)
        rows.append(np.concatenate([p.source, p.ddim_reconstruction, p.reconstruction, p.edited, p.true_edit], 1))
        gain = report.changed_region_psnr - report.changed_region_psnr_of_source
        print(
            f"{seed:3d} {report.kind:18s} null-text vs autoencoder {report.psnr_null_text_vs_autoencoder:5.1f} dB, "
            f"background {report.background_psnr:5.1f} dB, changed region {gain:+5.1f} dB, "
            f"{'right' if report.edit_judged_right else 'WRONG'}: {report.source_prompt} -> {report.edit_prompt}",
            flush=True,
        )
    medians = summary(reports)
    write_json(
        options.out,
        {**environment(), "preset": options.preset, "summary": medians, "scenes": [asdict(r) for r in reports]},
    )
    table = markdown_table(["figure", "median"], [[k, f"{v:.2f}"] for k, v in medians.items()])
    options.out.with_suffix(".md").write_text(table + "\n", encoding="utf-8")
    half = (len(rows) + 1) // 2
    blank = [np.ones_like(rows[0])] * (2 * half - len(rows))
    columns = [np.concatenate(rows[:half]), np.concatenate(rows[half:] + blank)]
    to_pil(np.concatenate(columns, 1)).save(options.out.with_suffix(".jpg"), quality=88)
    print(table)


if __name__ == "__main__":
    main()
