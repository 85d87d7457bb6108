"""The photo's own pixels where an edit hardly differs, and how well a picture is kept."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nullinv_core import InputError, NonFiniteError, keep_photo
from nullinv_core.photo.composite import REACH, SEEN, UNSEEN, changed, extend
from nullinv_core.photo.images import ssim

SEEDS = st.integers(0, 2**31 - 1)


def pictures(seed, count, size=(12, 17)):
    """Random pictures, none near black or white."""
    return 0.25 + 0.5 * torch.rand(count, *size, 3, generator=torch.Generator().manual_seed(seed))


@given(seed=SEEDS, drift=st.floats(-0.9 * UNSEEN, 0.9 * UNSEEN))
def test_what_hardly_differs_is_the_photo_to_the_bit(seed, drift):
    """Guards the promise: a drift below the threshold leaves no trace, nor does what the autoencoder does."""
    photo, reconstructed = pictures(seed, 2).split(1)
    kept, share = keep_photo(photo, reconstructed + drift, reconstructed)
    assert torch.equal(kept, photo) and not share.any()


@given(seed=SEEDS, change=st.floats(1.01 * SEEN, 0.25))
def test_what_was_changed_is_the_edit_to_the_bit(seed, change):
    """Guards the other side: an edit that is seen loses nothing, and takes nothing of the photo."""
    photo, reconstructed = pictures(seed, 2).split(1)
    kept, share = keep_photo(photo, reconstructed + change, reconstructed)
    assert torch.equal(kept, reconstructed + change) and bool((share == 1).all())


@given(seed=SEEDS, scale=st.floats(0, 0.2), more=st.floats(1, 3))
def test_the_share_grows_with_the_difference(seed, scale, more):
    """Guards the passage between both: from 0 to 1, never less for a larger difference."""
    reconstructed, direction = pictures(seed, 2).split(1)
    share = changed(reconstructed + scale * (direction - 0.5), reconstructed)
    assert bool(((share >= 0) & (share <= 1)).all())
    assert bool((changed(reconstructed + more * scale * (direction - 0.5), reconstructed) >= share - 1e-4).all())


@given(offset=st.floats(-0.03, 0.03), drift=st.floats(-0.9 * UNSEEN, 0.9 * UNSEEN))
def test_a_change_is_let_through_where_it_is_and_fits_in(offset, drift):
    """Guards place and seam: the photo beyond a change's reach, single specks do not count; where the edit takes a
    thing away, its surroundings go on, less what the autoencoder and the edit did to all the picture."""
    photo = torch.full((1, 40, 41, 3), 0.5)
    photo[:, 10:20, 10:20] = 0.2
    reconstructed = photo + offset
    edited = reconstructed + drift
    edited[:, 10:20, 10:20] += 0.3
    edited[:, 35, 35] += UNSEEN
    kept, _ = keep_photo(photo, edited, reconstructed)
    assert (kept[:, 12:18, 12:18] - 0.5).abs().max() < 1e-5
    far = torch.ones(40, 41, dtype=torch.bool)
    far[10 - 2 * REACH : 20 + 2 * REACH, 10 - 2 * REACH : 20 + 2 * REACH] = False
    assert torch.equal(kept[0, far], photo[0, far])


def test_a_kept_things_correction_does_not_tint_the_rest():
    """Guards a new background: what drifted in the thing before it is put right there, and only there."""
    photo = torch.full((1, 48, 48, 3), 0.8)
    photo[:, 12:36, 12:36] = torch.tensor([0.6, 0.1, 0.6])
    edited = torch.full_like(photo, 0.3)
    edited[:, 12:36, 12:36] = torch.tensor([0.58, 0.12, 0.58])
    kept, _ = keep_photo(photo, edited, photo)
    assert torch.equal(kept[:, 18:30, 18:30], photo[:, 18:30, 18:30])
    assert (kept[:, :8] - 0.3).abs().max() < 1e-6 and (kept[:, :, 40:] - 0.3).abs().max() < 1e-6


def test_a_removed_pattern_leaves_no_trace():
    """Guards what a threshold alone got wrong: stripes that an edit removes while it darkens the rest a little stayed
    as ghosts, and as lines where their edges are half as strong."""
    x = torch.arange(128)
    stripes = ((x // 16) % 2).float() * 0.25
    soft = (stripes + stripes.roll(1) + stripes.roll(-1)) / 3
    photo = (0.5 + soft)[None, None, :, None].expand(1, 64, 128, 3)
    kept, _ = keep_photo(photo, torch.full_like(photo, 0.48), photo)
    assert kept[:, :, 16:-16].std() < 0.004 and (kept.mean() - 0.5).abs() < 0.01


@given(
    seed=SEEDS, height=st.integers(1, 20), width=st.integers(1, 20), share=st.floats(0, 1),
    value=st.floats(-1, 1),
)  # fmt: skip
def test_values_are_continued_within_their_bounds(seed, height, width, share, value):
    """Guards the continuation at any size: known values stay, the rest lies between them, nothing known gives zero."""
    generator = torch.Generator().manual_seed(seed)
    known = (torch.rand(2, 1, height, width, generator=generator) < share).float()
    values = torch.rand(2, 3, height, width, generator=generator) + value
    found = extend(values, known)
    assert torch.equal(found * known, values * known)
    for row, mask in zip(range(2), known, strict=True):
        inside = values[row][mask.expand(3, -1, -1) > 0].view(3, -1)
        if not inside.numel():
            assert not found[row].any()
            continue
        low, high = inside.amin(1)[:, None, None] - 1e-5, inside.amax(1)[:, None, None] + 1e-5
        assert bool(((found[row] >= low) & (found[row] <= high)).all())


def continued(values, known):
    """Pull-push of one channel (H, W), by the paper: cells of 2×2, weights up to 1, the coarser picture in between."""
    cells = [
        [np.s_[y : y + 2, x : x + 2] for x in range(0, values.shape[1], 2)] for y in range(0, values.shape[0], 2)
    ]  # fmt: skip
    weight = np.array([[known[cell].mean() for cell in row] for row in cells])
    mean = np.array([[(values * known)[cell].mean() for cell in row] for row in cells]) / np.maximum(weight, 1e-30)
    if mean.size > 1:
        mean = continued(mean, np.minimum(4 * weight, 1))
    for wanted in values.shape:
        side = len(mean)
        places = (np.arange(wanted) + 0.5) * side / wanted - 0.5
        mean = np.stack([np.interp(places, np.arange(side), column) for column in mean.T])
    return mean * (1 - known) + values * known


@given(seed=SEEDS, height=st.integers(1, 9), width=st.integers(1, 9), share=st.floats(0.1, 1))
@settings(max_examples=30)
def test_values_are_continued_as_the_paper_has_it(seed, height, width, share):
    """Guards the continuation's very numbers, where values are known whole, in part and not."""
    generator = np.random.default_rng(seed)
    values, known = generator.random((3, height, width)), generator.random((height, width))
    known = np.where(known < share, np.round(known, 1), 0)
    found = extend(torch.from_numpy(values)[None], torch.from_numpy(known)[None, None])[0].numpy()
    for channel, one in zip(values, found, strict=True):
        assert np.allclose(one, continued(channel, known))


def around(values, pick):
    """``pick`` of the 5×5 pixels around each of (H, W), those at the edge repeated."""
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(values, REACH, mode="edge"), (2 * REACH + 1,) * 2)
    return pick(windows, (-2, -1))


def step(difference):
    """0 where nobody sees it, 1 where everybody does, smooth in between."""
    share = np.clip((difference - UNSEEN) / (SEEN - UNSEEN), 0, 1)
    return 3 * share**2 - 2 * share**3


@given(seed=SEEDS, change=st.floats(0.0, 0.4), base=st.floats(0.0, 1.0))
@settings(max_examples=30)
def test_pictures_are_mixed_as_it_is_described(seed, change, base):
    """Guards every pixel, near black and white too: what hardly differs, what does, and what passes in between."""
    generator = np.random.default_rng(seed)
    photo, reconstructed = np.clip(base + 0.2 * generator.standard_normal((2, 9, 12, 3)), 0, 1)
    rise = np.linspace(0, change, 12)[None, :, None] * generator.uniform(-1, 1, 3)
    edited = np.clip(reconstructed + rise + 0.02 * generator.standard_normal((9, 12, 3)), 0, 1)
    share = around(step(np.sqrt(around(((edited - reconstructed) ** 2).mean(-1), np.mean))), np.max)
    correction, colour = (
        np.stack([continued(x[..., c], 1 - share) for c in range(3)], -1) for x in (photo - edited, edited)
    )
    follows = 1 - step(np.sqrt(((edited - colour) ** 2).mean(-1, keepdims=True)) / 2)
    followed = np.clip(edited + follows * np.clip(correction, -SEEN, SEEN), 0, 1)
    wanted = photo * (1 - share[..., None]) + followed * share[..., None]
    kept, found = keep_photo(*(torch.from_numpy(x).float()[None] for x in (photo, edited, reconstructed)))
    assert np.allclose(found[0], share, atol=1e-4) and np.allclose(kept[0], wanted, atol=1e-4)


def test_several_edits_of_several_photos():
    """Guards the order of rows: photo by photo, edit by edit, as single runs give them."""
    photo, reconstructed, noise = pictures(1, 2), pictures(2, 2), pictures(3, 6)
    edited = reconstructed.repeat_interleave(3, 0) + 0.3 * (noise - 0.5)
    kept, share = keep_photo(photo, edited, reconstructed)
    assert kept.shape == edited.shape and share.shape == (6, 12, 17) and 0 < share.mean() < 1
    for row in range(6):
        own = slice(row // 3, row // 3 + 1)
        single, of_single = keep_photo(photo[own], edited[row : row + 1], reconstructed[own])
        assert torch.equal(single[0], kept[row]) and torch.equal(of_single[0], share[row])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype):
    """Guards other precisions of the edit: decided in float32, and the photo's pixels stay exact."""
    photo, reconstructed = pictures(4, 2).split(1)
    kept, share = keep_photo(photo, (reconstructed + 0.01).to(dtype), reconstructed.to(dtype))
    assert kept.dtype == share.dtype == torch.float32 and torch.equal(kept, photo)
    _, share = keep_photo(photo, (reconstructed + 0.25).to(dtype), reconstructed.to(dtype))
    assert bool((share == 1).all())


def test_nan_is_refused():
    """Guards the photo: one NaN of a half-precision decoder would spread over all of it."""
    photo = pictures(6, 1)
    edited = photo.clone()
    edited[0, 3, 3, 0] = torch.nan
    with pytest.raises(NonFiniteError, match=r"edited picture.*float32"):
        keep_photo(photo, edited, photo)
    with pytest.raises(NonFiniteError, match=r"reconstruction.*float32"):
        keep_photo(photo, photo, edited)


def test_a_line_that_the_autoencoder_lost_leaves_no_ghost():
    """Guards the correction: bounded, so a wire beside an edit does not spread over it."""
    photo = torch.full((1, 40, 40, 3), 0.7)
    reconstructed, edited = photo.clone(), photo.clone()
    photo[:, :, 9] = 0.1
    edited[:, :, 20:] = 0.5
    kept, _ = keep_photo(photo, edited, reconstructed)
    assert torch.equal(kept[:, :, :16], photo[:, :, :16]) and (kept - edited)[:, :, 10:].abs().max() <= SEEN + 1e-6


@pytest.mark.parametrize(
    "shapes",
    [
        ((1, 8, 8, 3), (1, 8, 9, 3), (1, 8, 8, 3)),
        ((1, 8, 8, 3), (1, 8, 8, 3), (1, 9, 8, 3)),
        ((2, 8, 8, 3), (3, 8, 8, 3), (2, 8, 8, 3)),
        ((1, 8, 8, 3), (2, 8, 8, 3), (2, 8, 8, 3)),
        ((2, 8, 8, 3), (2, 8, 8, 3), (1, 8, 8, 3)),
    ],
)
def test_pictures_of_other_sizes_are_refused(shapes):
    """Guards the edge: the message names all three sizes and what to do."""
    with pytest.raises(InputError, match="decode both alike"):
        keep_photo(*(torch.zeros(shape) for shape in shapes))


def test_ssim_looks_where_it_is_told():
    """Guards the mask: 1 where nothing differs, less where it does, NaN where there is nothing to look at."""
    picture = pictures(5, 1, (64, 64))[0].numpy()
    spoilt = picture.copy()
    spoilt[:, 40:] = 0.5
    left = np.zeros((64, 64), bool)
    left[:, :30] = True
    assert ssim(spoilt, picture, left) == pytest.approx(1, abs=1e-3) and ssim(spoilt, picture, ~left) < 0.8
    assert ssim(spoilt, picture, ~left) < ssim(spoilt, picture) < 1 and np.isnan(ssim(spoilt, picture, left & ~left))
    assert ssim(picture.astype(np.float64), picture) == pytest.approx(1)


@pytest.mark.parametrize(("a", "b"), [(0.02, 0.03), (0.5, 0.6)])
def test_ssim_of_flat_pictures_is_the_formula_s(a, b):
    """Guards the scale of SSIM: of pictures without structure the term of brightness is left, with C = 0.01²."""
    found = ssim(np.full((32, 32, 3), a), np.full((32, 32, 3), b))
    assert found == pytest.approx((2 * a * b + 1e-4) / (a * a + b * b + 1e-4), abs=1e-4)
