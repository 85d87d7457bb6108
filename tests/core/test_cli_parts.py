"""The small functions of the command line, without a model; and what the program does with its own arguments."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nullinv_core.backends.diffusers.device import pick_device
from nullinv_core.batch.jobs import read_value
from nullinv_core.cli import console, edit, models, options, pictures
from nullinv_core.errors import InputError
from nullinv_core.photo.images import save_image, ssim
from nullinv_core.prompt_to_prompt.kinds import chosen
from nullinv_core.settings import EDIT, LISTS
from nullinv_core.types import Event

MISSING = [sys.executable, "-m", "nullinv_core", "reconstruct", "--inversion", "none", "--out", "x.png"]


def test_a_weight_follows_the_last_sign_of_equality():
    """Guards words that have such a sign themselves."""
    assert options.edit_settings({"weights": ["a=b=2", "red=0.5"]}).weights == {"a=b": 2.0, "red": 0.5}


@given(st.sampled_from([one.name for one in EDIT if one.kind in LISTS]), st.lists(st.text("a=,2. ", max_size=6)))
def test_the_command_line_reads_lists_as_a_list_of_pictures_does(name, texts):
    """Guards words, windows and weights: one reader, whether they come one by one or with commas between them."""

    def read(work):
        try:
            return work()
        except InputError as error:
            return str(error)

    typed = read(lambda: options.edit_settings({name: texts}))
    assert typed == read(lambda: chosen({name: read_value(name, ",".join(texts))}))


def test_the_fastest_device_is_taken(monkeypatch):
    """Guards the default device: CUDA, then Apple's, then the CPU."""
    for cuda, mps, wanted in ((True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda mps=mps: mps)
        assert pick_device("") == wanted
    assert pick_device("cpu") == "cpu"


def test_models_of_a_file_are_folders_and_safetensors_of_this_computer(tmp_path):
    """Guards which path that stands in a file is used: full ones, of what is there."""
    weights, other = tmp_path / "model.safetensors", tmp_path / "model.ckpt"
    for file in (weights, other):
        file.touch()
    assert models.is_local(str(tmp_path)) and models.is_local(str(weights))
    assert not models.is_local(str(other)) and not models.is_local(str(tmp_path / "none.safetensors"))
    assert not models.is_local(os.path.relpath(tmp_path))
    # the same folder, as another computer's is written
    assert not models.is_local("/" + str(tmp_path)) and not models.is_local("\\" + str(tmp_path))


@pytest.mark.parametrize("out", [".", "new/deep"])
def test_what_is_in_a_folder_does_not_decide_whether_it_takes_files(tmp_path, monkeypatch, out):
    """Guards --out: a folder or a pipe in it may have any name; nothing is left."""
    monkeypatch.chdir(tmp_path)
    for name in ("file", "folder", "content", "lock"):
        (tmp_path / name).mkdir()
    models.check_folder(Path(out))
    assert len(list(tmp_path.iterdir())) == 4
    (tmp_path / "new").touch()
    with pytest.raises(InputError, match='"new" is not a folder'):
        models.check_folder(Path("new/deep"))


@pytest.mark.parametrize(("share", "fits"), [(0.19, True), (0.21, False)])
def test_another_photo_is_one_a_fifth_of_the_spread_away(share, fits, tmp_path):
    """Guards --reference: the distance is measured in the latents' own spread, whatever its scale."""
    save_image(torch.rand(8, 8, 3), tmp_path / "photo.png")
    inverted = torch.randn(1, 4, 1, 1, generator=torch.Generator().manual_seed(0)) * 7
    latents = inverted + share * inverted.std() * torch.tensor([1.0, -1, 1, -1])[None, :, None, None]
    loaded = SimpleNamespace(factor=8, encode_image=lambda _: latents)
    stored = SimpleNamespace(trajectory=SimpleNamespace(clean=inverted))
    if fits:
        assert pictures.photo_of(tmp_path / "photo.png", tmp_path, stored, loaded).shape == (1, 8, 8, 3)
        return
    with pytest.raises(InputError, match="is not the photo that was inverted"):
        pictures.photo_of(tmp_path / "photo.png", tmp_path, stored, loaded)


def test_what_is_kept_is_measured_outside_of_the_mask():
    """Guards both figures: what may change does not count."""
    photo = torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(0)).mul(255).round() / 255
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[:, 4:] = True
    edited = photo.clone()
    edited[:, 32:] = 0
    found = edit._kept(edited, photo, mask)
    assert found.startswith("outside of the blend mask equal to the photo, SSIM ")
    # the windows of SSIM reach over the mask's edge
    assert float(found.split()[-1]) > 0.85 > 0.6 > ssim(edited, photo)
    assert "everything may change" in edit._kept(edited, photo, torch.ones(8, 8, dtype=torch.bool))
    edited[:, :32] += 0.1
    assert "equal" not in edit._kept(edited.clamp(0, 1), photo, mask)


def test_debug_may_stand_anywhere():
    """Guards --debug: it belongs to the program, not to a command, and the command's own error is told beside it."""
    for place in (3, len(MISSING)):
        done = subprocess.run(
            [*MISSING[:place], "--debug", *MISSING[place:]], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2 and "Traceback" in done.stderr
        assert done.stderr.endswith('error: there is no inversion file "none"\n')


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no full device here")
def test_an_output_that_takes_nothing_is_one_line():
    """Guards results into a full disk: a sentence, and Python does not try the rest once more at its end."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "nullinv_core", "--help"], stdout=full, stderr=subprocess.PIPE, text=True,
            check=False, env={**os.environ, "TERMINAL_WIDTH": "80"},
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and "No space left" in done.stderr


def test_letters_that_a_terminal_cannot_show_stop_nothing(tmp_path):
    """Guards prompts and paths beyond the terminal's letters: they are escaped."""
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from nullinv_core import cli; cli.app = lambda _: print('ü→'); cli.main()"],
        capture_output=True, check=False, env={**os.environ, "PYTHONIOENCODING": "ascii:strict"},
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.strip() == b"\\xfc\\u2192"


def test_a_library_s_error_is_one_short_line():
    """Guards what the system refuses: its paragraphs are cut, control characters are shown as such."""
    script = (
        "from nullinv_core import cli\n"
        "def app(_): raise OSError('a\\n \\x1b[31m text ' * 100)\n"
        "cli.app = app; cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (
        done.returncode == 2 and len(done.stderr) < 500 and "\x1b" not in done.stderr and done.stderr.count("\n") == 1
    )


def test_a_stop_while_the_first_bar_is_drawn_ends_the_bars(monkeypatch):
    """Guards the last line of a stopped program: no bar goes on being drawn behind it."""
    drawn = []

    def stop(bars, *_, **__):
        drawn.append(bars.live.is_started)
        drawn.append(bars)
        raise KeyboardInterrupt

    monkeypatch.setattr(console.Progress, "add_task", stop)
    with pytest.raises(KeyboardInterrupt), console.progress() as show:
        show(Event("invert", 1, 2, torch.zeros(1)))
    assert drawn[0] and not drawn[1].live.is_started
