"""Train the demo's autoencoder (TAESD architecture) in three passes: coarse, fine, and close to small objects."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny

from .scenes import SIZE, discs, render, sample_scene
from .training_loop import Budget, run_steps, warmup_cosine


@dataclass(frozen=True)
class Stage:
    """Steps, crops a step, peak learning rate, and the extra weight of objects in the loss.

    With such a weight the crops are taken around the smallest object of a scene: the notches of a small star are what
    a coarser loss gives up first.
    """

    steps: int
    batch: int
    peak_rate: float
    focus: float = 0.0


STAGES = {
    "autoencoder": Stage(2_200, 16, 1e-3),
    "autoencoder-fine": Stage(5_000, 8, 6e-4),
    "autoencoder-objects": Stage(900, 8, 3e-4, focus=3.0),
}
CROP = 64
TRIES = 3
"""A crop is the busiest of so many random ones: most of a scene is flat and teaches nothing."""
LATENT_NOISE = 0.05
"""Noise on the latents in training, so that the decoder forgives small errors of a diffusion model."""


def new_autoencoder() -> AutoencoderTiny:
    """TAESD architecture: 4 latent channels, factor 8, latents at unit scale (``scaling_factor`` 1)."""
    return AutoencoderTiny(scaling_factor=1.0)


def crops(seed: tuple[int, int], batch: int, focus: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Training crops and loss weights of their pixels, the same for the same seed.

    Images float32 (batch, 3, 64, 64) in -1…1; weights float32 (batch, 1, 64, 64), 1 and more.
    """
    rng = np.random.default_rng([*seed, 7])
    images, weights = [], []
    for _ in range(batch):
        scene = sample_scene(int(rng.integers(2**31)))
        image, weight = render(scene), 1 + focus * discs(scene, SIZE)
        if focus:
            smallest = min(scene.objects, key=lambda o: o.radius)
            wanted = np.asarray([smallest.y, smallest.x]) - CROP / 2 + rng.uniform(-10, 10, 2)
            corners = np.clip(wanted.astype(int), 0, SIZE - CROP)[None]
        else:
            corners = rng.integers(0, SIZE - CROP + 1, (TRIES, 2))
        places = [np.s_[top : top + CROP, left : left + CROP] for top, left in corners]
        busiest = max(places, key=lambda place: float(np.abs(np.diff(image[place], axis=0)).mean()))
        images.append(image[busiest])
        weights.append(weight[busiest])
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) * 2 - 1, torch.from_numpy(np.stack(weights))[:, None]


def latent_moments_loss(latents: torch.Tensor) -> torch.Tensor:
    """Distance of each latent channel from zero mean and unit deviation."""
    deviation = latents.std((0, 2, 3)) - 1
    return latents.mean((0, 2, 3)).square().mean() + deviation.square().mean()


def train(work: Path, device: str, budget: Budget, name: str = "autoencoder-objects") -> AutoencoderTiny | None:
    """Train up to the end of stage ``name``; return the model, or None when the budget ran out before."""
    torch.manual_seed(0)
    stages = list(STAGES)
    number, stage = stages.index(name), STAGES[name]
    model = new_autoencoder().to(device) if number == 0 else train(work, device, budget, stages[number - 1])
    if model is None:
        return None
    model = model.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=stage.peak_rate, weight_decay=0)

    def loss_of(step: int) -> torch.Tensor:
        images, weights = (part.to(device) for part in crops((number, step), stage.batch, stage.focus))
        images = images.contiguous(memory_format=torch.channels_last)
        noise = torch.Generator().manual_seed(step)
        with torch.autocast(device, torch.bfloat16):
            latents = model.encoder(images).float()
            noisy = latents + LATENT_NOISE * torch.randn(latents.shape, generator=noise).to(device)
            decoded = model.decoder(noisy)
        error = decoded.float() - images
        return ((error.square() + 0.05 * error.abs()) * weights).mean() + 0.02 * latent_moments_loss(latents)

    rate = warmup_cosine(stage.peak_rate, stage.steps, warmup=100)
    done = run_steps(work / f"{name}.safetensors", {"model": model}, optimizer, loss_of, stage.steps, rate, budget)
    return model.eval() if done else None
