"""The authors' own constants."""

from __future__ import annotations

from ..recipe import Preset, Recipe
from ..settings import PAPER

PRESET = Preset(
    "paper",
    Recipe("ddim", PAPER, pinned=False),
    "the authors' numbers, many times slower, to compare with the paper",
    samples=23,
)
