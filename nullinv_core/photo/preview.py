"""Small pictures of latents that need no autoencoder: a pixel for each latent."""

from __future__ import annotations

import torch
from torch import Tensor

from ..families import Family


def preview(latents: Tensor, family: Family) -> Tensor:
    """What latents (B, C, h, w) show, as ComfyUI previews them while it samples: float32 (B, h, w, 3) in 0…1, on a CPU.

    The colours of an affine fit; its factors are those of the family.
    """
    shown = torch.einsum("bchw,cr->bhwr", latents.float().cpu(), torch.tensor(family.preview))
    return ((shown + torch.tensor(family.preview_bias)) / 2 + 0.5).clamp(0, 1)
