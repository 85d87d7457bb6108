"""Where each word looks: cross-attention, summed while a network runs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..denoiser import AttentionControl, Layer
from ..errors import InputError
from .prompt import Prompt


@dataclass
class AttentionMaps:
    """Running sum of conditional cross-attention, over steps, layers and heads, of the layers of one grid.

    ``total``: float32 (B, 1+E, h, w, K), None before the first layer was seen. ``count``: how many matrices went in.
    """

    grid: tuple[int, int]
    total: Tensor | None = None
    count: int = 0

    def reads(self, layer: Layer) -> bool:
        """Whether a layer is one of those that are summed."""
        return layer.part == "cross" and layer.positions == self.grid[0] * self.grid[1]

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


@dataclass(frozen=True)
class AttentionReader(AttentionControl):
    """Reads the attention of all rows and edits none."""

    maps: AttentionMaps
    rows: slice

    def weighs(self, layer: Layer) -> bool:
        """Where the maps are read."""
        return self.maps.reads(layer)

    def weigh(self, probabilities: Tensor, layer: Layer) -> Tensor:
        """The same, read."""
        self.maps.add(probabilities[:, None])
        return probabilities


@dataclass(frozen=True, repr=False)
class WordMaps:
    """Mean cross-attention (B, 1+E, h, w, K) of the branches of each image, and the prompt of each branch.

    ``maps`` is None where the model has no layer of the grid that is read.
    """

    maps: Tensor | None
    prompts: tuple[Prompt, ...]

    def __repr__(self) -> str:
        return f"WordMaps({', '.join(repr(p.text) for p in self.prompts)})"
