"""A ComfyUI model that overflows in float16, once more in float32."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch

from ...denoiser import broken_model, broken_weight
from ...errors import NonFiniteError
from .other_packs import weights_of


def compute_dtype(patcher: Any) -> torch.dtype:
    """In which precision a MODEL computes, whatever its weights are kept in."""
    cast = patcher.get_model_object("manual_cast_dtype")
    found: torch.dtype = patcher.model.get_dtype() if cast is None else cast
    return found


def in_safer_precision(job: Callable[[], Any], patcher: Any) -> Any:
    """What ``job`` returns; where float16 overflows in it, what it returns with ``patcher`` computing in float32.

    The stored weights stay as they are. Raises NonFiniteError where another precision, the second run, or a weight has
    NaN.
    """
    try:
        return job()
    except NonFiniteError as error:
        dtype, name = compute_dtype(patcher), broken_weight(weights_of(patcher.model.diffusion_model))
        if name is not None:
            raise broken_model(name, dtype) from error
        if dtype != torch.float16:
            raise
        found = str(error)
    # outside of the handler, which keeps the failed run's tensors alive
    logging.warning("null-text inversion: %s; once more in float32", found)
    patcher.set_model_compute_dtype(torch.float32)
    return job()
