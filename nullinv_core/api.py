"""What ``import nullinv_core`` offers."""

import torch

from .version import check_torch

check_torch(torch.__version__)

# ruff: noqa: E402
from .backends.diffusers.model import load_model
from .context import Context
from .denoiser import AttentionControl, Counted, Denoiser
from .editing import EditResult, Sampling, edit, reconstruct
from .errors import InputError, NonFiniteError
from .files.store import Inversion, load_inversion, save_inversion
from .inversion.invert import invert
from .null_text.embedding import embed
from .null_text.optimization import optimize_null_text
from .null_text.presets import PRESETS
from .null_text.recipe import Recipe
from .null_text.settings import PAPER, NullTextSettings
from .photo.composite import keep_photo
from .photo.images import load_image, save_image
from .prompt_to_prompt.control import batch_edits
from .prompt_to_prompt.edit import Edit, plan_edit
from .prompt_to_prompt.prompt import Prompt
from .schedule import Schedule, leading_schedule
from .settings import EditSettings
from .types import Event, NullEmbeddings, Pin, Trajectory

__all__ = [
    "PAPER",
    "PRESETS",
    "AttentionControl",
    "Context",
    "Counted",
    "Denoiser",
    "Edit",
    "EditResult",
    "EditSettings",
    "Event",
    "InputError",
    "Inversion",
    "NonFiniteError",
    "NullEmbeddings",
    "NullTextSettings",
    "Pin",
    "Prompt",
    "Recipe",
    "Sampling",
    "Schedule",
    "Trajectory",
    "batch_edits",
    "edit",
    "embed",
    "invert",
    "keep_photo",
    "leading_schedule",
    "load_image",
    "load_inversion",
    "load_model",
    "optimize_null_text",
    "plan_edit",
    "reconstruct",
    "save_image",
    "save_inversion",
]
