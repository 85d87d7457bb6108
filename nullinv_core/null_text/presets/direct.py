"""Direct inversion (Ju et al. 2023, arXiv 2310.01506)."""

from __future__ import annotations

from ..recipe import Preset, Recipe

PRESET = Preset("direct", Recipe("ddim", None, pinned=True), "the photo's branch is read, nothing else done", samples=1)
