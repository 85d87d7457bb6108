"""Photograph nodes and graphs in ComfyUI's page: ``python -m tests.comfyui.build_pictures``.

Every node for its help page (``web/docs/images``), and two graphs that have run for the README (``docs``).
"""

import json
import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from .build_workflows import FOLDER
from .server import PACK, Server
from .test_page import SETTINGS, fit, load, queue, wait

MARGIN = 12
GRAPHS = {"graph-replace-a-word": "replace-a-word-demo", "graph-native-samplers": "native-samplers-demo"}


def node_box(page, kind):
    """Move the first node of a kind to the window's middle at full size; its box on the page, None if there is none."""
    return page.evaluate(
        """kind => {
            const node = window.app.graph._nodes.find(n => n.type === kind)
            if (!node) return null
            const ds = window.app.canvas.ds, [left, top, width, height] = node.getBounding()
            ds.scale = 1
            ds.offset[0] = 300 - left
            ds.offset[1] = 80 - top
            window.app.canvas.setDirty(true, true)
            const canvas = window.app.canvas.canvas.getBoundingClientRect()
            return {x: canvas.left + 300, y: canvas.top + 80, width, height}
        }""",
        kind,
    )


def photograph(page, kind, images):
    """Write the picture of a node that is on the page; False where it is not."""
    box = node_box(page, kind)
    if box:
        page.wait_for_timeout(700)
        clip = {
            "x": box["x"] - MARGIN, "y": box["y"] - MARGIN, "width": box["width"] + 2 * MARGIN,
            "height": min(box["height"] + 2 * MARGIN, 910),
        }  # fmt: skip
        page.screenshot(path=images / f"{kind}.png", clip=clip)
    return bool(box)


def put_alone(page, kind):
    """An empty graph with one node that no example has."""
    page.evaluate(
        """kind => {
            window.app.graph.clear()
            window.app.graph.add(window.LiteGraph.createNode(kind))
        }""",
        kind,
    )
    # how large it is, is known once it is drawn
    page.wait_for_timeout(700)


def graph_box(page):
    """Where the fitted graph lies on the page."""
    return page.evaluate(
        """() => {
            const boxes = window.app.graph._nodes.map(n => n.getBounding()), ds = window.app.canvas.ds
            const left = Math.min(...boxes.map(b => b[0])), top = Math.min(...boxes.map(b => b[1]))
            const right = Math.max(...boxes.map(b => b[0] + b[2])), bottom = Math.max(...boxes.map(b => b[1] + b[3]))
            const canvas = window.app.canvas.canvas.getBoundingClientRect()
            return {
                x: canvas.left + (left + ds.offset[0]) * ds.scale - 8,
                y: canvas.top + (top + ds.offset[1]) * ds.scale - 8,
                width: (right - left) * ds.scale + 16, height: (bottom - top) * ds.scale + 16,
            }
        }"""
    )


def main():
    """Write every picture."""
    server = Server(Path(tempfile.mkdtemp()))
    # what the example loads; it is looked for, not read
    saved = server.base / "output" / "inversions" / "photo-demo_00001.safetensors"
    saved.parent.mkdir(parents=True)
    saved.touch()
    images = PACK / "web" / "docs" / "images"
    images.mkdir(exist_ok=True)
    wanted = {path.stem for path in images.parent.glob("*.md")}
    try:
        server.post("/settings", SETTINGS | {"Comfy.Minimap.Visible": False})
        with sync_playwright() as started:
            browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1900, "height": 1000})
            page.problems = []
            page.goto(server.url("/"))
            wait(page)
            for path in sorted(FOLDER.glob("*-demo.json")):
                load(page, json.loads(path.read_text(encoding="utf-8")))
                wanted -= {kind for kind in sorted(wanted) if photograph(page, kind, images)}
                for name, graph in GRAPHS.items():
                    if path.stem.endswith(graph):
                        assert queue(page, server)["status"]["status_str"] == "success"
                        page.wait_for_timeout(3_000)
                        fit(page)
                        page.screenshot(path=PACK / "docs" / f"{name}.png", clip=graph_box(page))
            for kind in sorted(wanted):
                put_alone(page, kind)
                photograph(page, kind, images)
    finally:
        server.stop()


if __name__ == "__main__":
    main()
