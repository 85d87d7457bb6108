"""Every fuzzer by its name. A new one is a module with a ``prepare`` and a line here."""

from ..comfyui.installation import find_comfyui
from . import folders, inversions, names, nodes, pictures, texts
from .runner import Fuzzer, run

CORE = {
    "inversions": Fuzzer(0.2, 200, inversions.prepare),
    # a file of two kilobytes can hold 100 megapixels, which are allowed
    "pictures": Fuzzer(0.3, 3000, pictures.prepare),
    "folders": Fuzzer(0.1, 1000, folders.prepare),
    "texts": Fuzzer(0.25, 300, texts.prepare),
    "names": Fuzzer(0.14, 200, names.prepare),
}
SERVED = {"nodes": Fuzzer(0.006, 200, nodes.prepare_graphs), "prefixes": Fuzzer(0.004, 200, nodes.prepare_prefixes)}
"""Those that need a ComfyUI."""
FUZZERS = CORE | (SERVED if find_comfyui() is not None else {})


def share_of(name, cases, among):
    """How many of so many cases a fuzzer gets, where those of ``among`` run."""
    return round(cases * FUZZERS[name].share / sum(FUZZERS[one].share for one in among))


def run_by_name(name, cases, seed, first):
    """Figures of a fuzzer of the table; functions of functions do not travel to another process."""
    return run(FUZZERS[name], name, cases, seed, first)


def joined(parts):
    """Figures of several runs of a fuzzer as those of one."""
    whole, *others = parts
    for part in others:
        for name in ("cases", "refused", "results", "seconds"):
            setattr(whole, name, getattr(whole, name) + getattr(part, name))
        if part.slowest > whole.slowest:
            whole.slowest, whole.slowest_case = part.slowest, part.slowest_case
        whole.megabytes = max(whole.megabytes, part.megabytes)
    return whole
