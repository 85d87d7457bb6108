"""Masks, picture files and figures of the demo."""

import numpy as np
import pytest

from nullinv_core import InputError
from nullinv_core.demo.edits import dilate
from nullinv_core.figures import log_plot, side_by_side
from nullinv_core.photo.images import load_image, psnr, save_image

SIZE = 128


def test_dilation_grows_by_a_square():
    """Guards the masks' margin."""
    mask = np.zeros((9, 9), bool)
    mask[4, 4] = True
    assert dilate(mask, 2).sum() == 25


def test_psnr_and_picture_files(tmp_path):
    """Guards the metric against its definition, masks, and 8-bit round trips."""
    a, b = np.zeros((4, 4, 3)), np.full((4, 4, 3), 0.1)
    mask = np.zeros((4, 4), bool)
    mask[0, 0] = True
    assert psnr(a, b) == pytest.approx(20) and psnr(a, a) == np.inf and psnr(a, b, mask) == pytest.approx(20)
    assert np.isnan(psnr(a, b, np.zeros((4, 4), bool)))
    picture = np.random.default_rng(0).uniform(size=(16, 16, 3))
    save_image(picture, tmp_path / "x.png")
    assert np.abs(load_image(tmp_path / "x.png", 16)[0].numpy() - picture).max() < 0.5 / 255 + 1e-6
    with pytest.raises(InputError, match="cannot write"):
        save_image(picture, tmp_path / "none" / "x.png")


def test_other_sizes_are_resized_and_cropped(tmp_path):
    """Guards foreign photos: the shorter side fits, the centre stays."""
    wide = np.zeros((20, 60, 3))
    wide[:, 20:40] = 1
    save_image(wide, tmp_path / "w.png")
    image = load_image(tmp_path / "w.png", 16)
    assert image.shape == (1, 16, 16, 3) and image.mean() > 0.95


def test_figures_have_content():
    """Guards the drawings: labels, line and bars leave marks."""
    strip = np.asarray(side_by_side({"a": np.zeros((8, 8, 3)), "b": np.ones((8, 8, 3))}, 32))
    assert strip.shape[0] > 32 and (strip[:25] < 128).any()
    plot, bare = (np.asarray(log_plot([1e-3, 1e-5, 1e-4], "t", "x", bars)) for bars in ([1, 2, 3], ()))
    assert (plot != bare).any()
