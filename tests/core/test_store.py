"""Inversions on disk."""

import json
import os
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from nullinv_core import InputError, Inversion, NullEmbeddings, Trajectory, load_inversion, save_inversion
from nullinv_core.fingerprint import Fingerprint

from .fuzz_files import fuzz_files
from .helpers import tiny_schedule

SIZES = (1024, 768, 0, 64, 512, 384)
MADE_BY = Fingerprint({"3x4": (1.5, 0.25, -1.0)}, "epsilon", (1000.0, 0.999, 0.005), {"LoRA": "abc"}, 0.001)


def some_inversion(batch=2, steps=3, dtype=torch.float32, with_null=True, seed=0):
    g = torch.Generator().manual_seed(seed)
    trajectory = Trajectory(
        torch.randn(steps + 1, batch, 4, 5, 7, generator=g).to(dtype),
        torch.randn(batch, 9, 6, generator=g).to(dtype),
        tiny_schedule(steps),
    )
    null = NullEmbeddings(
        torch.randn(steps, batch, 9, 6, generator=g), tiny_schedule(steps), 6.5, torch.rand(steps, batch, generator=g),
        torch.randint(1, 10, (steps, batch), generator=g),
    )  # fmt: skip
    return Inversion(
        trajectory, null if with_null else None, tuple("ab"[:batch]), MADE_BY, "demo", "bfloat16", sizes=SIZES
    )


@given(st.integers(1, 2), st.integers(1, 5), st.sampled_from([torch.float32, torch.float16]), st.booleans())
@settings(max_examples=15)
def test_a_round_trip_changes_no_bit(tmp_path_factory, batch, steps, dtype, with_null):
    """Guards the format: every tensor, the schedule and every text come back as they were."""
    path = tmp_path_factory.mktemp("store") / "x.safetensors"
    before = some_inversion(batch, steps, dtype, with_null)
    save_inversion(path, before)
    after = load_inversion(path)
    assert torch.equal(after.trajectory.latents, before.trajectory.latents)
    assert torch.equal(after.trajectory.context, before.trajectory.context)
    assert after.trajectory.schedule == before.trajectory.schedule
    for name in ("prompts", "fingerprint", "model", "precision"):
        assert getattr(after, name) == getattr(before, name)
    # a default on both sides would hide a field that is not kept
    assert after.precision != "float32"
    assert (after.null is None) == (before.null is None)
    if before.null is not None:
        assert after.null.guidance == before.null.guidance
        for name in ("embeddings", "losses", "iterations"):
            assert torch.equal(getattr(after.null, name), getattr(before.null, name))


def test_sizes_are_kept_where_there_are_any(tmp_path):
    """Guards what ComfyUI told SDXL of the picture."""
    for sizes in ((), SIZES):
        save_inversion(tmp_path / "x.safetensors", replace(some_inversion(), sizes=sizes))
        assert load_inversion(tmp_path / "x.safetensors").sizes == sizes


def rewritten(path, metadata=None, tensors=None, drop=()):
    with safe_open(path, "pt") as file:
        old = json.loads(file.metadata()["inversion"])
    stored = {k: v for k, v in load_file(path).items() if k not in drop} | (tensors or {})
    new = {k: v for k, v in (old | (metadata or {})).items() if v is not None}
    save_file(stored, path, {"inversion": json.dumps(new)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metadata": {"version": 3}}, "format version 3"),
        ({"metadata": {"format": "other"}}, "not an inversion"),
        ({"metadata": {"prompts": ["only one"]}}, "as many prompts"),
        ({"metadata": {"prompts": "no list"}}, "damaged"),
        ({"metadata": {"sizes": [1, 2, 3]}}, "six numbers"),
        ({"metadata": {"sizes": [1, 2, 3, 4, 5, "six"]}}, "six numbers"),
        ({"metadata": {"sizes": [1, 2, 3, 4, 5, 10**400]}}, "six numbers"),
        ({"metadata": {"sizes": [1, 2, 3, 4, 5, True]}}, "six numbers"),
        ({"metadata": {"guidance": "wide"}}, "damaged"),
        ({"metadata": {"guidance": None}}, "lacks fields"),
        ({"metadata": {"model": None}}, "damaged"),
        ({"metadata": {"model": 3}}, "not texts"),
        ({"metadata": {"fingerprint": None}}, "damaged"),
        ({"metadata": {"fingerprint": {"weights": {}}}}, "fingerprint is broken"),
        ({"metadata": {"fingerprint": {"weights": {"3": ["x"]}, "changes": {}}}}, "something else than numbers"),
        ({"metadata": {"fingerprint": {"weights": {"3": [10**400]}, "changes": {}}}}, "fingerprint is broken"),
        ({"drop": ("context",)}, "lacks fields"),
        ({"tensors": {"extra": torch.zeros(1)}}, "has others"),
        ({"tensors": {"trajectory": torch.zeros(2, 2)}}, "damaged"),
        ({"tensors": {"trajectory": torch.full((4, 2, 4, 5, 7), float("nan"))}}, "NaN"),
        ({"tensors": {"null_embeddings": torch.zeros(2, 2, 9, 6)}}, "damaged"),
        ({"tensors": {"edit_null": torch.zeros(3, 9, 6)}}, "null context of edits"),
        ({"drop": ("null_embeddings",), "metadata": {"guidance": None}, "tensors": {"edit_null": torch.zeros(2, 9, 6)}},
         "lacks fields"),
        ({"tensors": {"photo_guidance": torch.zeros(3, 2, 4, 5, 7)}}, "lacks fields"),
        ({"tensors": {"edit_null": torch.zeros(2, 9, 6), "photo_guidance": torch.zeros(3, 2, 4, 5, 8)}},
         "photo's own guidance"),
        ({"tensors": {"alphas_cumprod": torch.tensor([0.1, 0.2, 0.3, 0.4])}}, "must fall"),
        ({"tensors": {"alphas_cumprod": torch.tensor([0.5, 0.4, 0.3, 0.2])}}, "begins at the clean picture"),
    ],
)  # fmt: skip
def test_every_field_is_checked(tmp_path, change, message):
    """Guards loading: each kind of wrong field is named in one sentence."""
    path = tmp_path / "x.safetensors"
    save_inversion(path, some_inversion())
    rewritten(path, **change)
    with pytest.raises(InputError, match=message):
        load_inversion(path)


@given(st.integers(0, 4000))
@settings(max_examples=40)
def test_a_truncated_file_is_refused(tmp_path_factory, length):
    """Guards against half files of any length."""
    folder = tmp_path_factory.mktemp("cut")
    save_inversion(folder / "x.safetensors", some_inversion())
    whole = (folder / "x.safetensors").read_bytes()
    (folder / "x.safetensors").write_bytes(whole[: min(length, len(whole) - 1)])
    with pytest.raises(InputError, match="not a whole safetensors file"):
        load_inversion(folder / "x.safetensors")


def test_a_broken_file_is_a_sentence(tmp_path):
    """Guards loading against anything: bits, lengths, headers and metadata that no program of ours wrote."""
    save_inversion(tmp_path / "x.safetensors", some_inversion())
    ends = fuzz_files(tmp_path / "x.safetensors", 400)
    assert set(ends) == {"refused", "loaded"} and ends["refused"] > 300 and ends["loaded"] > 10


def test_a_file_too_large_is_refused_unread(tmp_path, monkeypatch):
    """Guards memory: the size is looked at before anything is allocated."""
    save_inversion(tmp_path / "x.safetensors", some_inversion())
    monkeypatch.setattr("nullinv_core.store.LARGEST", 100)
    with pytest.raises(InputError, match="larger than"):
        load_inversion(tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="larger than"):
        save_inversion(tmp_path / "y.safetensors", some_inversion())
    assert not (tmp_path / "y.safetensors").exists()


def test_a_missing_file_and_a_missing_folder_are_named(tmp_path):
    """Guards the edges of reading and writing."""
    with pytest.raises(InputError, match="there is no inversion file"):
        load_inversion(tmp_path / "none.safetensors")
    with pytest.raises(InputError, match="does not exist"):
        save_inversion(tmp_path / "none" / "x.safetensors", some_inversion())


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    """Guards atomic saving: a full disk in the middle of writing keeps what was there."""
    path = tmp_path / "x.safetensors"
    save_inversion(path, some_inversion())
    before = path.read_bytes()

    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nullinv_core.store.save_file", full_disk)
    with pytest.raises(InputError, match="No space left"):
        save_inversion(path, some_inversion(seed=1))
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]


def test_the_file_is_plain_safetensors(tmp_path):
    """Guards openness: any safetensors reader sees named tensors and JSON prompts."""
    save_inversion(tmp_path / "x.safetensors", some_inversion())
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert json.loads(file.metadata()["inversion"])["prompts"] == ["a", "b"]
        assert "null_embeddings" in file.keys()  # noqa: SIM118 (not a dict)


def test_a_file_of_version_1_is_read(tmp_path):
    """Guards old files: their fingerprint was one text."""
    path = tmp_path / "x.safetensors"
    save_inversion(path, some_inversion())
    rewritten(path, {"version": 1, "fingerprint": "f" * 64})
    assert load_inversion(path).fingerprint == Fingerprint(digest="f" * 64)
    save_inversion(path, load_inversion(path))
    assert load_inversion(path).fingerprint.digest == "f" * 64
