"""What an attention edit is: a window of steps, the layers it wants, and what it writes there.

Branches of an image are (source, edit 1, …, edit E). Tensors come as (B, 1+E, …), the conditional rows alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from ..denoiser import Layer
from .edit import Edit

Plans = tuple[tuple[Edit, ...], ...]
"""Planned edits by image; every image has equally many."""
Some = TypeVar("Some", bound="AttentionEdit")


class Here(NamedTuple):
    """Where an edit acts: the layer, (h, w) of the latents, and its window in this step, bool (B, E, 1, 1, 1) or
    (B, E, 1, 1, K)."""

    layer: Layer
    size: tuple[int, int]
    window: Tensor


@dataclass(frozen=True)
class AttentionEdit:
    """Something done to attention in a window of the steps. Make a subclass of one of the three kinds below.

    ``window``: bool (B, E, T), or (B, E, T, K) by token, in the order of sampling. Nothing is asked of an edit, or
    computed for it, in steps that are outside of its window for all edits of all images.
    """

    window: Tensor

    @cached_property
    def steps(self) -> list[bool]:
        """In which steps the window is open for some edit."""
        some = self.window.flatten(0, 1).any(0)
        found: list[bool] = (some.any(-1) if some.ndim > 1 else some).tolist()
        return found

    def wants(self, layer: Layer, size: tuple[int, int]) -> bool:
        """Whether a layer is edited, of a network on latents of ``size`` (h, w)."""
        raise NotImplementedError

    def at(self, index: int, layer: Layer, size: tuple[int, int]) -> Here:
        """Where it acts in a layer at step ``index``, from 0 at the noisiest."""
        window = self.window[:, :, index]
        return Here(layer, size, window[:, :, None, None] if window.ndim > 2 else window[..., None, None, None])

    def to(self: Some, device: torch.device | str) -> Some:
        """The same on another device."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)})


class InputEdit(AttentionEdit):
    """Gives the edits other queries, keys or values. Fast attention kernels stay in use."""

    def rewrite(self, query: Tensor, key: Tensor, value: Tensor, here: Here) -> tuple[Tensor, Tensor, Tensor]:
        """What to attend with: (B, 1+E, heads, positions or tokens, width) each. Return what stays as it came."""
        raise NotImplementedError


class ProbabilityEdit(AttentionEdit):
    """Gives the edits other attention probabilities, which are then computed one by one."""

    def rewrite(self, source: Tensor, unedited: Tensor, edited: Tensor, here: Here) -> Tensor:
        """What to use for ``edited``, what the edits before this one made of ``unedited``: (B, E, heads, positions, K).

        ``source``: (B, 1, heads, positions, K).
        """
        raise NotImplementedError


class FeatureEdit(AttentionEdit):
    """Gives the edits other features: what a residual block adds to its input."""

    def rewrite(self, features: Tensor, here: Here) -> Tensor:
        """What to use for (B, 1+E, C, h, w)."""
        raise NotImplementedError


def from_source(tensor: Tensor, window: Tensor) -> Tensor:
    """(B, 1+E, …) in which the edits are the source inside their window."""
    return torch.cat([tensor[:, :1], torch.where(window, tensor[:, :1], tensor[:, 1:])], 1)


def stacked(plans: Plans, pick: Callable[[Edit], Tensor]) -> Tensor:
    """One tensor of all edits: (B, E, …)."""
    return torch.stack([torch.stack([pick(edit) for edit in row]) for row in plans])
