"""Word swap and refinement (Hertz et al. 2022, section 3.2): words keep the source's attention.

The two differ in which tokens the alignment maps: see ``alignment.align_tokens``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...denoiser import Layer
from ..attention_edit import Here, Plans, ProbabilityEdit, stacked

ORDER = 1


@dataclass(frozen=True)
class Replace(ProbabilityEdit):
    """Cross-attention of the source, through ``mapping`` (B, E, K, K), where ``keep`` (B, E, 1, 1, K) is 1."""

    mapping: Tensor
    keep: Tensor

    def wants(self, layer: Layer, size: tuple[int, int]) -> bool:
        """All cross-attention."""
        return layer.part == "cross"

    def rewrite(self, source: Tensor, unedited: Tensor, edited: Tensor, here: Here) -> Tensor:
        """The source's columns in place of the edit's own."""
        mapping, keep = self.mapping.to(unedited.dtype), self.keep.to(unedited.dtype)
        carried = torch.einsum("bxhpk,bekl->behpl", source, mapping)
        return torch.where(here.window, carried * keep + unedited * (1 - keep), edited)


def planned(plans: Plans) -> Replace | None:
    """What ``cross_replace`` and ``word_windows`` ask for."""
    window = stacked(plans, lambda edit: edit.cross_window)
    if not bool(window.any()):
        return None
    mapping = stacked(plans, lambda edit: edit.alignment.mapping)
    keep = stacked(plans, lambda edit: edit.alignment.keep[None, None])
    return Replace(window, mapping, keep)
