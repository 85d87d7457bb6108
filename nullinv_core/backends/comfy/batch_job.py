"""A graph's edit as a job file for ``nullinv batch``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import folder_paths

from ...files.job_file import job_file
from ...files.store import Inversion
from ...null_text.presets import PRESETS
from ...photo.images import pixels_of
from ...types import NullEmbeddings
from .files import model_folder, write_numbered
from .text import EditRequest

LOADERS = {"ckpt_name": "checkpoints"}
"""Inputs that name a model, and the folder that it is in."""
NAMES = (*LOADERS, "unet_name", "model")
"""Inputs in which a loader's model is named."""
LEADING = ("trajectory", "model")
"""How inputs begin that lead from a saved trajectory to its model's loader."""


def save_job(
    request: EditRequest, trajectory: Inversion, null: Inversion | None, prefix: str,
    graph: Mapping[str, Any] | None, demo: str,
) -> str:  # fmt: skip
    """Write a job file to the output folder; return its name there.

    ``graph``: the prompt that runs, in which the model's name stands where one loader alone is. ``demo``: how it
    calls the demo model. Raises InputError as ``files.save``.
    """
    run: dict[str, Any] = {"steps": trajectory.trajectory.schedule.steps}
    run["size"] = min(pixels_of(trajectory.trajectory.clean))
    if null is not None and null.null is not None:
        run |= {"guidance": null.null.guidance, "preset": preset_of(null.null)}
    models = models_of(graph or {}, demo)
    if len(models) == 1:
        run["model"] = models.pop()
    text = job_file(request.source.text, [prompt.text for prompt in request.prompts], request.settings, **run)

    def write(place: Path) -> None:
        place.write_text(text, encoding="utf-8")

    return write_numbered(trajectory, prefix, ".json", write)


def model_behind(graph: Mapping[str, Any], node: str, demo: str) -> str:
    """How the user named the model that made the trajectory of a node, or nothing where there are none or several.

    ``graph``: the prompt that runs. ``demo``: how it calls the demo model.
    """
    found, seen, waiting = set(), set(), [node]
    while waiting:
        place = waiting.pop()
        seen.add(place)
        inputs = graph.get(place, {}).get("inputs", {})
        for name, value in inputs.items():
            if isinstance(value, list) and value and name.startswith(LEADING) and str(value[0]) not in seen:
                waiting.append(str(value[0]))
            elif isinstance(value, str) and name in NAMES:
                found.add("demo" if value == demo else value)
    return found.pop() if len(found) == 1 else ""


def preset_of(null: NullEmbeddings) -> str:
    """The preset that makes such embeddings, or the nearest."""
    unshared = null.pin is not None and null.pin.guidance is not None
    optimized = bool(null.losses.any())
    kinds = {
        name: (recipe.pinned, recipe.unshared, recipe.pinned or (recipe.optimization is not None) == optimized)
        for name, recipe in PRESETS.items()
    }
    return next(name for name, kind in kinds.items() if kind == (null.pinned, unshared, True))


def models_of(graph: Mapping[str, Any], demo: str) -> set[str]:
    """Models that a graph loads, as the command line takes them; those that it cannot load are left out."""
    found = set()
    for node in graph.values():
        inputs = node.get("inputs", {})
        for name, folder in LOADERS.items():
            path = folder_paths.get_full_path(folder, inputs[name]) if isinstance(inputs.get(name), str) else None
            if path is not None and path.endswith(".safetensors"):
                found.add(path)
        chosen = inputs.get("model") if node.get("class_type") == "NullInvLoadDiffusers" else None
        if isinstance(chosen, str):
            found.add("demo" if chosen == demo else str(model_folder(chosen)))
    return found
