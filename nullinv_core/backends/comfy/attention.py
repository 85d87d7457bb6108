"""An AttentionControl inside a ComfyUI UNet, through the attention slots that ComfyUI gives to every pack."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
from comfy.ldm.modules.attention import SpatialTransformer, attention_pytorch, optimized_attention
from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample, Upsample
from torch import Tensor, nn

from ...denoiser import AttentionControl, Layer, Stage, attend
from ...errors import InputError
from ...prompt_to_prompt.grids import halving
from .other_packs import EVERYWHERE
from .protocols import Extra, Options, UNet

Block = tuple[str, int, int]
"""How ComfyUI names a transformer block: ("input" | "middle" | "output", number, index inside)."""
Attention = Callable[[Tensor, Tensor, Tensor, Extra], Tensor]
"""A replacement of a layer's attention: of projected queries, keys and values, (rows, positions or tokens, width)."""
Inputs = tuple[Tensor, Tensor, Tensor]
"""Projected queries, keys and values of a layer."""
Patch = Callable[..., Any]
"""What another node runs in a layer, whatever it is given."""
CONDITIONAL = 0
"""How ``cond_or_uncond`` marks conditional rows."""


def transformer_blocks(unet: UNet) -> dict[Block, tuple[Stage, int, int]]:
    """Every transformer block of a ComfyUI UNet, found by its structure, and where it is as the core counts: in which
    block with attention of its stage, and its index there.

    What ComfyUI has up to a change of size is one block to the core.
    """
    stages: dict[Stage, tuple[str, Iterable[nn.Sequential]]] = {
        "down": ("input", unet.input_blocks),
        "middle": ("middle", [unet.middle_block]),
        "up": ("output", unet.output_blocks),
    }
    found: dict[Block, tuple[Stage, int, int]] = {}
    for stage, (name, blocks) in stages.items():
        size, sizes, count = 0, list[int](), 0
        for number, block in enumerate(blocks):
            for layer in block:
                if isinstance(layer, SpatialTransformer):
                    if size not in sizes:
                        sizes.append(size)
                        count = 0
                    for index in range(len(layer.transformer_blocks)):
                        found[(name, number, index)] = (stage, len(sizes) - 1, count)
                        count += 1
            size += any(isinstance(layer, Downsample | Upsample) for layer in block)
    return found


def differentiable(options: Options) -> Options:
    """Transformer options under which a backward pass works.

    Attention is PyTorch's own: the fast kernels of some packs pass no gradient. Every layer of the encoder reads a copy
    of what its skip connection keeps, because a ControlNet is added to that in place. Patches may write over what they
    have read, as FreeU does.
    """

    def attention(function: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        result: Tensor = attention_pytorch(*args, **kwargs)
        return result

    def copy(hidden: Tensor, extra: Extra) -> Tensor:
        return hidden.clone()

    taken = options.get("patches", {})
    patches: dict[str, list[Patch]] = {
        name: [partial(_keeping_copies, patch) for patch in each] for name, each in taken.items()
    }
    patches["input_block_patch_after_skip"] = [*patches.get("input_block_patch_after_skip", []), copy]
    return {**options, "optimized_attention_override": attention, "patches": patches}


def _keeping_copies(patch: Patch, *args: Any, **kwargs: Any) -> Any:
    """What ``patch`` returns; the backward pass through it reads copies, whatever is written over the originals."""
    with torch.autograd.graph.saved_tensors_hooks(lambda kept: kept.detach().clone(), lambda kept: kept):
        return patch(*args, **kwargs)


def controlled(options: Options, unet: UNet, control: AttentionControl, tokens: int, others: str) -> Options:
    """Transformer options with ``control`` in every attention layer, over what other packs have put there.

    Another pack's replacement of a layer runs on the queries and keys that ``control`` wants. In cross-attention, what
    it adds to plain attention (as an IPAdapter does) is added to the attention that ``control`` wants. ``tokens``: of
    the text. ``others``: who changes the MODEL, for people (see ``named``).
    """
    taken = options.get("patches_replace", {})
    replace = {name: dict(slots) for name, slots in taken.items()}
    for block, place in transformer_blocks(unet).items():
        for name, patch in (("attn1", _self_attention), ("attn2", partial(_cross_attention, tokens))):
            slots = taken.get(name, {})
            other = slots.get(block, slots.get(block[:2]))
            replace.setdefault(name, {})[block] = partial(patch, _Control(control, place, others), other)
    return {**options, "patches_replace": replace}


class _Control(NamedTuple):
    """A control at a transformer block. ``others``: who else changes the MODEL."""

    control: AttentionControl
    place: tuple[Stage, int, int]
    others: str


def _self_attention(
    at: _Control, other: Attention | None, query: Tensor, key: Tensor, value: Tensor, extra: Extra
) -> Tensor:
    rows, layer, control = _rows(extra, len(query)), Layer("self", query.shape[1], *at.place), at.control
    if rows is None or not (control.rewrites(layer) or control.weighs(layer)):
        return (other or _host_attention)(query, key, value, extra)
    whole = halving(tuple(extra["original_shape"][-2:]), query.shape[1])
    # merged by three quarters, queries are as many as those of the next smaller layer; keys are all there
    if _count(rows) != _count(control.rows) or whole is None or query.shape[1] != key.shape[1]:
        # cut in attention alone, cross-attention still sees whole pictures
        whole_pictures = extra["original_shape"][0] == len(extra["cond_or_uncond"]) * _count(control.rows)
        way = ", or set self_replace to 0" if whole_pictures else ""
        raise InputError(
            f"another node{at.others} cuts this MODEL's pictures or their attention into tiles, or merges positions "
            f"(Tiled Diffusion, HyperTile, ToMe and the like); {EVERYWHERE}{way}"
        )
    return _edited(control, layer, rows, other, (query, key, value), extra)


def _cross_attention(
    tokens: int, at: _Control, other: Attention | None, query: Tensor, key: Tensor, value: Tensor, extra: Extra
) -> Tensor:
    rows, layer, control = _rows(extra, len(query)), Layer("cross", query.shape[1], *at.place), at.control
    if rows is None or not (control.rewrites(layer) or control.weighs(layer)):
        return (other or _host_attention)(query, key, value, extra)
    counts = {
        "tokens of the text": (key.shape[1], tokens),
        "pictures": (_count(rows), _count(control.rows)),
        "texts": (len(key), len(query)),
    }
    if differ := [f"{found} {what} in place of {own}" for what, (found, own) in counts.items() if found != own]:
        raise InputError(
            f"another node{at.others} adds tokens to the text in this MODEL's attention, or rows ({', '.join(differ)}),"
            f" and words could not be told apart; {EVERYWHERE}"
        )
    return _edited(control, layer, rows, other, (query, key, value), extra)


def _edited(
    control: AttentionControl, layer: Layer, rows: slice, other: Attention | None, inputs: Inputs, extra: Extra
) -> Tensor:
    """Attention of all rows, that of ``rows`` as the control wants it."""
    heads = extra["n_heads"]
    if control.rewrites(layer):
        given = _split(inputs[0][rows], heads), _split(inputs[1][rows], heads), _split(inputs[2][rows], heads)
        query, key, value = (
            whole if new is old else _with_rows(whole, rows, new)
            for whole, old, new in zip(inputs, given, control.rewrite(*given, layer), strict=True)
        )
        inputs = query, key, value
    if not control.weighs(layer):
        return (other or _host_attention)(*inputs, extra)
    query, key, value = inputs
    q, k, v = (_split(part[rows], heads) for part in inputs)
    wanted = attend(q, k, v, extra["dim_head"] ** -0.5, control, layer).transpose(1, 2).flatten(2)
    if other is not None:
        attended = other(query, key, value, extra).clone()
        attended[rows] += wanted - _host_attention(query[rows], key[rows], value[rows], extra)
        return attended
    attended = query.new_empty(*query.shape[:2], value.shape[-1])
    attended[rows] = wanted
    for rest in (slice(0, rows.start), slice(rows.stop, len(query))):
        if len(query[rest]):
            attended[rest] = _host_attention(query[rest], key[rest], value[rest], extra)
    return attended


def _with_rows(tensor: Tensor, rows: slice, heads: Tensor) -> Tensor:
    """A copy in which some rows are those of ``heads`` (rows, heads, positions, width)."""
    copy = tensor.clone()
    copy[rows] = heads.transpose(1, 2).flatten(2)
    return copy


def _rows(extra: Extra, batch: int) -> slice | None:
    """Rows of the conditional chunk of this call, or None where it holds none."""
    chunks = extra["cond_or_uncond"]
    if CONDITIONAL not in chunks:
        return None
    size = batch // len(chunks)
    start = chunks.index(CONDITIONAL) * size
    return slice(start, start + size)


def _count(rows: slice) -> int:
    return int(rows.stop - rows.start)


def _split(tensor: Tensor, heads: int) -> Tensor:
    return tensor.unflatten(-1, (heads, -1)).transpose(1, 2)


def _host_attention(query: Tensor, key: Tensor, value: Tensor, extra: Extra) -> Tensor:
    result: Tensor = optimized_attention(
        query, key, value, extra["n_heads"], attn_precision=extra.get("attn_precision"), transformer_options=extra
    )
    return result
