"""Inputs of nodes at random, and prefixes of file names, over HTTP in a real ComfyUI."""

from contextlib import contextmanager

from nullinv_core import InputError

from ..comfyui.graphs import Chain
from ..comfyui.robustness import end_of, every_node, random_graph
from ..comfyui.server import Server
from .names import PARTS


def _serving(cases_of):
    """A fuzzer's ``prepare`` with a ComfyUI of its own."""

    @contextmanager
    def prepare(folder):
        comfy = Server(folder / "comfyui")
        try:
            yield cases_of(comfy)
        finally:
            comfy.stop()

    return prepare


def graphs(comfy):
    """Graphs of all nodes with inputs at random."""
    whole, known = every_node(comfy), comfy.get("/object_info")
    comfy.run(whole)

    def case(rng):
        _told(end_of(comfy, random_graph(rng, whole, known)))

    return case


def prefixes(comfy):
    """Save Inversion under prefixes at random: files come into the output folder, or nowhere."""
    chain = Chain(steps=1, optimize=False)
    saved = chain.graph.add("NullInvSave", trajectory=chain.invert(1), prompt="x", filename_prefix="first")
    comfy.run(chain.graph)
    inputs = chain.graph[saved()[0]]["inputs"]
    outside = _files_outside(comfy)

    def case(rng):
        joined = [rng.choice(["/", "/", "", "_"]).join(rng.choices(PARTS, k=rng.choice([1, 2, 3]))), "/dev/full", "/x"]
        # half characters cannot be sent
        inputs["filename_prefix"] = rng.choice([joined[0]] * 9 + joined[1:]).encode("utf-8", "replace").decode()
        try:
            _told(end_of(comfy, chain.graph))
        finally:
            assert _files_outside(comfy) == outside, "a file outside of the output folder"

    return case


def _files_outside(comfy):
    """Files of the server's folder but its output and what it writes itself."""
    own = ("output", "temp", "user", "server.log", "__pycache__")
    found = {path.relative_to(comfy.base) for path in comfy.base.rglob("*")} | {*comfy.base.parent.iterdir()}
    return {path for path in found if not set(own) & set(path.parts)}


def _told(end):
    if end != "run":
        raise InputError(end)


prepare_graphs, prepare_prefixes = _serving(graphs), _serving(prefixes)
