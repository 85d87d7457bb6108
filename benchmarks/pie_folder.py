"""Write edits of the clay world in PIE-Bench's own layout: ``python -m benchmarks.pie_folder --out FOLDER``.

Any tool that reads PIE-Bench (Ju et al. 2023, arXiv 2310.01506) can be scored on them. The true answers, which
PIE-Bench does not have, lie beside the pictures under ``true_images/``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

from nullinv_core.demo.edits import KINDS, EditCase, sample_edit
from nullinv_core.demo.scenes import render
from nullinv_core.photo.images import save_pil, to_pil
from nullinv_core.scores.pie_bench import MAPPING, PHOTOS, TRUTHS
from nullinv_core.scores.rules import SIDE

FOLDERS = {
    "swap": "0_random",
    "object": "1_change_object",
    "add": "2_add_object",
    "delete": "3_delete_object",
    "content": "4_change_attribute_content",
    "pose": "5_change_attribute_pose",
    "colour": "6_change_attribute_color",
    "material": "7_change_attribute_material",
    "background": "8_change_background",
    "style": "9_change_style",
}
"""The dataset's folder for each kind of edit; its first digit is the ``editing_type_id``."""
FIRST_SEED = 2_000
SHIFTS = 32
"""So often are blocks brought to their mean, see ``enlarged``."""


def encode_mask(mask: np.ndarray) -> list[int]:
    """A mask, bool (H, W), as start and length, start and length, … over the flattened picture."""
    padded = np.concatenate([[False], mask.ravel(), [False]]).astype(np.int8)
    starts, stops = np.flatnonzero(np.diff(padded) == 1), np.flatnonzero(np.diff(padded) == -1)
    return [int(n) for n in np.stack([starts, stops - starts], 1).ravel()]


def blended(case: EditCase) -> str:
    """The words that a local blend goes by: the changed toy before and after, or none where no toy is changed."""
    if case.kind in ("add", "delete", "background", "style", "swap"):
        return ""
    pairs = zip(case.source.things, case.target.things, strict=True)
    return next(f"{before.kind} {after.kind}" for before, after in pairs if before != after)


def enlarged(picture: Image.Image, factor: int) -> Image.Image:
    """A picture so many times as large, smooth, of which each block of pixels has the mean of the pixel that it came
    from, as nearly as 8 bits can: ``Image.reduce`` gives the picture back."""
    wide, high = (factor * side for side in picture.size)
    wanted = np.asarray(picture, np.float64)
    large = np.asarray(picture.resize((wide, high), Image.Resampling.LANCZOS), np.float64)
    # a block at black or white cannot take its whole shift at once
    for _ in range(SHIFTS):
        means = large.reshape(high // factor, factor, wide // factor, factor, -1).mean((1, 3))
        large = (large + np.kron(wanted - means, np.ones((factor, factor, 1)))).clip(0, 255)
    return Image.fromarray(large.round().astype(np.uint8))


def write_folder(cases: list[EditCase], out: Path) -> None:
    """Write ``mapping_file.json``, ``annotation_images/`` and ``true_images/`` of edits, 512 pixels wide."""
    entries = {}
    for number, case in enumerate(cases):
        name, folder = f"{number:012d}", FOLDERS[case.kind]
        picture = f"{folder}/{name}.png"
        for kind, scene in ((PHOTOS, case.source), (TRUTHS, case.target)):
            path = out / kind / picture
            path.parent.mkdir(parents=True, exist_ok=True)
            save_pil(enlarged(to_pil(render(scene)), SIDE // 128), path)
        source, target = case.marked
        entries[name] = {
            "image_path": picture,
            "original_prompt": source,
            "editing_prompt": target,
            "editing_instruction": "",
            "editing_type_id": folder[0],
            "blended_word": blended(case),
            "mask": encode_mask(np.kron(case.mask, np.ones((SIDE // 128, SIDE // 128), bool))),
        }
    (out / MAPPING).write_text(json.dumps(entries, indent=1), encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    options = parser.parse_args()
    if options.cases < 1 or options.first_seed < 0:
        parser.error("--cases is a number from 1, --first-seed from 0")
    seeds = range(options.first_seed, options.first_seed + options.cases)
    write_folder([sample_edit(seed, KINDS[seed % len(KINDS)]) for seed in seeds], options.out)
    print(f"{options.cases} edits in {options.out}")


if __name__ == "__main__":
    main()
