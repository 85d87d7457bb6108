"""Direct inversion (Ju et al. 2023, arXiv 2310.01506)."""

from __future__ import annotations

from ..recipe import Preset, Recipe

PRESET = Preset(
    "direct",
    Recipe("ddim", None, pinned=True),
    "no optimization, at a high guidance the whole picture gains contrast",
    samples=1,
)
