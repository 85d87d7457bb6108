"""Edits that take the photo's own attention or features while they are drawn beside it, without Prompt-to-Prompt.

The photo runs along its trajectory under the empty prompt, so its features are exact at any guidance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from nullinv_core.backends.diffusers.attention import ControlledAttention
from nullinv_core.denoiser import check_finite, no_gradients
from nullinv_core.schedule import ddim_step, guide, steps_of

from .edit_photo import Photo

Part = Literal["query", "key", "value"]
FIRST_MUTUAL = 4 / 50
"""MasaCtrl: the share of steps that lay out the edit by itself."""
ATTENTION_SHARE, FEATURE_SHARE = 0.5, 0.8
"""Plug-and-play: shares of the steps, from the noisiest, with the photo's self-attention and features."""


def masactrl(photo: Photo, guidance: float) -> Tensor:
    """Mutual self-attention control (Cao et al. 2023, arXiv 2304.08465, eq. 3).

    After the first steps, the edit's queries look up keys and values of the photo, in the finer two thirds of the
    decoder (the authors' layers 10 to 15 of Stable Diffusion's 16).
    """
    first = steps_of(FIRST_MUTUAL, photo.schedule.steps)

    def borrowed(index: int) -> ExitStack:
        stack = ExitStack()
        if index >= first:
            stack.enter_context(photo_attention(_unet(photo), finer_blocks(_unet(photo)), ("key", "value")))
        return stack

    return _beside_photo(photo, guidance, borrowed)


def plug_and_play(photo: Photo, guidance: float) -> Tensor:
    """Plug-and-play diffusion features (Tumanyan et al. 2023, arXiv 2211.12572, section 4 and algorithm 1).

    Features of the decoder's layer at two fifths of its depth (the authors' fourth of twelve) and the self-attention
    from there on are the photo's.
    """
    unet, steps = _unet(photo), photo.schedule.steps
    finer = finer_blocks(unet)

    def borrowed(index: int) -> ExitStack:
        stack = ExitStack()
        if index < steps_of(ATTENTION_SHARE, steps):
            stack.enter_context(photo_attention(unet, finer, ("query", "key")))
        if index < steps_of(FEATURE_SHARE, steps):
            stack.enter_context(photo_features(finer[0].resnets[0].conv2))
        return stack

    return _beside_photo(photo, guidance, borrowed)


def _unet(photo: Photo) -> Any:
    return photo.model.denoiser.unet


def finer_blocks(unet: Any) -> list[Any]:
    """The decoder's blocks with attention but for the coarsest."""
    return [block for block in unet.up_blocks if hasattr(block, "attentions")][1:]


def _beside_photo(photo: Photo, guidance: float, borrowed: Callable[[int], ExitStack]) -> Tensor:
    """Guided sampling of the edit from z*_T; in ``borrowed`` of a step the rows are (photo, edit under ∅, edit)."""
    trajectory, schedule = photo.trajectory("ddim", empty=True), photo.schedule
    empty = photo.empty.expand_as(photo.source)
    contexts = torch.cat([empty, empty, photo.edited])
    with no_gradients():
        latents = trajectory.noisiest
        for index, step in enumerate(range(schedule.steps, 0, -1)):
            level = schedule.level(step)
            with borrowed(index):
                rows = torch.cat([trajectory.latents[step], latents, latents])
                predicted = check_finite(photo.denoiser(rows, level, contexts), level, step)
            _, null, text = predicted.chunk(3)
            latents = ddim_step(latents, guide(null, text, guidance), schedule, step)
        return latents


class FromPhoto:
    """An attention processor whose rows are thirds: the first third lends its parts to the others.

    ``parts``: of self-attention. In cross-attention every row is its own.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = parts

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None, temb: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Attended states, of the shape of ``hidden_states``."""
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        found = {
            name: layer(states).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for name, layer, states in (
                ("query", attn.to_q, hidden_states), ("key", attn.to_k, context), ("value", attn.to_v, context)
            )
        }  # fmt: skip
        if encoder_hidden_states is None:
            found |= {name: lent(found[name]) for name in self.parts}
        attended = scaled_dot_product_attention(found["query"], found["key"], found["value"], scale=attn.scale)
        attended = attended.transpose(1, 2).flatten(2)
        for layer in attn.to_out:
            attended = layer(attended)
        return attended


def lent(rows: Tensor) -> Tensor:
    """The first third of rows in place of all three."""
    return rows.chunk(3)[0].repeat(3, *[1] * (rows.ndim - 1))


@contextmanager
def photo_attention(unet: Any, blocks: Sequence[Any], parts: Sequence[Part]) -> Iterator[None]:
    """Self-attention of the blocks takes ``parts`` from the first third of the rows."""
    layers = [layer for block in blocks for layer in block.modules() if isinstance(layer, Attention)]
    for layer in layers:
        layer.set_processor(FromPhoto(parts))
    try:
        yield
    finally:
        unet.set_attn_processor(ControlledAttention())


@contextmanager
def photo_features(layer: torch.nn.Module) -> Iterator[None]:
    """What a layer returns is that of the first third of the rows."""
    handle = layer.register_forward_hook(lambda module, inputs, output: lent(output))
    try:
        yield
    finally:
        handle.remove()
