"""Every choice that moves a figure, once, and the named sets of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf

SIDE = 512
"""Pixels of the pictures that PIE-Bench's masks were drawn on, and that figures are measured at."""
NEAR = 60.0
"""dB that equal pictures count as, so that they have a mean; rounding to 8 bits alone makes 59."""


@dataclass(frozen=True)
class Rule:
    """How pictures are compared. ``help``: for whom it is.

    ``black``: pixels that may change count, as black ones; else the others alone count. ``equal``: dB of equal
    pictures. ``stored``: pixels as the file has them, 512×512 or refused; else upright, in sRGB, scaled to that size.
    ``bytes_to_dino``: DINO is shown 0…255 in place of 0…1. ``smooth``: its pictures are smoothed as they are scaled
    down. ``border``: a mask's border counts as an edited part where there is no other. ``floor``: no CLIP
    similarity lies below 0.
    """

    name: str
    help: str
    black: bool = False
    equal: float = NEAR
    stored: bool = False
    bytes_to_dino: bool = False
    smooth: bool = True
    border: bool = False
    floor: bool = False

    @property
    def choices(self) -> dict[str, str]:
        """Every choice by name, in words."""
        return {
            "prompts": "square brackets are taken out, nothing else",
            "mask": "1 may change, and so may a border of one pixel; its inverse is what must be kept",
            "kept": "pictures that are black where they may change" if self.black else "the pixels that may not change",
            "everything may change": "no figure of what is kept; left out of its mean",
            "nothing may change": "CLIP sees the border as the edited part" if self.border
            else "no CLIP similarity of the edited part; left out of its mean",
            "equal pictures": "infinite PSNR" if self.equal == inf else f"count as {self.equal:g} dB",
            "size": f"{SIDE}×{SIDE}, others are refused" if self.stored
            else f"the middle square, scaled to {SIDE}×{SIDE} (Lanczos)",
            "wide pictures": f"the last {SIDE}×{SIDE} pixels of one that is not square" if self.stored
            else "the last square of one that is a row of squares and wider than the photo",
            "colours": "as stored" if self.stored else "upright by EXIF, in sRGB, over white",
            "numbers": "float32 in 0…1, data range 1",
            "SSIM": "windows of 11×11 pixels, Gaussian of 1.5, mean over "
            + ("the picture" if self.black else "the centres that may not change"),
            "LPIPS": "SqueezeNet, "
            + ("of the black pictures" if self.black else "with the photo's pixels where it may change, divided by the "
               "share of those that may not"),
            "CLIP": "100 times the cosine"
            + (", not below 0" if self.floor else "") + "; scaled by Pillow; edited part: black elsewhere",
            "structure": f"DINO sees {'0…255' if self.bytes_to_dino else '0…1'} at 224×224, bilinear, "
            + ("smoothed" if self.smooth else "not smoothed"),
            "mean": "over pictures, of those that have the figure",
        }  # fmt: skip


DEFAULT = Rule("default", "what is kept is measured on the pixels that must be kept")
PNP = Rule(
    "pnp", "as PnPInversion's evaluate.py in its README's environment, which made the published figures", black=True,
    equal=inf, stored=True, bytes_to_dino=True, smooth=False, border=True, floor=True,
)  # fmt: skip
PNP_NEW = replace(PNP, name="pnp-new", help="as evaluate.py under torchvision 0.17 or newer", smooth=True)
RULES = {rule.name: rule for rule in (DEFAULT, PNP, PNP_NEW)}
