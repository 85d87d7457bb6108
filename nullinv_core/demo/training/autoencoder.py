"""Train the autoencoder (TAESD architecture) on clay scenes."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ...families import FAMILIES
from ..objects import ROLES
from .dataset import Pictures
from .muon import Muon
from .pool import Files, Pool, feed
from .state import finished_steps, load_module
from .steps import Clock, run

STEPS = 30_000
BATCH = 32
RATE = 2e-3
PICTURES = 24_000
VARIATIONS = range(4)
"""So many are learned from, of these variations of each geometry."""
LATENT_NOISE = 0.02
"""Noise on the latents in training, so that the decoder forgives small errors of a diffusion model."""
MOMENTS, PREVIEW, EDGES, ABSOLUTE = 0.02, 0.03, 0.06, 0.05
"""Weights of the losses beside the squared error of each pixel."""
TOY_WEIGHT, FACE_WEIGHT = 0.5, 2.0
"""How much more a toy's and a face's pixels count."""


def new_autoencoder() -> AutoencoderTiny:
    """TAESD architecture: 4 latent channels, factor 8, latents at unit scale (``scaling_factor`` 1)."""
    return AutoencoderTiny(scaling_factor=1.0)


def pixel_weights(label: Tensor) -> Tensor:
    """How much each pixel counts, float32 (n, 1, H, W) from ``Pictures.label``: toys more, eyes and teeth most."""
    toy, role = label > 0, (label.int() - 1) % 32
    face = toy & ((role == ROLES.index("white")) | (role == ROLES.index("black")))
    return (1 + TOY_WEIGHT * toy + FACE_WEIGHT * face).float()[:, None]


def latent_moments_loss(latents: Tensor) -> Tensor:
    """Distance of each latent channel from zero mean and unit deviation."""
    deviation = latents.std((0, 2, 3)) - 1
    return latents.mean((0, 2, 3)).square().mean() + deviation.square().mean()


def preview_loss(latents: Tensor, images: Tensor) -> Tensor:
    """Mean square of what a preview of the latents gets wrong of the picture's cells of 8×8 pixels."""
    shown = torch.einsum("bchw,cr->brhw", latents, _preview_factors(latents.device))
    return (shown - avg_pool2d(images, 8)).square().mean()


@cache
def _preview_factors(device: torch.device) -> Tensor:
    return torch.tensor(FAMILIES["v1"].preview, device=device)


def edge_loss(decoded: Tensor, images: Tensor) -> Tensor:
    """Mean error of the differences between neighbouring pixels."""
    error = decoded - images
    return error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()


def loss_of(model: AutoencoderTiny, images: Tensor, weights: Tensor) -> Tensor:
    """The loss on images float32 (n, 3, H, W) in -1…1."""
    with torch.autocast(images.device.type, torch.bfloat16, cache_enabled=False):
        latents = model.encoder(images).float()
        decoded = model.decoder(latents + LATENT_NOISE * torch.randn_like(latents)).float()
    error = decoded - images
    pixels = (weights * (error.square() + ABSOLUTE * error.abs())).mean() + EDGES * edge_loss(decoded, images)
    return pixels + MOMENTS * latent_moments_loss(latents) + PREVIEW * preview_loss(latents, images)


def train(work: Path, device: str, deadline: float) -> AutoencoderTiny:
    """Train to the end, or up to the deadline (see ``Clock``); return the model."""
    torch.manual_seed(0)
    model, path = new_autoencoder(), work / "autoencoder.safetensors"
    if finished_steps(path) >= STEPS:
        load_module(path, "model", model)
        return model.eval()
    model = model.to(device).train().to(memory_format=torch.channels_last)
    optimizer = Muon(*_matrices_and_others(model), capturable=device == "cuda")
    pool = Pool(device, PICTURES, images=((3, 128, 128), torch.uint8), label=((128, 128), torch.uint8))

    def prepare(pictures: Pictures) -> dict[str, Tensor]:
        return {"images": pictures.images, "label": pictures.label}

    def loss(_: int) -> Tensor:
        rows = pool.draw(BATCH)
        images = pool.tensors["images"][rows].float() / 127.5 - 1
        weights = pixel_weights(pool.tensors["label"][rows])
        turned = torch.rand(BATCH, 1, 1, 1, device=device) < 0.5
        images, weights = (torch.where(turned, part.flip(3), part) for part in (images, weights))
        return loss_of(model, images.to(memory_format=torch.channels_last), weights)

    more = feed(Files(work, VARIATIONS), prepare, pool.add, least=1)
    run(path, {"model": model}, optimizer, loss, Clock(STEPS, RATE, deadline), more)
    return model.eval()


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
