"""What the Comfy registry and ComfyUI-Manager read of this pack, and what its archive holds."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from docs import pictures

from ..published import PACK, published_files

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

COMFY = os.environ.get("COMFY_CLI") or shutil.which("comfy")
GPUS = ("NVIDIA CUDA", "AMD ROCm", "Intel Arc", "Apple Metal")


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((PACK / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def address(project):
    """The account and the name of the repository."""
    found = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+)", project["project"]["urls"]["Repository"])
    assert found
    return found[1]


def test_the_registry_finds_what_it_asks_for(project):
    """Guards publishing: name, version and versions are of the form that the registry takes; without comfy-cli too."""
    about, comfy = project["project"], project["tool"]["comfy"]
    assert re.fullmatch(r"[a-z][a-z0-9]*([._-][a-z0-9]+)*", about["name"]) and "comfyui" not in about["name"]
    assert about["description"] and about["license"] == "Apache-2.0"
    assert re.fullmatch(r">=\d+\.\d+\.\d+", comfy["requires-comfyui"])
    assert comfy["PublisherId"] and comfy["DisplayName"] == "Null-Text Inversion"
    wanted = {"Operating System :: OS Independent", *(f"Environment :: GPU :: {gpu}" for gpu in GPUS)}
    assert set(about["classifiers"]) == wanted


def test_the_manager_finds_the_version(project):
    """Guards updates: ComfyUI-Manager reads a static version of three numbers, and knows no pack without it."""
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["project"]["version"])
    assert "version" not in project["project"]["dynamic"]


def test_the_oldest_comfyui_is_the_same_everywhere(project):
    """Guards what users read: the entry point's refusal and the README name the version that the registry checks."""
    oldest = project["tool"]["comfy"]["requires-comfyui"].removeprefix(">=")
    for name in ("__init__.py", "README.md"):
        assert re.findall(r"(?:needs )?ComfyUI ([\d.]+\d) or newer", (PACK / name).read_text("utf-8")) == [oldest], name


def test_icon_and_banner_are_pictures_of_ours(project, address):
    """Guards the registry's page: both lie in the repository, are of the shapes it asks for, and as our code draws
    them."""
    shapes = {}
    for name, drawn in (("Icon", pictures.icon()), ("Banner", pictures.banner())):
        path = project["tool"]["comfy"][name].removeprefix(f"https://raw.githubusercontent.com/{address}/main/")
        kept = Image.open(PACK / path)
        assert (kept.size, kept.mode) == (drawn.size, drawn.mode)
        difference = np.abs(np.asarray(kept, float) - np.asarray(drawn, float))
        # another Pillow may round otherwise
        assert difference.mean() < 0.5, f"{path}: python -m docs.pictures"
        shapes[name] = kept.size
    (width, height), (wide, high) = shapes["Icon"], shapes["Banner"]
    assert width == height <= 400 and wide * 9 == high * 21


PLACEHOLDERS = {
    "pyproject.toml": ("OWNER", "somebody"),
    "README.md": ("URL-OF-THIS-REPOSITORY", "https://github.com/somebody/null-text-inversion"),
    "CONTRIBUTING.md": ("URL-OF-THIS-REPOSITORY", "https://github.com/somebody/null-text-inversion"),
    "SECURITY.md": ("SECURITY-CONTACT", "security@example.com"),
}
"""What CONTRIBUTING tells the owner to write once in each file, and what another may write."""


@pytest.mark.parametrize("owned", [False, True])
def test_the_owners_name_stands_where_contributing_says(tmp_path, owned):
    """Guards CONTRIBUTING's steps for the owner, before they are done and after: who publishes is named in
    pyproject.toml alone, and where the repository lies in what is told to be typed besides."""
    texts = {path: (PACK / path).read_text(encoding="utf-8") for path in {*published_files(), *PLACEHOLDERS}
             if path.endswith((".py", ".md", ".toml"))}  # fmt: skip
    if owned:
        texts |= {path: texts[path].replace(*words) for path, words in PLACEHOLDERS.items()}
    project = tomllib.loads(texts["pyproject.toml"])
    home, publisher = project["project"]["urls"]["Repository"], project["tool"]["comfy"]["PublisherId"]
    nobody = home.startswith("https://github.com/OWNER/")
    assert not (owned and nobody)
    assert ("OWNER" in texts["pyproject.toml"].replace("# OWNER", "")) == (publisher == "OWNER") == nobody
    assert (PLACEHOLDERS["SECURITY.md"][0] in texts["SECURITY.md"]) == nobody
    for path in ("README.md", "CONTRIBUTING.md"):
        typed = re.findall(r"git clone (?:--depth 1 )?(\S+)", texts.pop(path))
        assert typed == ["URL-OF-THIS-REPOSITORY" if nobody else home], path
    del texts["pyproject.toml"]
    assert not [path for path, text in texts.items() if home.removeprefix("https://") in text]


def imports(path, known):
    """What a file imports by relative imports: paths of modules that lie in ``known``, a set of all our files."""
    for node in ast.walk(ast.parse((PACK / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = Path(path).parents[node.level - 1]
            parts = [base.joinpath(*node.module.split("."))] if node.module else []
            parts += [(parts or [base])[0] / alias.name for alias in node.names]
            for part in parts:
                yield from {part.with_suffix(".py").as_posix(), (part / "__init__.py").as_posix()} & known


def test_the_archive_holds_what_the_nodes_need_and_no_more():
    """Guards .comfyignore: no test, benchmark or training; every module, help page and workflow; nothing that a
    published module imports is left out. The whole ComfyUI suite runs with these files alone."""
    files = set(published_files())
    assert {path.split("/")[0] for path in files} == {
        "__init__.py", "nodes", "nullinv_core", "web", "workflows", "docs", "LICENSE", "README.md", "pyproject.toml",
        "requirements.txt", "requirements-cli.txt",
    }  # fmt: skip
    assert not [path for path in files if re.search(r"train|muon|evaluate|test|benchmark", path)]
    # of the site, nothing but its first pages, which the README leads to
    assert all(re.fullmatch(r"docs/[\w-]+\.md", path) for path in files if path.startswith("docs/"))
    everything = {path.relative_to(PACK).as_posix() for path in (PACK / "nullinv_core").rglob("*.py")}
    everything |= {path.relative_to(PACK).as_posix() for path in (PACK / "nodes").glob("*.py")}
    for path in sorted(files):
        if path.endswith(".py"):
            assert not set(imports(path, everything)) - files, path
    assert "nullinv_core/demo/scenes.py" in set(imports("nodes/sources.py", everything))
    left_out = {path for path in everything - files if not path.startswith("nullinv_core/demo/")}
    assert not left_out
    for folder, endings in (("web/docs", "md"), ("workflows", "json"), ("workflows", "jpg")):
        assert {p.relative_to(PACK).as_posix() for p in (PACK / folder).glob(f"*.{endings}")} <= files


def test_the_registrys_security_check_has_nothing_to_say():
    """Guards publishing: the rules that ``comfy node validate`` looks for, which will become errors."""
    rules = ["--select", "S102,S307,E702", "--exit-zero"]
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", ".", "-q", *rules], cwd=PACK, capture_output=True, text=True, check=True
    )
    assert done.stdout == ""


@pytest.mark.skipif(not COMFY, reason="comfy-cli is not installed: make validate")
def test_comfy_cli_validates_and_packs_the_same_files(tmp_path):
    """Guards publishing by the registry's own program, where it is installed: make validate."""
    # its archive lies beside the files: it must not be left in a checkout
    copy = tmp_path / "pack"
    shutil.copytree(PACK, copy, ignore=shutil.ignore_patterns(".venv", ".git", "demo-out", "build", "__pycache__"))
    for words in ("init", "--quiet"), ("add", "."):
        subprocess.run(["git", "-C", copy, *words], check=True)
    (tmp_path / "home").mkdir()
    quiet = {"HOME": str(tmp_path / "home"), "DO_NOT_TRACK": "1", "COMFY_NO_UPDATE_CHECK": "1"}

    def comfy(*words):
        done = subprocess.run(
            [COMFY, "--skip-prompt", "node", *words], cwd=copy, env={**os.environ, **quiet}, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, check=False, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0 and "Warning" not in done.stdout, done.stdout
        return done.stdout

    assert "All validation checks passed" in comfy("validate")
    comfy("pack")
    with zipfile.ZipFile(copy / "node.zip") as archive:
        assert sorted(archive.namelist()) == published_files()


def test_the_workflows_publish_only_what_was_tested():
    """Guards .github: every Python that we name is tested, and the registry gets nothing that has not been."""
    yaml = pytest.importorskip("yaml")
    read = {p.stem: yaml.safe_load(p.read_text(encoding="utf-8")) for p in (PACK / ".github/workflows").glob("*.yml")}
    assert read.keys() == {"test", "publish", "docs"}
    versions = read["test"]["jobs"]["core"]["strategy"]["matrix"]["python"]
    assert versions == ["3.10", "3.11", "3.12", "3.13"]
    publish = read["publish"]["jobs"]["publish"]
    assert publish["needs"] == "test" and read["publish"]["jobs"]["test"]["uses"] == "./.github/workflows/test.yml"
    assert "secrets.REGISTRY_ACCESS_TOKEN" in json.dumps(publish)
    # yaml reads the key "on" as true
    assert read["publish"][True]["push"] == {"branches": ["main"]}
    may_write = [name for name, job in read["publish"]["jobs"].items() if "permissions" in job]
    assert may_write == ["tag"] and read["publish"]["permissions"] == {"contents": "read"}
    assert "publish" in read["publish"]["jobs"]["tag"]["needs"] and read["publish"]["concurrency"]
    site = read["docs"]["jobs"]
    assert "make docs" in json.dumps(site["build"]) and site["publish"]["needs"] == "build"
    assert "refs/heads/main" in site["publish"]["if"]


def git(folder, *arguments):
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def runner(tmp_path):
    """Pushes a commit with such lines in its pyproject.toml, then runs what the workflow does about it in a fresh
    checkout: whether the version is new, and with ``published`` the tag. Gives that step's end and its outputs."""
    workflow = yaml.safe_load((PACK / ".github" / "workflows" / "publish.yml").read_text(encoding="utf-8"))
    home, work = tmp_path / "home", tmp_path / "work"
    git(tmp_path, "init", "-q", "--bare", "-b", "main", home)
    git(tmp_path, "clone", "-q", home, work)
    lines = {"name": "pack", "version": "0.1.0", "Repository": "https://github.com/me/pack", "PublisherId": "me"}

    def step(job, **environment):
        checkout = tmp_path / "checkout"
        shutil.rmtree(checkout, ignore_errors=True)
        git(tmp_path, "clone", "-q", "--depth", "1", "--no-tags", home.as_uri(), checkout)
        (told := tmp_path / "output").write_text("")
        (run,) = (one["run"] for one in workflow["jobs"][job]["steps"] if "run" in one)
        done = subprocess.run(["bash", "-e", "-c", run], cwd=checkout, capture_output=True, text=True, check=False,
                              env={**os.environ, "GITHUB_OUTPUT": str(told), **environment})  # fmt: skip
        return done, dict(line.split("=") for line in told.read_text().splitlines())

    def push(*, published=True, **changed):
        lines.update(changed)
        (work / "pyproject.toml").write_text("".join(f'{name} = "{value}"\n' for name, value in lines.items()))
        git(work, "add", "-A")
        git(work, "commit", "-qm", "x", "--allow-empty")
        git(work, "push", "-q", "origin", "HEAD:main")
        done, outputs = step("version", HERE="https://github.com/me/pack")
        if published and "new" in outputs:
            written, _ = step("tag", TAG=outputs["tag"])
            assert written.returncode == 0, written.stderr
        return done, outputs

    return push


@pytest.mark.skipif(shutil.which("bash") is None, reason="the steps are of a Linux runner")
def test_what_is_published_is_new(runner):
    """Guards the first version, which no tag comes before; one whose tests failed, which the next push publishes
    though nothing in pyproject.toml changes; and that no version is published twice."""
    first, second = {"new": "true", "tag": "v0.1.0"}, {"new": "true", "tag": "v0.1.1"}
    assert [runner(published=False)[1], runner()[1], runner()[1], runner(name="other")[1]] == [first, first, {}, {}]
    assert [runner(version="0.1.1", published=False)[1], runner(name="pack")[1], runner()[1]] == [second, second, {}]


@pytest.mark.skipif(shutil.which("bash") is None, reason="the steps are of a Linux runner")
def test_nothing_is_published_for_nobody_or_from_elsewhere(runner):
    """Guards a tree without an owner, whose pushes are no errors, and a copy that names the repository it comes from;
    the push that names its own is the first to be published."""
    nobody, outputs = runner(PublisherId="OWNER", Repository="https://github.com/OWNER/pack")
    assert nobody.returncode == 0 and outputs == {} and "::notice" in nobody.stdout
    other, outputs = runner(PublisherId="me", Repository="https://github.com/other/pack")
    assert other.returncode == 1 and outputs == {} and "names another repository" in other.stdout
    assert runner(Repository="https://github.com/me/pack")[1] == {"new": "true", "tag": "v0.1.0"}


def test_what_mutants_leave_out_is_there(project):
    """Guards make mutants: pytest does not complain of a file to ignore that has another name now."""
    left_out = [one.partition("=") for one in project["tool"]["mutmut"]["pytest_add_cli_args_test_selection"][1:]]
    for option, _, value in left_out:
        path, _, name = value.partition("::")
        found = list(PACK.glob(path))
        assert found and (option != "--deselect" or f"def {name}(" in found[0].read_text(encoding="utf-8")), value
