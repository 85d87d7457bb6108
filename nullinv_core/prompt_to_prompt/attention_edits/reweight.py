"""Attention re-weighting (Hertz et al. 2022, section 3.2): words count more or less."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...denoiser import Layer
from ..attention_edit import Here, Plans, ProbabilityEdit, stacked

ORDER = 2


@dataclass(frozen=True)
class Reweight(ProbabilityEdit):
    """Cross-attention times the ``equalizer`` (B, E, 1, 1, K), without renormalising."""

    equalizer: Tensor

    def wants(self, layer: Layer, size: tuple[int, int]) -> bool:
        """All cross-attention."""
        return layer.part == "cross"

    def rewrite(self, source: Tensor, unedited: Tensor, edited: Tensor, here: Here) -> Tensor:
        """Each column times its factor."""
        return torch.where(here.window, edited * self.equalizer.to(unedited.dtype), edited)


def planned(plans: Plans) -> Reweight | None:
    """What ``weights``, and weights in the text, ask for."""
    equalizer = stacked(plans, lambda edit: edit.equalizer[None, None])
    window = stacked(plans, lambda edit: edit.cross_window)
    return Reweight(window, equalizer) if bool((equalizer != 1).any() and window.any()) else None
