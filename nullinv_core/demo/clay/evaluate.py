"""Look at the clay model, and measure it on held-out scenes: ``python -m nullinv_core.demo.clay.evaluate``."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ...backends.diffusers import DiffusersModel, load_model
from ...images import psnr, to_pil
from ...schedule import guide
from ..evaluate import ancestral_step
from ..training_state import load_module
from .captions import caption, reading_of
from .edits import sample_edit
from .judge import Judge, verdicts
from .scenes import Scene, render, sample_scene

HELD_OUT_FIRST = 500_000
"""Seeds of the evaluation."""


def generate(model: DiffusersModel, captions: list[str], steps: int, guidance: float, seed: int = 0) -> np.ndarray:
    """One picture per caption by guided ancestral sampling from seeded noise: (n, 128, 128, 3) in 0…1."""
    schedule = model.schedule(steps)
    random = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(captions), 4, 16, 16, generator=random)
    empty = model.encode_prompts([model.prompt("")])
    pictures = []
    with torch.no_grad():
        for start in range(0, len(captions), 24):
            text = model.encode_prompts([model.prompt(c) for c in captions[start : start + 24]])
            contexts = torch.cat([empty.expand_as(text), text])
            latents = noise[start : start + 24].to(model.device)
            for step in range(steps, 0, -1):
                predicted = model.denoiser(latents.repeat(2, 1, 1, 1), schedule.level(step), contexts)
                epsilon_null, epsilon_text = predicted.chunk(2)
                fresh = torch.randn(latents.shape, generator=random).to(model.device)
                latents = ancestral_step(latents, guide(epsilon_null, epsilon_text, guidance), schedule, step, fresh)
            pictures.append(model.decode(latents))
    return torch.cat(pictures).numpy()


def fidelity(model: DiffusersModel, scenes: list[Scene]) -> list[float]:
    """PSNR in dB of scenes after the autoencoder."""
    images = torch.from_numpy(np.stack([render(s) for s in scenes]))
    decoded = model.decode(model.encode_image(images)).numpy()
    return [psnr(d, i) for d, i in zip(decoded, images.numpy(), strict=True)]


def judged(judge: Judge, count: int) -> tuple[float, float]:
    """How good the judge is on scenes that it never saw: share of true ones accepted, of ones with one thing wrong."""
    kinds = ("object", "colour", "background")
    cases = [sample_edit(HELD_OUT_FIRST + i, kinds[i % 3]) for i in range(count)]
    pictures = torch.from_numpy(np.stack([render(case.source) for case in cases]))
    right = verdicts(judge, pictures, [reading_of(case.source) for case in cases])
    fooled = verdicts(judge, pictures, [reading_of(case.target) for case in cases])
    return float(np.mean([not v.wrong for v in right])), float(np.mean([not v.wrong for v in fooled]))


def sheet(pictures: np.ndarray, columns: int = 8) -> Image.Image:
    """Pictures (n, H, W, 3) in rows."""
    rows = [np.concatenate(list(pictures[i : i + columns]), axis=1) for i in range(0, len(pictures), columns)]
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows]
    return to_pil(np.concatenate(padded))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--judge", type=Path, help="the judge's training state; without it nothing is judged")
    parser.add_argument("--scenes", type=int, default=24, help="half with one toy, half with two")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--plain", action="store_true", help="clay photos of toys that look ahead and wear nothing")
    parser.add_argument("--out", type=Path, default=Path("clay-sheet.png"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    model = load_model(options.model, options.device)
    half = math.ceil(options.scenes / 2)
    scenes = [
        sample_scene(HELD_OUT_FIRST + i, "held-out", 1 if i < half else 2, options.plain) for i in range(options.scenes)
    ]
    decibels = fidelity(model, scenes)
    print(f"autoencoder: median {np.median(decibels):.2f} dB, worst {min(decibels):.2f}, best {max(decibels):.2f}")
    pictures = generate(model, [caption(s) for s in scenes], options.steps, options.guidance)
    sheet(pictures).save(options.out)
    if options.judge is None:
        print("\n".join(caption(s) for s in scenes))
        return
    judge = Judge()
    load_module(options.judge, "model", judge.eval())
    right, fooled = judged(judge, max(options.scenes, 60))
    print(f"judge: {right:.1%} of true scenes accepted, {fooled:.1%} of those with one thing wrong")
    found = verdicts(judge, torch.from_numpy(pictures), [reading_of(s) for s in scenes])
    for name, part in (("one toy", found[:half]), ("two toys", found[half:])):
        print(f"{name}: {np.mean([not v.wrong for v in part]):.1%} right")
    for scene, verdict in zip(scenes, found, strict=True):
        print(f"{caption(scene)}: {'; '.join(verdict.wrong) or 'right'}")


if __name__ == "__main__":
    main()
