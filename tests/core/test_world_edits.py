"""Edits of the clay world: their truth, masks and captions."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from benchmarks.pie_bench import pie_tasks
from benchmarks.pie_folder import encode_mask, write_folder
from nullinv_core.demo import nearest
from nullinv_core.demo.captions import read_caption, reading_of
from nullinv_core.demo.edits import KINDS, LEAST_SIZE, MIRRORED, VISIBLE, mark, sample_edit, toy_mask
from nullinv_core.demo.looks import palette
from nullinv_core.demo.objects import ROLES, span
from nullinv_core.demo.scenes import belongs, render
from nullinv_core.photo.images import psnr, to_pil
from nullinv_core.scores.pie_bench import decode_mask


@pytest.mark.parametrize("kind", KINDS)
def test_edits_change_what_their_kind_says_and_nothing_else(kind):
    """Guards each kind: which attributes differ, that the source is held out, and that captions say both."""
    for seed in range(12):
        case = sample_edit(seed, kind)
        assert case == sample_edit(seed, kind) and belongs(case.source, "held-out") and case.source != case.target
        assert [read_caption(c) for c in case.captions] == [reading_of(s) for s in (case.source, case.target)]
        source, target = (reading_of(s) for s in (case.source, case.target))
        before, after = source.things, target.things
        if kind == "add":
            before, after = after, before
        if kind in ("add", "delete"):
            assert len(before) == 2 and len(after) == 1 and after[0] in before
            continue
        assert (source.place == target.place) == (kind != "background")
        assert (source.style == target.style) == (kind != "style")
        fields = {"object": "kind", "colour": "colour", "material": "material", "swap": "colour"}
        differ = {f for a, b in zip(before, after, strict=True) for f in vars(a) if getattr(a, f) != getattr(b, f)}
        if kind in fields:
            assert differ == {fields[kind]}
        else:
            allowed = {"content": {"wears", "open"}, "pose": {"pose", "facing"}}.get(kind, set())
            assert differ <= allowed and (len(differ) == 1) == bool(allowed)
        if kind == "swap":
            assert [t.colour for t in before] == [t.colour for t in reversed(after)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [3, 7, 15, 40])
def test_masks_hold_every_change(seed, kind):
    """Guards masks: outside of one the true answer is the source, or holds the toys where the place is new.

    Metal toys, as those of the first three seeds, mirror the new place.
    """
    case = sample_edit(seed, kind)
    source, target = render(case.source), render(case.target)
    kept = ~case.mask
    assert case.mask.any() and target.shape == (128, 128, 3)
    if kind == "background":
        assert kept.any() and not (kept & ~toy_mask(case.source)).any()
        assert np.abs(source - target)[kept].max() <= MIRRORED
        assert psnr(target, source, kept) > 28
    else:
        assert np.abs(source - target)[kept].max(initial=0) <= VISIBLE
        assert kept.any() == (kind != "style")


def test_a_new_place_leaves_dull_toys_alone():
    """Guards masks of a new place: toys of clay, which mirror little of it, must stay."""
    cases = [sample_edit(seed, "background") for seed in range(40)]
    dull = [case for case in cases if {thing.material for thing in case.source.things} == {"clay"}]
    stays = [(~case.mask).sum() / toy_mask(case.source).sum() for case in dull]
    assert len(dull) > 5 and np.mean(stays) > 0.9 and min(stays) > 0.5


@pytest.mark.parametrize("kind", ["colour", "swap"])
def test_colours_do_not_touch_clothes(kind):
    """Guards new colours: geometry stays, and hats, scarves and ribbons keep their own colour."""
    dressed = 0
    for seed in range(150):
        case = sample_edit(seed, kind)
        for thing, other in zip(case.source.things, case.target.things, strict=True):
            assert thing.placed == other.placed
            if thing.form.wears or thing.kind == "gift":
                accent = ROLES.index("accent")
                assert torch.equal(palette(thing.colour)[accent], palette(other.colour)[accent])
                dressed += thing.colour != other.colour
    assert dressed > 3


@pytest.mark.parametrize("kind", ["object", "content", "pose"])
def test_changed_toys_keep_out_of_their_neighbours(kind):
    """Guards placing after an edit: toys neither overlap nor leave the picture."""
    for seed in range(25):
        ends = [-0.96]
        for thing in sample_edit(seed, kind).target.things:
            left, right = span(thing.form, thing.yaw)
            assert thing.x + left * thing.scale >= ends[-1] - 0.02
            ends.append(thing.x + right * thing.scale)
        assert ends[-1] <= 0.96


@pytest.mark.parametrize("kind", ["object", "content", "pose"])
def test_a_true_answer_is_as_large_as_before(kind):
    """Guards what is asked for: no caption says that a toy shrinks."""
    for case in (sample_edit(seed, kind) for seed in range(62_000, 62_040)):
        for before, after in zip(case.source.things, case.target.things, strict=True):
            assert after.scale >= LEAST_SIZE * before.scale


def test_marks_by_example():
    """Guards PIE-Bench's brackets."""
    assert mark("a red cat on sand", "an orange cat on sand") == ("a [red] cat on sand", "an [orange] cat on sand")
    assert mark("a cat on sand", "a cat and a blue mug on sand") == ("a cat on sand", "a cat [and a blue mug] on sand")


@settings(max_examples=60)
@given(st.integers(0, 500), st.sampled_from(KINDS))
def test_marks_are_all_that_differs(seed, kind):
    """Guards marks: without them the captions are back, and without what they hold both are the same."""
    case = sample_edit(seed, kind)
    assert [m.replace("[", "").replace("]", "") for m in case.marked] == list(case.captions)

    def rest(text: str) -> list[str]:
        kept, depth = [], 0
        for word in text.split():
            depth += word.count("[")
            if not depth:
                kept.append("a" if word == "an" else word)
            depth -= word.count("]")
        return kept

    assert rest(case.marked[0]) == rest(case.marked[1])


def test_unknown_kinds_are_refused():
    """Guards the message: it names the kinds that there are."""
    with pytest.raises(ValueError, match="choose one of object, add"):
        sample_edit(0, "nothing")


def test_a_style_is_of_the_same_scene():
    """Guards styles: geometry and all but the style are the source's."""
    case = sample_edit(3, "style")
    assert replace(case.target, style="photo") == case.source


@given(arrays(bool, (16, 16)))
def test_pie_masks_are_read_back(mask):
    """Guards the run lengths: decoded as PIE-Bench's own are, they are the mask, its border aside."""
    found = decode_mask(encode_mask(mask), 16)
    assert np.array_equal(found[1:-1, 1:-1], mask[1:-1, 1:-1]) and found[0].all() and found[:, -1].all()


def test_a_pie_folder_is_read_back(tmp_path):
    """Guards the layout: our own reader of PIE-Bench finds every picture, caption, kind and mask in it."""
    cases = [sample_edit(7, kind) for kind in ("object", "background", "swap")]
    write_folder(cases, tmp_path)
    for task, case in zip(pie_tasks(tmp_path, 128), cases, strict=True):
        assert (task.source_prompt, task.edit_prompt) == case.captions
        assert task.kind == {"object": "change object", "background": "change background", "swap": "random"}[case.kind]
        assert psnr(task.source, render(case.source)) > 40
        assert np.array_equal(task.changes[1:-1, 1:-1], case.mask[1:-1, 1:-1])
        kinds = [t.kind for t in (*case.source.things, *case.target.things)]
        assert all(word in kinds for word in task.settings.blend_words or ())
    assert len(list((tmp_path / "true_images").rglob("*.png"))) == 3


def test_a_rendering_is_nearest_to_its_own_scene(monkeypatch):
    """Guards the judge without training: right on the truth, also blurred and moved in brightness, wrong on an edit."""
    monkeypatch.setattr(nearest, "OBJECTS", ("cat", "car", "tree"))
    case = sample_edit(12, "colour")
    source, target = render(case.source), render(case.target)
    worse = np.asarray(to_pil(source).resize((64, 64)).resize((128, 128)), np.float32) / 255 * 0.97
    assert nearest.nearer(source, case.source) == [] and nearest.nearer(worse, case.source) == []
    (changed,) = (t for t, o in zip(case.target.things, case.source.things, strict=True) if t != o)
    assert f"{changed.colour} {changed.kind}" in nearest.nearer(target, case.source)
    moved = sample_edit(12, "background")
    assert moved.target.place in nearest.nearer(render(moved.target), moved.source)


def test_candidates_differ_from_the_scene_in_one_thing():
    """Guards what a picture is compared with: every other place, colour and kind, once each, none the scene itself."""
    scene = sample_edit(5, "swap").source
    found = list(nearest.candidates(scene))
    assert len(found) == 7 + 2 * (11 + 24) and all(other != scene for _, other in found)
    assert len({repr(other) for _, other in found}) == len(found)
