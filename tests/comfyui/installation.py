"""Where ComfyUI is, and an environment for it: ``python -m tests.comfyui.installation``, which is ``make comfyui``.

Needs nothing but Python. A checkout without a ``.venv`` gets one, with ComfyUI's own requirements and the torch that
``constraints.txt`` pins; a ``.venv`` of somebody else's making is left as it is. A second run changes nothing.
"""

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

PACK = Path(__file__).parents[2]
USUAL = Path.home() / "comfy" / "ComfyUI"
MARK = "made-by-null-text-inversion"
"""A file in an environment of ours: what was installed, or that the installation has not ended."""
UNLISTED = ["requests"]
"""What ComfyUI 0.3.64 imports and its requirements do not name."""
HELP = (
    "no ComfyUI found: set COMFYUI_PATH to a checkout, put one in ~/comfy/ComfyUI, or set COMFYUI_URL to a git address "
    "to clone there"
)


def is_comfyui(folder):
    """Whether a folder is a ComfyUI."""
    return (folder / "main.py").is_file() and (folder / "comfy").is_dir()


def find_comfyui():
    """ComfyUI's folder: COMFYUI_PATH, the installation around us, or ~/comfy/ComfyUI; None where there is none.

    Raises FileNotFoundError where COMFYUI_PATH names no ComfyUI.
    """
    named = os.environ.get("COMFYUI_PATH")
    candidates = [Path(named)] if named else [*PACK.parents, USUAL]
    found = next((folder for folder in candidates if is_comfyui(folder)), None)
    if named and not found:
        raise FileNotFoundError(f"COMFYUI_PATH={named} is not a ComfyUI folder")
    return found


def own_python(comfyui):
    """Where the Python of ComfyUI's own environment is, if it has one."""
    return comfyui / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def find_python(comfyui):
    """The Python that runs ComfyUI: COMFYUI_PYTHON, its own .venv, or ours."""
    own = own_python(comfyui)
    return os.environ.get("COMFYUI_PYTHON") or (str(own) if own.exists() else sys.executable)


def version_of(comfyui):
    """ComfyUI's version, as its own file states it."""
    return re.search(r'"(.+)"', (comfyui / "comfyui_version.py").read_text(encoding="utf-8"))[1]


def requirements(comfyui):
    """What to install together, what alone, without what it asks for, and the pinned torch; pip's requirements.

    Alone comes torchaudio: it would bring another torch. Where its compiled part does not fit ours, the tests' launcher
    stands in for it.
    """
    lines = (comfyui / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pinned = re.search(r"^torch==.+$", (PACK / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)[0]
    alone = [line for line in lines if re.match(r"torchaudio\b", line)]
    return [*UNLISTED, *(line for line in lines if line not in alone)], alone, pinned


def set_up(comfyui):
    """Give ComfyUI an environment where it has none; returns a sentence that says what was done.

    Raises subprocess.CalledProcessError where pip fails; the next call starts anew.
    """
    python = os.environ.get("COMFYUI_PYTHON")
    if python:
        return f"{comfyui} runs with {python} (COMFYUI_PYTHON): nothing to set up"
    mark, (together, alone, pinned) = comfyui / ".venv" / MARK, requirements(comfyui)
    if own_python(comfyui).exists() and not mark.exists():
        return f"{comfyui} has an environment that was not made here: left as it is"
    wanted = hashlib.sha256("\n".join([*together, *alone, pinned, sys.version]).encode()).hexdigest()
    if mark.exists() and mark.read_text() == wanted:
        return f"{comfyui} is set up"
    mark.parent.mkdir(exist_ok=True)
    mark.write_text("unfinished")
    venv.create(comfyui / ".venv", clear=False, with_pip=True)
    pip = [own_python(comfyui), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    with tempfile.TemporaryDirectory() as folder:
        constraint, list_of_them = Path(folder) / "constraint.txt", Path(folder) / "requirements.txt"
        constraint.write_text(pinned)
        list_of_them.write_text("\n".join(together))
        subprocess.run([*pip, "--constraint", constraint, pinned, "--requirement", list_of_them], check=True)
        if alone:
            subprocess.run([*pip, "--no-deps", *alone], check=True)
    mark.write_text(wanted)
    return f"{comfyui} got an environment of its own: {pinned}, {len(together)} requirements"


def main():
    """Set up the ComfyUI that is there, or that COMFYUI_URL names; with ``--if-there``, none is no error."""
    url, folder = os.environ.get("COMFYUI_URL"), Path(os.environ.get("COMFYUI_PATH") or USUAL)
    if url and not is_comfyui(folder):
        print(f"cloning {url} to {folder}", flush=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["git", "clone", "--quiet", "--depth", "1", "--", url, folder], check=True)
    try:
        comfyui = find_comfyui()
    except FileNotFoundError as error:
        sys.exit(str(error))
    if comfyui:
        print(f"ComfyUI {version_of(comfyui)}: {set_up(comfyui)}")
    elif "--if-there" in sys.argv:
        print(HELP)
    else:
        sys.exit(HELP)


if __name__ == "__main__":
    main()
