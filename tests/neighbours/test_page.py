"""Packs that work in ComfyUI's page, in headless Chromium: links that are not drawn do what drawn ones do."""

import pytest
import torch

from ..comfyui.outputs import latent
from ..comfyui.test_page import SETTINGS, browser, load, queue, wait  # noqa: F401
from ..comfyui.workflow import ui_format
from .packs import EVERYWHERE, KJ
from .verdicts import keep
from .wiring import Whole, fill

pytestmark = pytest.mark.neighbours
PARTS = ["reconstruction", "edited", "ksampler"]
KINDS = ["MODEL", "CLIP", "VAE"]
READERS = """kinds => {
    const graph = window.app.graph
    const loader = graph._nodes.find(n => n.type === "NullInvLoadDiffusers")
    const found = []
    kinds.forEach((kind, output) => {
        const ids = [...(loader.outputs[output].links || [])]
        for (const id of ids) {
            const link = graph.links.get ? graph.links.get(id) : graph.links[id]
            found.push([output, link.target_id, link.target_slot])
        }
    })
    return found
}"""
USE_EVERYWHERE = """([kinds, readers]) => {
    const graph = window.app.graph
    const loader = graph._nodes.find(n => n.type === "NullInvLoadDiffusers")
    for (const [output, id, slot] of readers) graph.getNodeById(id).disconnectInput(slot)
    kinds.forEach((kind, output) => {
        const everywhere = window.LiteGraph.createNode("Anything Everywhere")
        graph.add(everywhere)
        loader.connect(output, everywhere, 0)
    })
}"""
SET_AND_GET = """([kinds, readers]) => {
    const graph = window.app.graph
    const loader = graph._nodes.find(n => n.type === "NullInvLoadDiffusers")
    for (const [output, id, slot] of readers) graph.getNodeById(id).disconnectInput(slot)
    kinds.forEach((kind, output) => {
        const set = window.LiteGraph.createNode("SetNode")
        graph.add(set)
        loader.connect(output, set, 0)
        set.widgets[0].value = kind
        set.widgets[0].callback(kind)
    })
    for (const [output, id, slot] of readers) {
        const get = window.LiteGraph.createNode("GetNode")
        graph.add(get)
        get.widgets[0].value = kinds[output]
        get.widgets[0].callback(kinds[output])
        get.connect(0, graph.getNodeById(id), slot)
    }
}"""


@pytest.mark.parametrize(
    ("pack", "node", "rewire"),
    [(EVERYWHERE, "Anything Everywhere", USE_EVERYWHERE), (KJ, "SetNode and GetNode", SET_AND_GET)],
    ids=["everywhere", "set-and-get"],
)
def test_links_that_are_not_drawn(start, browser, pack, node, rewire):  # noqa: F811
    """Guards graphs without wires: MODEL, CLIP and VAE reach all of our nodes as by links."""
    server = start(pack)
    try:
        server.post("/settings", SETTINGS)
        chain = Whole()
        chain.saved = {part: chain.saved[part] for part in PARTS}
        chain.save("drawn")
        document = ui_format(fill(chain.graph, server.info), server.info)
        server.run(chain.graph)
        page = browser.new_page(viewport={"width": 1900, "height": 1000})
        page.problems = []
        page.goto(server.url("/"))
        wait(page)
        load(page, document)
        readers = page.evaluate(READERS, KINDS)
        assert len(readers) == 8
        page.evaluate(
            """() => window.app.graph._nodes.filter(n => n.type === "SaveLatent").forEach(
                n => n.widgets.forEach(w => { w.value = w.value.replace("drawn", "undrawn") }))"""
        )
        page.evaluate(rewire, [KINDS, readers])
        page.wait_for_timeout(1_000)
        entry = queue(page, server)
        assert entry["status"]["status_str"] == "success", entry["status"]
        page.close()
        for part in PARTS:
            assert torch.equal(latent(server, f"undrawn-{part}"), latent(server, f"drawn-{part}")), part
        keep("page", server.version, f"{pack.folder}/{node}", "the same")
    finally:
        server.stop()
