"""Attention edits of Prompt-to-Prompt (Hertz et al. 2022, section 3.2). Every file here is one.

A file has ``planned(plans)``, which returns what planned edits ask of it, or None, and ``ORDER``, by which they act one
after the other.
"""

from __future__ import annotations

from ...discovery import modules_of
from ..attention_edit import AttentionEdit, Plans

MODULES = sorted(modules_of(__name__, __path__), key=lambda module: module.ORDER)


def planned_edits(plans: Plans) -> tuple[AttentionEdit, ...]:
    """What planned edits do to attention, in order."""
    found = (module.planned(plans) for module in MODULES)
    return tuple(edit for edit in found if edit is not None)
