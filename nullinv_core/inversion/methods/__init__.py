"""Ways from clean latents to noise, by name: every file of this folder that holds a ``METHOD`` is one."""

from __future__ import annotations

from ...discovery import modules_of
from ..method import Method

METHODS: dict[str, Method] = {module.METHOD.name: module.METHOD for module in modules_of(__name__, __path__)}
"""Sorted by the names of the files."""
