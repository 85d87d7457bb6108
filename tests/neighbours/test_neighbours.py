"""Real packs beside ours in a real ComfyUI: ``make neighbours``, which writes docs/neighbours.md.

NEIGHBOURS names the folder with the fetched sources, a folder each. Every pack runs alone beside ours. A verdict is
measured: *works* where a KSampler comes back to the reconstruction and the edit moves, *refused* where a sentence names
the node and what to do; that way out is the chain without it, which runs first.
"""

import os
from pathlib import Path

import pytest

from ..comfyui.graphs import DEMO, Chain, Graph
from ..comfyui.installation import find_comfyui, version_of
from ..comfyui.outputs import latent, relative
from ..comfyui.server import PACK, Server, error_of
from .packs import TRIALS, Trial

pytestmark = pytest.mark.neighbours
SOURCES = os.environ.get("NEIGHBOURS")
PAGE = PACK / "docs" / "neighbours.md"
HEAD = """# Beside other packs

Written by `make neighbours` on ComfyUI {version}: each pack alone beside ours, its node before DDIM Invert, Null-Text
Optimize, the edit and a KSampler. *Works*: a KSampler comes back to the reconstruction (its distance in brackets) and
the edit moves. *Refused*: a sentence names the node, and the way out that it names works.

| pack | commit | node | settings | preset | verdict |
|---|---|---|---|---|---|
"""
rows = []


@pytest.fixture(scope="module", params=sorted({trial.pack for trial in TRIALS}, key=lambda pack: pack.repository))
def beside(request, tmp_path_factory):
    """A server with one pack beside ours, and that pack's trials."""
    if not SOURCES:
        pytest.skip("set NEIGHBOURS to the folder of the packs' sources")
    pack = request.param
    server = Server(tmp_path_factory.mktemp(pack.folder), [Path(SOURCES) / pack.folder])
    yield server, [trial for trial in TRIALS if trial.pack == pack]
    server.stop()


@pytest.fixture(scope="module", autouse=True)
def page():
    """Writes the table of verdicts."""
    yield
    if rows:
        PAGE.write_text(HEAD.format(version=version_of(find_comfyui())) + "\n".join(sorted(rows)) + "\n")


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


def verdict_of(server, trial):
    """What the whole chain comes to with a pack's node, in words for the table; raises AssertionError for a silent or
    unnamed end."""
    chain = Chain(steps=20, inner_steps=3)
    g = chain.graph
    g[chain.optimize()[0]]["inputs"]["preset"] = trial.by
    _, sampler = chain.edit()
    model = g.add(trial.node, model=chain.load(), **trial.inputs) if trial.node else chain.load
    for node in (chain.invert, chain.optimize, sampler):
        g[node()[0]]["inputs"]["model"] = model()
    saved = chain.save_all(model(), sampler, "beside")
    error = error_of(server.finish(server.queue(g)))
    if trial.refused:
        assert all(words in error for words in trial.refused), error
        return f"refused by {error.split(':')[0]}"
    assert not error, error
    found = {part: latent(server, f"beside-{part}") for part in saved}
    apart = relative(found["ksampler"], found["reconstruction"])
    assert apart < 1e-3 and relative(found["edited"], found["source"]) > 1e-2
    return f"works ({apart:.0e})"


def test_a_pack_works_or_is_refused_by_name(beside):
    """Guards everything else that is in a ComfyUI."""
    server, trials = beside
    sampled_before(server)
    # the way out of every refusal
    verdict_of(server, Trial(trials[0].pack, ""))
    for trial in trials:
        verdict = verdict_of(server, trial)
        repository = trial.pack.repository
        rows.append(
            f"| [{repository}](https://github.com/{repository}) | {trial.pack.commit[:8]} "
            f"| {trial.node or 'a KSampler before'} | {trial.what} | {trial.by} | {verdict} |"
        )
