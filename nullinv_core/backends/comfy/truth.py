"""What acts while a MODEL runs, by name, and the check by truth that tells the user of it."""

from __future__ import annotations

from collections.abc import Mapping

from ...drift import Check
from ...files.fingerprint import Fingerprint, other_patches
from ...files.store import Inversion
from .notices import tell
from .other_packs import OWN_WRAPPER
from .precision import compute_dtype
from .protocols import Patcher


def patch_names(model: Patcher) -> tuple[str, ...]:
    """Names of the nodes, or of the functions, that act while a MODEL runs: its patches, wrappers and hooks."""
    found: set[str] = set()

    def look(value: object) -> None:
        if isinstance(value, Mapping):
            for key, each in value.items():
                if key != OWN_WRAPPER:
                    look(each)
        elif isinstance(value, list | tuple | set):
            for each in value:
                look(each)
        elif callable(value):
            function = getattr(value, "func", value)
            found.add(getattr(function, "__qualname__", type(function).__qualname__).split(".")[0])

    look([model.model_options, model.wrappers])
    return tuple(sorted(found))


def check_of(model: Patcher, inversion: Inversion) -> Check:
    """Tells the user where a MODEL does not predict an inversion's trajectory, and what is known to differ."""
    differs = other_patches(inversion.fingerprint, Fingerprint(patches=patch_names(model)))
    return Check(lambda text: tell(f"{text} ({differs})" if differs else text), compute_dtype(model))
