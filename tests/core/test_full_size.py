"""Edits in the photo's own size: what is not edited stays as sharp as it was, and what is comes where it belongs."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from nullinv_core import InputError, keep_photo
from nullinv_core.photo.full_size import (
    at_full_size,
    centre,
    check_full_size,
    larger,
    place_of,
    resampling,
    scaled_down,
)
from nullinv_core.photo.images import from_pil, to_pil

SEEDS = st.integers(0, 2**31 - 1)
SIDES = st.integers(24, 90)


def small_of(photo, size):
    """The centre of photos as they are encoded."""
    return scaled_down(photo, centre((photo.shape[1], photo.shape[2]), size))


def smooth(size):
    """A photo without detail that scaling loses, by whose colours any place is known."""
    rows, columns = torch.meshgrid(torch.linspace(0, 6, size[0]), torch.linspace(0, 9, size[1]), indexing="ij")
    return torch.stack([rows.sin(), columns.sin(), (rows + columns).cos()], -1)[None] * 0.4 + 0.5


def pictures(seed, count, size):
    """Random pictures, none near black or white."""
    return 0.25 + 0.5 * torch.rand(count, *size, 3, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=40)
@given(seed=SEEDS, whole=st.tuples(SIDES, SIDES), small=st.tuples(st.integers(8, 24), st.integers(8, 24)))
def test_an_edit_that_changes_nothing_is_the_photo_to_the_bit(seed, whole, small):
    """Guards the promise, for every pair of sizes."""
    photo = pictures(seed, 1, whole)
    reconstructed = small_of(photo, small)
    result, share = keep_photo(photo, reconstructed.clone(), reconstructed)
    assert torch.equal(result, photo) and share.shape == (1, *whole) and not share.any()


@settings(max_examples=40)
@given(seed=SEEDS, top=st.integers(2, 10), left=st.integers(2, 10), scale=st.floats(1.0, 4.5))
def test_a_change_comes_where_it_is_and_nowhere_else(seed, top, left, scale):
    """Guards place and size: a square that an edit paints lies at the same share of the large photo, all around it the
    photo is untouched."""
    side, square = 24, 8
    long = round(side * scale)
    photo = pictures(seed, 1, (long, long))
    place = centre((long, long), (side, side))
    small = scaled_down(photo, place)
    edited = small.clone()
    share = torch.zeros(1, side, side)
    edited[:, top : top + square, left : left + square] = torch.tensor([1.0, 0.0, 0.0])
    share[:, top : top + square, left : left + square] = 1
    result, found = at_full_size(photo, small, edited, share, place)
    y, x = (((torch.arange(long) + 0.5) * side / long - start) for start in (top, left))
    # bicubic interpolation looks two pixels of the edit to each side
    inside, near = (((y > -rim) & (y < square + rim))[:, None] & ((x > -rim) & (x < square + rim)) for rim in (-2, 3))
    red = torch.tensor([1.0, 0.0, 0.0])
    assert torch.allclose(result[0, inside], red, atol=1e-5) and found[0, inside].min() > 0.999
    assert torch.equal(result[0, ~near], photo[0, ~near]) and not found[0, ~near].any()


def test_detail_stays_beside_a_change_and_goes_within_it():
    """Guards what it is for: stripes finer than a pixel of the edit are whole outside of what was changed, and no ghost
    of them is left inside."""
    stripes = (torch.arange(256) % 2).float() * 0.5 + 0.25
    photo = stripes[None, None, :, None].expand(1, 256, 256, 3).contiguous()
    reconstructed = small_of(photo, (64, 64))
    edited = reconstructed.clone()
    edited[:, 16:48, 16:48] = torch.tensor([0.9, 0.2, 0.2])
    result, _ = keep_photo(photo, edited, reconstructed)
    assert torch.equal(result[:, :32], photo[:, :32]) and torch.equal(result[:, :, 224:], photo[:, :, 224:])
    assert (result[:, 88:168, 88:168] - torch.tensor([0.9, 0.2, 0.2])).abs().max() < 1e-4


def test_several_edits_of_several_photos_keep_their_photos():
    """Guards the order: each photo's edits in a row."""
    photos = pictures(3, 2, (40, 60))
    small = small_of(photos, (16, 24))
    edited = small.repeat_interleave(3, 0)
    result, share = keep_photo(photos, edited, small)
    assert result.shape == (6, 40, 60, 3) and share.shape == (6, 40, 60)
    assert torch.equal(result, photos.repeat_interleave(3, 0))


def test_a_change_reaches_the_border_of_an_uncropped_photo():
    """Guards the rim that multiples of eight pixels cost: it is not left as it was around a new background."""
    photo, small = torch.full((1, 300, 403, 3), 0.4), (64, 80)
    place = centre((300, 403), small)
    assert (place[0].start, place[1].start) == (0, 14) and place[1].rim < 8
    result, share = at_full_size(
        photo, scaled_down(photo, place), torch.full((1, *small, 3), 0.9), torch.ones(1, *small), place
    )
    assert (result - 0.9).abs().max() < 1e-5 and share.min() > 0.999


def test_what_somebody_cropped_away_stays_the_photo():
    """Guards square crops of wide photos: the sides, which no model saw, are as they were."""
    photo, place = pictures(5, 1, (120, 300)), centre((120, 300), (40, 40))
    result, share = at_full_size(
        photo, scaled_down(photo, place), torch.full((1, 40, 40, 3), 0.9), torch.ones(1, 40, 40), place
    )
    assert torch.equal(result[:, :, :90], photo[:, :, :90]) and torch.equal(result[:, :, 210:], photo[:, :, 210:])
    assert (result[:, :, 90:210] - 0.9).abs().max() < 1e-5 and not share[:, :, :90].any()


@pytest.mark.parametrize("size", [(300, 400), (401, 300), (333, 333), (77, 1000)])
def test_the_centre_is_what_was_encoded(size):
    """Guards the crop against Pillow's, which the command line encodes by."""
    photo = smooth(size)
    wanted = from_pil(ImageOps.fit(to_pil(photo[0]), (64, 48), Image.Resampling.LANCZOS))
    assert (small_of(photo, (48, 64)) - wanted).abs().mean() < 0.01


def resized(photo, width, height):
    """Stretched by Pillow."""
    return from_pil(to_pil(photo[0]).resize((width, height), Image.Resampling.BICUBIC))


def cropped(photo, height, width):
    """The centre, as ComfyUI's autoencoders take it."""
    top, left = (photo.shape[1] - height) // 2, (photo.shape[2] - width) // 2
    return photo[:, top : top + height, left : left + width]


WAYS = {
    "cropped to a square": ((300, 400), lambda p: from_pil(ImageOps.fit(to_pil(p[0]), (64, 64)))),
    "stretched to a square": ((300, 400), lambda p: resized(p, 64, 64)),
    "scaled to sides of any length": ((300, 400), lambda p: cropped(resized(p, 95, 71), 64, 88)),
    "not scaled at all": ((71, 95), lambda p: cropped(p, 64, 88)),
    "scaled by a little": ((71, 71), lambda p: resized(p, 64, 64)),
}
"""How people make a photo small, and what an autoencoder leaves out of it."""


@pytest.mark.parametrize("way", WAYS)
def test_an_edit_lands_where_it_was_made(way):
    """Guards every way that leads to a small picture: a bar that an edit paints comes where it lies in the photo."""
    size, shrink = WAYS[way]
    photo, bar = smooth(size), (int(0.6 * size[0]), int(0.7 * size[1]))
    marked = photo.clone()
    marked[:, bar[0] : bar[0] + size[0] // 8, bar[1] : bar[1] + size[1] // 8] = torch.tensor([1.0, 1.0, 0.0])
    reconstructed, edited = shrink(photo), shrink(marked)
    result, _ = keep_photo(photo, edited, reconstructed)
    changed = (result - photo).abs().amax(-1)[0] > 0.1
    rows, columns = changed.any(1).nonzero().flatten(), changed.any(0).nonzero().flatten()
    pixel = max(size[0] / reconstructed.shape[1], size[1] / reconstructed.shape[2])
    for found, start, length in ((rows, bar[0], size[0] // 8), (columns, bar[1], size[1] // 8)):
        middle = (float(found[0]) + float(found[-1])) / 2
        assert abs(middle - (start + length / 2 - 0.5)) < 0.75 * pixel, way


def test_another_photo_is_told():
    """Guards the user's own mistake: nothing is pasted onto a photo that was not edited."""
    photo, other = smooth((200, 300)), smooth((200, 300)).flip(2)
    small = small_of(photo, (64, 96))
    with pytest.raises(InputError, match="is not the one that was edited"):
        keep_photo(other, small, small)
    keep_photo(photo, small, small)


@given(st.integers(1, 40), st.integers(1, 40), st.floats(-5, 5), st.floats(0.5, 60))
def test_weights_of_resampling_sum_to_one(inputs, outputs, start, length):
    """Guards brightness: a flat picture stays flat in any size, also beyond its border."""
    weights = resampling(inputs, start, length, outputs)
    assert weights.shape == (outputs, inputs) and torch.allclose(weights.sum(1), torch.ones(outputs), atol=1e-5)


def test_resampling_to_the_same_size_changes_nothing():
    """Guards the identity."""
    assert torch.equal(resampling(9, 0, 9, 9), torch.eye(9))


def test_photos_that_are_too_small_are_told():
    """Guards the edges: a photo smaller than its edit is refused by keep_photo; Edit Photo takes the scaled one, and
    says so."""
    small, edit = pictures(9, 1, (30, 60)), pictures(9, 1, (32, 56))
    with pytest.raises(InputError, match="60×30 pixels, is smaller than its edit, 56×32"):
        place_of(small, edit)
    with pytest.raises(InputError, match="60×30 pixels, is smaller than its edit, 56×32"):
        centre((30, 60), (32, 56))
    notes = []
    assert larger(small, edit, notes.append) is edit and "the result has 56×32" in notes[0]
    large = pictures(9, 1, (32, 60))
    assert larger(large, edit, notes.append) is large and len(notes) == 1
    with pytest.raises(InputError, match="turn that on"):
        check_full_size(True, False)
    check_full_size(True, True)
    check_full_size(False, False)


def test_the_result_has_no_values_out_of_range():
    """Guards interpolation, which overshoots at edges; what was not changed is not clamped either."""
    photo = (torch.rand(1, 60, 60, 3, generator=torch.Generator().manual_seed(1)) > 0.5).float()
    edited = (torch.rand(1, 16, 16, 3, generator=torch.Generator().manual_seed(2)) > 0.5).float()
    place = centre((60, 60), (16, 16))
    result, share = at_full_size(photo, scaled_down(photo, place), edited, edited[..., 0], place)
    assert float(result.min()) >= 0 and float(result.max()) <= 1
    assert float(share.min()) >= 0 and float(share.max()) <= 1 and np.isfinite(result.numpy()).all()
    bright = photo * 2
    small = scaled_down(bright, place)
    kept, _ = at_full_size(bright, small, small, torch.zeros(1, 16, 16), place)
    assert torch.equal(kept, bright)
