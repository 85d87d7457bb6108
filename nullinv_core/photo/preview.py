"""Small pictures of latents that need no autoencoder: a pixel for each latent."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InputError
from ..families import Family, supported

LARGEST = 1e4


def preview(latents: Tensor, family: Family) -> Tensor:
    """What latents (B, C, h, w) show, as ComfyUI previews them while it samples: float32 (B, h, w, 3) in 0…1, on a CPU.

    The colours of an affine fit; its factors are those of the family. Raises InputError for latents of other channels.
    """
    if latents.shape[1] != len(family.preview):
        raise InputError(
            f"latents of {latents.shape[1]} channels have no small picture; those of {supported()} have "
            f"{len(family.preview)}"
        )
    # larger ones, which no model makes, would overflow
    latents = latents.cpu().clamp(-LARGEST, LARGEST).float()
    shown = torch.einsum("bchw,cr->bhwr", latents, torch.tensor(family.preview))
    return ((shown + torch.tensor(family.preview_bias)) / 2 + 0.5).clamp(0, 1)
