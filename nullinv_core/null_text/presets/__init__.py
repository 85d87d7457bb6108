"""Presets by name: every file of this folder holds one as ``PRESET``. Nothing here needs PyTorch."""

from __future__ import annotations

from ... import settings
from ...discovery import modules_of
from ..recipe import Preset, Recipe

CHOICES: dict[str, Preset] = {module.PRESET.name: module.PRESET for module in modules_of(__name__, __path__)}
"""Sorted by the names of the files."""
PRESETS: dict[str, Recipe] = {name: preset.recipe for name, preset in CHOICES.items()}
DEFAULT = settings.PRESET.default
