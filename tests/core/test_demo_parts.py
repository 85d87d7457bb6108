"""Scenes, captions, edits, the judge, training state and tokenizer of the demo."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nullinv_core import InputError
from nullinv_core.demo.judge import FRAME, Reading, components, in_place, is_right, read, truth, wrong_attributes
from nullinv_core.demo.scenes import (
    COLOURS,
    EDITS,
    SIZE,
    change_mask,
    dilate,
    is_held_out,
    render,
    sample_edit,
    sample_scene,
)
from nullinv_core.demo.shapes import SHAPES, outline
from nullinv_core.demo.training_loop import Budget, run_steps, warmup_cosine
from nullinv_core.figures import log_plot, side_by_side
from nullinv_core.images import load_image, psnr, save_image

seeds = st.integers(0, 2**31)


def test_there_are_enough_shapes_and_colours():
    """Guards the promise of the demo: at least 8 shapes and 12 colours."""
    assert len(SHAPES) >= 8 and len(COLOURS) >= 12


@given(st.sampled_from(list(SHAPES)))
def test_outlines_stay_in_the_unit_circle(shape):
    """Guards sizes: no outline reaches much beyond the radius, so objects keep off borders and each other."""
    assert max(np.linalg.norm(points, axis=1).max() for points, _ in outline(shape)) <= 1.12


@given(seeds, st.sampled_from(["train", "held-out"]))
@settings(max_examples=25)
def test_scenes_repeat_and_keep_their_split(seed, split):
    """Guards reproducibility and the split: equal pictures for a seed; held-out combinations only where they belong."""
    scene = sample_scene(seed, split)
    assert scene == sample_scene(seed, split)
    assert np.array_equal(render(scene), render(scene))
    held = [is_held_out(o.shape, o.colour, scene.background.colour) for o in scene.objects]
    assert any(held) == (split == "held-out")


@given(seeds)
@settings(max_examples=25)
def test_captions_name_every_attribute(seed):
    """Guards captions: shape, colour, said size, texture and background of the scene, in plain English."""
    scene = sample_scene(seed)
    words = scene.caption.split()
    for thing in scene.objects:
        assert thing.shape in words and thing.colour in words
        assert thing.size == "medium" or thing.size in words
    assert words[-1] == "background" and words[-2] == scene.background.colour
    assert (scene.background.texture in words) == (scene.background.texture != "plain")


@given(seeds)
@settings(max_examples=25)
def test_the_border_shows_the_background_alone(seed):
    """Guards what the judge relies on: objects hardly ever enter the frame that it reads."""
    scene = sample_scene(seed)
    from nullinv_core.demo.scenes import coverage

    for thing in scene.objects:
        frame = coverage(thing)
        frame[FRAME:-FRAME, FRAME:-FRAME] = 0
        assert (frame > 0.5).mean() < 1e-3


@given(seeds, st.sampled_from(EDITS))
@settings(max_examples=30)
def test_the_true_edit_changes_the_mask_alone(seed, kind):
    """Guards ground truth: source and target differ inside the mask and nowhere else, and their captions differ."""
    case = sample_edit(seed, kind)
    difference = np.abs(render(case.source) - render(case.target)).max(-1)
    assert difference[case.mask].max() > 0.03
    assert difference[~case.mask].max(initial=0.0) <= 0.5 / 255
    assert case.source.caption != case.target.caption
    assert case.mask.shape == (SIZE, SIZE)


def test_an_edit_changes_one_attribute():
    """Guards the edit kinds: all that is not edited stays."""
    for kind in EDITS:
        case = sample_edit(3, kind)
        background = kind.startswith(("background", "add", "remove"))
        assert (case.source.objects == case.target.objects) == background
        assert (case.source.background == case.target.background) != background
    with pytest.raises(ValueError, match="unknown edit kind"):
        sample_edit(0, "melt")


def test_no_change_has_an_empty_mask():
    """Guards the mask's zero."""
    scene = sample_scene(1)
    assert not change_mask(scene, scene).any()


@given(seeds)
@settings(max_examples=40)
def test_the_judge_reads_clean_scenes(seed):
    """Guards the judge on perfect pictures, of both splits."""
    for split in ("train", "held-out"):
        scene = sample_scene(seed, split)
        assert read(render(scene)) == truth(scene), wrong_attributes(render(scene), scene)


@given(seeds, st.sampled_from(EDITS))
@settings(max_examples=40)
def test_the_judge_is_not_fooled(seed, kind):
    """Guards against false accepts: a picture with another attribute is refused, and the reason is named."""
    case = sample_edit(seed, kind)
    assert not is_right(render(case.source), case.target)
    assert wrong_attributes(render(case.source), case.target)


def test_the_judge_refuses_noise_and_flat_pictures():
    """Guards the judge's edges: pictures without objects are read, not crashed on."""
    scene = sample_scene(0)
    assert not is_right(np.random.default_rng(0).uniform(size=(SIZE, SIZE, 3)), scene)
    assert read(np.full((SIZE, SIZE, 3), 0.96)).objects == ()


def test_components_are_separated():
    """Guards the labelling that the judge counts objects by."""
    mask = np.zeros((SIZE, SIZE), bool)
    mask[10:30, 10:30] = mask[60:70, 60:70] = True
    mask[100:103, 100:103] = True
    assert sorted(int(c.sum()) for c in components(mask)) == [100, 400]


def test_dilation_grows_by_a_square():
    """Guards the masks' margin."""
    mask = np.zeros((9, 9), bool)
    mask[4, 4] = True
    assert dilate(mask, 2).sum() == 25


def test_a_resumed_training_equals_an_unbroken_one(tmp_path):
    """Guards resumable training: stopped and resumed gives the same weights to the bit."""

    def train(path, *budgets):
        for budget in budgets:
            torch.manual_seed(0)
            module = torch.nn.Linear(3, 3)
            optimizer = torch.optim.AdamW(module.parameters())

            def loss_of(step, module=module):
                data = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
                return module(data).square().mean()

            done = run_steps(path, {"m": module}, optimizer, loss_of, budget, warmup_cosine(1e-2, 20, 3), Budget())
        assert done
        return module.state_dict()

    whole, parts = train(tmp_path / "a.safetensors", 20), train(tmp_path / "b.safetensors", 7, 20)
    assert all(torch.equal(whole[k], parts[k]) for k in whole)


def test_a_spent_budget_stops_and_says_so(tmp_path):
    """Guards --minutes: nothing runs and the stage reports that it is not done."""
    module = torch.nn.Linear(1, 1)
    optimizer = torch.optim.AdamW(module.parameters())
    path, spent = tmp_path / "c.safetensors", Budget(minutes=-1)
    assert not run_steps(path, {"m": module}, optimizer, lambda s: module.weight.sum(), 5, lambda s: 0.1, spent)


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


def at(*places):
    """A reading of stars in these places."""
    return Reading((("star", "red"),) * len(places), "blue", "plain", places)


def test_objects_are_in_place_or_in_that_of_what_they_stand_in_for():
    """Guards the judge of places: neither far from both nor of another size than both, each by itself; another
    object's place does not count."""
    circle = at((82.0, 90.0, 2000.0))
    assert in_place(at((82.0, 90.0, 1100.0)), at((92.0, 90.0, 1100.0)), circle)
    wanted, crescent = at((90.0, 90.0, 1100.0)), at((100.0, 90.0, 1200.0))
    for place, right in (
        ((93, 92, 1100), True), ((105, 90, 1100), True), ((90, 90, 1500), True), ((90, 90, 1550), True),
        ((75, 90, 1100), False), ((100, 90, 1700), False), ((90, 90, 780), False),
    ):  # fmt: skip
        assert in_place(at(place), wanted, crescent) == right
    both, swapped = at((30.0, 30.0, 900.0), (90.0, 90.0, 900.0)), at((90.0, 90.0, 900.0), (30.0, 30.0, 900.0))
    assert in_place(both, both, swapped) and not in_place(swapped, both, swapped)
    assert in_place(at(), at(), at())
