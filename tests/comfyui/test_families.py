"""Which models our nodes take, and what they say of the others."""

import json

import pytest

from .server import PACK


@pytest.fixture(scope="module")
def told(comfy):
    """What ComfyUI lacks of our protocols, what is said of each family, and whose previews differ."""
    return [json.loads(line) for line in comfy.script("families.py", PACK).splitlines()[-3:]]


def test_comfyui_has_what_we_use_of_it(told):
    """Guards the protocols: mypy believes them, whatever ComfyUI has."""
    assert told[0] == []


def test_every_family_is_taken_or_refused_in_words(told):
    """Guards the edge: models that read more than a photo's latents and a text, or have no noise levels of ours."""
    said = told[1]
    assert [name for name, text in said.items() if text is None] == ["SD 1.5", "SD 2.1", "SDXL"]
    for name, text in said.items():
        if "inpainting" in name or "instruct" in name:
            assert "reads more than the picture's latents" in text
        elif name in ("SDXL refiner", "SD 2.1 unCLIP"):
            assert "SDXL's refiner, unCLIP" in text
    assert all("continuous noise levels" in said[name] for name in ("Playground 2.5", "CosXL"))


def test_thumbnails_are_comfyui_s_previews(told):
    """Guards the factors in the table of families: `inspect` shows the colours that ComfyUI does."""
    assert told[2] == []
