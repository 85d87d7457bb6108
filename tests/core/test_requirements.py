"""What has to be installed, where: nothing in ComfyUI that only the command line needs."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nullinv_core import InputError, load_model

from .test_house import imports

ROOT = Path(__file__).parents[2]
CORE = ROOT / "nullinv_core"
COMFYUI = {"comfy", "comfy_api", "comfy_execution", "folder_paths", "latent_preview", "nodes", "server"}
"""ComfyUI's own modules, and the names of which packages bring others along."""
COME_ALONG = {"huggingface_hub": "diffusers", "tokenizers": "transformers"}
OPTIONAL = {"torchmetrics", "ray"}
"""Are asked for before they are imported."""
PACKAGES = {"PIL": "pillow"}


def required(name):
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return {re.split("[>[]", line)[0] for line in lines if line and not line.startswith("-r")}


def imported(files):
    """Packages that files import from outside, anywhere in them."""
    found = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {name.name for name in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module)
    outside = {name.split(".")[0] for name in found} - set(sys.stdlib_module_names) - COMFYUI - OPTIONAL
    return {PACKAGES.get(name, COME_ALONG.get(name, name)) for name in outside}


def reached(files):
    """Files of ours that others come to import at any time, those others included."""
    todo, found = list(files), set()
    while todo:
        if (path := todo.pop()) in found:
            continue
        found.add(path)
        todo += imports(path, lazy=True)
        if path.name == "__init__.py" and "modules_of(" in path.read_text(encoding="utf-8"):
            todo += path.parent.glob("*.py")
        if path == CORE / "__init__.py":
            # no module: a name that is asked of the package itself
            todo.append(CORE / "api.py")
    return found


def test_the_requirements_are_what_is_imported():
    """Guards ComfyUI's Python, whose other packages a needless one may break: its users install what the nodes come to
    import; those of the command line and of Python the rest; and nobody anything else."""
    nodes = reached(
        [ROOT / "__init__.py", *(ROOT / "nodes").glob("*.py"), *(CORE / "backends" / "comfy").rglob("*.py")]
    )
    assert CORE / "null_text" / "presets" / "fast.py" in nodes and CORE / "demo" / "scenes.py" in nodes
    assert imported(nodes) == required("requirements.txt")
    assert imported(set(CORE.rglob("*.py")) - nodes) - imported(nodes) == required("requirements-cli.txt")
    assert required("requirements-score.txt") | required("requirements-cluster.txt") == OPTIONAL
    for name in ("cli", "score", "cluster"):
        assert f"-r requirements-{name}.txt" in (ROOT / "requirements-dev.txt").read_text(encoding="utf-8")


WITHOUT = (
    "import runpy, sys; sys.modules |= dict.fromkeys({missing!r}); sys.argv = ['nullinv', 'demo', '--out', {out!r}]; "
)
"""What is missing can be neither found nor imported."""
COMMAND = "runpy.run_module('nullinv_core', run_name='__main__')"
ADVICE = "python -m pip install -r requirements.txt -r requirements-cli.txt\n"


@pytest.mark.parametrize(
    ("missing", "body", "said"),
    [
        (["typer", "rich"], COMMAND, f"error: the command line needs typer, rich and diffusers; {ADVICE}"),
        (["diffusers"], COMMAND, f"error: loading a model needs diffusers; {ADVICE}"),
        (["diffusers"], "import nullinv_core; nullinv_core.leading_schedule", ""),
        (["typer", "rich"], "from nullinv_core import load_model; load_model('demo').prompt('a cat')", ""),
    ],
)
def test_without_its_packages_the_command_line_says_what_to_install(tmp_path, missing, body, said):
    """Guards a pack that was installed for ComfyUI: one sentence, while what does not need them works."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(missing=missing, out=str(tmp_path)) + body], capture_output=True,
        text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (2 if said else 0, said)


def test_a_model_without_diffusers_says_what_to_install(monkeypatch):
    """Guards Python's users: the same sentence, as an error that they can catch."""
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(InputError, match=r"needs diffusers; python -m pip install .*-r requirements-cli\.txt$"):
        load_model("demo")
