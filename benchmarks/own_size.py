"""Edits in the photo's own size: ``python -m benchmarks.own_size``.

Scenes that nothing was tuned on, drawn four times as large as the demo model works, are scaled down, edited, and come
back in their own size: the edit enlarged; the photo's pixels kept in the small size and that enlarged; and as
``keep_photo`` does where it gets the large photo. Each is compared with the large true edit.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from nullinv_core import keep_photo
from nullinv_core.backends.diffusers import DiffusersModel, load_model
from nullinv_core.demo.edits import EditCase
from nullinv_core.demo.run import EDIT_GUIDANCE, demo_case, edit_settings
from nullinv_core.demo.scenes import render
from nullinv_core.photo.full_size import centre, scaled_down
from nullinv_core.photo.images import psnr, save_image
from nullinv_core.pipeline import apply, prepare
from nullinv_core.scores.tables import markdown_table

from .common import RESULTS, environment, write_json

FIRST_SEED, TIMES = 60_000, 4


def results(model: DiffusersModel, case: EditCase, photo: np.ndarray, steps: int) -> dict[str, Tensor]:
    """The edit of a large photo (H, W, 3) in the three ways, by name."""
    side, (height, width) = model.native_size, photo.shape[:2]
    whole = torch.from_numpy(photo)[None]
    small, (source, target) = scaled_down(whole, centre((height, width), (side, side))), case.captions
    inversion = prepare(model, small, source, steps)
    edited = apply(model, inversion, target, edit_settings(case), EDIT_GUIDANCE).pictures
    decoded = model.decode(inversion.trajectory.clean)

    def enlarged(pictures: Tensor) -> Tensor:
        large = interpolate(pictures.movedim(-1, 1), (height, width), mode="bicubic").movedim(1, -1)
        return large[0].clamp(0, 1)

    return {
        "the edit, enlarged": enlarged(edited),
        "the photo's pixels kept, then enlarged": enlarged(keep_photo(small, edited, decoded)[0]),
        "in the photo's own size": keep_photo(whole, edited, decoded)[0][0],
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=12)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--pictures", type=Path, help="folder for the pictures, to look at")
    parser.add_argument("--out", type=Path, default=RESULTS / "own_size.json")
    options = parser.parse_args()
    if options.pictures:
        options.pictures.mkdir(parents=True, exist_ok=True)
    model = load_model("demo")
    kept: dict[str, list[float]] = {}
    same: dict[str, list[float]] = {}
    gained: dict[str, list[float]] = {}
    for seed in range(FIRST_SEED, FIRST_SEED + options.scenes):
        case = demo_case(seed)
        photo, truth = (render(s, TIMES * model.native_size) for s in (case.source, case.target))
        changes = np.asarray(Image.fromarray(case.mask).resize(photo.shape[1::-1], Image.Resampling.NEAREST))
        before = psnr(photo, truth, changes)
        for name, picture in results(model, case, photo, options.steps).items():
            found = picture.numpy()
            kept.setdefault(name, []).append(min(psnr(found, photo, ~changes), 60.0))
            same.setdefault(name, []).append(float((found == photo).all(-1)[~changes].mean()))
            gained.setdefault(name, []).append(psnr(found, truth, changes) - before)
            if options.pictures:
                save_image(picture, options.pictures / f"{seed} {name}.png")
        print(f"{seed} {case.kind}: {', '.join(f'{values[-1]:.1f} dB' for values in kept.values())}", flush=True)
    rows = [
        [name, f"{np.mean(kept[name]):.1f}", f"{np.mean(same[name]):.0%}", f"{np.mean(gained[name]):+.1f}"]
        for name in kept
    ]
    table = markdown_table(["the result", "kept, dB", "of its pixels the photo's own", "gain, dB"], rows)
    write_json(options.out, {**environment(), "first_seed": FIRST_SEED, "kept": kept, "same": same, "gain": gained})
    options.out.with_suffix(".md").write_text(table + "\n", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
