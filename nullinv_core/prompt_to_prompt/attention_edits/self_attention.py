"""Self-attention replacement (Hertz et al. 2022, section 3.2, and the authors' code): shapes stay the source's."""

from __future__ import annotations

from torch import Tensor

from ...denoiser import Layer
from ..attention_edit import Here, InputEdit, Plans, from_source, stacked
from ..grids import shorter_side

ORDER = 0
MOST_SIDE = 32
"""Self-attention is replaced only in layers whose shorter side has at most so many positions (the authors': 32×32)."""


class ReplaceSelf(InputEdit):
    """Edits attend with the source's queries and keys, so their self-attention is the source's."""

    def wants(self, layer: Layer, size: tuple[int, int]) -> bool:
        """Self-attention of layers that are small enough."""
        return layer.part == "self" and shorter_side(size, layer.positions) <= MOST_SIDE

    def rewrite(self, query: Tensor, key: Tensor, value: Tensor, here: Here) -> tuple[Tensor, Tensor, Tensor]:
        """The source's query and key."""
        return from_source(query, here.window), from_source(key, here.window), value


def planned(plans: Plans) -> ReplaceSelf | None:
    """What ``self_replace`` asks for."""
    window = stacked(plans, lambda edit: edit.self_window)
    return ReplaceSelf(window) if bool(window.any()) else None
