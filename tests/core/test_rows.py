"""Of which photo of a batch a row is: told by its distance, or not at all."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from nullinv_core.photo.rows import photos_of


def pictures(count, seed=0):
    return torch.randn(count, 4, 16, 16, generator=torch.Generator().manual_seed(seed))


@given(st.lists(st.integers(0, 2), min_size=1, max_size=6), st.floats(0, 0.4))
def test_rows_and_their_edits_are_told_apart(order, moved):
    """Property: in any number and order, also where they were changed."""
    photos = pictures(3)
    assert photos_of(photos[order] + moved * pictures(len(order), 1), photos) == order


def test_what_is_of_no_photo_or_of_several_is_not_told():
    """Guards empty latents, other pictures, mixtures and other sizes: nothing is guessed, also beside a known row."""
    photos = pictures(2)
    for row in (torch.zeros(1, 4, 16, 16), pictures(1, 9), photos.mean(0, keepdim=True), 0.4 * photos[:1]):
        assert photos_of(torch.cat([photos[:1], row]), photos) is None
    assert photos_of(photos[..., :8], photos) is None


def test_photos_that_are_the_same_are_one():
    """Guards a photo that is in the batch twice."""
    assert photos_of(pictures(1), pictures(1).expand(2, -1, -1, -1)) is not None
