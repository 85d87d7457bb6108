"""What a graph comes to: measured, and kept by ComfyUI's version."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file

from ..comfyui.outputs import relative
from .wiring import fill

KEPT = Path(__file__).with_name("verdicts.json")
SAME, DECIBELS = 1e-3, 0.5
DRIFT = 10 ** (DECIBELS / 20) - 1
"""Relative distance of two latents that count as one; how far a picture may fall back behind another."""
OURS = "null-text inversion: "


@dataclass
class Ran:
    """A finished graph. ``error``: of the node that failed, with its exception's name; empty where none did. ``at``:
    which kind of node that was. ``told``: what our nodes told meanwhile. ``found``: latents by name."""

    error: str
    at: str
    told: list[str]
    found: dict

    @property
    def refused(self):
        """Whether one of our nodes refused the graph in a sentence."""
        return self.error.split(": ")[0].endswith("InputError")


def run(server, graph, name, parts, seconds=1800):
    """Run a graph whose latents are saved as ``name``-part. A network that is compiled takes minutes."""
    before = len(server.text())
    entry = server.finish(server.queue(fill(graph, server.info)), seconds)
    failed = [data for kind, data in entry["status"]["messages"] if kind == "execution_error"]
    error = " | ".join(f"{each['exception_type']}: {each['exception_message'].strip()}" for each in failed)
    at = " ".join(each["node_type"] for each in failed)
    told = [line.split(OURS)[1] for line in server.text()[before:].splitlines() if OURS in line]
    found = {} if error else {part: _saved(server, entry, graph, f"{name}-{part}") for part in parts}
    return Ran(error, at, told, found)


def _saved(server, entry, graph, prefix):
    """The latent that a graph saved under a name, in this run or in the one that ComfyUI's cache has it from."""
    (key,) = (key for key, node in graph.items() if node["inputs"].get("filename_prefix") == prefix)
    (file,) = entry["outputs"][key]["latents"]
    return load_file(server.base / file["type"] / file["subfolder"] / file["filename"])["latent_tensor"]


def decibels(ours, theirs):
    """How near a latent is to another."""
    return -20 * math.log10(max(relative(ours, theirs), 1e-9))


def behind(found, wanted="reconstruction"):
    """Decibels that a KSampler falls back behind the reconstruction, both against the photo."""
    return decibels(found[wanted], found["photo"]) - decibels(found["ksampler"], found["photo"])


def keep(table, version, key, verdict):
    """Keep a verdict at once, so that a later failure loses none."""
    kept = load()
    kept.setdefault(table, {}).setdefault(key, {})[version] = verdict
    KEPT.write_text(json.dumps(kept, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def load():
    """All verdicts: by table, row, version."""
    return json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
