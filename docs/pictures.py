"""Draw the registry's icon and banner, the same bytes each time: ``python -m docs.pictures``.

Both are the sign of the empty set, ∅, which stands for the null embedding: what is before its stroke is the photo, what
is behind it the edit.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFont

from nullinv_core.demo.geometry import FINE as SAMPLES
from nullinv_core.demo.geometry import Buffers, View, geometry
from nullinv_core.demo.looks import Look, compose
from nullinv_core.demo.objects import Form
from nullinv_core.demo.scenes import Thing
from nullinv_core.photo.images import to_pil

FOLDER = Path(__file__).parent
ICON, BANNER = 400, (1680, 720)
"""Pixels: the icon's side, the banner's width and height (21:9)."""
FINE = 4
"""The sign is drawn so many times larger."""
NIGHT, INK, SOFT = (24, 27, 38), (255, 255, 255), (160, 168, 190)
CAT = Thing(Form("cat"), "orange", x=-0.06, scale=1.0, yaw=-8.0)
VIEW = View(side=0.1, azimuth=-45.0, elevation=48.0)
BEFORE, AFTER = "orange", "turquoise"
STROKE = np.deg2rad(45.0)
"""Where the stroke of ∅ points: up and to the right."""


def blank(width: int, height: int, colour: tuple[int, ...]) -> Image.Image:
    """A picture of one colour, in fine pixels."""
    return Image.new("RGB", (width * FINE, height * FINE), colour)


@cache
def toy() -> Buffers:
    """A clay cat, in four times the samples of the demo's pictures."""
    return geometry((CAT.placed,), VIEW, side=4 * SAMPLES)


def scene(side: int, colour: str) -> Image.Image:
    """The cat in a colour on grass, square, in fine pixels."""
    look = Look((colour,), ("clay",), "grass", (0.3, 0.1, 10.0, 0.2))
    return to_pil(compose(toy(), VIEW, look).numpy()).resize((side * FINE,) * 2, Image.Resampling.BICUBIC)


def empty_set(side: int, weight: float) -> Image.Image:
    """∅, the photo before its stroke and the edit behind it; RGBA, in fine pixels. Its line: ``weight``·``side``."""
    whole = side * FINE
    line = weight * whole
    middle, radius = whole / 2, 0.375 * whole
    round_mask, half = Image.new("L", (whole, whole), 0), Image.new("L", (whole, whole), 0)
    ImageDraw.Draw(round_mask).ellipse([middle - radius] * 2 + [middle + radius] * 2, 255)
    ImageDraw.Draw(half).polygon([(whole, 0), (whole, whole), (0, whole)], 255)
    found = Image.new("RGBA", (whole, whole), (*INK, 0))
    found.paste(scene(side, BEFORE), (0, 0), round_mask)
    found.paste(scene(side, AFTER), (0, 0), ImageChops.multiply(round_mask, half))
    draw = ImageDraw.Draw(found)
    outer = radius + line / 2
    draw.ellipse([middle - outer] * 2 + [middle + outer] * 2, outline=INK, width=round(line))
    reach = np.asarray([np.cos(STROKE), -np.sin(STROKE)]) * 0.5 * whole * 0.97
    across = np.asarray([np.sin(STROKE), np.cos(STROKE)]) * line / 2
    centre = np.asarray([middle, middle])
    corners = [centre - reach - across, centre + reach - across, centre + reach + across, centre - reach + across]
    draw.polygon([tuple(corner) for corner in corners], INK)
    return found


def icon() -> Image.Image:
    """The icon: ∅ on a dark ground with round corners; RGBA (400, 400)."""
    whole = ICON * FINE
    picture = Image.new("RGBA", (whole, whole), (*NIGHT, 0))
    ImageDraw.Draw(picture).rounded_rectangle([0, 0, whole - 1, whole - 1], 0.2 * whole, (*NIGHT, 255))
    picture.alpha_composite(empty_set(ICON, 0.065))
    return picture.resize((ICON, ICON), Image.Resampling.LANCZOS)


def banner() -> Image.Image:
    """The banner: what the pack is called and does, and ∅ between a photo and its edit; RGB, 21:9."""
    width, height = BANNER
    picture = blank(width, height, NIGHT).convert("RGBA")
    side = round(0.86 * height)
    sign = empty_set(side, 0.05)
    picture.alpha_composite(sign, ((width - side - 110) * FINE, (height - side) // 2 * FINE))
    draw = ImageDraw.Draw(picture)
    for text, size, down, colour in (
        ("Null-Text", 132, 178, INK), ("Inversion", 132, 318, INK), ("Edit a real photo by its words", 46, 500, SOFT),
    ):  # fmt: skip
        font = ImageFont.load_default(size * FINE)
        draw.text((110 * FINE - font.getbbox(text)[0], down * FINE), text, colour, font)
    return picture.convert("RGB").resize(BANNER, Image.Resampling.LANCZOS)


def main() -> None:
    """Write both."""
    icon().save(FOLDER / "icon.png", optimize=True)
    banner().save(FOLDER / "banner.png", optimize=True)


if __name__ == "__main__":
    main()
