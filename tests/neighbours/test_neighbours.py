"""Real packs beside ours in a real ComfyUI: ``make neighbours``, which writes docs/neighbours.md.

NEIGHBOURS names the folder with the fetched sources, a folder each. Every pack runs alone beside ours; with TOGETHER
set, all in one ComfyUI, which takes a third of the time.
"""

import os

import pytest

from ..comfyui.graphs import DEMO, Graph
from ..comfyui.outputs import relative
from .packs import NEWEST, PACKS, RANDOM, TRIALS
from .verdicts import DECIBELS, SAME, decibels, keep, run
from .wiring import Whole

pytestmark = pytest.mark.neighbours
ACTS, MOVES = 1e-4, 1e-2
"""Relative distances by which a node that acts moves a latent, and an edit its photo."""
PINNED = ("fast", "direct")
"""Presets whose edits keep the photo itself."""


def sampled_before(server):
    """A KSampler has run with the MODEL, as in most people's graphs."""
    g = Graph()
    load = g.add("NullInvLoadDiffusers", model=DEMO)
    text = g.add("CLIPTextEncode", clip=load(1), text="a red mug")
    empty = g.add("EmptyLatentImage", width=128, height=128, batch_size=1)
    sampled = g.add("KSamplerAdvanced", model=load(0), steps=4, cfg=3.0, positive=text(), negative=text(),
                    latent_image=empty())  # fmt: skip
    g.add("SaveLatent", samples=sampled(), filename_prefix="before")
    server.run(g)


def whole(trial, wired):
    """A trial's chain, with its node or without."""
    chain = Whole(trial.by, trial.edit)
    if trial.base:
        trial.base(chain)
    if wired:
        trial.wire(chain)
    chain.save("beside")
    return chain


def verdict_of(server, trial, plain):
    """What a chain comes to with a pack's node, in words for the table; raises AssertionError for a drift in silence, a
    traceback, or another end than the trial says."""
    chain = whole(trial, True)
    missing = {node["class_type"] for node in chain.graph.values()} - set(server.info)
    if missing:
        assert server.version != NEWEST, missing
        return "the pack does not load"
    ran = run(server, chain.graph, "beside", chain.saved)
    if trial.refused:
        assert ran.refused and all(words in ran.error for words in trial.refused), ran.error or "silent"
        return "refused"
    assert not ran.error, ran.error
    found, said = ran.found, "\n".join(ran.told)
    assert all(words in said for words in trial.told) and (trial.told or not said), f"told: {said!r}"
    assert relative(found["edited"], found["source"]) > MOVES, "the edit does not move"
    wanted = found["photo" if trial.by in PINNED else "reconstruction"]
    assert relative(found["source"], wanted) < SAME, "the edit's source drifts"
    back = relative(found["ksampler"], found["reconstruction"])
    assert back < SAME or trial.acts == "ksampler", f"the KSampler drifts by {back:.1g}"
    if trial.acts:
        assert relative(found[trial.acts], plain[trial.acts]) > ACTS, "without effect"
    else:
        moved = {part: relative(found[part], plain[part]) for part in plain}
        assert max(moved.values()) < SAME, f"moved: {moved}"
    near, alone = (decibels(each["reconstruction"], each["photo"]) for each in (found, plain))
    if trial.told:
        return "told"
    if trial.base in RANDOM:
        return "works"
    assert near > alone - DECIBELS, f"{near:.1f} dB, alone {alone:.1f}"
    return f"works, {near:.1f} dB ({alone:.1f})"


@pytest.fixture(scope="module")
def server_for(start):
    """Gives a pack its server, in which a KSampler has run, and what chains come to there without any pack's node."""
    running, plain = {}, {}

    def give(pack):
        key = "all" if "TOGETHER" in os.environ else pack
        if key not in running:
            for server in running.values():
                server.stop()
            running.clear()
            plain.clear()
            running[key] = start(*(PACKS if key == "all" else (pack, *pack.needs)))
            sampled_before(running[key])
        return running[key], plain

    yield give
    for server in running.values():
        server.stop()


@pytest.mark.parametrize("pack", PACKS, ids=lambda pack: pack.folder)
def test_a_pack_works_or_is_refused_by_name(server_for, pack):
    """Guards everything else that is in a ComfyUI."""
    (server, plain), wrong = server_for(pack), []
    for trial in (trial for trial in TRIALS if trial.pack == pack):
        key = (trial.by, trial.edit, trial.base)
        if key not in plain:
            # the way out of every refusal
            chain = whole(trial, False)
            alone = run(server, chain.graph, "beside", chain.saved)
            assert not alone.error and not alone.told, (alone.error, alone.told)
            plain[key] = alone.found
        try:
            verdict = verdict_of(server, trial, plain[key])
        except AssertionError as error:
            verdict = f"**wrong**: {str(error).splitlines()[0][:300]}"
            wrong.append(f"{trial.node}, {trial.what}: {error}")
        keep("packs", server.version, trial.key, verdict)
    assert not wrong, "\n".join(wrong)
