"""The benchmark of edits: its tasks, its scores, and PIE-Bench's folder."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks.edit_cases import KINDS, REWEIGHT, scene_task
from benchmarks.edit_report import Row, by_kind, by_method
from benchmarks.edit_scores import BEST, interval, most_scales, scores
from benchmarks.pie_bench import SIDE, decode_mask, pie_tasks
from nullinv_core import InputError
from nullinv_core.images import psnr

TASKS = [scene_task(seed) for seed in range(40_000, 40_000 + len(KINDS))]


def test_kinds_take_turns_and_their_truth_is_right():
    """Guards the tasks: every kind once in as many seeds; only the marked part of the source differs from the truth."""
    assert sorted(t.kind for t in TASKS) == sorted(KINDS)
    for task in TASKS:
        assert bool(task.settings.weights) == (task.kind == REWEIGHT)
        assert (len(task.truths) > 1) == (task.kind in ("add-texture", "background-texture", REWEIGHT))
        for truth in (task.truths[0], task.truths[-1]):
            assert np.abs(task.source - truth)[~task.changes].max(initial=0) <= 0.5 / 255
            found = scores(truth, task)
            assert found.right and found.changed.psnr == BEST and found.gain > 5
        none = scores(task.source, task)
        assert not none.right and none.gain == pytest.approx(0) and (none.kept is None or none.kept.psnr == BEST)


@pytest.mark.parametrize("task", TASKS[:3], ids=lambda t: t.kind)
def test_scores_tell_what_was_kept_from_what_was_changed(task):
    """Guards each figure against the edits that it must tell apart: none, the right one, and a spoilt one."""
    rng = np.random.default_rng(0)
    spoilt = (task.truths[0] + rng.normal(0, 0.1, task.source.shape)).clip(0, 1).astype(np.float32)
    right, none, bad = (scores(picture, task) for picture in (task.truths[0], task.source, spoilt))
    assert right.changed.ssim == pytest.approx(1, abs=1e-3) and right.changed.ms_ssim == pytest.approx(1, abs=1e-3)
    assert none.gain == pytest.approx(0) and none.changed.psnr < bad.changed.psnr < right.changed.psnr
    assert bad.gain == pytest.approx(bad.changed.psnr - psnr(task.source, task.truths[0], task.changes))
    if not task.changes.all():
        assert none.kept.ssim == pytest.approx(1, abs=1e-3) and none.kept.ms_ssim == pytest.approx(1, abs=1e-3)
        assert bad.kept.ssim < 0.9 and bad.kept.ms_ssim < 1 and 15 < bad.kept.psnr < 25


def test_small_pictures_use_fewer_scales():
    """Guards MS-SSIM's window: it fits the coarsest scale that is used."""
    assert [most_scales(side) for side in (16, 64, 128, 512)] == [1, 3, 4, 5]


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=30))
def test_an_interval_holds_its_mean_and_stays_within_the_values(values):
    """Guards the bootstrap, and that it is the same each time."""
    mean, low, high = interval(values)
    assert min(values) - 1e-6 <= low <= mean + 1e-6 and mean - 1e-6 <= high <= max(values) + 1e-6
    assert interval(values) == (mean, low, high)
    assert mean == pytest.approx(np.mean(values), abs=1e-6)


def test_tables_count_what_was_seen():
    """Guards the tables: a method's and a kind's edits, those right, and gaps where a score does not exist."""
    rows = [
        Row("fast", False, str(i), kind, 2.0, 1.0, scores(picture, task))
        for i, (task, kind) in enumerate(zip(TASKS[:2], ("a", "b"), strict=True))
        for picture in (task.truths[0],)
    ] + [Row("paper", False, "0", "a", 1.5, 1.0, scores(TASKS[0].source, TASKS[0]))]
    assert "| fast | 1 of 1 | 1 of 1 |" in by_kind(rows) and "| paper | 0 of 1 |  |" in by_kind(rows)
    lines = by_method(rows).splitlines()
    assert len(lines) == 4 and "100% (100%-100%)" in lines[2] and lines[3].endswith("| 1 |")


@given(st.binary(min_size=SIDE // 8, max_size=SIDE // 8))
def test_a_mask_of_runs_is_read_as_it_was_written(row):
    """Guards PIE-Bench's masks: start and length over the flattened picture; the border counts as changed."""
    bits = np.unpackbits(np.frombuffer(row, np.uint8)).astype(bool)
    flat = np.zeros(SIDE * SIDE, bool)
    flat[5 * SIDE : 6 * SIDE] = bits
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat, [False]]).astype(int)))
    runs = [int(n) for start, end in zip(edges[::2], edges[1::2], strict=True) for n in (start, end - start)]
    mask = decode_mask(runs)
    assert (mask[5, 1:-1] == bits[1:-1]).all()
    assert mask[0].all() and mask[-1].all() and mask[:, 0].all() and mask[:, -1].all()
    assert not mask[6:-1, 1:-1].any()


ENTRY = {
    "image_path": "1_change_object_80/1.jpg",
    "original_prompt": "a [cat] on grass",
    "editing_prompt": "a [dog] on grass",
    "editing_type_id": "1",
    "blended_word": "cat dog",
    "mask": [1024, 3],
}


def pie_folder(path, **changes):
    """A folder of PIE-Bench's layout with one picture."""
    (path / "annotation_images" / "1_change_object_80").mkdir(parents=True)
    Image.new("RGB", (SIDE, SIDE), "green").save(path / "annotation_images" / "1_change_object_80" / "1.jpg")
    entry = {key: value for key, value in {**ENTRY, **changes}.items() if value is not None}
    (path / "mapping_file.json").write_text(json.dumps({"000": entry}))
    return path


def test_pie_bench_is_read(tmp_path):
    """Guards the folder's layout: brackets leave the prompts, blended words are blend words, the new one weighs 2."""
    (task,) = pie_tasks(pie_folder(tmp_path))
    assert (task.source_prompt, task.edit_prompt, task.kind) == ("a cat on grass", "a dog on grass", "change object")
    assert task.source.shape == (SIDE, SIDE, 3) and not task.truths and task.target is None
    assert list(task.settings.blend) == ["cat", "dog"] and dict(task.settings.weights) == {"dog": 2.0}
    assert task.changes[2, :3].all() and not task.changes[2, 3:-1].any()
    found = scores(task.source, task)
    assert found.right is None and found.gain is None and found.kept.ssim == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    "changes",
    [{"image_path": "../../outside.jpg"}, {"mask": [0]}, {"mask": None}, {"editing_type_id": "12"}, {"mask": [-3, 2]}],
)
def test_a_strange_entry_is_named(tmp_path, changes):
    """Guards the edges: which entry it was, in one sentence; no file outside of the folder is read."""
    with pytest.raises(InputError, match='"000"'):
        list(pie_tasks(pie_folder(tmp_path, **changes)))
