"""The command line, on a tiny random model: files, several edits, and one sentence for every bad input."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from inspect import signature
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

from nullinv_core.backends.diffusers import load_model
from nullinv_core.cli import invert, main
from nullinv_core.errors import InputError
from nullinv_core.files.store import load_inversion, save_inversion
from nullinv_core.null_text.presets import PRESETS
from nullinv_core.photo.images import LARGEST_SIDE, fitted_size, load_image, psnr, save_image, ssim


def run(monkeypatch, capsys, *arguments):
    """Exit status, what was printed, and the error line of a command."""
    monkeypatch.setattr(sys, "argv", ["nullinv", *map(str, arguments)])
    status = 0
    try:
        main()
    except SystemExit as stop:
        status = int(stop.code or 0)
    out, err = capsys.readouterr()
    return status, out, err


@pytest.fixture
def command(monkeypatch, capsys):
    return lambda *arguments: run(monkeypatch, capsys, *arguments)


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    y, x = np.mgrid[0:50, 0:70] / 70
    save_image(np.stack([x, y, 1 - x], -1), path)
    return path


@pytest.fixture
def folder_of_one(model_folder, photo, tmp_path):
    """A batch of one picture."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(photo.read_bytes())
    texts = ["--prompt", "a red cat on a wooden table", "--edit", "a green cat on a wooden table"]
    return ["batch", tmp_path / "photos", *texts, "--model", model_folder, "--out", tmp_path / "made", "--steps", 2]


@pytest.fixture
def inverted(command, model_folder, photo, tmp_path):
    """An inversion file of two quick steps."""
    out = tmp_path / "photo.safetensors"
    status, _, err = command(
        "invert", "--model", model_folder, "--image", photo, "--prompt", "a red cat on a wooden table",
        "--out", out, "--steps", 2, "--inner-steps", 2, "--device", "cpu",
    )  # fmt: skip
    assert status == 0, err
    return out


def test_a_prompt_may_have_weights(command, model_folder, photo, tmp_path):
    """Guards (word:1.5) on the command line: the photo is inverted under the weighted text, and edits read weights."""
    out, text = tmp_path / "photo.safetensors", "a (red:3) cat on a wooden table"
    status, _, err = command(
        "invert", "--model", model_folder, "--image", photo, "--prompt", text, "--out", out, "--steps", 2,
        "--preset", "direct", "--device", "cpu",
    )  # fmt: skip
    assert status == 0, err
    model = load_model(model_folder)
    plain, weighted = model.contexts([model.prompt(t) for t in (text.replace("(red:3)", "red"), text)])
    stored = load_inversion(out).trajectory.context.text
    assert torch.allclose(stored, weighted.text) and not torch.allclose(stored, plain.text, atol=0.1)
    status, _, err = command(
        "edit", "--inversion", out, "--prompt", text, "--prompt", text.replace("3", "900"), "--out", tmp_path / "e.png",
        "--device", "cpu",
    )  # fmt: skip
    assert status == 0, err
    same, more = (np.asarray(Image.open(tmp_path / f"e-{n}.png")) for n in (1, 2))
    assert not np.array_equal(same, more)


def test_a_prompt_in_another_encoding_is_one_line(photo, tmp_path):
    """Guards bytes from a Latin-1 terminal: one sentence and exit status 2, before anything is loaded."""
    done = subprocess.run(
        [sys.executable, "-m", "nullinv_core", "invert", "--model", "demo", "--image", str(photo), "--out",
         str(tmp_path / "x.safetensors"), "--prompt", b"a caf\xe9"],
        capture_output=True, check=False, env={**os.environ, "PYTHONUTF8": "1"},
    )  # fmt: skip
    said = done.stderr.decode()
    assert done.returncode == 2 and said.startswith("error: ") and said.count("\n") == 1 and "not text" in said


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
def test_an_output_that_takes_no_text_is_one_line(inverted, tmp_path):
    """Guards scripts whose log is on a full disk: the picture is there, one sentence, no traceback."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "nullinv_core", "reconstruct", "--inversion", str(inverted), "--device", "cpu",
             "--out", str(tmp_path / "x.png")],
            stdout=full, stderr=subprocess.PIPE, check=False,
        )  # fmt: skip
    *_, last = done.stderr.decode().splitlines()
    assert done.returncode == 2 and last.startswith("error: ") and "No space left" in last
    assert "Traceback" not in done.stderr.decode() and (tmp_path / "x.png").exists()


def test_invert_reconstruct_and_edit(command, inverted, tmp_path):
    """Guards the main path: one file from invert, pictures of the model's size from the other two."""
    status, said, _ = command("reconstruct", "--inversion", inverted, "--out", tmp_path / "r.png", "--device", "cpu")
    assert status == 0 and "dB to what the autoencoder gives" in said
    assert Image.open(tmp_path / "r.png").size == (40, 32)
    status, _, err = command(
        "edit", "--inversion", inverted, "--prompt", "a green cat on a wooden table",
        "--prompt", "a polished red cat on a wooden table", "--out", tmp_path / "e.png", "--blend", "cat",
        "--weight", "cat=2.0", "--save-attention", tmp_path / "maps", "--device", "cpu",
    )  # fmt: skip
    assert status == 0, err
    assert {p.name for p in tmp_path.glob("e*.png")} == {"e-1.png", "e-2.png"}
    assert {p.name for p in (tmp_path / "maps").iterdir()} == {"source.png", "edit-1.png", "edit-2.png"}


def test_a_guidance_that_the_embeddings_are_not_for_is_warned_of(command, model_folder, photo, tmp_path):
    """Guards edits after the preset paper: at another guidance than invert's; not without one, nor at the same."""
    made = tmp_path / "paper.safetensors"
    status, _, err = command(
        "invert", "--model", model_folder, "--image", photo, "--prompt", "a red cat on a wooden table",
        "--out", made, "--steps", 2, "--preset", "paper", "--inner-steps", 1, "--guidance", 3, "--device", "cpu",
    )  # fmt: skip
    assert status == 0, err
    edit = ("edit", "--inversion", made, "--prompt", "a green cat on a wooden table", "--device", "cpu")
    for more, warned in (((), False), (("--guidance", 3), False), (("--guidance", 7.5), True)):
        status, _, err = command(*edit, *more, "--out", tmp_path / "edited.png")
        assert status == 0 and ("optimized for a guidance of 3, and 7.5 does not" in err) is warned, err
        assert "no longer predicts" not in err


def test_the_same_command_gives_the_same_bytes(command, inverted, model_folder, photo, tmp_path):
    """Guards determinism across runs."""
    again = tmp_path / "again.safetensors"
    command(
        "invert", "--model", model_folder, "--image", photo, "--prompt", "a red cat on a wooden table",
        "--out", again, "--steps", 2, "--inner-steps", 2, "--device", "cpu",
    )  # fmt: skip
    assert again.read_bytes() == inverted.read_bytes()


def test_the_inversion_remembers_what_it_needs(inverted, model_folder):
    """Guards that later commands need the file alone."""
    stored = load_inversion(inverted)
    assert stored.prompts == ("a red cat on a wooden table",)
    assert stored.model == str(model_folder)
    assert stored.null.guidance == 7.5


def base(model_folder, photo, tmp_path, **changes):
    options = {
        "model": model_folder, "image": photo, "prompt": "a cat", "out": tmp_path / "x.safetensors", "steps": 1,
    } | changes  # fmt: skip
    return [f"--{k.replace('_', '-')}={v}" for k, v in options.items()]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "/none"}, 'there is no model at "/none"'),
        ({"image": "/none.png"}, "there is no image file"),
        ({"steps": 0}, "steps must be between 1 and 1000, not 0"),
        ({"inner_steps": 0}, "inner steps must lie in 1…100, not 0"),
        ({"preset": "direct", "inner_steps": 3}, "optimizes nothing; leave out"),
        ({"out": "/none/x.safetensors"}, "the folder"),
        ({"out": "x.ckpt"}, "must end in .safetensors"),
        ({"size": 33}, "size must be a multiple of 8 from 8 to 4096"),
        ({"size": 8}, "size must be a multiple of 8 from 16 to 4096"),
        ({"device": "warp"}, 'device "warp" cannot be used'),
        ({"device": "meta"}, 'device "meta" cannot be used'),
        ({"guidance": "nan"}, "guidance must be a number in 0…100"),
        ({"guidance": "-3"}, "guidance must be a number in 0…100, not -3"),
        ({"prompt": "a " * 90}, "takes 90 tokens"),
        ({"prompt": "a caf\udce9"}, '"a caf?" has bytes that are not text'),
        ({"prompt": "a (red:1e9) cat"}, 'weight of "red" must be a number in ±1000'),
    ],
)
def test_bad_input_to_invert(command, model_folder, photo, tmp_path, changes, message):
    """Guards the edge: exit status 2, one line that names the input, no file."""
    status, _, err = command("invert", *base(model_folder, photo, tmp_path, **changes))
    assert status == 2
    assert err.startswith("error: ") and err.count("\n") == 1 and message in err
    assert list(tmp_path.iterdir()) == []


def test_the_presets_are_the_librarys():
    """Guards the list of the command line, which does not load the library to know it."""
    assert get_args(get_args(signature(invert.invert).parameters["preset"].annotation)[0]) == tuple(PRESETS)


def test_broken_and_huge_images(command, model_folder, tmp_path, monkeypatch):
    """Guards images: neither garbage nor a picture beyond the limit is decoded."""
    (tmp_path / "bad.png").write_bytes(b"not a picture")
    status, _, err = command("invert", *base(model_folder, tmp_path / "bad.png", tmp_path))
    assert status == 2 and "cannot be read as an image" in err
    Image.new("1", (15_000, 15_000)).save(tmp_path / "bomb.png")
    status, _, err = command("invert", *base(model_folder, tmp_path / "bomb.png", tmp_path))
    assert status == 2 and "larger than 100 megapixels" in err
    monkeypatch.setattr("nullinv_core.photo.picture_file.LARGEST", 10)
    Image.new("RGB", (4, 4)).save(tmp_path / "huge.png")
    status, _, err = command("invert", *base(model_folder, tmp_path / "huge.png", tmp_path))
    assert status == 2 and "4×4 pixels" in err


def test_damage_that_only_the_decoder_notices(command, model_folder, tmp_path):
    """Guards images whose reader raises something unusual: too much text in a PNG, a BMP of no size."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("note", "x" * 3_000_000, zip=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "text.png", pnginfo=info)
    Image.new("RGB", (4, 4)).save(tmp_path / "size.bmp")
    content = bytearray((tmp_path / "size.bmp").read_bytes())
    # how long its header is
    content[14:18] = b"\7\0\0\0"
    (tmp_path / "size.bmp").write_bytes(content)
    for name in ("text.png", "size.bmp"):
        status, _, err = command("invert", *base(model_folder, tmp_path / name, tmp_path))
        assert status == 2 and err.count("\n") == 1 and "cannot be read as an image" in err


@pytest.mark.parametrize("option", ["image", "model", "out"])
def test_names_that_are_too_long_are_refused(command, model_folder, photo, tmp_path, option):
    """Guards paths that the file system itself refuses."""
    name = tmp_path / ("x" * 5000) / "x.safetensors"
    status, _, err = command("invert", *base(model_folder, photo, tmp_path, **{option: name}))
    assert status == 2 and err.startswith("error: ") and err.count("\n") == 1


def test_each_edit_takes_the_words_that_it_has(command, inverted, tmp_path):
    """Guards several edits in one run: a blend or weight word may belong to one of them alone."""
    status, _, err = command(
        "edit", "--inversion", inverted, "--prompt", "a green donut on a wooden table",
        "--prompt", "a green dog on a wooden table", "--out", tmp_path / "e.png", "--blend", "dog",
        "--weight", "donut=2.0", "--device", "cpu",
    )  # fmt: skip
    assert status == 0, err
    assert {p.name for p in tmp_path.glob("e*.png")} == {"e-1.png", "e-2.png"}


def test_another_photo_is_no_reference(command, photo, tmp_path):
    """Guards --reference: pixels of another photo do not end up in the edit; the same photo, saved anew, may."""
    inversion, out, text = tmp_path / "demo.safetensors", tmp_path / "e.png", "a red cat on a wooden table"
    options = ["--model", "demo", "--image", photo, "--prompt", text, "--steps", 2, "--device", "cpu"]
    assert command("invert", *options, "--out", inversion)[0] == 0
    pixels = np.asarray(Image.open(photo))
    Image.fromarray(pixels).save(tmp_path / "same.jpg")
    Image.fromarray(pixels[::-1, ::-1]).save(tmp_path / "other.png")
    options = ["--inversion", inversion, "--prompt", text.replace("red", "green"), "--device", "cpu", "--out", out]
    status, _, err = command("edit", *options, "--reference", tmp_path / "other.png")
    assert status == 2 and "is not the photo that was inverted" in err and not out.exists()
    assert command("edit", *options, "--reference", tmp_path / "same.jpg")[0] == 0 and out.exists()


def test_a_reference_tells_what_was_kept(command, inverted, photo, tmp_path, monkeypatch):
    """Guards --reference: figures outside of the blend mask, the photo's own pixels unless told otherwise."""
    options = [
        "--inversion", inverted, "--prompt", "a green cat on a wooden table", "--device", "cpu",
        "--reference", photo,
    ]  # fmt: skip
    status, said, err = command("edit", *options, "--out", tmp_path / "all.png")
    assert status == 0 and "everything may change; give --blend-words" in said, err
    somewhere = ["--blend", "cat", "--guidance", "1.5"]
    mask = torch.zeros(1, 1, 4, 5, dtype=torch.bool)
    mask[..., 1:3, 2:4] = True
    from nullinv_core import editing

    real = editing.edit
    monkeypatch.setattr(editing, "edit", lambda *a, **k: replace(real(*a, **k), mask=mask))
    figures = []
    for switch in ("--keep-photo", "--no-keep-photo"):
        status, said, err = command("edit", *options, *somewhere, switch, "--out", tmp_path / f"e{switch}.png")
        assert status == 0, err
        found = re.search(r"outside of the blend mask (equal to the photo|([\d.]+) dB), SSIM (-?[\d.]+)", said)
        picture, wanted = (
            np.asarray(Image.open(p)) / 255 for p in (tmp_path / f"e{switch}.png", fitted(photo, tmp_path))
        )
        outside = np.ones((32, 40), bool)
        outside[8:24, 16:32] = False
        figures.append(psnr(picture, wanted, outside))
        assert float(found[2] or "inf") == pytest.approx(figures[-1], abs=0.06)
        assert float(found[3]) == pytest.approx(ssim(picture, wanted, outside), abs=1e-3)
    assert figures[0] > figures[1]


def test_an_edit_in_the_photo_s_own_size(command, inverted, photo, tmp_path):
    """Guards --full-size: the photo's size and, where nothing changed, its own pixels."""
    options = [
        "--inversion", inverted, "--prompt", "a green cat on a wooden table", "--device", "cpu",
        "--reference", photo, "--full-size", "--out", tmp_path / "full.png",
    ]  # fmt: skip
    status, said, err = command("edit", *options)
    assert status == 0 and "everything may change" in said, err
    result, whole = (np.asarray(Image.open(path).convert("RGB")) for path in (tmp_path / "full.png", photo))
    assert result.shape == whole.shape == (50, 70, 3)
    options[3] = "a red cat on a wooden table"
    status, _, err = command("edit", *options, "--save-attention", tmp_path / "maps")
    assert status == 0, err
    assert np.array_equal(np.asarray(Image.open(tmp_path / "full.png")), whole)


def fitted(photo, folder):
    """The photo as the commands see it, as a file."""
    save_image(load_image(photo, 32, 8)[0], folder / "fitted.png")
    return folder / "fitted.png"


def test_the_photo_and_all_that_is_read_stay(command, inverted, model_folder, photo, tmp_path):
    """Guards the user's files: no command writes over what it reads, by whatever name, nor two results over each
    other; all is as it was afterwards."""
    import os
    import shutil

    mine = tmp_path / "mine.png"
    shutil.copy(photo, mine)
    folder = tmp_path / "maps"
    folder.mkdir()
    named = shutil.copy(photo, tmp_path / "named.safetensors")
    for link, make in (("soft.png", os.symlink), ("hard.png", os.link), ("soft.safetensors", os.symlink)):
        make(mine if link.endswith("png") else named, tmp_path / link)
    shutil.copy(mine, folder / "edit-1.png")
    shutil.copy(mine, tmp_path / "e-2.png")
    weights = model_folder / "unet" / "diffusion_pytorch_model.safetensors"
    picture = tmp_path / "photo.safetensors.png"
    shutil.copy(inverted, picture)
    files = {p: p.read_bytes() for p in (*tmp_path.rglob("*.*"), weights) if p.is_file()}
    inverting = ["invert", "--model", model_folder, "--image", mine, "--prompt", "a cat"]
    editing = ["edit", "--inversion", inverted, "--prompt", "a cat"]
    two = [*editing, "--prompt", "a dog"]
    for arguments in (
        [*inverting, "--out", weights],
        ["invert", "--model", weights, "--image", mine, "--prompt", "a cat", "--out", weights],
        [*inverting[:3], "--image", named, "--prompt", "a cat", "--out", tmp_path / "soft.safetensors"],
        ["reconstruct", "--inversion", inverted, "--reference", mine, "--out", mine],
        ["reconstruct", "--inversion", picture, "--out", picture],
        [*editing, "--reference", mine, "--out", mine],
        [*editing, "--reference", tmp_path / "maps" / ".." / "mine.png", "--out", mine],
        [*editing, "--reference", mine, "--out", tmp_path / "soft.png"],
        [*editing, "--reference", mine, "--out", tmp_path / "hard.png"],
        [*two, "--reference", tmp_path / "e-2.png", "--out", tmp_path / "e.png"],
        [*editing, "--reference", folder / "edit-1.png", "--out", tmp_path / "e.png", "--save-attention", folder],
    ):
        status, _, err = command(*arguments)
        assert status == 2 and "would be written over what is read from" in err and err.count("\n") == 1, arguments
    status, _, err = command(*editing, "--out", folder / "edit-1.png", "--save-attention", folder)
    assert status == 2 and "two pictures would be written to" in err
    assert files == {p: p.read_bytes() for p in (*tmp_path.rglob("*.*"), weights) if p.is_file()}


def test_the_figures_say_what_they_are_of(command, inverted, photo, tmp_path):
    """Guards figures of a photo that the model cannot draw: the distance to the photo and to the autoencoder's picture
    of it, each by its name, and a warning, which a photo that the autoencoder keeps does not get."""
    from nullinv_core.backends.diffusers import load_model
    from nullinv_core.pipeline import reconstruct

    model = load_model(load_inversion(inverted).model)
    options = ["--inversion", inverted, "--out", tmp_path / "r.png", "--device", "cpu"]
    seen = load_image(photo, 32, 8)
    decoded = model.decode(model.encode_image(seen))[0].numpy()
    _, said, err = command("reconstruct", *options)
    assert (
        "to the photo;" not in said and "--reference tells how near the photo is" in said and "autoencoder" not in err
    )
    status, said, err = command("reconstruct", *options, "--reference", photo)
    assert status == 0 and f"autoencoder alone gives this photo back at {psnr(decoded, seen[0]):.1f} dB" in err
    pattern = r"\(([\d.]+) dB to the photo; ([\d.]+) dB to what the autoencoder gives, which itself is ([\d.]+) dB"
    found = [float(x) for x in re.search(pattern, said).groups()]
    result = np.asarray(Image.open(tmp_path / "r.png")) / 255
    assert found[::2] == pytest.approx([psnr(result, seen[0]), psnr(decoded, seen[0])], abs=0.06)
    reached = reconstruct(model, load_inversion(inverted))[0].numpy()
    assert found[1] == pytest.approx(psnr(reached, decoded), abs=0.06)


def test_a_photo_that_the_autoencoder_keeps_gets_no_warning(command, tmp_path):
    """Guards the limit of the warning from its other side: the demo model and a scene of its own."""
    from nullinv_core.demo.scenes import render, sample_scene

    save_image(render(sample_scene(930_000, "held-out", 1)), tmp_path / "scene.png")
    options = ["--prompt", "a polished orange dog", "--steps", 1, "--device", "cpu", "--preset", "direct"]
    for name, warns in (("scene", False), ("noise", True)):
        if warns:
            noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
            Image.fromarray(noise).save(tmp_path / "noise.png")
        image, out = tmp_path / f"{name}.png", tmp_path / f"{name}.safetensors"
        status, said, err = command("invert", "--model", "demo", "--image", image, "--out", out, *options)
        found = float(re.search(r"the autoencoder alone gives the photo back at ([\d.]+) dB", said)[1])
        assert status == 0 and (found < 25) == warns == ("no reconstruction comes closer" in err)


@pytest.fixture
def no_model(monkeypatch):
    """Every attempt to load a model fails the test."""
    from nullinv_core.cli import models

    def load(*_):
        raise AssertionError("a model was loaded first")

    monkeypatch.setattr(models, "load", load)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": "/none.png"}, "there is no image file"),
        ({"image": __file__}, "cannot be read as an image"),
        ({"image": "."}, 'there is no image file "."'),
        ({"model": ""}, "--model is empty"),
        ({"config": "/none"}, 'there is no folder "/none"'),
        ({"out": "x" * 245 + ".safetensors"}, "File name too long"),
        ({"prompt": " "}, "the --prompt is empty"),
        ({"steps": 0}, "steps must be between 1 and 1000"),
        ({"steps": 1001}, "steps must be between 1 and 1000"),
        ({"size": -8}, "size must be a multiple of 8"),
        ({"size": 36}, "size must be a multiple of 8"),
        ({"size": 4096}, "the picture would be 5728×4096"),
        ({"guidance": "inf"}, "guidance must be a number in 0…100"),
        ({"guidance": "1e39"}, "guidance must be a number in 0…100"),
        ({"out": "/dev/full"}, "must end in .safetensors"),
        ({"out": "/dev/full/x.safetensors"}, "cannot write"),
        ({"out": "/proc/self/x.safetensors"}, "cannot write"),
        ({"out": "/none/x.safetensors"}, "does not exist"),
        ({"preset": "direct", "inner_steps": 3}, "optimizes nothing"),
        ({"inner_steps": 101}, "inner steps must lie in 1…100, not 101"),
    ],
)
def test_what_is_cheap_to_check_comes_before_the_model(no_model, command, photo, tmp_path, changes, message):
    """Guards a newcomer's time: nobody waits for a model to hear of a wrong path."""
    status, _, err = command("invert", *base("none", photo, tmp_path, **changes))
    assert status == 2 and message in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("command_name", "options", "message"),
    [
        ("edit", ["--prompt", "a", "--reference", "none.png"], 'there is no image file "none.png"'),
        ("reconstruct", ["--reference", "none.png"], 'there is no image file "none.png"'),
        ("edit", ["--prompt", "a", "--reference", __file__], "cannot be read as an image"),
        ("edit", ["--prompt", "a", "--prompt", ""], "the --prompt is empty"),
        ("edit", ["--prompt", "a", "--weight", "a=x"], "must look like WORD=2.0"),
        ("edit", ["--prompt", "a", "--weight", "a=1", "--weight", "a=2"], 'names "a" twice'),
        ("edit", ["--prompt", "a", "--weight", "=2"], "is empty; leave it out"),
        ("edit", ["--prompt", "a", "--kind", "add", "--strength", "0.35"], 'alone, and the kind is "add"'),
        ("edit", ["--prompt", "a", "--reference", ""], 'there is no image file "."'),
        ("edit", ["--prompt", "a", "--prompt", "b", "--out", "x" * 250 + ".png"], "File name too long"),
        ("edit", ["--prompt", "a", "--prompt", "b", "--out", "."], 'the name "." must end in .png'),
        ("edit", ["--prompt", "a", "--prompt", "b", "--out", ""], 'the name "." must end in .png'),
        ("edit", ["--prompt", "a", "--weight", "a=1e39"], "must be a number in ±1000, not 1e+39"),
        ("edit", ["--prompt", "a", "--weight", "a=1e308"], "must be a number in ±1000, not 1e+308"),
        ("edit", ["--prompt", "a", "--weight", "a" * 1000], 'a…" must look like WORD=2.0'),
        ("edit", ["--prompt", "a", "--out", "/dev/full"], "must end in .png"),
        ("edit", ["--prompt", "a", "--save-attention", "/dev/null"], "is not a folder"),
        ("edit", ["--prompt", "a", "--weight", f"a={'9' * 400}"], "must be a number in ±1000, not inf"),
        ("edit", ["--prompt", "a", "--save-attention", __file__], "is not a folder"),
    ],
)
def test_cheap_checks_of_edits_come_before_the_model(
    inverted, no_model, command, tmp_path, command_name, options, message
):
    """Guards the same for what is done with an inversion."""
    status, _, err = command(command_name, "--inversion", inverted, "--out", tmp_path / "e.png", *options)
    assert status == 2 and message in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "name",
    [
        r"\\host\share\model", "//host/share/model", r"\/host\share", r"\\.\pipe\x", r"\\?\UNC\host\share",
        "/dev/zero", "/dev/fd/0", "https://host/model", "file:///tmp", "model", "../model", "C:model", "/none",
        "/etc/hostname", "ComfyUI",
    ],
)  # fmt: skip
def test_a_model_that_a_file_names_is_an_ordinary_one_of_this_computer(
    inverted, no_model, command, tmp_path, monkeypatch, name
):
    """Guards files of strangers: what stands in them asks no other computer, opens no device, and finds nothing by
    where the command runs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    save_inversion(inverted, replace(load_inversion(inverted), model=name))
    looked_for = []
    for test in ("isdir", "isfile"):
        real = getattr(os.path, test)
        monkeypatch.setattr(os.path, test, lambda path, real=real: looked_for.append(str(path)) or real(path))
    status, _, err = command("reconstruct", "--inversion", inverted, "--out", tmp_path / "e.png")
    assert status == 2 and err.count("\n") == 1 and "say with --model where it is" in err
    if name[0] in "/\\" and name[1] in "/\\":
        assert name not in looked_for
    with pytest.raises(AssertionError, match="a model was loaded"):
        command("reconstruct", "--inversion", inverted, "--out", tmp_path / "e.png", "--model", name)


def test_a_model_that_a_file_names_is_shown(inverted, model_folder, command, tmp_path):
    """Guards that nobody loads a stranger's choice unseen; a model that the user names, and ours, need no note."""
    options = ["--inversion", inverted, "--out", tmp_path / "e.png", "--device", "cpu"]
    status, _, err = command("reconstruct", *options)
    assert status == 0 and f'note: the model is "{model_folder}", as the inversion file says' in err
    moved = shutil.copytree(model_folder, tmp_path / "moved")
    for named in (moved, model_folder):
        assert "note: the model" not in command("reconstruct", *options, "--model", named)[2]


def test_an_inversion_without_embeddings_is_refused_before_the_model(inverted, no_model, command, tmp_path):
    """Guards files of ComfyUI's DDIM Invert alone, and demo's own number of steps."""
    save_inversion(inverted, replace(load_inversion(inverted), null=None))
    for name in ("edit", "reconstruct"):
        options = ["--inversion", inverted, "--out", tmp_path / "e.png"]
        status, _, err = command(name, *options, *(["--prompt", "a cat"] if name == "edit" else []))
        assert status == 2 and "holds no null embeddings" in err
    assert "steps must be between" in command("demo", "--steps", 0, "--out", tmp_path / "demo")[2]


def test_errors_leave_no_folder_behind(command, inverted, tmp_path):
    """Guards "nothing half-written": folders are made when there is something to put in."""
    options = ["--prompt", "a green cat", "--out", tmp_path / "e.png", "--save-attention", tmp_path / "a" / "maps"]
    assert command("edit", "--inversion", tmp_path / "none", *options)[0] == 2
    assert command("edit", "--inversion", inverted, *options, "--blend", "zebra", "--device", "cpu")[0] == 2
    assert command("demo", "--guidance", "nan", "--out", tmp_path / "b" / "demo")[0] == 2
    assert [p.name for p in tmp_path.iterdir()] == [inverted.name]


def test_the_precision_is_remembered(command, model_folder, photo, tmp_path, monkeypatch):
    """Guards half precision: later commands run the network as `invert` did unless told otherwise."""
    from nullinv_core.cli import models

    assert command("invert", *base(model_folder, photo, tmp_path, dtype="bfloat16", device="cpu"))[0] == 0
    asked, load = [], models.load
    monkeypatch.setattr(models, "load", lambda model, device, dtype, config: asked.append(dtype) or load(
        model, device, dtype, config))  # fmt: skip
    options = ["--inversion", tmp_path / "x.safetensors", "--out", tmp_path / "r.png", "--device", "cpu"]
    assert command("reconstruct", *options)[0] == 0
    assert command("reconstruct", *options, "--dtype", "float32")[0] == 0
    assert asked == ["bfloat16", "float32"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--blend", "zebra"], 'blend word "zebra" is in neither prompt; their words are: a, red, cat'),
        (["--blend-exclude", "zebra"], 'exclude word "zebra"'),
        (["--weight", "zebra=2"], 'weight word "zebra" is not in the prompt'),
        (["--weight", "cat"], "must look like WORD=2.0"),
        (["--prompt", "a caf\udce9"], '"a caf?" has bytes that are not text'),
        (["--blend", "caf\udce9"], '"caf?" has bytes that are not text'),
        (["--weight", "caf\udce9=2"], '"caf?=2" has bytes that are not text'),
        (["--cross-replace", "1.5"], "cross replace must lie in 0…1"),
        (["--out", "x.jpg"], "must end in .png"),
        (["--weight", "cat=inf"], 'weight of "cat" must be a number in ±1000, not inf'),
        (["--guidance", "nan"], "guidance must be a number in 0…100"),
        (["--guidance", "-3"], "guidance must be a number in 0…100, not -3"),
        (["--save-attention", __file__], "cannot make the folder"),
        (["--reference", "nowhere.png"], 'there is no image file "nowhere.png"'),
        (["--reference", __file__], "cannot be read as an image"),
        (["--full-size"], "--full-size needs --reference"),
        (["--keep-pixels"], "--keep-pixels needs --reference"),
        (["--word-windows", "green=0.9,green=0"], 'names "green" twice'),
        (["--full-size", "--no-keep-pixels"], "full_size needs keep_pixels"),
    ],
)
def test_bad_input_to_edit(command, inverted, tmp_path, options, message):
    """Guards the edge of editing: exit status 2, one line, no picture."""
    standard = ["--prompt", "a green cat on a wooden table", "--out", tmp_path / "e.png", "--device", "cpu"]
    status, _, err = command("edit", "--inversion", inverted, *standard, *options)
    errors = [line for line in err.splitlines() if not line.startswith("note: the model is")]
    assert status == 2 and len(errors) == 1 and message in errors[0]
    assert not (tmp_path / "e.png").exists()


@pytest.mark.parametrize("options", [["--cross-replace", 0, "--self-replace", 0], ["--skipped", 0.5]])
def test_attention_is_saved_though_no_edit_needs_it(command, model_folder, photo, tmp_path, options):
    """Guards --save-attention after the presets that read the photo from its path: it failed after the whole edit."""
    given = ["--model", model_folder, "--image", photo, "--prompt", "a red cat on a wooden table", "--device", "cpu"]
    path = tmp_path / "photo.safetensors"
    assert command("invert", *given, "--out", path, "--steps", 2, "--preset", "direct")[0] == 0
    edit = ["edit", "--inversion", path, "--prompt", "a green cat on a wooden table", "--device", "cpu", *options]
    status, _, err = command(*edit, "--out", tmp_path / "e.png", "--save-attention", tmp_path / "maps")
    assert status == 0 and sorted(file.name for file in (tmp_path / "maps").iterdir()) == [
        "edit-1.png",
        "source.png",
    ], err
    assert command(*edit, "--out", tmp_path / "f.png")[0] == 0
    assert np.abs(load_image(tmp_path / "e.png", 48) - load_image(tmp_path / "f.png", 48)).max() <= 2 / 255


def test_an_inversion_of_another_model_or_a_cut_file(command, inverted, model_folder, tmp_path):
    """Guards reuse: another model's fingerprint and a truncated file end in one line."""
    import shutil

    other = tmp_path / "other"
    shutil.copytree(model_folder, other)
    weights = other / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({k: v + 1 for k, v in load_file(weights).items()}, weights, {"format": "pt"})
    arguments = ["reconstruct", "--out", tmp_path / "r.png", "--device", "cpu"]
    status, _, err = command(*arguments, "--inversion", inverted, "--model", other)
    assert status == 2 and "made with another model" in err
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(inverted.read_bytes()[:-100])
    status, _, err = command(*arguments, "--inversion", cut)
    assert status == 2 and "not a whole safetensors file" in err
    assert not (tmp_path / "r.png").exists()


def test_nan_in_the_network_is_named(command, model_folder, photo, tmp_path, monkeypatch):
    """Guards numeric failure: the step and the way out, nothing written."""
    from nullinv_core.backends.diffusers import DiffusersDenoiser

    monkeypatch.setattr(DiffusersDenoiser, "__call__", lambda self, z, *rest, **more: z * torch.nan)
    status, _, err = command("invert", *base(model_folder, photo, tmp_path))
    assert status == 2 and "NaN" in err and "step 1" in err and "float32 or bfloat16" in err
    assert list(tmp_path.iterdir()) == []


def test_memory_that_runs_out_is_one_line(command, inverted, folder_of_one, tmp_path, monkeypatch):
    """Guards small GPUs: whatever runs out of memory ends in a sentence, not in a traceback; other errors stay."""
    from nullinv_core.backends.diffusers import DiffusersDenoiser

    def full(self, z, *rest, **more):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    edit = ["edit", "--inversion", inverted, "--prompt", "a green cat on a wooden table", "--out", tmp_path / "e.png"]
    again = ["reconstruct", "--inversion", inverted, "--out", tmp_path / "r.png"]
    monkeypatch.setattr(DiffusersDenoiser, "__call__", full)
    for arguments in (edit, again, folder_of_one):
        status, _, err = command(*arguments, "--device", "cpu")
        errors = [line for line in err.splitlines() if not line.startswith("note:")]
        assert status == 2 and len(errors) == 1 and "there is not enough memory" in errors[0], err
    monkeypatch.setattr(DiffusersDenoiser, "__call__", lambda self, *given, **more: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        command(*edit, "--device", "cpu")


def test_debug_shows_the_traceback():
    """Guards --debug, and that the module runs as a program."""
    command = [sys.executable, "-m", "nullinv_core", "reconstruct", "--inversion", "none", "--out", "x.png"]
    plain = subprocess.run(command, capture_output=True, text=True, check=False)
    debug = subprocess.run([*command, "--debug"], capture_output=True, text=True, check=False)
    assert plain.returncode == 2 and plain.stderr == 'error: there is no inversion file "none"\n'
    assert debug.returncode == 2 and "Traceback" in debug.stderr


def test_16_bit_grey_keeps_its_tones(tmp_path):
    """Guards 16-bit pictures: mid grey stays mid grey."""
    from nullinv_core.photo.images import load_image

    Image.fromarray(np.full((8, 8), 32768, np.uint16)).save(tmp_path / "grey.png")
    assert load_image(tmp_path / "grey.png", 8).mean().item() == pytest.approx(0.5, abs=0.01)


def test_outputs_that_cannot_be_written_are_refused_before_the_work(command, model_folder, photo, tmp_path):
    """Guards hours of work: a folder under the output's name is noticed at once."""
    (tmp_path / "x.safetensors").mkdir()
    status, _, err = command("invert", *base(model_folder, photo, tmp_path))
    assert status == 2 and "it is a folder" in err


def test_saved_inversions_follow_the_umask(inverted):
    """Guards shared folders: an inversion can be read by whom any other new file could."""
    import os

    mask = os.umask(0)
    os.umask(mask)
    assert inverted.stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_refused_torch_version_is_named():
    """Guards the run-time check of torch."""
    from nullinv_core.version import check_torch

    check_torch("2.13.0+cpu")
    with pytest.raises(ImportError, match=r"needs torch 2\.1 or newer, not 1\.13\.1"):
        check_torch("1.13.1")


def test_a_photo_keeps_its_shape(command, model_folder, tmp_path):
    """Guards pictures that are not square, whose latents cannot be halved evenly: the commands keep their shape, and a
    reference is cropped as the photo was; --square crops, and a panorama is refused in words."""
    generator = np.random.default_rng(0)
    wide = Image.fromarray(generator.integers(0, 255, (9, 16, 3), np.uint8)).resize((160, 90), Image.Resampling.BICUBIC)
    wide.save(tmp_path / "wide.png")
    text = "a red cat on a wooden table"
    options = ["invert", *base(model_folder, tmp_path / "wide.png", tmp_path, prompt=text, size=40, device="cpu")]
    for switch, size in (("--no-square", (64, 40)), ("--square", (40, 40))):
        assert command(*options, switch)[0] == 0
        status, _, err = command(
            "edit", "--inversion", tmp_path / "x.safetensors", "--prompt", "a red dog on a wooden table",
            "--blend", "cat", "--reference", tmp_path / "wide.png", "--out", tmp_path / "e.png", "--device", "cpu",
        )  # fmt: skip
        assert status == 0, err
        assert Image.open(tmp_path / "e.png").size == size
    Image.new("RGB", (2000, 4)).save(tmp_path / "wide.png")
    status, _, err = command(*options)
    assert status == 2 and "would be 20000×40 pixels, a side may have 4096; take a smaller size, or" in err


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 64), st.sampled_from([1, 8, 64]))
def test_a_fitted_size_is_the_nearest_on_the_grid(width, height, size, grid):
    """Guards the crop: multiples of the grid, the shape kept to within one step of it."""
    size *= grid
    wanted = size * max(width, height) / min(width, height)
    if wanted >= LARGEST_SIDE + grid:
        with pytest.raises(InputError, match="a side may have"):
            fitted_size(width, height, size, grid)
    if wanted > LARGEST_SIDE - 0.5:
        return
    across, down = fitted_size(width, height, size, grid)
    assert min(across, down) == size and across % grid == down % grid == 0
    long = max(across, down)
    assert long <= wanted + 0.5 and long > wanted - grid - 0.5


def test_float16_that_overflows_is_done_once_more_in_float32(command, model_folder, photo, tmp_path, monkeypatch):
    """Guards half precision: a note and the right result, and the file remembers what it was made in; no way out where
    float32 has NaN too, and none is tried for bfloat16, which has the same range."""
    from nullinv_core.backends.diffusers import DiffusersDenoiser

    real, fails = DiffusersDenoiser.__call__, {torch.float16}

    def network(self, z, *rest, **more):
        return z * torch.nan if self.unet.dtype in fails else real(self, z, *rest, **more)

    monkeypatch.setattr(DiffusersDenoiser, "__call__", network)
    out = tmp_path / "x.safetensors"
    status, _, err = command("invert", *base(model_folder, photo, tmp_path, dtype="float16"))
    assert status == 0 and "at step 1 " in err and "once more in float32" in err
    assert load_inversion(out).precision == "float32" and load_inversion(out).trajectory.latents.isfinite().all()
    options = ["--inversion", out, "--dtype", "float16", "--out", tmp_path / "r.png"]
    assert command("reconstruct", *options)[0] == 0
    assert command("edit", *options, "--prompt", "a dog")[0] == 0
    fails |= {torch.float32, torch.bfloat16}
    out.unlink()
    for dtype, tries in (("float16", 1), ("bfloat16", 0)):
        status, _, err = command("invert", *base(model_folder, photo, tmp_path, dtype=dtype))
        assert status == 2 and err.count("once more") == tries and not out.exists()
