"""Draw what the demo model does with captions and edits that nobody chose: ``python -m docs.sheets``.

Writes ``generated.jpg`` and ``edits.jpg`` to ``docs``, and the page that shows them, ``sheets.md``; and the README's
first picture, which is what ``make demo`` gives: ``comparison.jpg``.
"""

from __future__ import annotations

import argparse
import re
import textwrap
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from nullinv_core.backends.diffusers import DiffusersModel, load_model
from nullinv_core.cli.demo import DEMO_SEED
from nullinv_core.demo.captions import caption, phrase, reading_of, said_of
from nullinv_core.demo.edits import KINDS, EditCase, sample_edit
from nullinv_core.demo.judge import load_judge, verdicts
from nullinv_core.demo.run import EDIT_GUIDANCE, DemoSetup, comparison, demo_case, run_case
from nullinv_core.demo.scenes import sample_scene
from nullinv_core.demo.training.evaluate import generate
from nullinv_core.photo.images import to_pil

FOLDER = Path(__file__).parent
FIRST_SEED, COUNT = 700_000, 24
"""Seeds that nothing else uses, one after another."""
DRAWN_GUIDANCE, STEPS = 4.0, 50
GAP, LINE, TEXT = 6, 13, 11
"""Between pictures, of a line of text and of its letters, in pixels."""
PAPER, INK, WRONG = (255, 255, 255), (30, 30, 30), (190, 30, 30)
PAGE = """# Nobody chose these

The first {count} seeds from {first}, as they came out of the demo model. Each shows a toy in a colour and a place that
training never showed together. Red: a [judge](../nullinv_core/demo/model/README.md), which is no part of the model,
finds something wrong.

## {count} pictures, each from its caption

{drawn} of {count} as asked. {steps} steps, guidance {drawn_guidance:g}.

![{count} pictures with the captions that they were drawn from](generated.jpg)

## {count} edits, before and after

{edited} of {count} as asked. Ten kinds of edits take turns. Preset `fast`, {steps} steps, guidance {edit_guidance:g},
the settings that `make demo` has for each kind, the photo's own pixels kept.

![{count} scenes before and after an edit](edits.jpg)

`python -m docs.sheets` draws both sheets and writes this page.
"""


def sheet(tiles: list[tuple[list[np.ndarray], str, bool]], columns: int, lines: int) -> Image.Image:
    """Tiles row by row: pictures (128, 128, 3) in 0…1 side by side, their text below, red where it is not right."""
    font = ImageFont.load_default(TEXT)
    wide = 128 * len(tiles[0][0])
    across, down = wide + GAP, 128 + lines * LINE + GAP
    rows = -(-len(tiles) // columns)
    found = Image.new("RGB", (columns * across + GAP, rows * down + GAP), PAPER)
    draw = ImageDraw.Draw(found)
    for index, (pictures, text, right) in enumerate(tiles):
        left, top = GAP + index % columns * across, GAP + index // columns * down
        found.paste(to_pil(np.concatenate(pictures, 1)), (left, top))
        for number, line in enumerate(textwrap.wrap(text, 5 * wide // 32)[:lines]):
            draw.text((left, top + 128 + number * LINE), line, INK if right else WRONG, font)
    return found


def drawn(model: DiffusersModel, seeds: range) -> list[tuple[list[np.ndarray], str, bool]]:
    """Pictures of held-out captions, each with its caption and whether the judge finds all that it asks for."""
    scenes = [sample_scene(seed, "held-out") for seed in seeds]
    pictures = generate(model, [caption(s) for s in scenes], STEPS, DRAWN_GUIDANCE, seed=seeds.start)
    found = verdicts(load_judge(), torch.from_numpy(pictures), [reading_of(s) for s in scenes])
    return [([p], caption(s), not v.wrong) for p, s, v in zip(pictures, scenes, found, strict=True)]


def edited(model: DiffusersModel, seeds: range) -> list[tuple[list[np.ndarray], str, bool]]:
    """Scenes before and after an edit, what changes in words, and whether the judge finds all that was asked for."""
    tiles = []
    for number, seed in enumerate(seeds):
        case = sample_edit(seed, KINDS[number % len(KINDS)])
        report, pictures = run_case(model, case, seed, DemoSetup(STEPS))
        tiles.append(([pictures.source, pictures.edited], f"{case.kind}: {change(case)}", report.edit_judged_right))
    return tiles


def change(case: EditCase) -> str:
    """What an edit changes, in words: the toy that comes or goes, else what only one of the captions has."""
    differ = set(case.source.things) ^ set(case.target.things)
    if len(differ) == 1:
        return phrase(said_of(differ.pop()))
    runs = (re.findall(r"\[(.+?)\]", text) for text in case.marked)
    before, after = (", ".join(run.removeprefix("and ").removesuffix(" and") for run in found) for found in runs)
    return f"{before} to {after}" if before and after else before or after


def main() -> None:
    """Write all three pictures and the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder")
    out = parser.parse_args().out
    model, seeds = load_model("demo"), range(FIRST_SEED, FIRST_SEED + COUNT)
    comparison(*run_case(model, demo_case(DEMO_SEED), DEMO_SEED, DemoSetup(STEPS))).save(
        out / "comparison.jpg", quality=90
    )
    pictures, edits = drawn(model, seeds), edited(model, seeds)
    sheet(pictures, 8, 5).save(out / "generated.jpg", quality=88)
    sheet(edits, 4, 2).save(out / "edits.jpg", quality=88)
    right = {name: sum(tile[2] for tile in tiles) for name, tiles in (("drawn", pictures), ("edited", edits))}
    page = PAGE.format(
        count=COUNT, first=FIRST_SEED, steps=STEPS, drawn_guidance=DRAWN_GUIDANCE, edit_guidance=EDIT_GUIDANCE, **right
    )
    (out / "sheets.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
