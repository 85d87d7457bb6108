"""Negative-prompt inversion (Miyake et al. 2023, arXiv 2305.16807)."""

from __future__ import annotations

from ..recipe import Preset, Recipe

PRESET = Preset(
    "negative-prompt", Recipe("ddim", None, pinned=False), "the source text in place of optimized embeddings", samples=2
)
