"""Inversions on disk."""

import json
import os
import tracemalloc
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from nullinv_core import Context, InputError, Inversion, NullEmbeddings, Trajectory, load_inversion, save_inversion
from nullinv_core.files.fingerprint import Fingerprint
from nullinv_core.files.inversion_file import AXES, FIELDS, LARGEST_HEADER, check_tensors
from nullinv_core.files.summary import in_words, index
from nullinv_core.schedule import Schedule
from nullinv_core.types import Pin

from .helpers import tiny_schedule

SIZES = (1024, 768, 0, 64, 512, 384)
MADE_BY = Fingerprint({"3x4": (1.5, 0.25, -1.0)}, "epsilon", (1000.0, 0.999, 0.005), {"LoRA": "abc"}, 0.001)


def some_context(generator, *leading, pooled=True):
    """Eight tokens, and a pooled vector that fills a row of a file but for two numbers."""
    text, vector = (torch.randn(*leading, *own, generator=generator) for own in ((8, 6), (4,)))
    return Context(text, vector if pooled else None)


def some_inversion(batch=2, steps=3, dtype=torch.float32, with_null=True, seed=0, sizes=SIZES):
    """As SDXL has them: with the sizes of the picture goes a pooled vector."""
    g = torch.Generator().manual_seed(seed)
    trajectory = Trajectory(
        torch.randn(steps + 1, batch, 4, 5, 7, generator=g).to(dtype),
        some_context(g, batch, pooled=bool(sizes)).to(dtype),
        tiny_schedule(steps),
    )
    null = NullEmbeddings(
        some_context(g, steps, batch, pooled=bool(sizes)), tiny_schedule(steps), 6.5,
        torch.rand(steps, batch, generator=g), torch.randint(1, 10, (steps, batch), generator=g),
    )  # fmt: skip
    return Inversion(
        trajectory, null if with_null else None, tuple("ab"[:batch]), MADE_BY, "demo", "bfloat16", sizes=sizes
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
    assert after.trajectory.context.equals(before.trajectory.context)
    assert after.trajectory.schedule == before.trajectory.schedule
    for name in ("prompts", "fingerprint", "model", "precision"):
        assert getattr(after, name) == getattr(before, name)
    # a default on both sides would hide a field that is not kept
    assert after.precision != "float32"
    assert (after.null is None) == (before.null is None)
    if before.null is not None:
        assert after.null.guidance == before.null.guidance
        assert after.null.embeddings.equals(before.null.embeddings)
        for name in ("losses", "iterations"):
            assert torch.equal(getattr(after.null, name), getattr(before.null, name))


def test_an_inversion_in_one_line():
    """Guards what Load Inversion shows: photos, size, steps, guidance and model, and what is missing."""
    found = in_words(some_inversion(batch=2, steps=3))
    assert found == (
        'made with "demo" in bfloat16: 2 photos of 56×40 pixels, 3 steps, null embeddings for guidance 6.5'
    )
    bare = replace(some_inversion(batch=1, with_null=False), model="")
    assert in_words(bare) == "made in bfloat16: 1 photo of 56×40 pixels, 3 steps, no null embeddings"


def test_sizes_are_kept_where_there_are_any(tmp_path):
    """Guards what ComfyUI told SDXL of the picture."""
    for sizes in ((), SIZES):
        save_inversion(tmp_path / "x.safetensors", some_inversion(sizes=sizes))
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
        ({"metadata": {"version": 3}}, "format version 3, this program reads 1 and 2;"),
        ({"metadata": {"version": True}}, "format version True"),
        ({"metadata": {"version": [[]]}}, "format version"),
        ({"metadata": {"format": "other"}}, "not an inversion"),
        ({"metadata": {"prompts": ["only one"]}}, "as many prompts"),
        ({"metadata": {"prompts": "no list"}}, "not texts"),
        ({"metadata": {"prompts": ["a", "\ud800"]}}, "not text"),
        ({"metadata": {"sizes": [1]}}, "six numbers"),
        ({"metadata": {"sizes": [1, 2, 3]}}, "six numbers"),
        ({"metadata": {"sizes": [1, 2, 3, 4, 5, 2**16 + 1]}}, "six numbers"),
        ({"metadata": {"sizes": [1, 2, 3, 4, 5, "six"]}}, "six numbers"),
        ({"metadata": {"sizes": [1, 2, 3, 4, 5, 10**400]}}, "six numbers"),
        ({"metadata": {"sizes": [1, 2, 3, 4, 5, True]}}, "six numbers"),
        ({"metadata": {"guidance": "wide"}}, "guidance is not a number"),
        ({"metadata": {"guidance": None}}, "guidance is not a number"),
        ({"metadata": {"guidance": 10**400}}, "guidance must be a number"),
        ({"metadata": {"guidance": 1e39}}, "guidance must be a number"),
        ({"metadata": {"model": None}}, "not texts"),
        ({"metadata": {"model": 3}}, "not texts"),
        ({"metadata": {"precision": "fp8"}}, "its precision is not one of"),
        ({"metadata": {"precision": []}}, "its precision is not one of"),
        ({"metadata": {"fingerprint": None}}, "fingerprint is broken"),
        ({"metadata": {"fingerprint": {"weights": {}}}}, "fingerprint is broken"),
        ({"metadata": {"fingerprint": {"weights": {"3": ["x"]}, "changes": {}}}}, "something other than numbers"),
        ({"metadata": {"fingerprint": {"weights": {"3": [10**400]}, "changes": {}}}}, "fingerprint is broken"),
        ({"drop": ("context",)}, "has no context"),
        ({"drop": ("losses",)}, "without losses"),
        ({"drop": ("null_embeddings", "losses", "iterations")}, "a guidance without null_embeddings"),
        ({"tensors": {"extra": torch.zeros(1)}}, "which no inversion has"),
        ({"tensors": {"trajectory": torch.zeros(2, 2)}}, "2 axes, not 5"),
        ({"tensors": {"trajectory": torch.full((4, 2, 4, 5, 7), float("nan"))}}, "NaN"),
        ({"tensors": {"trajectory": torch.zeros(4, 2, 4, 5, 7).to(torch.float8_e4m3fn)}}, "the type float8_e4m3fn"),
        ({"tensors": {"trajectory": torch.zeros(4, 2, 4, 0, 7)}}, "does not fit"),
        ({"tensors": {"context": torch.zeros(2, 8, 6)}}, "null_embeddings has the shape"),
        ({"tensors": {"iterations": torch.zeros(3, 2)}}, "iterations has the type"),
        ({"tensors": {"null_embeddings": torch.zeros(2, 2, 9, 6)}}, "does not fit"),
        ({"tensors": {"edit_null": torch.zeros(3, 9, 6)}}, "edit_null has the shape"),
        ({"drop": ("null_embeddings",), "metadata": {"guidance": None}, "tensors": {"edit_null": torch.zeros(2, 9, 6)}},
         "without null_embeddings"),
        ({"tensors": {"photo_guidance": torch.zeros(3, 2, 4, 5, 7)}}, "photo_guidance without edit_null"),
        ({"tensors": {"edit_null": torch.zeros(2, 9, 6), "photo_guidance": torch.zeros(3, 2, 4, 5, 8)}},
         "photo_guidance has the shape"),
        ({"tensors": {"alphas_cumprod": torch.tensor([0.1, 0.2, 0.3, 0.4])}}, "must fall"),
        ({"tensors": {"alphas_cumprod": torch.tensor([0.5, 0.4, 0.3, 0.2])}}, "begins at the clean picture"),
    ],
)  # fmt: skip
def test_every_field_is_checked(tmp_path, change, message):
    """Guards loading: each kind of wrong field is named in one sentence."""
    path = tmp_path / "x.safetensors"
    save_inversion(path, some_inversion())
    rewritten(path, **change)
    with pytest.raises(InputError, match=message) as told:
        load_inversion(path)
    assert f'"{path}"' in str(told.value)


@pytest.mark.parametrize("axis", AXES)
def test_an_axis_may_be_as_long_as_is_said(axis):
    """Guards the limits of every axis: the longest is taken, a longer one refused, whichever field has it."""
    for more in (0, 1):
        sizes = dict.fromkeys(AXES, 1) | {axis: AXES[axis] + more}
        tensors = {
            name: torch.zeros([sizes[a[0]] + a.endswith("+1") for a in field.axes.split()], dtype=field.types[0])
            for name, field in FIELDS.items()
        }
        if more:
            with pytest.raises(InputError, match="which does not fit"):
                check_tensors(tensors)
        else:
            check_tensors(tensors)


def test_a_file_from_before_there_were_sizes_is_read(tmp_path):
    """Guards old files, whose metadata has no such entry; a number that is just allowed is."""
    for sizes in (None, [2**16, -(2**16), 0, 1, 2, 3]):
        save_inversion(tmp_path / "x.safetensors", some_inversion())
        rewritten(tmp_path / "x.safetensors", {"sizes": sizes})
        assert load_inversion(tmp_path / "x.safetensors").sizes == tuple(sizes or ())


def test_a_file_of_another_program_is_no_inversion(tmp_path):
    """Guards safetensors files without metadata, and with others' alone."""
    for metadata in (None, {"format": "pt"}):
        save_file({"context": torch.zeros(1)}, tmp_path / "x.safetensors", metadata)
        with pytest.raises(InputError, match=r'x.safetensors" is a safetensors file but not an inversion'):
            load_inversion(tmp_path / "x.safetensors")


def test_a_file_that_the_system_refuses_is_named_with_its_reason(tmp_path, monkeypatch):
    """Guards files that may not be read."""
    save_inversion(tmp_path / "x.safetensors", some_inversion())

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(tmp_path), "open", refuse)
    with pytest.raises(InputError, match=r'x.safetensors" cannot be read \(Permission denied\)'):
        load_inversion(tmp_path / "x.safetensors")


def test_what_could_not_be_read_again_is_not_written(tmp_path):
    """Guards the other side: saving asks the same of an inversion as loading."""
    whole = some_inversion()
    broken = replace(whole.trajectory, latents=whole.trajectory.latents.to(torch.int32))
    with pytest.raises(InputError, match="trajectory has the type int32"):
        save_inversion(tmp_path / "x.safetensors", replace(whole, trajectory=broken))
    assert not any(tmp_path.iterdir())


def test_every_tensor_of_an_inversion_comes_back(tmp_path):
    """Guards the pin and the region, which few files have."""
    pin = Pin(some_context(None, 2), torch.rand(3, 2, 4, 5, 7))
    plain = some_inversion()
    whole = replace(plain, null=replace(plain.null, pin=pin), region=torch.rand(2, 5, 7) > 0.5)
    save_inversion(tmp_path / "x.safetensors", whole)
    after = load_inversion(tmp_path / "x.safetensors")
    assert after.null.pin.null.equals(pin.null) and torch.equal(after.null.pin.guidance, pin.guidance)
    assert torch.equal(after.region, whole.region)


def test_what_was_read_does_not_follow_the_file(tmp_path):
    """Guards the host: a file that is overwritten while its inversion is used changes nothing, kills nobody."""
    path = tmp_path / "x.safetensors"
    save_inversion(path, some_inversion())
    read = load_inversion(path)
    with path.open("r+b") as file:
        file.truncate(16)
        file.write(b"\xff" * 4096)
    assert torch.equal(read.trajectory.latents, some_inversion().trajectory.latents)
    assert read.null.embeddings.equals(some_inversion().null.embeddings)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("[" * 100_000, "damaged header"),
        ('{"format": ' + "9" * 5000 + "}", "damaged header"),
        ("3", "not an inversion"),
    ],
)
def test_a_header_that_is_no_header_is_a_sentence(tmp_path, header, message):
    """Guards loading against metadata that is nested deeply, or numbers without end."""
    save_file({"context": torch.zeros(1)}, tmp_path / "x.safetensors", {"inversion": header})
    with pytest.raises(InputError, match=message):
        load_inversion(tmp_path / "x.safetensors")


@pytest.mark.parametrize("odd", [None, [], 3, "x", True, {}, {"inversion": None}, {"inversion": 3}])
def test_metadata_of_another_kind_is_a_sentence(tmp_path, odd):
    """Guards loading, and lists of files: JSON of any kind may stand where an object is due."""
    texts = [json.dumps(odd), json.dumps({"__metadata__": odd}), json.dumps({"__metadata__": {"inversion": str(odd)}})]
    for number, header in enumerate(text.encode() for text in texts):
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(len(header).to_bytes(8, "little") + header)
        with pytest.raises(InputError, match=r"not an inversion|not a whole safetensors|damaged header"):
            load_inversion(path)
    assert [bool(row.why) for row in index(tmp_path)] == [True] * 3


def test_a_header_of_megabytes_is_not_read(tmp_path):
    """Guards memory and time: no inversion says so much of itself."""
    save_file({"context": torch.zeros(1)}, tmp_path / "x.safetensors", {"inversion": " " * (2**20 + 1) + "{}"})
    with pytest.raises(InputError, match="not an inversion"):
        load_inversion(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("more", "cut", "message"), [(1, 0, "but not an inv"), (1, 1, "not a whole"), (0, 1, "not a whole")]
)
def test_a_header_may_be_as_long_as_is_said(tmp_path, more, cut, message):
    """Guards the longest header: one byte more is no inversion's, unless the file ends before it does."""
    header = b"{}".ljust(LARGEST_HEADER + more)
    (tmp_path / "x.safetensors").write_bytes((len(header).to_bytes(8, "little") + header)[: 8 + len(header) - cut])
    with pytest.raises(InputError, match=message):
        load_inversion(tmp_path / "x.safetensors")


def test_an_inversion_with_the_longest_header_is_read(tmp_path):
    """Guards the limit from the other side: what is just allowed is an inversion like any."""
    path = tmp_path / "x.safetensors"
    save_inversion(path, some_inversion())
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    for longest in (LARGEST_HEADER, LARGEST_HEADER + 8):
        padded = whole[8 : 8 + length].ljust(longest)
        path.write_bytes(longest.to_bytes(8, "little") + padded + whole[8 + length :])
        if longest == LARGEST_HEADER:
            assert torch.equal(load_inversion(path).trajectory.latents, some_inversion().trajectory.latents)
        else:
            with pytest.raises(InputError, match="not an inversion"):
                load_inversion(path)


def test_messages_hold_nothing_that_a_terminal_acts_on(tmp_path):
    """Guards the reader of a message: names from a file are shown short, on one line and without control signs."""
    save_inversion(tmp_path / "x.safetensors", some_inversion())
    rewritten(tmp_path / "x.safetensors", tensors={"\x1b[2J\n" + "a" * 5000: torch.zeros(1)})
    with pytest.raises(InputError) as told:
        load_inversion(tmp_path / "x.safetensors")
    assert str(told.value).isprintable() and len(str(told.value)) < 400 + len(str(tmp_path))


@given(st.integers(0, 4000))
@settings(max_examples=40)
def test_a_truncated_file_is_refused(tmp_path_factory, length):
    """Guards against half files of any length."""
    folder = tmp_path_factory.mktemp("cut")
    save_inversion(folder / "x.safetensors", some_inversion())
    whole = (folder / "x.safetensors").read_bytes()
    (folder / "x.safetensors").write_bytes(whole[: min(length, len(whole) - 1)])
    with pytest.raises(InputError, match=r"not a whole safetensors file \(\w+ \w+.*\)"):
        load_inversion(folder / "x.safetensors")


def test_a_checkpoint_is_refused_unread(tmp_path):
    """Guards memory: a folder may hold models of gigabytes beside its inversions. These four are a hole."""
    header = json.dumps({"weight": {"dtype": "F32", "shape": [2**30], "data_offsets": [0, 2**32]}}).encode()
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 2**32)
    tracemalloc.start()
    with pytest.raises(InputError, match="but not an inversion"):
        load_inversion(tmp_path / "model.safetensors")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2**22


def test_a_file_too_large_is_refused_unread(tmp_path, monkeypatch):
    """Guards memory: the size is looked at before anything is allocated."""
    save_inversion(tmp_path / "x.safetensors", some_inversion())
    monkeypatch.setattr("nullinv_core.files.inversion_file.LARGEST", 100)
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

    monkeypatch.setattr("nullinv_core.files.store.save_file", full_disk)
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


def test_levels_between_timesteps_come_back_exactly(tmp_path):
    """Guards schedules of other samplers, whose timesteps no float32 holds."""
    whole = some_inversion(with_null=False)
    schedule = Schedule((10.1, 400.3, 990.7), (1.0, 0.9512345678901, 0.4, 0.0061))
    save_inversion(tmp_path / "x.safetensors", replace(whole, trajectory=replace(whole.trajectory, schedule=schedule)))
    assert load_inversion(tmp_path / "x.safetensors").trajectory.schedule == schedule


def test_the_same_inversion_gives_the_same_bytes(tmp_path):
    """Guards determinism: in which order a program names what it did to the model does not count."""
    changes = {"LoRA": "a", "LoRA strength": "1", "another": "b"}
    for name, order in (("one", list(changes)), ("two", sorted(changes, key=len))):
        print_ = replace(MADE_BY, changes={key: changes[key] for key in order})
        save_inversion(tmp_path / name, replace(some_inversion(), fingerprint=print_))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_what_is_not_there_is_not_written(tmp_path):
    """Guards old programs, which know no sizes: files of pictures without them have no such entry."""
    for sizes in ((), SIZES):
        save_inversion(tmp_path / "x.safetensors", some_inversion(with_null=False, sizes=sizes))
        with safe_open(tmp_path / "x.safetensors", "pt") as file:
            said = json.loads(file.metadata()["inversion"])
        assert ("sizes" in said) == bool(sizes) and "guidance" not in said


def test_what_safetensors_cannot_write_is_a_sentence(tmp_path, monkeypatch):
    """Guards disks whose refusal comes from the library and not from Python."""

    def refuse(*_, **__):
        raise SafetensorError("I/O error: no space")

    monkeypatch.setattr("nullinv_core.files.store.save_file", refuse)
    with pytest.raises(InputError, match=r"cannot write .*.*no space"):
        save_inversion(tmp_path / "x.safetensors", some_inversion())


def test_people_are_shown_what_an_inversion_is_of():
    """Guards what a notebook prints."""
    whole, bare = some_inversion(), some_inversion(1, with_null=False)
    assert repr(whole) == f"Inversion({whole.trajectory!r}, {whole.null!r})"
    assert repr(bare) == f"Inversion({bare.trajectory!r}, no null embeddings)"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"prompts": ("a",)}, "2 images need as many prompts, not 1"),
     ({"region": torch.ones(2, 7, 5) > 0}, r"is \(2, 5, 7\), not \(2, 7, 5\)")],
)  # fmt: skip
def test_what_does_not_belong_to_the_pictures_is_refused(wrong, said):
    """Guards prompts and regions."""
    with pytest.raises(InputError, match=said):
        replace(some_inversion(), **wrong)
