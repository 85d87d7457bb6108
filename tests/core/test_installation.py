"""``make comfyui``, and what is said of a ComfyUI suite that did not run."""

import os
import shutil
import subprocess
import sys

import pytest

from ..comfyui import installation
from ..published import PACK

SKIPPED = "import os, pytest\n\n\ndef test_of_a_node():\n    pytest.skip(os.environ.get('REASON', 'no reason'))\n"


@pytest.fixture
def comfyui(tmp_path, monkeypatch):
    """A folder that looks like a ComfyUI, and nothing that names it."""
    for name in ("COMFYUI_PATH", "COMFYUI_PYTHON", "COMFYUI_URL"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "a ComfyUI"
    (folder / "comfy").mkdir(parents=True)
    (folder / "main.py").touch()
    (folder / "comfyui_version.py").write_text('# a comment\n__version__ = "0.3.99"\n')
    (folder / "requirements.txt").write_text("torch\ntorchaudio>=2\ntorchvision\n\n# more\nnumpy>=1.25.0\n")
    return folder


@pytest.fixture
def pip(monkeypatch):
    """The commands that would have been run, without a network; each gets an error where ``fails`` is set."""

    def run(command, check):
        assert check
        calls.append([str(word) for word in command])
        if fails:
            raise subprocess.CalledProcessError(1, "pip")

    calls, fails = [], []
    monkeypatch.setattr(installation.subprocess, "run", run)
    monkeypatch.setattr(
        installation.venv, "create", lambda folder, **_: (folder / "bin/python").parent.mkdir(exist_ok=True)
    )
    return calls, fails


def test_a_checkout_gets_an_environment_once(comfyui, pip):
    """Guards make comfyui: the pinned torch, torchaudio alone, nothing the second time, all of it after a failure."""
    calls, fails = pip
    fails.append(True)
    with pytest.raises(subprocess.CalledProcessError):
        installation.set_up(comfyui)
    fails.clear()
    calls.clear()
    assert "got an environment of its own: torch==" in installation.set_up(comfyui)
    together, alone = calls
    assert any(word.startswith("torch==") for word in together) and not any("torchaudio" in word for word in together)
    assert alone[-2:] == ["--no-deps", "torchaudio>=2"]
    assert installation.set_up(comfyui).endswith("is set up") and len(calls) == 2
    (comfyui / "requirements.txt").write_text("torch\nnumpy>=2\n")
    assert "got an environment" in installation.set_up(comfyui) and len(calls) == 3


@pytest.mark.skipif(os.name == "nt", reason="another layout")
def test_an_environment_of_the_users_is_left_alone(comfyui, pip, monkeypatch):
    """Guards what is not ours: neither a .venv without our mark nor the Python of COMFYUI_PYTHON is changed."""
    (comfyui / ".venv/bin").mkdir(parents=True)
    (comfyui / ".venv/bin/python").touch()
    assert "left as it is" in installation.set_up(comfyui)
    shutil.rmtree(comfyui / ".venv")
    monkeypatch.setenv("COMFYUI_PYTHON", "/some/python")
    assert "nothing to set up" in installation.set_up(comfyui)
    assert pip[0] == [] and not (comfyui / ".venv").exists()


def comfyui_command(*words, **environment):
    """How make comfyui ends, and what it says, in a home without a ComfyUI."""
    return subprocess.run(
        [sys.executable, "-m", "tests.comfyui.installation", *words], cwd=PACK, capture_output=True, text=True,
        check=False, env={**os.environ, **environment},
    )  # fmt: skip


@pytest.mark.skipif(any(map(installation.is_comfyui, PACK.parents)), reason="this checkout lies in a ComfyUI")
def test_no_comfyui_is_said_plainly(comfyui, tmp_path):
    """Guards both uses: make comfyui fails with what to do, .ci/run goes on; a wrong path fails in either."""
    home = {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
    done = comfyui_command(**home)
    assert done.returncode == 1 and "set COMFYUI_PATH" in done.stderr
    done = comfyui_command("--if-there", **home)
    assert done.returncode == 0 and "no ComfyUI found" in done.stdout
    done = comfyui_command("--if-there", **home, COMFYUI_PATH=str(tmp_path))
    assert done.returncode == 1 and "is not a ComfyUI folder" in done.stderr and "Traceback" not in done.stderr


def test_a_git_address_is_cloned_once(comfyui, tmp_path):
    """Guards COMFYUI_URL: it goes to COMFYUI_PATH where that is not there yet, and never over what is."""
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", "-C", comfyui]
    (comfyui / "comfy" / "__init__.py").touch()
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "x"]):
        subprocess.run([*git, *words], check=True)
    target = tmp_path / "new" / "ComfyUI"
    given = {"COMFYUI_URL": comfyui.as_uri(), "COMFYUI_PATH": str(target), "COMFYUI_PYTHON": sys.executable}
    first = comfyui_command(**given)
    assert first.returncode == 0 and "cloning" in first.stdout and "ComfyUI 0.3.99" in first.stdout, first.stderr
    (target / "mine").touch()
    assert "cloning" not in comfyui_command(**given).stdout and (target / "mine").exists()


def test_one_process_alone_holds_models_of_full_size():
    """Guards the memory of make test: every file that asks for such a checkpoint is named, but make test-full's."""
    from ..conftest import FULL_SIZE

    texts = {p: p.read_text(encoding="utf-8") for p in (PACK / "tests" / "comfyui").glob("test_*.py")}
    asking = {p for p, text in texts.items() if ".checkpoint(" in text and "pytestmark = pytest.mark.full" not in text}
    assert {p.relative_to(PACK).as_posix() for p in asking} == FULL_SIZE


@pytest.mark.parametrize(
    ("environment", "code", "said"),
    [
        ({"CI": "1", "COMFYUI_PATH": "there"}, 1, "skipped, though there is a ComfyUI"),
        ({"CI": "", "COMFYUI_PATH": "there"}, 0, "ran against 0.3.99"),
        ({"CI": "1"}, 0, "NOT run, no ComfyUI found"),
        ({"CI": "1", "COMFYUI_PATH": "there", "REASON": "this ComfyUI has no such node"}, 0, "(1 skipped)"),
    ],
)
def test_a_suite_that_was_skipped_has_not_passed(comfyui, tmp_path, environment, code, said):
    """Guards CI: green means that the nodes ran, or that the last lines say that there was nothing to run them in; what
    this version of ComfyUI does not have is no failure."""
    tests = tmp_path / "pack" / "tests"
    (tests / "comfyui").mkdir(parents=True)
    for name in ("__init__.py", "conftest.py", "comfyui/__init__.py", "comfyui/installation.py"):
        shutil.copyfile(PACK / "tests" / name, tests / name)
    (tests / "comfyui" / "test_node.py").write_text(SKIPPED)
    home = {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
    environment = {k: str(comfyui) if v == "there" else v for k, v in environment.items()}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--import-mode=importlib", "-p", "no:cacheprovider"], cwd=tests.parent,
        capture_output=True, text=True, check=False, env={**os.environ, **home, **environment},
    )  # fmt: skip
    assert done.returncode == code and said in done.stdout, done.stdout


VISION = """import os, torch
if os.environ["FITS"] == "yes":
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
torch.library.register_fake("torchvision::nms")(lambda dets, scores, iou_threshold: dets)
"""


@pytest.mark.parametrize("fits", ["yes", "no", "none"])
def test_operators_are_stood_in_for_where_torchvision_does_not_fit(tmp_path, fits):
    """Guards the launcher: a torchvision that declares its operators may not meet another declaration of them."""
    packages, folder = tmp_path / "packages", tmp_path / "ComfyUI"
    for place in (packages, folder):
        place.mkdir()
    if fits != "none":
        (packages / "torchvision.py").write_text(VISION)
    (folder / "main.py").write_text("import torch, sys\nprint('ran', 'torchvision' in sys.modules)\n")
    if fits != "none":
        (folder / "main.py").write_text("import torchvision, torch\nprint('ran', torch.ops.torchvision.nms)\n")
    done = subprocess.run(
        [sys.executable, PACK / "tests" / "comfyui" / "launch.py", folder, "main.py"], capture_output=True, text=True,
        check=False, env={**os.environ, "PYTHONPATH": str(packages), "FITS": fits},
    )  # fmt: skip
    assert done.returncode == 0 and "ran" in done.stdout, done.stderr
