"""The example workflows in ComfyUI's real page, in headless Chromium."""

import json
import shutil
import time
import warnings

import numpy as np
import pytest
from PIL import Image

from nullinv_core.settings import EDIT

from ..saved_widgets import SAVED_WIDGETS
from .outputs import newest
from .server import PACK, error_of

FOLDER = PACK / "workflows"
WORKFLOWS = sorted(path.stem for path in FOLDER.glob("*.json"))
SHOTS = PACK / "build" / "screenshots"
QUICK = {"steps": 2, "inner_steps": 1, "preset": "custom", "size": 64}
"""Widgets that are turned down in every workflow, so that all of them run in the time of one."""
SMALL = {"width": 64, "height": 64}
READY = "window.app && window.app.vueAppReady && window.app.canvas"
SETTINGS = {
    "Comfy.TutorialCompleted": True, "Comfy.Release.Status": "skipped", "LiteGraph.Canvas.MinFontSizeForLOD": 0,
}  # fmt: skip
"""No windows over the graph at the first start, and texts at every zoom."""
OUTSIDE = ("net::ERR", "Failed to fetch", "Network Error", "AxiosError", "CORS policy")
"""What the page says where it asks servers of its own for news; the tests run without a network."""
VARIED = ("invert-and", "reweight", "several")
"""Workflows that save several pictures of one size, none of which may be another's."""
OWN_START = "graph accessed before initialization"
OWN_SETTINGS = "addSetting"
"""What the page says of itself while it opens, and where 0.3.64's stumbles then, with no other nodes than its own."""
UNTOLD = ("/user.css", "/userdata", "/api/i18n", "/manager/")
"""What the page asks its own server for and does not mind to miss."""


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    playwright = pytest.importorskip("playwright.sync_api") if chromium else None
    if playwright is None:
        warnings.warn("NO CHROMIUM FOUND: the workflows are not tested in ComfyUI's page", stacklevel=1)
        pytest.skip("no Chromium")
    with playwright.sync_playwright() as started:
        yield started.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])


def note(problems, message):
    """Keep an error of the console; an answer that failed is judged by ``missed``, which knows its address."""
    outside = any(part in message.text for part in (*OUTSIDE, OWN_START))
    if message.type == "error" and not outside and "Failed to load resource" not in message.text:
        problems.append(message.text)


def missed(problems, own, answer):
    """Keep an answer of our own server that is an error."""
    if answer.status >= 400 and answer.url.startswith(own) and not any(part in answer.url for part in UNTOLD):
        problems.append(f"{answer.status} for {answer.url}")


@pytest.fixture(scope="module")
def page(comfy, browser):
    """ComfyUI's page, ready. ``problems`` collects what its console calls an error."""
    comfy.post("/settings", SETTINGS)
    opened = browser.new_page(viewport={"width": 1900, "height": 1000})
    opened.problems = []
    opened.on("pageerror", lambda error: opened.problems.append(f"{error}\n{error.stack}"))
    opened.on("console", lambda message: note(opened.problems, message))
    opened.on("response", lambda answer: missed(opened.problems, comfy.url("/"), answer))
    opened.goto(comfy.url("/"))
    wait(opened)
    return opened


def wait(page):
    """Wait until the page, opened or loaded again, is ready."""
    page.wait_for_function(READY, timeout=90_000)
    page.wait_for_timeout(3_000)


@pytest.fixture(scope="module")
def checkpoint(comfy, page):
    """The checkpoint that the workflows for Stable Diffusion 1.5 name, with random weights; and their photo. The page
    is loaded again, to find them."""
    from .build_workflows import CHECKPOINT

    path = comfy.base / "models" / "checkpoints" / CHECKPOINT
    path.hardlink_to(comfy.checkpoint("sd15"))
    Image.fromarray(np.tile(np.linspace(0, 255, 96, dtype=np.uint8)[:, None, None], (1, 96, 3))).save(
        comfy.base / "input" / "example.png"
    )
    page.reload()
    wait(page)
    yield path
    path.unlink()


def load(page, document):
    """Load a workflow as the page does; return the nodes that it could not make."""
    page.evaluate("document => window.app.loadGraphData(document)", document)
    page.wait_for_timeout(1_000)
    return page.evaluate("() => window.app.graph._nodes.filter(n => n.has_errors || n.type === undefined).length")


def set_widgets(page, values):
    page.evaluate(
        """values => window.app.graph._nodes.forEach(node => (node.widgets || []).forEach(widget => {
            if (widget.name in values && node.type !== 'NullInvDemoScene') widget.value = values[widget.name]
        }))""",
        values,
    )


def fit(page):
    """Fit the graph into the window."""
    page.evaluate(
        """() => {
            const boxes = window.app.graph._nodes.map(n => n.getBounding())
            const left = Math.min(...boxes.map(b => b[0])), top = Math.min(...boxes.map(b => b[1]))
            const right = Math.max(...boxes.map(b => b[0] + b[2])), bottom = Math.max(...boxes.map(b => b[1] + b[3]))
            const ds = window.app.canvas.ds, canvas = window.app.canvas.canvas
            const ratio = window.devicePixelRatio || 1
            const width = canvas.width / ratio - 120, height = canvas.height / ratio - 200
            ds.scale = Math.min(width / (right - left), height / (bottom - top), 1)
            ds.offset[0] = 80 / ds.scale - left
            ds.offset[1] = 120 / ds.scale - top
            window.app.canvas.setDirty(true, true)
        }"""
    )
    page.wait_for_timeout(1_200)


def shoot(page, name):
    """Keep a screenshot of the whole graph."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    fit(page)
    page.screenshot(path=SHOTS / f"{name}.png")


def queue(page, comfy):
    """Queue what the page shows; return its finished history entry."""
    before = set(comfy.get("/history"))
    page.evaluate("() => window.app.queuePrompt(0, 1)")
    end = time.monotonic() + 240
    while time.monotonic() < end:
        new = set(comfy.get("/history")) - before
        if new:
            return comfy.get("/history")[new.pop()]
        page.wait_for_timeout(250)
    raise AssertionError(f"the page queued nothing that finished: {page.problems}\n{comfy.text()[-2000:]}")


def test_there_are_workflows():
    """Guards the test below against an empty folder: nine workflows for each kind of model, with thumbnails."""
    assert len(WORKFLOWS) == 18
    assert all((FOLDER / f"{name}.jpg").stat().st_size > 1_000 for name in WORKFLOWS)


def test_comfyui_lists_them(comfy):
    """Guards the Templates window: our pack and its workflows are in it."""
    listed = comfy.get("/api/workflow_templates")
    assert sorted(listed["null-text-inversion"]) == WORKFLOWS


def test_the_files_are_what_their_source_builds(comfy):
    """Guards against a workflow that was left behind when a node changed."""
    if "0.3.6" in comfy.get("/system_stats")["system"]["comfyui_version"]:
        pytest.skip("this ComfyUI is older than the one whose node descriptions the files are written with")
    from .build_workflows import documents

    for name, document in documents(comfy.get("/object_info")):
        assert json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")) == json.loads(json.dumps(document)), (
            name
        )


def test_a_saved_file_connects_to_load_inversion(page):
    """Guards the page's own check of types, which decides before the server does."""
    load(page, {"nodes": [], "links": [], "groups": [], "config": {}, "extra": {}, "version": 0.4})
    linked = page.evaluate(
        """() => {
            const graph = window.app.graph, [save, load] = ["NullInvSave", "NullInvLoad"].map(kind => {
                const node = window.LiteGraph.createNode(kind)
                graph.add(node)
                return node
            })
            const slot = load.inputs.findIndex(input => input.name === "file")
            return Boolean(save.connect(0, load, slot)) && load.inputs[slot].link != null
        }"""
    )
    assert linked


def test_an_edit_photo_from_before_its_kinds_loads(page):
    """Guards workflows with fewer widgets: those that are there keep their values, the others have their defaults."""
    document = json.loads((FOLDER / "1-edit-photo-demo.json").read_text(encoding="utf-8"))
    (node,) = (node for node in document["nodes"] if node["type"] == "NullInvEditPhoto")
    read = """() => Object.fromEntries(window.app.graph._nodes.find(n => n.type === "NullInvEditPhoto").widgets
        .filter(w => w.name !== "control_after_generate").map(w => [w.name, w.value]))"""
    load(page, document)
    now = page.evaluate(read)
    assert (now["cfg"], now["kind"], now["exclude_words"], now["variant"]) == (3, "replace", "", 0)
    first = node["widgets_values"].index(now["kind"])
    assert SAVED_WIDGETS["NullInvEditPhoto"].index("kind") == first == 8
    del node["widgets_values"][first:]
    load(page, document)
    assert page.evaluate(read) == now


def test_a_workflow_from_before_a_widget_loads(page):
    """Guards workflows that were written before *variant* could change after a run: every other value stays."""
    document = json.loads((FOLDER / "3-replace-a-word-demo.json").read_text(encoding="utf-8"))
    (plan,) = (node for node in document["nodes"] if node["type"] == "NullInvP2PEdit")
    read = """() => {
        const widgets = window.app.graph._nodes.find(n => n.type === "NullInvP2PEdit").widgets
        const after = widgets.find(w => w.name === "variant").linkedWidgets[0]
        return Object.fromEntries(widgets.filter(w => w !== after).map(w => [w.name, w.value]))
    }"""
    load(page, document)
    now = page.evaluate(read)
    plan["widgets_values"].remove("fixed")
    load(page, document)
    assert page.evaluate(read) == now


@pytest.mark.parametrize("order", [("edited", "photo", "reconstructed"), ("photo", "edited", "reconstructed")])
def test_keep_photo_loads_in_any_order_and_shows_the_edit_where_it_is_bypassed(page, order):
    """Guards workflows from before *edited* was Keep Photo's first input: every link stays; and Ctrl+B on it, which
    showed the photo without any edit."""
    document = json.loads((FOLDER / "4-add-a-word-demo.json").read_text(encoding="utf-8"))
    (keep,) = (node for node in document["nodes"] if node["type"] == "NullInvKeepPhoto")
    keep["inputs"].sort(key=lambda one: order.index(one["name"]))
    links = {one["name"]: one["link"] for one in keep["inputs"]}
    for link in document["links"]:
        if link[0] in links.values():
            link[4] = [one["link"] for one in keep["inputs"]].index(link[0])
    sources = {name: [str(link[1]), link[2]] for name, number in links.items() for link in document["links"]
               if link[0] == number}  # fmt: skip
    fed = [(link[3], link[4]) for link in document["links"] if link[1] == keep["id"] and link[2] == 0]
    (place, slot), *_ = fed
    (shown,) = (node for node in document["nodes"] if node["id"] == place)
    read = "async () => (await window.app.graphToPrompt()).output"
    load(page, document)
    found = page.evaluate(read)
    assert found[str(keep["id"])]["inputs"] == sources
    keep["mode"] = 4
    load(page, document)
    found = page.evaluate(read)
    assert found[str(place)]["inputs"][shown["inputs"][slot]["name"]] == sources["edited"]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_runs_from_the_page(comfy, page, request, name):
    """Guards the examples: each loads without a missing node, runs, gives pictures; the console stays clean."""
    if name.endswith("sd15"):
        request.getfixturevalue("checkpoint")
    quick = QUICK | (SMALL if name.endswith("sd15") else {})
    document = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    if "edit-a-saved" in name:
        kind = name.rsplit("-", 1)[1]
        saving = next(w for w in WORKFLOWS if "save-an" in w and w.rsplit("-", 1)[1] == kind)
        load(page, json.loads((FOLDER / f"{saving}.json").read_text(encoding="utf-8")))
        set_widgets(page, quick)
        assert queue(page, comfy)["status"]["status_str"] == "success"
        page.reload()
        wait(page)
    assert load(page, document) == 0
    if "edit-a-saved" in name:
        set_widgets(page, {"file": f"output/inversions/{newest(comfy, f'inversions/photo-{kind}').name}"})
    shoot(page, name)
    # Edit Photo has no widget for its inner steps
    set_widgets(page, quick | ({"steps": 1} if "edit-photo" in name else {}))
    entry = queue(page, comfy)
    assert entry["status"]["status_str"] == "success", error_of(entry)
    shown = {str(n["id"]): n["type"] for n in document["nodes"] if n["type"] in ("SaveImage", "PreviewImage")}
    assert shown and set(shown) <= set(entry["outputs"])
    if "edit-a-saved" in name:
        page.wait_for_timeout(500)
        (held,) = page.evaluate(NOTES, "NullInvLoad")
        assert "1 photo of " in held and f"{QUICK['steps']} steps, null embeddings for guidance " in held
    saved = []
    for key, kind in shown.items():
        for image in entry["outputs"][key]["images"]:
            path = comfy.base / image["type"] / image["subfolder"] / image["filename"]
            pixels = np.asarray(Image.open(path).convert("RGB"), np.float64)
            assert pixels.std() > 1 or kind == "PreviewImage", (name, key)
            saved += [pixels] if kind == "SaveImage" else []
    if any(part in name for part in VARIED):
        assert all(abs(a - b).max() > 1 for i, a in enumerate(saved) for b in saved[:i])
    problems = [problem for problem in page.problems if OWN_SETTINGS not in problem]
    page.problems.clear()
    assert not problems, problems


NOTES = """kind => window.app.graph._nodes.find(n => n.type === kind).widgets
    .filter(w => w.name === "$$node-text-preview").map(w => w.value)"""


def test_a_node_shows_all_that_it_was_told_and_forgets_it_in_the_next_run(comfy, page):
    """Guards the notes below a node: the page shows the last one alone, keeps it for ever, and some pages take what it
    quotes of a stranger's workflow for HTML."""
    load(page, json.loads((FOLDER / "1-edit-photo-demo.json").read_text(encoding="utf-8")))
    set_widgets(page, {"steps": 2, "size": 64, "edit_text": "make the cat <img src=x onerror='document.title=1'> blue"})
    assert queue(page, comfy)["status"]["status_str"] == "success"
    page.wait_for_timeout(500)
    ((first, second),) = (text.splitlines() for text in page.evaluate(NOTES, "NullInvEditPhoto"))
    assert "steps are too few" in first and "reads like an order" in second and "‹img" in second
    assert not any("<" in line for line in (first, second)) and not page.locator("img[src='x']").count()
    shoot(page, "notes")
    set_widgets(page, {"steps": 10, "edit_text": "a photo of a blue wooden cat on a brick floor"})
    assert queue(page, comfy)["status"]["status_str"] == "success"
    page.wait_for_timeout(500)
    assert page.evaluate(NOTES, "NullInvEditPhoto") == []


def test_few_widgets_of_p2p_edit_are_left_to_see(comfy, page):
    """Guards the first look in the modern design, which folds advanced widgets away until they are asked for."""
    if "0.3.6" in comfy.get("/system_stats")["system"]["comfyui_version"]:
        pytest.skip("this ComfyUI shows every widget")
    page.evaluate("() => window.app.extensionManager.setting.set('Comfy.VueNodes.Enabled', true)")
    try:
        load(page, json.loads((FOLDER / "3-replace-a-word-demo.json").read_text(encoding="utf-8")))
        fit(page)
        key = page.evaluate("() => window.app.graph._nodes.find(n => n.type === 'NullInvP2PEdit').id")
        node, names = page.locator(f"[data-node-id='{key}']"), {one.widget for one in EDIT if one.in_node}
        shown = [text for text in node.inner_text().splitlines() if text in names]
        assert shown == ["cross_replace", "self_replace", "blend_words"]
        node.get_by_text("Show advanced inputs").click()
        assert names <= set(node.inner_text().splitlines())
    finally:
        page.evaluate("() => window.app.extensionManager.setting.set('Comfy.VueNodes.Enabled', false)")
