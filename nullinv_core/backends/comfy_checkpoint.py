"""Gradient checkpointing of a ComfyUI UNet: less memory for a backward pass, at the price of a second forward pass.

Blocks are exchanged by object patches, ComfyUI's own way to change a part of a model, and come back with them.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import torch
from comfy.ldm.modules.attention import BasicTransformerBlock
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock
from torch import nn
from torch.utils.checkpoint import checkpoint

BYTES = {False: 800, True: 235}
"""What a forward and a backward pass hold, without and with checkpointing: bytes for each latent position, channel of
the first level and byte of a number. Measured on Stable Diffusion 1.5 at 64×64 (tests/comfyui/gradient_memory.py)."""


@dataclass
class Checkpointing:
    """Whether blocks compute their inner values again for the backward pass in place of keeping them."""

    on: bool = False


def memory_needed(patcher: Any, shape: tuple[int, ...], checkpointed: bool) -> float:
    """Bytes beside the weights that a gradient takes for latents (B, C, h, w). An estimate."""
    model = patcher.model
    number = comfy.model_management.dtype_size(model.manual_cast_dtype or model.get_dtype())
    channels = model.model_config.unet_config["model_channels"]
    return float(BYTES[checkpointed] * shape[0] * shape[2] * shape[3] * channels * number)


def checkpointing_for(patcher: Any, shape: tuple[int, ...]) -> Checkpointing:
    """Checkpointing, on where the device could not hold the weights and all values of a gradient otherwise."""
    room = comfy.model_management.get_total_memory(patcher.load_device) - patcher.model_size()
    return Checkpointing(memory_needed(patcher, shape, checkpointed=False) > room)


def allow_checkpointing(patcher: Any, switch: Checkpointing) -> None:
    """Give a MODEL's clone blocks that heed ``switch``. They share every weight with those they stand for."""
    for name, _ in list(patcher.model.diffusion_model.named_modules()):
        # the MODEL's own block, whatever an earlier run has left in the network
        block = patcher.get_model_object(f"diffusion_model.{name}") if name else None
        if isinstance(block, ResBlock | BasicTransformerBlock):
            patcher.add_object_patch(f"diffusion_model.{name}", _heeding(block, switch))


def _heeding(block: nn.Module, switch: Checkpointing) -> nn.Module:
    kind: Any = type(block)

    def forward(self: nn.Module, *inputs: Any, **named: Any) -> Any:
        if not (switch.on and torch.is_grad_enabled()):
            return kind.forward(self, *inputs, **named)
        # ComfyUI writes the next block's number into the dictionary that it hands to this one
        kept = {name: dict(value) if isinstance(value, dict) else value for name, value in named.items()}

        def run(*inputs: Any) -> Any:
            return kind.forward(self, *inputs, **kept)

        return checkpoint(run, *inputs, use_reentrant=False, preserve_rng_state=False)

    twin = copy.copy(block)
    twin.__class__ = type(f"Checkpointed{kind.__name__}", (kind,), {"forward": forward})
    return twin
