"""Attention edits of Prompt-to-Prompt (Hertz et al. 2022, section 3.2), for a batch of images with edits each.

Branches of an image are (source, edit 1, …, edit E). Only conditional rows are edited.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ..errors import InputError
from .edit import Edit
from .focus import focus, halving, layer_grid
from .local_blend import uses_blend
from .prompt import Prompt

SELF_REPLACE_SIDE = 32
"""Self-attention is replaced only in layers whose shorter side has at most so many positions (the authors': 32×32)."""
MAP_SIDE = 16
"""Word maps are read from layers of at least 16×16 positions (exactly that at 512×512 pixels)."""
MOST_HALVINGS = 2
"""How often the grid is halved where maps are read at most; deeper lies the middle block alone."""


@dataclass(frozen=True)
class EditBatch:
    """Edits of B images, E each, as tensors that broadcast over (B, E, heads, positions, K)."""

    mapping: Tensor
    keep: Tensor
    equalizer: Tensor
    cross_window: Tensor
    focus_window: Tensor
    self_window: Tensor
    edits: tuple[tuple[Edit, ...], ...]

    @property
    def branches(self) -> int:
        """1 + E."""
        return 1 + len(self.edits[0])

    def to(self, device: torch.device | str) -> EditBatch:
        """The same on another device."""
        tensors = ("mapping", "keep", "equalizer", "cross_window", "focus_window", "self_window")
        return replace(self, **{name: getattr(self, name).to(device) for name in tensors})


def batch_edits(edits: Sequence[Sequence[Edit]]) -> EditBatch:
    """Stack edits (outer: images, inner: edits of an image); every image needs equally many, at least one."""
    counts = {len(row) for row in edits}
    if len(counts) != 1 or counts == {0}:
        raise InputError(f"every image needs the same number of edits, at least one; got {sorted(counts)}")
    lengths = {(e.source.length, len(e.self_window)) for row in edits for e in row}
    if len(lengths) != 1:
        raise InputError(f"edits of one batch need the same number of tokens and of steps; got {sorted(lengths)}")

    def stack(pick: Callable[[Edit], Tensor]) -> Tensor:
        return torch.stack([torch.stack([pick(e) for e in row]) for row in edits])

    return EditBatch(
        mapping=stack(lambda e: e.alignment.mapping),
        keep=stack(lambda e: e.alignment.keep[None, None]),
        equalizer=stack(lambda e: e.equalizer[None, None]),
        cross_window=stack(lambda e: e.cross_window[:, None, None]),
        focus_window=stack(lambda e: e.focus_window[:, None, None]),
        self_window=stack(lambda e: e.self_window),
        edits=tuple(tuple(row) for row in edits),
    )


def edit_cross_attention(
    source: Tensor, own: Tensor, mapping: Tensor, keep: Tensor, equalizer: Tensor, window: Tensor
) -> Tensor:
    """Attention of the edit branches, same shape as ``own``: (B, E, heads, positions, K).

    Inside its window a column is the source's attention through ``mapping`` where ``keep`` is 1, its own elsewhere,
    times the equalizer, without renormalising; outside it is its own. ``source``: (B, 1, heads, positions, K).
    """
    carried = torch.einsum("bxhpk,bekl->behpl", source, mapping)
    edited = (carried * keep + own * (1 - keep)) * equalizer
    return torch.where(window, edited, own)


@dataclass
class AttentionMaps:
    """Running sum of conditional cross-attention, over steps, layers and heads, of the layers of one grid.

    ``total``: float32 (B, 1+E, h, w, K), None before the first layer was seen. ``count``: how many matrices went in.
    """

    grid: tuple[int, int]
    total: Tensor | None = None
    count: int = 0

    def add(self, probabilities: Tensor) -> None:
        """Add (B, 1+E, heads, positions, K)."""
        summed = probabilities.to(torch.promote_types(probabilities.dtype, torch.float32)).sum(2)
        summed = summed.unflatten(2, self.grid)
        self.total = summed if self.total is None else self.total + summed
        self.count += probabilities.shape[2]

    def mean(self) -> Tensor:
        """Mean attention per position and token, 0…1: float32 (B, 1+E, h, w, K)."""
        if self.total is None:
            raise InputError(
                f"the model has no cross-attention on a {self.grid[0]}×{self.grid[1]} grid, from which word maps are "
                "read; edit at the size that the model was trained at, or without blend, exclude and steady words"
            )
        return self.total / self.count


@dataclass(frozen=True, repr=False)
class WordMaps:
    """Mean cross-attention (B, 1+E, h, w, K) of the branches of each image, and the prompt of each branch.

    ``maps`` is None where the model has no layer of the grid that is read.
    """

    maps: Tensor | None
    prompts: tuple[Prompt, ...]

    def __repr__(self) -> str:
        return f"WordMaps({', '.join(repr(p.text) for p in self.prompts)})"


def map_grid(height: int, width: int) -> tuple[int, int]:
    """Grid of the layers whose maps are read, for latents of that size: the smallest of at least 16×16 positions."""
    grids = [(height, width)]
    while min(grids[-1]) > 1 and len(grids) <= MOST_HALVINGS:
        grids.append((-(-grids[-1][0] // 2), -(-grids[-1][1] // 2)))
    return next((g for g in reversed(grids) if g[0] * g[1] >= MAP_SIDE**2), grids[0])


def _shorter_side(size: tuple[int, int], positions: int) -> float:
    """Of a layer with so many positions; the side of a square where no halving of latents of ``size`` has as many."""
    grid = halving(size, positions)
    return positions**0.5 if grid is None else min(grid)


def needs_source(edits: EditBatch, index: int) -> bool:
    """Whether some edit looks at the source's attention in a step: through an open window, or for its local blend."""
    windows = (edits.cross_window, edits.focus_window, edits.self_window)
    looks = any(bool(window[:, :, index].any()) for window in windows)
    return looks or any(uses_blend(one) for row in edits.edits for one in row)


@dataclass(frozen=True)
class StepControl:
    """The attention control of one sampling step; ``index`` counts from 0 at the noisiest step.

    ``size``: (h, w) of the latents.
    """

    edits: EditBatch
    index: int
    maps: AttentionMaps
    rows: slice
    size: tuple[int, int]

    def wants_self(self, positions: int) -> bool:
        """Inside a self-replace window, in layers that are small enough."""
        return self._self_open and _shorter_side(self.size, positions) <= SELF_REPLACE_SIDE

    def self_attention(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """The source's query and key for the edit branches, so their attention is the source's."""
        return self._from_source(query), self._from_source(key)

    def wants_cross(self, positions: int) -> bool:
        """Where a word's window is open, or the layer's maps are read."""
        return self._reads(positions) or self._cross_open

    def cross_attention(self, probabilities: Tensor) -> Tensor:
        """Edited attention; also added to the maps, after the edit."""
        split = probabilities.unflatten(0, (-1, self.edits.branches))
        source, own = split[:, :1], split[:, 1:]
        batch, dtype = self.edits, probabilities.dtype
        edited = edit_cross_attention(
            source, own, batch.mapping.to(dtype), batch.keep.to(dtype),
            batch.equalizer.to(dtype), batch.cross_window[:, :, self.index],
        )  # fmt: skip
        if self._focused:
            edited = self._focus(source, own, edited)
        both = torch.cat([source, edited], 1)
        if self._reads(probabilities.shape[2]):
            self.maps.add(both)
        return both.flatten(0, 1)

    # asked once a step: each answer waits for the device
    @cached_property
    def _self_open(self) -> bool:
        return bool(self.edits.self_window[:, :, self.index].any())

    @cached_property
    def _cross_open(self) -> bool:
        return bool(self._focused) or bool(self.edits.cross_window[:, :, self.index].any())

    @cached_property
    def _focused(self) -> list[int]:
        """Tokens that some edit focuses in this step."""
        return self.edits.focus_window[:, :, self.index].flatten(0, -2).any(0).nonzero().flatten().tolist()

    def _focus(self, source: Tensor, own: Tensor, edited: Tensor) -> Tensor:
        """``edited`` with the focused words drawn by themselves."""
        batch, columns = self.edits, self._focused
        old = torch.einsum("bxhpk,bekl->behpl", source, batch.mapping[..., columns].to(source))
        new = focus(old, own[..., columns], layer_grid(self.size, own.shape[-2]))
        new = new * batch.equalizer[..., columns].to(new)
        window = batch.focus_window[:, :, self.index, ..., columns]
        result = edited.clone()
        result[..., columns] = torch.where(window, new, edited[..., columns])
        return result

    def _reads(self, positions: int) -> bool:
        return positions == self.maps.grid[0] * self.maps.grid[1]

    def _from_source(self, tensor: Tensor) -> Tensor:
        split = tensor.unflatten(0, (-1, self.edits.branches))
        window = self.edits.self_window[:, :, self.index, None, None, None]
        edited = torch.where(window, split[:, :1], split[:, 1:])
        return torch.cat([split[:, :1], edited], 1).flatten(0, 1)
