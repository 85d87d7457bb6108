"""Draw the README's first picture, an edit by each of its three recipes: ``python -m docs.recipes``.

The photo's own pixels are kept in all three; a new style leaves none.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from nullinv_core.backends.diffusers import load_model
from nullinv_core.demo.edits import sample_edit
from nullinv_core.demo.run import DemoSetup, run_case
from nullinv_core.photo.images import to_pil
from nullinv_core.prompt_to_prompt.kinds import suited

PICTURE = Path(__file__).parent / "recipes.jpg"
RECIPES = {
    "recolour: gray to purple": (700_005, "colour", 0.2, ("tree",)),
    "reshape: cat to dog": (5, "object", 0.5, ("cat", "dog")),
    "restyle: a pencil drawing": (700_008, "style", 0.5, ()),
}
"""Seed and kind of a scene, and Edit Photo's strength and blend words."""
SIDE, GAP, LINE, TEXT = 256, 8, 38, 28
"""Of a picture, between pairs, of a line of text and of its letters, in pixels."""


def main() -> None:
    """Write the picture."""
    model, font = load_model("demo"), ImageFont.load_default(TEXT)
    wide = 2 * SIDE + GAP
    found = Image.new("RGB", (len(RECIPES) * wide + GAP, LINE + SIDE + 2 * GAP), "white")
    draw = ImageDraw.Draw(found)
    for column, (name, (seed, kind, strength, blend)) in enumerate(RECIPES.items()):
        _, pictures = run_case(
            model, sample_edit(seed, kind), setup=DemoSetup(settings=suited(strength=strength, blend_words=blend))
        )
        left = GAP + column * wide
        draw.text((left, GAP // 2), name, (30, 30, 30), font)
        for number, picture in enumerate((pictures.source, pictures.edited)):
            large = to_pil(picture).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            found.paste(large, (left + number * SIDE, LINE + GAP))
    found.save(PICTURE, quality=88)


if __name__ == "__main__":
    main()
