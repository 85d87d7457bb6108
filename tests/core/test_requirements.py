"""What has to be installed, where: nothing in ComfyUI that only the command line needs."""

import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMED = {"torch", "diffusers", "transformers", "safetensors", "numpy"}
"""What the whole project stands on, whatever ComfyUI needs of it."""
COMFYUI = {"comfy", "comfy_api", "comfy_execution", "folder_paths", "latent_preview", "nodes", "server"}
"""ComfyUI's own modules, and the names of which packages bring others along."""
COME_ALONG = {"huggingface_hub": "diffusers", "tokenizers": "transformers"}
OPTIONAL = {"torchmetrics", "ray"}
"""Are asked for before they are imported."""
PACKAGES = {"PIL": "pillow"}
CLI = list((ROOT / "nullinv_core" / "cli").glob("*.py"))


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


def test_the_requirements_are_what_is_imported():
    """Guards ComfyUI's Python: its users install what the nodes import and what the project stands on, the command
    line's users two packages more, and nobody anything else."""
    core = [file for file in (ROOT / "nullinv_core").rglob("*.py") if file not in CLI]
    inside = imported([ROOT / "__init__.py", *(ROOT / "nodes").glob("*.py"), *core])
    assert inside | NAMED == required("requirements.txt")
    assert imported(CLI) - inside == required("requirements-cli.txt")
    assert required("requirements-score.txt") | required("requirements-cluster.txt") == OPTIONAL
    for name in ("cli", "score", "cluster"):
        assert f"-r requirements-{name}.txt" in (ROOT / "requirements-dev.txt").read_text(encoding="utf-8")


WITHOUT = "import runpy, sys; sys.modules |= {'typer': None, 'rich': None}; sys.argv = ['nullinv', 'demo']; "
"""Neither can be found or imported."""


def test_without_its_packages_the_command_line_says_what_to_install():
    """Guards a pack that was installed for ComfyUI: one sentence, while the library and its model work."""
    for body, status in (
        ("runpy.run_module('nullinv_core', run_name='__main__')", 2),
        ("from nullinv_core.backends.diffusers import load_model; load_model('demo').prompt('a cat')", 0),
    ):
        done = subprocess.run([sys.executable, "-c", WITHOUT + body], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == status, done.stderr
        assert status == 0 or done.stderr == (
            "error: the command line needs typer and rich; python -m pip install typer rich\n"
        )
