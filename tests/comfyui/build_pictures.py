"""Photograph nodes and graphs in ComfyUI's page: ``python -m tests.comfyui.build_pictures``.

Every node for its help page (``web/docs/images``), and two graphs for the README (``docs``).
"""

import json
import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from .build_workflows import FOLDER
from .server import PACK, Server
from .test_page import READY, SETTINGS, fit, load

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
            ds.offset[1] = 120 - top
            window.app.canvas.setDirty(true, true)
            const canvas = window.app.canvas.canvas.getBoundingClientRect()
            return {x: canvas.left + 300, y: canvas.top + 120, width, height}
        }""",
        kind,
    )


def main():
    """Write every picture."""
    server = Server(Path(tempfile.mkdtemp()))
    images = PACK / "web" / "docs" / "images"
    images.mkdir(exist_ok=True)
    wanted = {path.stem for path in images.parent.glob("*.md")}
    try:
        server.post("/settings", SETTINGS)
        with sync_playwright() as started:
            browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1900, "height": 1000})
            page.goto(server.url("/"))
            page.wait_for_function(READY, timeout=90_000)
            page.wait_for_timeout(3_000)
            for path in sorted(FOLDER.glob("*-demo.json")):
                load(page, json.loads(path.read_text(encoding="utf-8")))
                for kind in sorted(wanted):
                    box = node_box(page, kind)
                    if box:
                        page.wait_for_timeout(700)
                        clip = {
                            "x": box["x"] - MARGIN, "y": box["y"] - MARGIN, "width": box["width"] + 2 * MARGIN,
                            "height": min(box["height"] + 2 * MARGIN, 860),
                        }  # fmt: skip
                        page.screenshot(path=images / f"{kind}.png", clip=clip)
                        wanted.discard(kind)
                for name, graph in GRAPHS.items():
                    if path.stem.endswith(graph):
                        fit(page)
                        page.screenshot(path=PACK / "docs" / f"{name}.png")
    finally:
        server.stop()
    if wanted:
        raise SystemExit(f"in no workflow: {', '.join(sorted(wanted))}")


if __name__ == "__main__":
    main()
