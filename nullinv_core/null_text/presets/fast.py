"""Null text where it is needed, edits beside the photo's own trajectory."""

from __future__ import annotations

from ..recipe import Preset, Recipe
from ..settings import NullTextSettings

FAST = NullTextSettings(start="source", test_first=True, budget=16, keep_best=True, relative=True)
"""At most 3·50 network samples for 50 steps, where the authors' constants take some 1,350."""
PRESET = Preset(
    "fast",
    Recipe("fixed-point", FAST, pinned=True, unshared=True),
    "optimizes only the steps that need it, edits work at any guidance and keep colours and contrast better",
    samples=5,
)
