"""The pack as ComfyUI lists it."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nullinv_core.settings import LISTS, NODES

from ..saved_widgets import AFTER_A_RUN, SAVED_WIDGETS

PACK = Path(__file__).parents[2]
HELP_PAGES = {page.stem for page in (PACK / "web" / "docs").glob("NullInv*.md")}
"""One for each node."""


@pytest.fixture(scope="module")
def nodes(comfy):
    """Those that people take; others are parts of them."""
    found = {name: info for name, info in comfy.get("/object_info").items() if name.startswith("NullInv")}
    parts = {name for name, info in found.items() if info["category"].endswith("/parts")}
    assert parts == {name for name in found if name.startswith("NullInvPart")}
    return {name: info for name, info in found.items() if name not in parts}


def test_the_pack_loads_nothing_heavy(comfy):
    """Guards start-up: what ComfyUI has not loaded itself waits for its first use, all but two small packages that
    it loads too. The time that it tells is loose: other work on this computer makes it longer."""
    loaded = json.loads(comfy.script("loaded.py", comfy.base / "custom_nodes" / "null-text-inversion").splitlines()[-1])
    assert {"the_pack"} <= set(loaded) <= {"the_pack", "PIL", "safetensors"}
    found = re.search(r"([\d.]+) seconds: \S*null-text-inversion", comfy.text())
    assert found and float(found[1]) < 10


def choices(comfy, node, name):
    """What a node offers for an input, read anew."""
    return comfy.get(f"/object_info/{node}")[node]["input"]["required"][name][1]["options"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems take no such names")
def test_names_that_are_no_text_hide_nothing(comfy, nodes):
    """Guards the pack from one upload: with such names there at the start it is imported whole, and lists the rest."""
    planted = [b"output/\xff.safetensors", b"input/\xff.safetensors", b"models/diffusers/\xff/model_index.json"]
    assert all(os.path.exists(os.path.join(os.fsencode(comfy.base), path)) for path in planted)
    assert len(nodes) == len(HELP_PAGES)
    files = [comfy.base / place / "named.safetensors" for place in ("output", "input")]
    folder = comfy.base / "models" / "diffusers" / "named"
    folder.mkdir()
    try:
        for path in (*files, folder / "model_index.json"):
            path.touch()
        offered = choices(comfy, "NullInvLoad", "file")
        assert {"output/named.safetensors", "input/named.safetensors"} <= set(offered)
        models = choices(comfy, "NullInvLoadDiffusers", "model")
        assert "named" in models
        assert "\udcff" not in "".join([*offered, *models])
    finally:
        for path in files:
            path.unlink()
        shutil.rmtree(folder)


def test_every_node_says_what_it_does(nodes):
    """Guards the user's first look: a name for people, our category, a description, a tooltip at every socket."""
    assert set(nodes) == HELP_PAGES
    for name, info in nodes.items():
        assert info["category"] == "null-text inversion" and info["display_name"] != name and info["description"]
        inputs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
        assert all(spec[1].get("tooltip") for spec in inputs.values()), name
        assert all(info["output_tooltips"]) and len(info["output_tooltips"]) == len(info["output"]), name


def bypassed(info):
    """The input that the page hands on in place of a node's first output where the node is bypassed (Ctrl+B): the one
    at its place if that is of its type, else the first that is; None where no input is."""
    inputs = [
        (name, spec[0]) for part in ("required", "optional") for name, spec in info["input"].get(part, {}).items()
    ]
    wanted = info["output"][0]
    names = [name for name, kind in inputs if kind == wanted]
    return inputs[0][0] if inputs[0][1] == wanted else next(iter(names), None)


def test_a_bypassed_node_hands_on_what_it_works_on(nodes):
    """Guards Ctrl+B: Keep Photo hands on the edit, not the photo without it."""
    found = {name: bypassed(info) for name, info in nodes.items() if info["output"][0] in ("IMAGE", "LATENT", "MODEL")}
    assert {name: handed for name, handed in found.items() if handed} == {
        "NullInvApply": "model", "NullInvAttentionMaps": "image", "NullInvDDIMInvert": "latent",
        "NullInvEditPhoto": "image", "NullInvKeepPhoto": "edited",
    }  # fmt: skip


@pytest.mark.parametrize("node", NODES)
def test_widgets_are_the_settings(comfy, nodes, node):
    """Guards the one place: names in their order, kinds, ranges, defaults, choices, tooltips; few are left to see where
    ComfyUI can fold the others away."""
    described = {**nodes[node]["input"]["required"], **nodes[node]["input"].get("optional", {})}
    settings = [one for one in NODES[node] if one.in_node]
    widgets = {name: spec for name, spec in described.items() if "default" in spec[1]}
    assert list(widgets) == [one.widget for one in settings]
    folds = "0.3.6" not in comfy.get("/system_stats")["system"]["comfyui_version"]
    for one in settings:
        kind, has = widgets[one.widget]
        wanted = {"tooltip": one.tooltip, "default": "" if one.kind in LISTS else one.default}
        if one.kind in ("int", "seed", "float", "window"):
            wanted |= {"min": one.least, "max": min(one.most, 2**31 - 1)} | ({"step": one.step} if one.step else {})
        if one.choices:
            wanted["options"] = list(one.choices())
        assert {name: has.get(name) for name in wanted} == wanted
        assert kind == {"int": "INT", "seed": "INT", "bool": "BOOLEAN", "choice": "COMBO", "words": "STRING",
                        "windows": "STRING"}.get(one.kind, "FLOAT")  # fmt: skip
        assert bool(has.get("advanced")) is (folds and one.advanced)
        assert bool(has.get("control_after_generate")) is (one.kind == "seed")


def saved_in_order(info):
    """Names of a node's widgets, as the page lists their values in a workflow: required inputs first, and behind a seed
    a widget of the page's own. Sockets have no place in that list."""
    for name, (kind, *more) in (
        one for part in ("required", "optional") for one in info["input"].get(part, {}).items()
    ):
        has = more[0] if more else {}
        widget = isinstance(kind, list) or kind in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
        if widget and not has.get("forceInput"):
            yield name
            if has.get("control_after_generate") or name in ("seed", "noise_seed"):
                yield AFTER_A_RUN


def test_saved_workflows_find_their_widgets(nodes):
    """Guards saved workflows, which know a widget by its place alone: what was saved stays first, in its order. The
    list is written by hand and must never be made from the code: it would agree with every mistake."""
    assert SAVED_WIDGETS.keys() <= nodes.keys()
    for name, saved in SAVED_WIDGETS.items():
        assert list(saved_in_order(nodes[name]))[: len(saved)] == saved, name


def test_texts_take_dynamic_prompts(nodes):
    """Guards {a|b} in every text that describes a picture, as in ComfyUI's own; a list of words takes none."""
    take = {
        (node, name)
        for node, info in nodes.items()
        for name, spec in info["input"].get("required", {}).items()
        if spec[0] == "STRING" and spec[1].get("dynamicPrompts")
    }
    assert take == {(node, name) for node in ("NullInvP2PEdit", "NullInvEditPhoto")
                    for name in ("source_text", "edit_text")}  # fmt: skip


def test_every_node_has_a_help_page(comfy, nodes):
    """Guards the help that ComfyUI shows on a node: it serves the page and its pictures, and the page names every
    input and what goes wrong."""
    for name, info in nodes.items():
        page = comfy.read(f"/extensions/null-text-inversion/docs/{name}.md").decode()
        pictures = re.findall(r"!\[[^]]+]\(([^)]+)\)", page)
        assert pictures, name
        for picture in pictures:
            assert comfy.read(f"/extensions/null-text-inversion/docs/{picture}").startswith(b"\x89PNG"), picture
        assert page.startswith(f"# {info['display_name']}")
        inputs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
        missing = [i for i in inputs if not re.search(rf"\b{i}\b", page)]
        assert not missing, f"{name}: {missing}"
        assert "**Common mistakes.**" in page, name


def test_an_older_comfyui_gets_one_sentence(tmp_path):
    """Guards start-up in a ComfyUI without V3 nodes: the import fails with what to do."""
    (tmp_path / "comfy").mkdir()
    (tmp_path / "comfy" / "__init__.py").touch()
    done = subprocess.run(
        [sys.executable, "-c", f"import runpy; runpy.run_path({str(PACK / '__init__.py')!r})"], capture_output=True,
        text=True, check=False, env={**os.environ, "PYTHONPATH": str(tmp_path)}, cwd=tmp_path,
    )  # fmt: skip
    assert done.stderr.strip().endswith(
        "ImportError: Null-Text Inversion needs ComfyUI 0.3.64 or newer; update ComfyUI"
    )
