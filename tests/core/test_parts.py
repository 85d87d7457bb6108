"""A part of the photo is known from an edit of it, which may be as far from the photo."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from nullinv_core.backends.diffusers import load_model
from nullinv_core.demo.edits import sample_edit
from nullinv_core.demo.scenes import render
from nullinv_core.photo.parts import ZOOMS, is_part


def picture(seed, height=40, width=48):
    """Smooth random latents with detail, as of a photo: (1, 4, height, width)."""
    generator = torch.Generator().manual_seed(seed)
    layers = [torch.randn(1, 4, height // 2**k, width // 2**k, generator=generator) for k in range(4)]
    return sum(F.interpolate(layer, (height, width), mode="bicubic") for layer in layers)


def enlarged(images, zoom, across=0.5, down=0.5):
    """A part of (B, C, h, w), as large as the whole."""
    height, width = images.shape[-2:]
    high, wide = round(height / zoom), round(width / zoom)
    top, left = round(down * (height - high)), round(across * (width - wide))
    part = images[..., top : top + high, left : left + wide]
    return F.interpolate(part, (height, width), mode="bicubic", antialias=True)


share = st.floats(0, 1)


@given(st.integers(0, 99), st.floats(1.2, 3), share, share, st.floats(0.3, 3))
def test_a_part_is_seen_wherever_it_is(seed, zoom, across, down, contrast):
    """Property: of any size, at any place, in other colours too; also in a batch with the whole."""
    photo = picture(seed)
    part = enlarged(photo, zoom, across, down)
    assert is_part(part, photo) and is_part(1 - contrast * part, photo)
    assert is_part(torch.cat([photo, part]), photo.repeat(2, 1, 1, 1))
    assert is_part(picture(seed + 100), photo)


@given(st.integers(0, 99), st.floats(0.3, 3), st.floats(0, 0.5), st.booleans())
def test_what_keeps_its_place_is_no_part(seed, contrast, replaced, negative):
    """Property: the photo, in other colours and with up to a half of it replaced, is the whole."""
    photo = picture(seed)
    changed = photo * (-contrast if negative else contrast) + 1
    changed[..., : round(replaced * photo.shape[-1])] = picture(seed + 100)[..., : round(replaced * photo.shape[-1])]
    assert not is_part(changed, photo)


def test_what_has_no_structure_is_no_part():
    """Guards empty latents, and photos too small to have parts."""
    for size in (3, 16, 64):
        for photo in (picture(0)[..., :size, :size], torch.zeros(2, 4, size, size)):
            assert not is_part(torch.zeros_like(photo), photo) and not is_part(torch.ones_like(photo), photo)
            assert not is_part(photo, photo)


@pytest.mark.parametrize("kind", ["object", "add", "delete", "colour", "material"])
def test_an_edit_of_a_scene_is_no_part(kind):
    """Guards the demo's autoencoder: edits that move the latents by up to 0.8 of their norm, and their parts by 0.6."""
    model, case = load_model("demo"), sample_edit(5, kind)
    source, target = (torch.from_numpy(render(scene))[None] for scene in (case.source, case.target))
    photo = model.encode_image(source)
    assert not is_part(model.encode_image(target), photo)
    for whole in (source, target):
        for zoom in ZOOMS[1:]:
            part = enlarged(whole.movedim(-1, 1), zoom, 0.6, 0.8).clamp(0, 1).movedim(1, -1)
            assert is_part(model.encode_image(part), photo), zoom
