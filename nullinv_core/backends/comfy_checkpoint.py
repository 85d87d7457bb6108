"""Gradient checkpointing of a ComfyUI UNet: less memory for a backward pass, at the price of a second forward pass.

Blocks are exchanged by object patches, ComfyUI's own way to change a part of a model, and come back with them.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from comfy.ldm.modules.attention import BasicTransformerBlock
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock
from torch import nn
from torch.utils.checkpoint import checkpoint


@dataclass
class Checkpointing:
    """Whether blocks compute their inner values again for the backward pass in place of keeping them."""

    on: bool = False


def allow_checkpointing(patcher: Any, switch: Checkpointing) -> None:
    """Give a MODEL's clone blocks that heed ``switch``. They share every weight with those they stand for."""
    for name, module in patcher.model.diffusion_model.named_modules():
        if isinstance(module, ResBlock | BasicTransformerBlock):
            patcher.add_object_patch(f"diffusion_model.{name}", _heeding(module, switch))


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
