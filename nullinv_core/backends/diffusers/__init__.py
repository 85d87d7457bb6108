"""The diffusers backend: Stable Diffusion 1.x, 2.x and SDXL architectures of any width, from local files."""

from .model import (
    DEMO_MODEL,
    DiffusersDenoiser,
    DiffusersModel,
    check_inversion,
    load_model,
    wrap_pipeline,
)

__all__ = [
    "DEMO_MODEL",
    "DiffusersDenoiser",
    "DiffusersModel",
    "check_inversion",
    "load_model",
    "wrap_pipeline",
]
