"""All packs in one ComfyUI: ours do there what they do alone, and theirs do with ours what they do without."""

import pytest

from ..comfyui.outputs import relative
from .packs import PACKS, TRIALS
from .page import OUR_ROW
from .verdicts import keep, load, run
from .wiring import Theirs, Whole, needed

pytestmark = pytest.mark.neighbours
CLOSE = 1e-5


def ours(server):
    """What our whole chain and Edit Photo come to."""
    chain = Whole()
    g = chain.graph
    edited = g.add(
        "NullInvEditPhoto", model=chain.load(0), clip=chain.load(1), vae=chain.load(2), image=chain.scene(0),
        source_text=chain.scene(1), edit_text=chain.scene(2), size=128, steps=5,
    )  # fmt: skip
    chain.saved["photo-edited"] = g.add("VAEEncode", pixels=edited(), vae=chain.load(2))()
    chain.save("ours")
    ran = run(server, g, "ours", chain.saved)
    assert not ran.error and not ran.told, (ran.error, ran.told)
    return ran.found


def theirs(pack, info):
    """The first graph of a pack that runs without ours; None where it has none, or its nodes are not there."""
    for trial in TRIALS:
        if trial.pack == pack and trial.node in info:
            chain = Theirs()
            trial.wire(chain)
            chain.save("theirs")
            graph = needed(chain.graph)
            if trial.node in {node["class_type"] for node in graph.values()}:
                return graph
    return None


def test_all_packs_at_once(start):
    """Guards an installation with everything in it."""
    found = {}
    for name, packs in (("alone", ()), ("together", PACKS)):
        server = start(*packs)
        found[name] = ours(server)
        if packs:
            graphs = {pack: theirs(pack, server.info) for pack in PACKS}
            with_ours = {pack: run(server, g, "theirs", ["theirs"]) for pack, g in graphs.items() if g}
            keep("together", server.version, OUR_ROW, verdict_of(found["together"], found["alone"]))
        server.stop()
    server = start(*PACKS, ours=False)
    assert not any(name.startswith("NullInv") for name in server.info)
    for pack, ran in with_ours.items():
        without = run(server, graphs[pack], "theirs", ["theirs"])
        same = ran.error == without.error and (ran.error or verdict_of(ran.found, without.found))
        keep("together", server.version, pack.folder, same or f"**wrong**: {ran.error}, {without.error}")
    server.stop()
    kept = load()["together"]
    assert all(each[server.version] == "the same" for each in kept.values() if server.version in each)


def verdict_of(ours, theirs):
    """Whether two runs came to the same."""
    apart = max(relative(ours[name], theirs[name]) for name in theirs)
    return "the same" if apart < CLOSE else f"**wrong**: apart by {apart:.1g}"
