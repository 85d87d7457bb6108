"""Train the autoencoder (TAESD architecture) on clay scenes: both halves in two cycles, then the decoder alone.

The UNet's first cycle learns from the latents of the first one, which lie where the final ones do, as both show the
picture's colours in previews; so the two can be trained side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ..muon import Muon
from ..training_loop import Budget, run_steps, warmup_cosine
from ..training_state import finished_steps, load_module
from . import dataset
from .dataset import Pictures, make_pictures, pictures_path, read_pictures
from .objects import ROLES

PREVIEW_FACTORS = (
    (0.3512, 0.2297, 0.3227),
    (0.3250, 0.4974, 0.2350),
    (-0.2829, 0.1762, 0.2721),
    (-0.2120, -0.2616, -0.7177),
)
"""What ComfyUI shows of Stable Diffusion 1.5's latents while they are made: RGB in -1…1 for each channel
(``latent_rgb_factors`` of ``SD15`` in comfy/latent_formats.py)."""


@dataclass(frozen=True)
class Stage:
    """Steps, crops a step, peak learning rate, weight of the edges in the loss; whether the decoder learns alone."""

    steps: int
    batch: int
    peak_rate: float
    edges: float = 0.1
    decoder_only: bool = False


STAGES = {
    "autoencoder": Stage(5_000, 8, 1.5e-3),
    "autoencoder-fine": Stage(10_000, 8, 1.8e-3, edges=0.06),
    "decoder": Stage(6_000, 8, 1e-3, edges=0.06, decoder_only=True),
}
POOL = [(index, variation) for index in range(dataset.STAGES // dataset.SHARD) for variation in range(2)]
"""Shards and variations of the pictures that are learned from: every geometry in two sets of colours."""
CROP = 64
GPU_BATCH = 48
"""Crops a step on a GPU, which is as fast at that."""
LATENT_NOISE = 0.05
"""Noise on the latents in training, so that the decoder forgives small errors of a diffusion model."""
MOMENTS, PREVIEW = 0.02, 0.03
"""Weights of the losses beside the error of each pixel."""
FACE = torch.tensor([ROLES.index(role) for role in ("white", "black")])


def new_autoencoder() -> AutoencoderTiny:
    """TAESD architecture: 4 latent channels, factor 8, latents at unit scale (``scaling_factor`` 1)."""
    return AutoencoderTiny(scaling_factor=1.0)


def crops(pictures: Pictures, seed: tuple[int, int], batch: int) -> Tensor:
    """Training crops, the same for the same seed: float32 (batch, 3, 64, 64) in -1…1; most show toys and faces."""
    rng = np.random.default_rng([*seed, 7])
    images = []
    for _ in range(batch):
        number = int(rng.integers(len(pictures.images)))
        top, left = _corner(rng, pictures.label[number], float(rng.uniform()))
        part = pictures.images[number, :, top : top + CROP, left : left + CROP]
        images.append(part.flip(2) if rng.uniform() < 0.5 else part)
    return torch.stack(images).float() / 127.5 - 1


def _corner(rng: np.random.Generator, label: Tensor, share: float) -> tuple[int, int]:
    """A crop's corner: around a point of a face, of a toy, or anywhere, as ``share`` in 0…1 says."""
    room = label.shape[0] - CROP
    if share > 0.7:
        return int(rng.integers(room + 1)), int(rng.integers(room + 1))
    toy = label > 0
    face = toy & torch.isin((label.long() - 1) % 32, FACE)
    points = torch.nonzero(face if share < 0.35 and face.any() else toy)
    y, x = points[int(rng.integers(len(points)))].tolist()
    jitter = rng.integers(-20, 21, 2)
    return (int(np.clip(y - CROP // 2 + jitter[0], 0, room)), int(np.clip(x - CROP // 2 + jitter[1], 0, room)))


def latent_moments_loss(latents: Tensor) -> Tensor:
    """Distance of each latent channel from zero mean and unit deviation."""
    deviation = latents.std((0, 2, 3)) - 1
    return latents.mean((0, 2, 3)).square().mean() + deviation.square().mean()


def preview_loss(latents: Tensor, images: Tensor) -> Tensor:
    """Mean square of what a preview of the latents gets wrong of the picture's cells of 8×8 pixels."""
    shown = torch.einsum("bchw,cr->brhw", latents, latents.new_tensor(PREVIEW_FACTORS))
    return (shown - avg_pool2d(images, 8)).square().mean()


def edge_loss(decoded: Tensor, images: Tensor) -> Tensor:
    """Mean error of the differences between neighbouring pixels."""
    error = decoded - images
    return error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()


def load_pictures(work: Path) -> Pictures:
    """The pictures that the autoencoder learns from; makes what is missing."""
    for index, variation in POOL:
        make_pictures(work, index, variation)
    return read_pictures([pictures_path(work, index, variation) for index, variation in POOL])


def train(work: Path, device: str, budget: Budget, name: str = "decoder") -> AutoencoderTiny | None:
    """Train up to the end of stage ``name``; return the model, or None when the budget ran out before."""
    torch.manual_seed(0)
    stages, path = list(STAGES), work / f"{name}.safetensors"
    number, stage = stages.index(name), STAGES[name]
    model = new_autoencoder()
    if finished_steps(path) >= stage.steps:
        load_module(path, "model", model)
        return model.eval()
    earlier = train(work, device, budget, stages[number - 1]) if number else model
    if earlier is None:
        return None
    model = earlier.to(device).train().to(memory_format=torch.channels_last)
    model.encoder.requires_grad_(not stage.decoder_only)
    optimizer = Muon(*_matrices_and_others(model))
    pictures = load_pictures(work)
    batch = stage.batch if device == "cpu" else GPU_BATCH

    def loss_of(step: int) -> Tensor:
        images = crops(pictures, (number, step), batch).to(device, memory_format=torch.channels_last)
        noise = torch.Generator().manual_seed(step)
        with torch.autocast(device, torch.bfloat16):
            with torch.set_grad_enabled(not stage.decoder_only):
                latents = model.encoder(images).float()
            noisy = latents + LATENT_NOISE * torch.randn(latents.shape, generator=noise).to(device)
            decoded = model.decoder(noisy).float()
        error = decoded - images
        loss = error.square().mean() + 0.05 * error.abs().mean() + stage.edges * edge_loss(decoded, images)
        if stage.decoder_only:
            return loss
        return loss + MOMENTS * latent_moments_loss(latents) + PREVIEW * preview_loss(latents, images)

    rate = warmup_cosine(stage.peak_rate, stage.steps, warmup=100)
    done = run_steps(path, {"model": model}, optimizer, loss_of, stage.steps, rate, budget)
    return model.requires_grad_(True).eval() if done else None


def _matrices_and_others(model: AutoencoderTiny) -> tuple[list[torch.nn.Parameter], list[torch.nn.Parameter]]:
    """Hidden layers' kernels that learn, for Muon; and the first and last kernels and the biases, for AdamW."""
    outer = {"encoder.layers.0", f"encoder.layers.{len(model.encoder.layers) - 1}", "decoder.layers.0"}
    outer.add(f"decoder.layers.{len(model.decoder.layers) - 1}")
    matrices: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            hidden = parameter.ndim >= 2 and name.rpartition(".")[0] not in outer
            (matrices if hidden else others).append(parameter)
    return matrices, others
