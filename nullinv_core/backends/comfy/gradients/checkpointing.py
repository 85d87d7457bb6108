"""Gradient checkpointing of a ComfyUI UNet: less memory for a backward pass, at the price of a second forward pass.

Blocks are exchanged by object patches, ComfyUI's own way to change a part of a model, and come back with them.
"""

from __future__ import annotations

import copy
from typing import Any

import comfy.model_management
import torch
from comfy.ldm.modules.attention import BasicTransformerBlock, SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample, ResBlock, Upsample
from torch import nn
from torch.utils.checkpoint import checkpoint

from ....model import Checkpointing
from ..precision import compute_dtype
from ..protocols import Patcher, UNet

KEPT_BY_RESNET, KEPT_BY_TRANSFORMER = 14, 25
"""Numbers that a backward pass finds kept for each position and channel of a block."""
CHECKPOINTED = 180
"""Numbers for each position of the latents and channel of the first level, in all, with checkpointing."""
HEADROOM = 1.3
"""Asked for beyond that. All measured on Stable Diffusion 1.5 and SDXL at 32×32 to 96×96
(tests/comfyui/gradient_memory.py)."""


def memory_needed(patcher: Patcher, shape: tuple[int, ...], checkpointed: bool) -> float:
    """Bytes beside the weights that a gradient takes for latents (B, C, h, w). An estimate."""
    unet = patcher.model.diffusion_model
    each = CHECKPOINTED * unet.model_channels if checkpointed else kept_numbers(unet)
    weights, dtype = 0, compute_dtype(patcher)
    if not checkpointed and dtype != patcher.model.get_dtype():
        # ComfyUI casts a layer's weights again in every call, and the backward pass keeps what it was given
        weights = sum(parameter.numel() for parameter in unet.parameters())
    values = HEADROOM * each * shape[0] * shape[2] * shape[3]
    return float((values + weights) * comfy.model_management.dtype_size(dtype))


def kept_numbers(unet: UNet) -> float:
    """Numbers that a ComfyUI UNet keeps for a backward pass, for each position of the latents."""
    kept, share = 0.0, 1.0
    for block in (*unet.input_blocks, unet.middle_block, *unet.output_blocks):
        for layer in block:
            if isinstance(layer, ResBlock):
                kept += share * KEPT_BY_RESNET * layer.out_channels
            elif isinstance(layer, SpatialTransformer):
                kept += share * KEPT_BY_TRANSFORMER * layer.in_channels * len(layer.transformer_blocks)
            elif isinstance(layer, Downsample):
                share /= 4
            elif isinstance(layer, Upsample):
                share *= 4
    return kept


def room_for(patcher: Patcher, shape: tuple[int, ...]) -> bool:
    """Whether the device could hold the weights and all values of a gradient for latents (B, C, h, w)."""
    room = comfy.model_management.get_total_memory(patcher.load_device) - patcher.model_size()
    return bool(memory_needed(patcher, shape, checkpointed=False) <= room)


def allow_checkpointing(patcher: Patcher, switch: Checkpointing) -> None:
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
