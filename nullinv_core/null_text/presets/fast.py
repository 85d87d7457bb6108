"""Null text where it is needed, edits beside the photo's own trajectory."""

from __future__ import annotations

from ..recipe import Preset, Recipe
from ..settings import NullTextSettings

FAST = NullTextSettings(start="source", test_first=True, budget=16, keep_best=True, relative=True)
"""At most 3·50 network samples for 50 steps, where the authors' constants take some 1,350."""
PRESET = Preset(
    "fast",
    Recipe("fixed-point", FAST, pinned=True, unshared=True),
    "optimizes only where the photo would be lost, edits read the photo's branch from the trajectory and go without "
    "what guidance would do to the photo itself",
    samples=5,
)
