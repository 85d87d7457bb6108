"""The published rows of PIE-Bench, with your weights: ``python -m benchmarks.pie_bench ROW … --model FOLDER``.

``null-text``, ``negative-prompt``, ``direct`` and ``ours`` edit every picture of PIE-Bench (Ju et al. 2023, arXiv
2310.01506) with the settings that the published table was made with, keep the pictures under ``--out``, and are scored
by that table's rule, with its figures beside them. A stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from nullinv_core import EditSettings
from nullinv_core.backends.diffusers import DiffusersModel, load_model
from nullinv_core.files.atomic_write import whole_file
from nullinv_core.null_text.presets import PRESETS
from nullinv_core.photo.images import from_pil, load_image, to_pil
from nullinv_core.scores.networks import clip_measures, lpips_measure, structure_measure
from nullinv_core.scores.pie_bench import PHOTOS, TRUTHS, PieEdit, pie_edits
from nullinv_core.scores.pixels import Measure, kept_measures
from nullinv_core.scores.rules import NEAR, PNP, SIDE
from nullinv_core.scores.score import COLUMNS, Scored, score
from nullinv_core.scores.tables import ALL, header, markdown_table, means

from . import edit_photo
from .common import check_installed, known_records
from .edit_cases import EditTask

CROSS, SELF, STRENGTH = 0.4, 0.6, 2.0
"""Replace windows and the weight of the new word with which the published rows were made."""
GUIDANCE = 7.5
JPEG_QUALITY = 75
ROWS = {"null-text": "paper", "negative-prompt": "negative-prompt", "direct": "direct", "ours": "fast"}
"""Presets by row."""
BASES = {"sd14": "Stable Diffusion 1.4", "sdxl": "SDXL"}
FIGURES = ("structure", "PSNR, kept", "LPIPS, kept", "MSE, kept", "SSIM, kept", "CLIP", "CLIP, edited part")
PUBLISHED = {
    ("sd14", "null-text"): (13.44, 27.03, 60.67, 35.86, 0.8411, 24.75, 21.86),
    ("sd14", "negative-prompt"): (16.17, 26.21, 69.01, 39.73, 0.8340, 24.61, 21.87),
    ("sd14", "direct"): (11.65, 27.22, 54.55, 32.86, 0.8476, 25.02, 22.10),
}
"""Ju et al. 2023, table 1, lines NT, NP and Ours with P2P; nobody has published such rows for SDXL."""


def pie_tasks(folder: Path, side: int = SIDE) -> Iterator[EditTask]:
    """The edits of a PIE-Bench folder, in its order, in pictures of ``side`` pixels.

    Raises InputError for a folder of another layout.
    """
    return (task_of(folder, edit, side) for edit in pie_edits(folder))


def task_of(folder: Path, edit: PieEdit, side: int) -> EditTask:
    """One of them. Raises InputError for a photo that cannot be read."""
    truth = folder / TRUTHS / edit.picture
    nearest = ((np.arange(side) + 0.5) * SIDE / side).astype(np.int64)
    return EditTask(
        name=edit.name,
        kind=edit.kind,
        source=_picture(folder / PHOTOS / edit.picture, side),
        source_prompt=edit.source_prompt,
        edit_prompt=edit.edit_prompt,
        changes=edit.changes[nearest][:, nearest],
        settings=EditSettings(
            mode="refine",
            cross_replace=CROSS,
            self_replace=SELF,
            weights={word: STRENGTH for word in edit.blended[1:] if word in edit.edit_prompt.split()},
            blend_words=edit.blend_words,
        ),
        truths=(_picture(truth, side),) if truth.is_file() else (),
    )


def _picture(path: Path, side: int) -> np.ndarray:
    """A picture of the dataset in ``side`` pixels; where they divide its own, by the means of its blocks."""
    if SIDE % side == 0:
        large = to_pil(load_image(path, SIDE)[0])
        return from_pil(large.reduce(SIDE // side))[0].numpy()
    return load_image(path, side)[0].numpy()


def published_measures() -> dict[str, Measure]:
    """PSNR in dB, MSE times 10000 and SSIM by the published table's rule, but equal pictures count as ``NEAR``."""
    found = kept_measures(replace(PNP, equal=NEAR))
    return {f"published {name.removesuffix(', kept')}": measure for name, measure in found.items()}


def settings_table() -> str:
    """The settings of every row."""
    same = {
        "steps": f"{edit_photo.STEPS}, DDIM", "guidance": f"{GUIDANCE:g}, 1 for the inversion",
        "edit": "Prompt-to-Prompt, refine",
        "cross_replace": f"{CROSS:g}", "self_replace": f"{SELF:g}", "blend words": "both blended words",
        "weight of the new one": f"{STRENGTH:g}", "size": "the model's own; scored at 512",
        "kept as": f"JPEG of quality {JPEG_QUALITY}",
    }  # fmt: skip
    lines = [[name, value] for name, value in same.items()]
    for row, preset in ROWS.items():
        recipe = PRESETS[preset]
        told = [recipe.inversion, "edits read the photo from its path" if recipe.pinned else "edits sample the photo"]
        if recipe.optimization is not None:
            told.append(f"at most {recipe.optimization.inner_steps} rounds of Adam a step")
        lines.append([row, f"preset {preset}: {', '.join(told)}"])
    return markdown_table(["setting", "value"], lines)


def make_pictures(
    model: DiffusersModel, folder: Path, edits: Sequence[PieEdit], rows: Sequence[str], out: Path, batch: int = 1
) -> None:
    """Edit what has no picture yet: 512×512 below ``out/ROW/annotation_images``, by the photo's place."""
    # the methods load what only editing needs
    from .edit_methods import METHODS

    for start in range(0, len(edits), batch):
        chunk = edits[start : start + batch]
        places = {row: [picture_place(out, row, edit) for edit in chunk] for row in rows}
        left = [row for row in rows if not all(place.is_file() for place in places[row])]
        if not left:
            continue
        photo = edit_photo.photo_of(model, [task_of(folder, edit, model.native_size) for edit in chunk])
        for row in left:
            for place, picture in zip(places[row], model.decode(METHODS[ROWS[row]](photo, GUIDANCE)), strict=True):
                if not place.is_file():
                    keep(to_pil(picture).resize((SIDE, SIDE), Image.Resampling.LANCZOS), place)
        print(f"{min(start + batch, len(edits))} of {len(edits)}", flush=True)


def keep(picture: Image.Image, place: Path) -> None:
    """Write a picture as the published ones were: they are JPEGs of Pillow's usual quality, and were scored so."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(place) as partial:
        picture.save(partial, format="JPEG", quality=JPEG_QUALITY)


def picture_place(out: Path, row: str, edit: PieEdit) -> Path:
    """Where a row keeps an edit's picture."""
    return out / row / PHOTOS / edit.picture.with_suffix(".jpg")


def rows_table(found: Sequence[Scored], base: str) -> str:
    """The rows as measured, each with its published figures below."""
    cells = {(one.method, one.figure): one.mean for one in means(found) if one.kind == ALL}
    lines = []
    for row in dict.fromkeys(one.method for one in found):
        counted = str(sum(one.method == row for one in found))
        lines.append([row, "here", *(_cell(name, cells.get((row, name))) for name in FIGURES), counted])
        known = PUBLISHED.get((base, row))
        if known:
            lines.append([row, "published", *(_cell(*one) for one in zip(FIGURES, known, strict=True)), "700"])
    return markdown_table([BASES[base], "", *map(header, FIGURES), "pictures"], lines)


def _cell(name: str, value: float | None) -> str:
    return "" if value is None else f"{value:.{COLUMNS[name].digits}f}"


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="+", choices=ROWS, metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--base", choices=BASES, default="sd14", help="which published figures stand beside")
    parser.add_argument("--model", required=True, help="its weights: a diffusers folder or a checkpoint")
    parser.add_argument("--pie-bench", type=Path, required=True, help="PIE-Bench's folder")
    parser.add_argument("--out", type=Path, required=True, help="folder for pictures and table")
    parser.add_argument("--first", type=int, help="so many of its pictures alone")
    parser.add_argument("--batch", type=int, default=1, help="pictures that are edited together")
    parser.add_argument("--clip", type=Path, help="folder of CLIP ViT-L/14: CLIP similarity")
    parser.add_argument("--dino", type=Path, help="folder of DINO ViT-B/8: structure distance")
    parser.add_argument("--lpips", help='"torchvision", or squeezenet1_1 as .safetensors: LPIPS')
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    check_installed("torchmetrics")
    edits = list(islice(pie_edits(options.pie_bench), options.first))
    rows, out = list(dict.fromkeys(options.rows)), options.out / options.base
    measures = kept_measures(PNP)
    measures |= structure_measure(options.dino, options.device, PNP) if options.dino else {}
    measures |= clip_measures(options.clip, options.device, PNP) if options.clip else {}
    if options.lpips:
        weights = None if options.lpips == "torchvision" else Path(options.lpips)
        measures |= lpips_measure(weights, options.device, PNP)
    model = load_model(options.model, options.device)
    # pictures that are there are not made again
    known_records(out / "made_by.jsonl", {"model": asdict(model.fingerprint), "settings": settings_table()})
    make_pictures(model, options.pie_bench, edits, rows, out, options.batch)
    found, _ = score(edits, options.pie_bench, {row: out / row for row in rows}, measures, PNP)
    text = f"{rows_table(found, options.base)}\n\n{settings_table()}\n"
    (out / "rows.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
