"""How a photo is prepared for edits, and what a preset tells people about it. Nothing here needs PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import InputError
from .settings import NullTextSettings

if TYPE_CHECKING:
    from ..types import Phase


@dataclass(frozen=True)
class Recipe:
    """How a photo is prepared for edits.

    ``inversion``: a name of ``METHODS``. ``optimization``: constants, of which the guidance is not used; None puts the
    source prompt in place of optimized embeddings (Miyake et al. 2023, arXiv 2305.16807). ``pinned``: edits read their
    source branch from the trajectory and are guided by the empty prompt (Ju et al. 2023, arXiv 2310.01506).
    ``unshared``: what their guidance shares with the photo's own is left out (see ``without_shared``).
    """

    inversion: str
    optimization: NullTextSettings | None
    pinned: bool
    unshared: bool = False

    def __post_init__(self) -> None:
        if self.unshared and not self.pinned:
            raise InputError("only edits of a pinned source branch can leave out what their guidance shares with it")

    def optimizes(self, guidance: float) -> bool:
        """Whether anything is optimized; not at a guidance of 1, where ∅ takes no part."""
        return self.optimization is not None and guidance != 1

    @property
    def lengths(self) -> dict[Phase, int]:
        """Phases of ``embed`` in their order, and how long one step of each is against the others'."""
        found: dict[Phase, int] = {}
        if self.optimization is not None:
            # where the loss is tested first, most steps take no iteration
            found["optimize"] = 1 if self.optimization.test_first else self.optimization.inner_steps
        elif not self.pinned:
            found["sample"] = 1
        return found | {"pin": 1} if self.unshared else found


@dataclass(frozen=True)
class Preset:
    """A recipe that people choose by name. ``help``: what it does, in a sentence without its full stop. ``samples``:
    network samples that an image costs a step at most, inversion included and a gradient counted as one more; where
    more than the text tells the branches apart, a step may cost one more."""

    name: str
    recipe: Recipe
    help: str
    samples: float
