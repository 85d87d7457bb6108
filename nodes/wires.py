"""Names on the wires, and what all nodes share."""

from __future__ import annotations

import dataclasses
from typing import Any

from comfy_api.latest import io

from ..nullinv_core.schedule import GUIDANCE

CATEGORY = "null-text inversion"

Trajectory = io.Custom("NULLINV_TRAJECTORY")
"""An ``Inversion`` without null embeddings."""
NullEmbeddings = io.Custom("NULLINV_EMBEDS")
"""An ``Inversion`` with them."""
Edit = io.Custom("NULLINV_EDIT")
"""An ``EditRequest``."""
Attention = io.Custom("NULLINV_ATTENTION")
"""A ``WordMaps``."""
FileName = io.Custom("STRING,COMBO")
"""A text that also names an entry of a list of files."""

FIXED = io.ControlAfterGenerate.fixed if hasattr(io, "ControlAfterGenerate") else True
"""What is done to a number after a run: nothing, unless the user says so. An older ComfyUI begins as it likes."""


def guidance(name: str, tooltip: str, default: float = 7.5) -> io.Float.Input:
    """An input for a guidance scale."""
    return io.Float.Input(name, default=default, min=GUIDANCE[0], max=GUIDANCE[1], step=0.1, tooltip=tooltip)


def schema(search: list[str], **fields: Any) -> io.Schema:
    """A schema in our category; what this ComfyUI does not know yet, as search words, is left out."""
    known = {field.name for field in dataclasses.fields(io.Schema)}
    wanted = {"category": CATEGORY, "search_aliases": search, **fields}
    return io.Schema(**{name: value for name, value in wanted.items() if name in known})
