"""Null-text inversion (Mokady et al. 2022, arXiv 2211.09794) and Prompt-to-Prompt editing in plain PyTorch.

Everything of ``api`` can be imported from here; it is loaded when first asked for, so that the command line can say
what is wrong, or be stopped, before PyTorch is there.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import *  # noqa: F403


def __getattr__(name: str) -> Any:
    # the import system asks for __path__ and for modules too, which are no reason to load PyTorch
    if (name.startswith("__") and name != "__all__") or find_spec(f"{__name__}.{name}"):
        raise AttributeError(name)
    return getattr(import_module(".api", __name__), name)
