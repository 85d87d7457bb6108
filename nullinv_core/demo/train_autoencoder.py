"""Train the demo's autoencoder (TAESD architecture), in two passes: a coarse one, and a fine one in smaller batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny

from .scenes import SIZE, render, sample_scene
from .training_loop import Budget, run_steps, warmup_cosine

STAGES = {"autoencoder": (2_200, 16, 1e-3), "autoencoder-fine": (5_000, 8, 6e-4)}
"""Steps, crops a step and peak learning rate of each stage."""
CROP = 64
TRIES = 3
"""A crop is the busiest of so many random ones: most of a scene is flat and teaches nothing."""
LATENT_NOISE = 0.05
"""Noise on the latents in training, so that the decoder forgives small errors of a diffusion model."""


def new_autoencoder() -> AutoencoderTiny:
    """TAESD architecture: 4 latent channels, factor 8, latents at unit scale (``scaling_factor`` 1)."""
    return AutoencoderTiny(scaling_factor=1.0)


def crops(seed: tuple[int, int], batch: int) -> torch.Tensor:
    """Training crops, float32 (batch, 3, 64, 64) in -1…1, the same for the same seed."""
    rng = np.random.default_rng([*seed, 7])
    images = []
    for _ in range(batch):
        image = render(sample_scene(int(rng.integers(2**31))))
        corners = rng.integers(0, SIZE - CROP + 1, (TRIES, 2))
        candidates = [image[top : top + CROP, left : left + CROP] for top, left in corners]
        images.append(max(candidates, key=lambda c: float(np.abs(np.diff(c, axis=0)).mean())))
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) * 2 - 1


def latent_moments_loss(latents: torch.Tensor) -> torch.Tensor:
    """Distance of each latent channel from zero mean and unit deviation."""
    deviation = latents.std((0, 2, 3)) - 1
    return latents.mean((0, 2, 3)).square().mean() + deviation.square().mean()


def train(work: Path, device: str, budget: Budget, stage: str = "autoencoder-fine") -> AutoencoderTiny | None:
    """Train up to the end of ``stage``; return the model, or None when the budget ran out before."""
    torch.manual_seed(0)
    stages = list(STAGES)
    number = stages.index(stage)
    model = new_autoencoder().to(device) if number == 0 else train(work, device, budget, stages[number - 1])
    if model is None:
        return None
    model = model.train().to(memory_format=torch.channels_last)
    total, batch, peak = STAGES[stage]
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, weight_decay=0)

    def loss_of(step: int) -> torch.Tensor:
        images = crops((number, step), batch).to(device, memory_format=torch.channels_last)
        noise = torch.Generator().manual_seed(step)
        with torch.autocast(device, torch.bfloat16):
            latents = model.encoder(images).float()
            noisy = latents + LATENT_NOISE * torch.randn(latents.shape, generator=noise).to(device)
            decoded = model.decoder(noisy)
        error = decoded.float() - images
        return error.square().mean() + 0.05 * error.abs().mean() + 0.02 * latent_moments_loss(latents)

    rate = warmup_cosine(peak, total, warmup=100)
    done = run_steps(work / f"{stage}.safetensors", {"model": model}, optimizer, loss_of, total, rate, budget)
    return model.eval() if done else None
