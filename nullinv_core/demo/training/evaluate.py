"""Measure the demo model on held-out scenes and write its card: ``python -m nullinv_core.demo.training.evaluate``."""

from __future__ import annotations

import argparse
import math
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...backends.diffusers import DEMO_MODEL, DiffusersModel, load_model
from ...context import cat
from ...photo.images import psnr
from ...schedule import Schedule, guide, predicted_clean
from ..captions import caption, reading_of
from ..edits import KINDS, sample_edit
from ..judge import JUDGE, Judge, load_judge, verdicts, wrong_edit
from ..scenes import Scene, render, sample_scene
from .card import model_card

CAPTIONS = 480
"""Pictures that the card is about; half of them show one toy, half two."""
HELD_OUT_FIRST = 500_000
"""Seeds of the evaluation; the demo and the benchmarks use others."""


@dataclass(frozen=True)
class Quality:
    """Figures of the model card. Shares in 0…1, PSNR in dB (median over scenes)."""

    captions: int
    steps: int
    guidance: float
    autoencoder_psnr: float
    one_toy_right: float
    two_toys_right: float
    judge_right_on_true: float
    judge_right_on_edits: float
    judge_false_accepts: float
    mistakes: tuple[str, ...]

    def missed(self) -> list[str]:
        """Targets that are not reached, in words."""
        bars = [
            ("autoencoder PSNR", self.autoencoder_psnr >= 30),
            ("scenes of one toy right", self.one_toy_right >= 0.95),
            ("scenes of two toys right", self.two_toys_right >= 0.85),
            ("judge on true scenes", self.judge_right_on_true >= 0.99),
            ("judge's false accepts", self.judge_false_accepts <= 0.02),
        ]
        return [name for name, reached in bars if not reached]


def ancestral_step(latents: Tensor, epsilon: Tensor, schedule: Schedule, step: int, noise: Tensor) -> Tensor:
    """z_{t-1} drawn by fresh ``noise`` around what (z_t, ε) imply (Ho et al. 2020, arXiv 2006.11239, algorithm 2).

    It is DDIM's step with η = 1. The noise gives later steps a chance to mend what the first ones got wrong.
    """
    alpha, alpha_next = schedule.alphas_cumprod[step], schedule.alphas_cumprod[step - 1]
    variance = (1 - alpha_next) / (1 - alpha) * (1 - alpha / alpha_next)
    clean = predicted_clean(latents, epsilon, alpha)
    return math.sqrt(alpha_next) * clean + math.sqrt(1 - alpha_next - variance) * epsilon + math.sqrt(variance) * noise


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
            contexts = cat([empty.expand(len(text)), text])
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


def judged(judge: Judge, count: int) -> tuple[float, float, float]:
    """How good the judge is on scenes that it never saw, of all kinds of edit: shares of the photos that are read
    right, of the true edits that are accepted, and of the photos that are accepted as their edit."""
    cases = [sample_edit(HELD_OUT_FIRST + i, KINDS[i % len(KINDS)]) for i in range(count)]
    pictures = [render(case.source) for case in cases]
    read = verdicts(judge, torch.from_numpy(np.stack(pictures)), [reading_of(case.source) for case in cases])
    edits = [not wrong_edit(render(case.target), case, judge) for case in cases]
    fooled = [not wrong_edit(picture, case, judge) for picture, case in zip(pictures, cases, strict=True)]
    return float(np.mean([not v.wrong for v in read])), float(np.mean(edits)), float(np.mean(fooled))


def measure(
    model: DiffusersModel, judge: Judge, captions: int, steps: int, guidance: float
) -> tuple[Quality, np.ndarray]:
    """All figures of the model card, and the first 24 generated pictures."""
    half = captions // 2
    halves = [[sample_scene(HELD_OUT_FIRST + i, "held-out", n) for i in range(half)] for n in (1, 2)]
    decibels = fidelity(model, halves[0][:32] + halves[1][:32])
    shares, mistakes, shown = [], [], []
    for number, scenes in enumerate(halves):
        pictures = generate(model, [caption(s) for s in scenes], steps, guidance, seed=number)
        found = verdicts(judge, torch.from_numpy(pictures), [reading_of(s) for s in scenes])
        shares.append(float(np.mean([not v.wrong for v in found])))
        mistakes += [f"{caption(s)}: {'; '.join(v.wrong)}" for s, v in zip(scenes, found, strict=True) if v.wrong]
        shown.append(pictures[:12])
    right, accepted, fooled = judged(judge, captions)
    one, two = shares
    quality = Quality(
        captions, steps, guidance, float(np.median(decibels)), one, two, right, accepted, fooled, tuple(mistakes)
    )
    return quality, np.concatenate(shown)


def main() -> None:
    """Command line of the evaluation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=DEMO_MODEL)
    parser.add_argument("--captions", type=int, default=CAPTIONS, help="half with one object, half with two")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--card", type=Path, help="where the model card goes; default: the model's folder")
    options = parser.parse_args()
    model = load_model(options.model, options.device)
    trained = DEMO_MODEL if str(options.model) == "demo" else options.model
    # a training writes its own
    judge = load_judge(trained / JUDGE.name) if (trained / JUDGE.name).is_file() else load_judge()
    quality, pictures = measure(model, judge, options.captions, options.steps, options.guidance)
    card = model_card(quality, pictures, f"{platform.machine()}, torch {torch.__version__}, {options.device}")
    folder = options.card or trained
    folder.mkdir(parents=True, exist_ok=True)
    card.write(folder)
    print(card.text)
    if quality.missed():
        sys.exit(f"below target: {', '.join(quality.missed())}")


if __name__ == "__main__":
    main()
