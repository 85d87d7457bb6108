"""Which models our nodes take, and what they say of the others."""

import json

from .server import PACK


def test_every_family_is_taken_or_refused_in_words(comfy):
    """Guards the edge: models that read more than a photo's latents and a text, or have no noise levels of ours."""
    said = json.loads(comfy.script("families.py", PACK).splitlines()[-1])
    assert [name for name, text in said.items() if text is None] == ["SD 1.5", "SD 2.1", "SDXL"]
    for name, text in said.items():
        if "inpainting" in name or "instruct" in name:
            assert "reads more than the picture's latents" in text
        elif name in ("SDXL refiner", "SD 2.1 unCLIP"):
            assert "SDXL's refiner, unCLIP" in text
    assert all("continuous noise levels" in said[name] for name in ("Playground 2.5", "CosXL"))
