"""The authors' own constants."""

from __future__ import annotations

from ..recipe import Preset, Recipe
from ..settings import PAPER

PRESET = Preset("paper", Recipe("ddim", PAPER, pinned=False), "the authors' constants, many times slower", samples=23)
