"""Write pictures of the clay world with a list of edits, for ``nullinv batch``.

``python -m benchmarks.batch_folder --out FOLDER --pictures 200`` writes ``photos/`` and ``list.csv``.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import torch

from nullinv_core.demo.run import demo_case, edit_settings
from nullinv_core.demo.scenes import render
from nullinv_core.photo.images import save_image
from nullinv_core.settings import EditSettings

SETTINGS = (
    "cross_replace", "self_replace", "fresh_noise", "exclude_end", "blend_words", "exclude_words", "steady_words",
)  # fmt: skip
"""Columns of the list: what ``edit_settings`` chooses."""


def cells(settings: EditSettings) -> list[object]:
    """The columns of an edit, empty where the default holds. Raises ValueError for settings that they cannot say."""
    if settings != EditSettings(**{name: getattr(settings, name) for name in SETTINGS}):
        raise ValueError(f"the list has no column for a setting of {settings}")
    values = [(getattr(settings, name), getattr(EditSettings(), name)) for name in SETTINGS]
    return ["" if value == usual else value if isinstance(value, float | int) else ",".join(value)
            for value, usual in values]  # fmt: skip


def write_folder(out: Path, seeds: range) -> Path:
    """Write the photos and ``list.csv``; return the list."""
    (out / "photos").mkdir(parents=True, exist_ok=True)
    file = out / "list.csv"
    with file.open("w", encoding="utf-8", newline="") as text:
        rows = csv.writer(text)
        rows.writerow(["picture", "prompt", "edit", *SETTINGS])
        for seed in seeds:
            case, name = demo_case(seed), f"photos/{seed:06d}.png"
            save_image(torch.from_numpy(render(case.source)), out / name)
            rows.writerow([name, *case.captions, *cells(edit_settings(case))])
    return file


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--first-seed", type=int, default=0)
    options = parser.parse_args()
    print(write_folder(options.out, range(options.first_seed, options.first_seed + options.pictures)))


if __name__ == "__main__":
    main()
