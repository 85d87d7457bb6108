"""Edits in the photo's own size: what is not edited stays as sharp as it was, and what is comes where it belongs."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from nullinv_core import InputError, keep_photo
from nullinv_core.photo.full_size import as_encoded, at_full_size, centre, check_full_size, larger, margins
from nullinv_core.photo.images import from_pil, to_pil

SEEDS = st.integers(0, 2**31 - 1)
SIDES = st.integers(24, 90)


def pictures(seed, count, size):
    """Random pictures, none near black or white."""
    return 0.25 + 0.5 * torch.rand(count, *size, 3, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=40)
@given(seed=SEEDS, whole=st.tuples(SIDES, SIDES), small=st.tuples(st.integers(8, 24), st.integers(8, 24)))
def test_an_edit_that_changes_nothing_is_the_photo_to_the_bit(seed, whole, small):
    """Guards the promise, for every pair of sizes."""
    photo, reconstructed = pictures(seed, 1, whole), pictures(seed + 1, 1, small)
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
    edited = centre(photo, (side, side))
    share = torch.zeros(1, side, side)
    edited[:, top : top + square, left : left + square] = torch.tensor([1.0, 0.0, 0.0])
    share[:, top : top + square, left : left + square] = 1
    result, found = at_full_size(photo, edited, share)
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
    reconstructed = centre(photo, (64, 64))
    edited = reconstructed.clone()
    edited[:, 16:48, 16:48] = torch.tensor([0.9, 0.2, 0.2])
    result, _ = keep_photo(photo, edited, reconstructed)
    assert torch.equal(result[:, :32], photo[:, :32]) and torch.equal(result[:, :, 224:], photo[:, :, 224:])
    assert (result[:, 88:168, 88:168] - torch.tensor([0.9, 0.2, 0.2])).abs().max() < 1e-4


def test_several_edits_of_several_photos_keep_their_photos():
    """Guards the order: each photo's edits in a row."""
    photos = pictures(3, 2, (40, 60))
    small = centre(photos, (16, 24))
    edited = small.repeat_interleave(3, 0)
    result, share = keep_photo(photos, edited, small)
    assert result.shape == (6, 40, 60, 3) and share.shape == (6, 40, 60)
    assert torch.equal(result, photos.repeat_interleave(3, 0))


def test_a_change_reaches_the_border_of_an_uncropped_photo():
    """Guards the rim that multiples of eight pixels cost: it is not left as it was around a new background."""
    photo = torch.full((1, 300, 403, 3), 0.4)
    small = (64, 80)
    assert margins((300, 403), small) == (0, 14)
    result, share = at_full_size(photo, torch.full((1, *small, 3), 0.9), torch.ones(1, *small))
    assert (result - 0.9).abs().max() < 1e-5 and share.min() > 0.999


def test_what_somebody_cropped_away_stays_the_photo():
    """Guards square crops of wide photos: the sides, which no model saw, are as they were."""
    photo = pictures(5, 1, (120, 300))
    result, share = at_full_size(photo, torch.full((1, 40, 40, 3), 0.9), torch.ones(1, 40, 40))
    assert torch.equal(result[:, :, :90], photo[:, :, :90]) and torch.equal(result[:, :, 210:], photo[:, :, 210:])
    assert (result[:, :, 90:210] - 0.9).abs().max() < 1e-5 and not share[:, :, :90].any()


@pytest.mark.parametrize("size", [(300, 400), (401, 300), (333, 333), (77, 1000)])
def test_the_centre_is_what_was_encoded(size):
    """Guards the crop against Pillow's, which the command line encodes by."""
    rows, columns = torch.meshgrid(torch.linspace(0, 6, size[0]), torch.linspace(0, 9, size[1]), indexing="ij")
    photo = torch.stack([rows.sin(), columns.sin(), (rows + columns).cos()], -1)[None] * 0.4 + 0.5
    wanted = from_pil(ImageOps.fit(to_pil(photo[0]), (64, 48), Image.Resampling.LANCZOS))
    assert (centre(photo, (48, 64)) - wanted).abs().mean() < 0.01


def test_a_photo_that_the_autoencoder_cropped_is_cropped_alike():
    """Guards sides that are no multiples of eight: rows and columns are left out as ComfyUI does, nothing is scaled."""
    photo = pictures(7, 1, (45, 50))
    assert torch.equal(as_encoded(photo, (40, 48)), photo[:, 2:42, 1:49])
    for size in ((40, 40), (45, 58), (20, 24)):
        assert as_encoded(photo, size) is photo
    assert as_encoded(photo, (45, 50)).shape == photo.shape


def test_photos_that_are_too_small_are_told():
    """Guards the edges: a photo smaller than its edit is refused by keep_photo, and Edit Photo takes the scaled one."""
    small, edit = pictures(9, 1, (30, 60)), pictures(9, 1, (32, 56))
    with pytest.raises(InputError, match="60×30 pixels, is smaller than its edit, 56×32"):
        keep_photo(small, edit, edit)
    assert larger(small, edit) is edit and larger(pictures(9, 1, (32, 60)), edit) is not edit
    with pytest.raises(InputError, match="turn that on"):
        check_full_size(True, False)
    check_full_size(True, True)
    check_full_size(False, False)


def test_the_result_has_no_values_out_of_range():
    """Guards bicubic interpolation, which overshoots at edges."""
    photo = (torch.rand(1, 60, 60, 3, generator=torch.Generator().manual_seed(1)) > 0.5).float()
    edited = (torch.rand(1, 16, 16, 3, generator=torch.Generator().manual_seed(2)) > 0.5).float()
    result, share = at_full_size(photo, edited, edited[..., 0])
    assert float(result.min()) >= 0 and float(result.max()) <= 1
    assert float(share.min()) >= 0 and float(share.max()) <= 1 and np.isfinite(result.numpy()).all()
