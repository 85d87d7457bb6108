"""Names on the wires, and what all nodes share."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable
from typing import Any

from comfy_api.latest import io

from ..nullinv_core.settings import LISTS, Setting

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


FOLDS = "advanced" in inspect.signature(io.Float.Input.__init__).parameters
"""Whether this ComfyUI shows advanced widgets only when asked to."""
LARGEST = 2**31 - 1
"""Largest number of a widget."""
FINE = 0.01
"""Steps below this are also what a number is rounded to; others may be typed as exactly as wished."""


def widgets(settings: Iterable[Setting], required: bool = True) -> list[io.Input]:
    """Inputs for settings. ``required``: whether a graph must have them, as all do that are older than a setting."""
    return [_widget(one, optional=not required) for one in settings if one.in_node]


def _widget(setting: Setting, **shared: Any) -> io.Input:
    shared |= {"tooltip": setting.tooltip} | ({"advanced": True} if FOLDS and setting.advanced else {})
    name, default = setting.widget, setting.default
    if setting.choices:
        return io.Combo.Input(name, options=list(setting.choices()), default=default, **shared)
    if setting.kind == "bool":
        return io.Boolean.Input(name, default=default, **shared)
    if setting.kind in LISTS:
        return io.String.Input(name, default="", **shared)
    limits = {"default": default, "min": setting.least, "max": min(setting.most, LARGEST), "step": setting.step}
    if setting.kind == "seed":
        return io.Int.Input(name, **limits, control_after_generate=FIXED, **shared)
    if setting.kind == "int":
        return io.Int.Input(name, **limits, **shared)
    fine = setting.step if setting.step and setting.step < FINE else None
    return io.Float.Input(name, **{one: value if value is None else float(value) for one, value in limits.items()},
                          round=fine, **shared)  # fmt: skip


def schema(search: list[str], **fields: Any) -> io.Schema:
    """A schema in our category; what this ComfyUI does not know yet, as search words, is left out."""
    known = {field.name for field in dataclasses.fields(io.Schema)}
    wanted = {"category": CATEGORY, "search_aliases": search, **fields}
    return io.Schema(**{name: value for name, value in wanted.items() if name in known})
