"""In which precision a ComfyUI MODEL computes, and another one where it overflows."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...denoiser import broken_model, broken_weight
from .notices import log
from .other_packs import weights_of
from .protocols import Patcher


def compute_dtype(patcher: Patcher) -> torch.dtype:
    """In which precision a MODEL computes, whatever its weights are kept in."""
    cast = patcher.get_model_object("manual_cast_dtype")
    return patcher.model.get_dtype() if cast is None else cast


@dataclass(frozen=True)
class Precision:
    """What a MODEL's clone computes in (``model.Computing``)."""

    patcher: Patcher

    @property
    def compute_dtype(self) -> torch.dtype:
        """See ``compute_dtype``."""
        return compute_dtype(self.patcher)

    def check_weights(self) -> None:
        """Raise NonFiniteError where a weight is NaN or infinite."""
        name = broken_weight(weights_of(self.patcher.model.diffusion_model))
        if name is not None:
            raise broken_model(name, self.compute_dtype)

    def compute_in_float32(self) -> None:
        """Let the clone compute in float32 from now on; the stored weights stay as they are."""
        self.patcher.set_model_compute_dtype(torch.float32)

    def tell(self, text: str) -> None:
        """See ``notices.log``."""
        log(text)
