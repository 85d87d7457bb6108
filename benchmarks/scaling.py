"""How the cost grows: ``python -m benchmarks.scaling``.

Seconds an image of the preset ``fast`` and of its edits, by steps, pixels, edits and batch size, on the demo model.
Every line is the median of some runs, taken in turns so that a slow minute of the machine meets all of them.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from nullinv_core import EditSettings, plan_edit
from nullinv_core.backends.diffusers import DiffusersModel, load_model
from nullinv_core.context import stack
from nullinv_core.demo.captions import caption
from nullinv_core.demo.looks import COLOURS
from nullinv_core.demo.run import EDIT_GUIDANCE
from nullinv_core.demo.scenes import render, sample_scene
from nullinv_core.denoiser import Counted
from nullinv_core.pipeline import Sampling, null_of, prepare_latents, sample
from nullinv_core.scores.tables import markdown_table

from .common import RESULTS, environment, write_json

FIRST_SEED = 30_000


@dataclass(frozen=True)
class Setup:
    """What is varied; ``side`` in pixels, ``edits`` of every image."""

    steps: int = 20
    side: int = 128
    edits: int = 1
    batch: int = 1


SETUPS = {
    "steps": [Setup(steps=n) for n in (10, 20, 40)],
    "pixels": [Setup(side=n) for n in (128, 256, 384)],
    "edits": [Setup(edits=n) for n in (1, 2, 4)],
    "batch": [Setup(batch=n) for n in (1, 8)],
}


@dataclass(frozen=True)
class Cost:
    """Of one image: seconds and samples (a backward pass as two) to invert and optimize, and to edit."""

    seconds: float
    samples: float
    edit_seconds: float
    edit_samples: float


def measure(model: DiffusersModel, setup: Setup) -> Cost:
    """One run of a set-up. Pictures of another size than the model's are enlarged scenes: they cost what photos do."""
    scenes = [sample_scene(FIRST_SEED + i, "held-out", 1) for i in range(setup.batch)]
    images = torch.from_numpy(np.stack([render(s) for s in scenes])).permute(0, 3, 1, 2)
    images = torch.nn.functional.interpolate(images, size=(setup.side, setup.side)).permute(0, 2, 3, 1)
    sources = [model.prompt(caption(s)) for s in scenes]
    targets = [
        [model.prompt(caption(s).replace(s.things[0].colour, c)) for c in _others(s.things[0].colour, setup.edits)]
        for s in scenes
    ]
    plans = [
        [plan_edit(source, t, setup.steps, EditSettings()) for t in row]
        for source, row in zip(sources, targets, strict=True)
    ]
    contexts = stack([model.encode_prompts(row) for row in targets])
    latents, counter = model.encode_image(images), Counted(model.denoiser)
    started = time.perf_counter()
    texts = [source.text for source in sources]
    inversion, _ = prepare_latents(replace(model, counter=counter), latents, texts, setup.steps, "fast", EDIT_GUIDANCE)
    prepared = time.perf_counter()
    samples, counter = counter.forwards + 2 * counter.backwards, Counted(model.denoiser)
    watched = replace(model, counter=counter)
    sample(watched, inversion, null_of(inversion), plans, contexts, Sampling(EDIT_GUIDANCE))
    done = time.perf_counter()
    n = setup.batch
    return Cost((prepared - started) / n, samples / n, (done - prepared) / n, counter.forwards / n)


def _others(colour: str, count: int) -> list[str]:
    return [c for c in COLOURS if c != colour][:count]


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--out", type=Path, default=RESULTS / "scaling.json")
    options = parser.parse_args()
    model = load_model(options.model)
    measure(model, Setup(steps=2))
    setups = [(kind, setup) for kind, row in SETUPS.items() for setup in row]
    costs: list[list[Cost]] = [[] for _ in setups]
    for _ in range(options.runs):
        for own, (_, setup) in zip(costs, setups, strict=True):
            own.append(measure(model, setup))
    records = []
    for (kind, setup), own in zip(setups, costs, strict=True):
        medians = Cost(*(float(np.median([getattr(c, name) for c in own])) for name in asdict(own[0])))
        records.append({"varied": kind, **asdict(setup), **asdict(medians)})
    rows = [
        [r["varied"], *(str(r[k]) for k in ("steps", "side", "edits", "batch")), f"{r['seconds']:.2f}",
         f"{r['samples']:.0f}", f"{r['edit_seconds']:.2f}", f"{r['edit_samples']:.0f}"]
        for r in records
    ]  # fmt: skip
    head = [
        "varied",
        "steps",
        "side",
        "edits",
        "batch",
        "seconds an image",
        "samples",
        "seconds of its edits",
        "samples",
    ]
    table = markdown_table(head, rows)
    write_json(options.out, {**environment(), "rows": records})
    options.out.with_suffix(".md").write_text(table + "\n", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
