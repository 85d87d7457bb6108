"""Edits that take the photo's own attention or features while they are drawn beside it, without Prompt-to-Prompt.

The photo runs along its trajectory under the empty prompt, so its features are exact at any guidance.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nullinv_core.context import stack
from nullinv_core.denoiser import Layer, check_finite, no_gradients
from nullinv_core.prompt_to_prompt.attention_edit import AttentionEdit, FeatureEdit, Here, InputEdit, from_source
from nullinv_core.prompt_to_prompt.control import EditBatch, StepControl
from nullinv_core.prompt_to_prompt.maps import AttentionMaps
from nullinv_core.schedule import ddim_step, guide, steps_of

from .edit_photo import Photo

FIRST_MUTUAL = 4 / 50
"""MasaCtrl: the share of steps that lay out the edit by itself."""
ATTENTION_SHARE, FEATURE_SHARE = 0.5, 0.8
"""Plug-and-play: shares of the steps, from the noisiest, with the photo's self-attention and features."""


class MutualSelfAttention(InputEdit):
    """MasaCtrl: the edit's queries look up keys and values of the photo."""

    def wants(self, layer: Layer, size: tuple[int, int]) -> bool:
        """See ``finer``."""
        return layer.part == "self" and finer(layer)

    def rewrite(self, query: Tensor, key: Tensor, value: Tensor, here: Here) -> tuple[Tensor, Tensor, Tensor]:
        """The photo's keys and values."""
        return query, from_source(key, here.window), from_source(value, here.window)


class PhotoAttention(InputEdit):
    """Plug-and-play: self-attention is the photo's."""

    def wants(self, layer: Layer, size: tuple[int, int]) -> bool:
        """All of the decoder's but the first."""
        return (layer.part, layer.stage) == ("self", "up") and (layer.block, layer.index) != (0, 0)

    def rewrite(self, query: Tensor, key: Tensor, value: Tensor, here: Here) -> tuple[Tensor, Tensor, Tensor]:
        """The photo's queries and keys."""
        return from_source(query, here.window), from_source(key, here.window), value


class PhotoFeatures(FeatureEdit):
    """Plug-and-play: features of the decoder's layer at two fifths of its depth (the authors' fifth of twelve)."""

    def wants(self, layer: Layer, size: tuple[int, int]) -> bool:
        """The first of the finer ones."""
        return (layer.part, layer.stage, layer.block, layer.index) == ("features", "up", 1, 0)

    def rewrite(self, features: Tensor, here: Here) -> Tensor:
        """The photo's."""
        return from_source(features, here.window)


def finer(layer: Layer) -> bool:
    """Whether a layer is in the decoder's blocks with attention, but for the coarsest."""
    return layer.stage == "up" and layer.block >= 1


def masactrl(photo: Photo, guidance: float) -> Tensor:
    """Mutual self-attention control (Cao et al. 2023, arXiv 2304.08465, eq. 3).

    After the first steps, in the finer two thirds of the decoder (the authors' layers 10 to 15 of Stable Diffusion's
    16).
    """
    first = steps_of(FIRST_MUTUAL, photo.schedule.steps)
    return _beside_photo(photo, guidance, [MutualSelfAttention(_window(photo, lambda index: index >= first))])


def plug_and_play(photo: Photo, guidance: float) -> Tensor:
    """Plug-and-play diffusion features (Tumanyan et al. 2023, arXiv 2211.12572, section 4 and algorithm 1)."""
    attention, features = (steps_of(share, photo.schedule.steps) for share in (ATTENTION_SHARE, FEATURE_SHARE))
    edits = [
        PhotoAttention(_window(photo, lambda index: index < attention)),
        PhotoFeatures(_window(photo, lambda index: index < features)),
    ]
    return _beside_photo(photo, guidance, edits)


def _window(photo: Photo, inside: Callable[[int], bool]) -> Tensor:
    """bool (B, 2, T), for both rows of an edit."""
    return torch.tensor([inside(index) for index in range(photo.schedule.steps)]).expand(len(photo.plans), 2, -1)


def _beside_photo(photo: Photo, guidance: float, attention: list[AttentionEdit]) -> Tensor:
    """Guided sampling of the edit from z*_T; rows of an image are (photo, edit under ∅, edit)."""
    trajectory, schedule = photo.trajectory("ddim", empty=True), photo.schedule
    latents = trajectory.noisiest
    edits = EditBatch(tuple((plan, plan) for plan in photo.plans), tuple(attention)).to(latents.device)
    empty = photo.empty.expand(len(photo.source))
    contexts = stack([empty, empty, photo.asked], 1).map(lambda each: each.flatten(0, 1))
    size = (latents.shape[-2], latents.shape[-1])
    # none is read: no layer has a grid of no positions
    maps = AttentionMaps((0, 0))
    with no_gradients():
        for index, step in enumerate(range(schedule.steps, 0, -1)):
            level = schedule.level(step)
            rows = torch.stack([trajectory.latents[step], latents, latents], 1).flatten(0, 1)
            control = StepControl(edits, index, maps, slice(0, len(rows)), size)
            predicted = check_finite(photo.denoiser(rows, level, contexts, control), level, step)
            _, null, text = predicted.unflatten(0, (-1, 3)).unbind(1)
            latents = ddim_step(latents, guide(null, text, guidance), schedule, step)
        return latents
