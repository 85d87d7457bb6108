"""Where a model runs."""

from __future__ import annotations

import torch

from ...errors import InputError


def pick_device(device: str) -> str:
    """A device that was named, or the fastest that there is; raises InputError where the one named cannot be used."""
    if device:
        try:
            # a device may have shapes alone: one number must come back
            torch.zeros(1, device=device).item()
        except (RuntimeError, AssertionError) as error:
            raise InputError(f'device "{device}" cannot be used here; try --device cpu') from error
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
