"""Measure the demo model on held-out scenes and write its model card: ``python -m nullinv_core.demo.evaluate``."""

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

from ..backends.diffusers import DEMO_MODEL, DiffusersModel, load_model
from ..images import psnr
from ..schedule import Schedule, guide, predicted_clean
from .judge import is_right, wrong_attributes
from .model_card import model_card
from .scenes import EDITS, Scene, render, sample_edit, sample_scene

HELD_OUT_FIRST = 500_000
"""Seeds of the evaluation; the demo and the benchmarks use others."""


@dataclass(frozen=True)
class Quality:
    """Figures of the model card. Shares in 0…1, PSNR in dB (median over scenes)."""

    captions: int
    steps: int
    guidance: float
    autoencoder_psnr: float
    one_object_right: float
    two_objects_right: float
    judge_right_on_true: float
    judge_false_accepts: float
    mistakes: tuple[str, ...]

    def missed(self) -> list[str]:
        """Targets that are not reached, in words."""
        bars = [
            ("autoencoder PSNR", self.autoencoder_psnr >= 32),
            ("one-object scenes right", self.one_object_right >= 0.95),
            ("two-object scenes right", self.two_objects_right >= 0.85),
            ("judge on true scenes", self.judge_right_on_true >= 0.99),
            ("judge's false accepts", self.judge_false_accepts <= 0.02),
        ]
        return [name for name, reached in bars if not reached]


def round_trip(model: DiffusersModel, scenes: list[Scene]) -> np.ndarray:
    """Scenes after the autoencoder: (n, 128, 128, 3) in 0…1."""
    images = torch.from_numpy(np.stack([render(s) for s in scenes]))
    return torch.cat([model.decode(model.encode_image(part)) for part in images.split(16)]).numpy()


def ancestral_step(latents: Tensor, epsilon: Tensor, schedule: Schedule, step: int, noise: Tensor) -> Tensor:
    """z_{t-1} drawn by fresh ``noise`` around what (z_t, ε) imply (Ho et al. 2020, arXiv 2006.11239, algorithm 2).

    It is DDIM's step with η = 1. The noise gives later steps a chance to mend what the first ones got wrong.
    """
    alpha, alpha_next = schedule.alphas_cumprod[step], schedule.alphas_cumprod[step - 1]
    variance = (1 - alpha_next) / (1 - alpha) * (1 - alpha / alpha_next)
    clean = predicted_clean(latents, epsilon, alpha)
    return math.sqrt(alpha_next) * clean + math.sqrt(1 - alpha_next - variance) * epsilon + math.sqrt(variance) * noise


def generate(model: DiffusersModel, scenes: list[Scene], steps: int, guidance: float, seed: int = 0) -> np.ndarray:
    """One picture per caption by guided ancestral sampling from seeded noise: (n, 128, 128, 3) in 0…1."""
    schedule = model.schedule(steps)
    random = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(scenes), 4, 16, 16, generator=random)
    empty = model.encode_prompts([model.prompt("")])
    pictures = []
    with torch.no_grad():
        for part, latents in zip(_chunks(scenes, 32), noise.split(32), strict=True):
            text = model.encode_prompts([model.prompt(s.caption) for s in part])
            contexts = torch.cat([empty.expand_as(text), text])
            latents = latents.to(model.device)
            for step in range(steps, 0, -1):
                predicted = model.denoiser(latents.repeat(2, 1, 1, 1), schedule.level(step), contexts)
                epsilon_null, epsilon_text = predicted.chunk(2)
                fresh = torch.randn(latents.shape, generator=random).to(model.device)
                latents = ancestral_step(latents, guide(epsilon_null, epsilon_text, guidance), schedule, step, fresh)
            pictures.append(model.decode(latents))
    return torch.cat(pictures).numpy()


def _chunks(scenes: list[Scene], size: int) -> list[list[Scene]]:
    return [scenes[i : i + size] for i in range(0, len(scenes), size)]


def judge_quality(model: DiffusersModel, count: int) -> tuple[float, float]:
    """Share of true scenes that the judge accepts after the autoencoder, and of scenes with one attribute wrong."""
    kinds = [kind for kind in EDITS if kind != "swap-colours"]
    cases = [sample_edit(HELD_OUT_FIRST + i, kinds[i % len(kinds)]) for i in range(count)]
    pictures = round_trip(model, [case.source for case in cases])
    right = [is_right(p, case.source) for p, case in zip(pictures, cases, strict=True)]
    fooled = [is_right(p, case.target) for p, case in zip(pictures, cases, strict=True)]
    return float(np.mean(right)), float(np.mean(fooled))


def measure(model: DiffusersModel, captions: int, steps: int, guidance: float) -> tuple[Quality, np.ndarray]:
    """All figures of the model card, and the first 24 generated pictures."""
    halves = [[sample_scene(HELD_OUT_FIRST + i, "held-out", n) for i in range(captions // 2)] for n in (1, 2)]
    decoded = round_trip(model, halves[0][:32] + halves[1][:32])
    fidelity = [psnr(d, render(s)) for d, s in zip(decoded, halves[0][:32] + halves[1][:32], strict=True)]
    shares, mistakes, shown = [], [], []
    for number, scenes in enumerate(halves):
        pictures = generate(model, scenes, steps, guidance, seed=number)
        wrong = [wrong_attributes(p, s) for p, s in zip(pictures, scenes, strict=True)]
        shares.append(float(np.mean([not w for w in wrong])))
        mistakes += [f"{s.caption}: {'; '.join(w)}" for s, w in zip(scenes, wrong, strict=True) if w]
        shown.append(pictures[:12])
    right, fooled = judge_quality(model, captions)
    quality = Quality(
        captions, steps, guidance, float(np.median(fidelity)), shares[0], shares[1], right, fooled, tuple(mistakes)
    )
    return quality, np.concatenate(shown)


def main() -> None:
    """Command line of the evaluation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=DEMO_MODEL)
    parser.add_argument("--captions", type=int, default=256, help="half with one object, half with two")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--card", type=Path, help="where the model card goes; default: the model's folder")
    options = parser.parse_args()
    model = load_model(options.model, options.device)
    quality, pictures = measure(model, options.captions, options.steps, options.guidance)
    card = model_card(quality, pictures, f"{platform.machine()}, torch {torch.__version__}, {options.device}")
    folder = options.card or (DEMO_MODEL if str(options.model) == "demo" else options.model)
    folder.mkdir(parents=True, exist_ok=True)
    card.write(folder)
    print(card.text)
    if quality.missed():
        sys.exit(f"below target: {', '.join(quality.missed())}")


if __name__ == "__main__":
    main()
