"""Memory that a gradient through a diffusers UNet takes, and less of it by gradient checkpointing of its blocks."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ...context import Context
from ...schedule import NoiseLevel
from .model import DiffusersDenoiser, DiffusersModel

PROBE = 2
"""The memory is counted on latents with so many times shorter sides; it grows with their area."""
HEADROOM = 1.3
"""What a device is asked to have beyond the count, for values that live for a moment only."""


def saved_bytes(denoiser: DiffusersDenoiser, latents: Tensor, level: NoiseLevel, context: Context) -> int:
    """Bytes of the distinct tensors, weights aside, that one pass keeps for its backward pass.

    An estimate of the memory that optimizing takes beyond sampling, on any device.
    """
    weights = {p.untyped_storage().data_ptr() for p in denoiser.unet.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        # the result is held: without it the graph would go, and its addresses would be used again
        held = denoiser(latents, level, replace(context, text=context.text.clone().requires_grad_(True)))
    del held
    return sum(kept.values())


def checkpoint(model: DiffusersModel, on: bool) -> None:
    """Let the UNet's blocks compute their inner values again for the backward pass (``on``), or keep them."""
    unet = model.denoiser.unet
    (unet.enable_gradient_checkpointing if on else unet.disable_gradient_checkpointing)()


def checkpoint_if_needed(model: DiffusersModel, latents: Tensor, context: Context) -> bool:
    """Turn gradient checkpointing on where the device has too little free memory to optimize these latents without.

    Returns whether it is on. A device that does not say how much is free (a CPU) goes without.
    """
    free = free_bytes(model.device)
    if free is None:
        return False
    checkpoint(model, False)
    probe, level = latents[:1, :, ::PROBE, ::PROBE], model.schedule(1).level(1)
    needed = saved_bytes(model.denoiser, probe, level, context[:1]) * len(latents) * PROBE**2
    on = needed * HEADROOM > free
    checkpoint(model, on)
    return on


def free_bytes(device: torch.device) -> int | None:
    """Bytes that a device can still give, or None where it does not say."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    return None


def release(wholly: bool) -> None:
    """Give memory back to the device that PyTorch keeps for itself."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()
