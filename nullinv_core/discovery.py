"""Tables that are made of the files of a folder: one file, one entry, and no list to keep beside it."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType


def modules_of(package: str, path: Iterable[str]) -> list[ModuleType]:
    """Every module of a package, sorted by name. ``package``, ``path``: its ``__name__`` and ``__path__``."""
    names = sorted(module.name for module in iter_modules(path))
    return [import_module(f"{package}.{name}") for name in names]
