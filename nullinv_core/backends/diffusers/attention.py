"""Attention processors for diffusers that let an AttentionControl in and stay on the fast path elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ...denoiser import AttentionControl, Layer, Stage, attend


class ControlledAttention:
    """Processor of an attention layer. The control arrives with each call, as ``cross_attention_kwargs``.

    ``place``: of the layer, of which the network tells the rest. Rows and layers that the control does not want go
    through ``scaled_dot_product_attention``; so do those with other queries, keys or values. Dense probabilities exist
    only where the control weighs them.
    """

    def __init__(self, place: tuple[Stage, int, int] = ("down", 0, 0)) -> None:
        self.place = place

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        control: AttentionControl | None = None,
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            layer(states).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for layer, states in ((attn.to_q, hidden_states), (attn.to_k, context), (attn.to_v, context))
        )
        here = Layer("self" if encoder_hidden_states is None else "cross", query.shape[2], *self.place)
        if control is not None and control.rewrites(here):
            query, key, value = _rewritten(query, key, value, control, here)
        if control is not None and control.weighs(here):
            attended = _with_edited_rows(attn, query, key, value, control, here)
        else:
            attended = scaled_dot_product_attention(query, key, value, attn_mask=attention_mask, scale=attn.scale)
        attended = attended.transpose(1, 2).flatten(2)
        for layer in attn.to_out:
            attended = layer(attended)
        return attended


def control_attention(unet: Any) -> None:
    """Prepare a UNet for attention control."""
    processors, counts = {}, dict[tuple[Stage, int, str], int]()
    for name in unet.attn_processors:
        stage, block = _block_of(unet, name)
        kind = name.split(".")[-2]
        index = counts[stage, block, kind] = counts.get((stage, block, kind), -1) + 1
        processors[name] = ControlledAttention((stage, block, index))
    unet.set_attn_processor(processors)


def _block_of(unet: Any, name: str) -> tuple[Stage, int]:
    """Stage of the layer of a name, and which block with attention of that stage it is in."""
    for stage, blocks in _stages(unet).items():
        for number, (prefix, _) in enumerate(blocks):
            if name.startswith(prefix):
                return stage, number
    return "middle", 0


def _stages(unet: Any) -> dict[Stage, list[tuple[str, Any]]]:
    """Blocks with attention, by stage: the beginning of their layers' names, and the block."""

    def named(part: str) -> list[tuple[str, Any]]:
        blocks = enumerate(getattr(unet, part))
        return [(f"{part}.{i}.", block) for i, block in blocks if hasattr(block, "attentions")]

    return {"down": named("down_blocks"), "middle": [("mid_block.", unet.mid_block)], "up": named("up_blocks")}


@contextmanager
def edited_features(unet: Any, control: AttentionControl) -> Iterator[None]:
    """Let a control in at what residual blocks add to their inputs, in blocks with attention."""
    with ExitStack() as hooks:
        for stage, blocks in _stages(unet).items():
            for number, (_, block) in enumerate(blocks):
                for index, residual in enumerate(block.resnets):
                    hook = _feature_hook(control, (stage, number, index))
                    hooks.callback(residual.conv2.register_forward_hook(hook).remove)
        yield


def _feature_hook(control: AttentionControl, place: tuple[Stage, int, int]) -> Any:
    def hook(module: torch.nn.Module, inputs: Any, features: Tensor) -> Tensor:
        layer, rows = Layer("features", features.shape[-2] * features.shape[-1], *place), control.rows
        if not control.shares(layer):
            return features
        return _with_rows(features, rows, control.share(features[rows], layer))

    return hook


def _rewritten(
    query: Tensor, key: Tensor, value: Tensor, control: AttentionControl, layer: Layer
) -> tuple[Tensor, Tensor, Tensor]:
    rows, whole = control.rows, (query, key, value)
    given = query[rows], key[rows], value[rows]
    query, key, value = (
        all_rows if new is old else _with_rows(all_rows, rows, new)
        for all_rows, old, new in zip(whole, given, control.rewrite(*given, layer), strict=True)
    )
    return query, key, value


def _with_rows(tensor: Tensor, rows: slice, new: Tensor) -> Tensor:
    copy = tensor.clone()
    copy[rows] = new
    return copy


def _with_edited_rows(
    attn: Attention, query: Tensor, key: Tensor, value: Tensor, control: AttentionControl, layer: Layer
) -> Tensor:
    rows = control.rows
    attended = torch.empty_like(query[..., : value.shape[-1]])
    attended[rows] = attend(query[rows], key[rows], value[rows], attn.scale, control, layer)
    for rest in (slice(0, rows.start), slice(rows.stop, len(query))):
        if len(query[rest]):
            attended[rest] = scaled_dot_product_attention(query[rest], key[rest], value[rest], scale=attn.scale)
    return attended
