"""What the edit benchmark asks for: pictures, prompts, what may change, and the true answer where it is known."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nullinv_core import EditSettings
from nullinv_core.demo.run import edit_settings
from nullinv_core.demo.scenes import DIRECTIONS, EDITS, EditCase, Scene, dilate, render, sample_edit

REWEIGHT, REWEIGHTED = "reweight", "background-texture"
"""A new texture whose word counts more than it would."""
KINDS = (*EDITS, REWEIGHT)
SINGLE = tuple(kind for kind in KINDS if kind != "swap-colours")
"""Those that change one attribute."""
WEIGHT = 2.0
SUITED: dict[str, dict[str, Any]] = {
    "add-texture": {"self_replace": 0.0, "fresh_noise": 0.8},
    REWEIGHTED: {"self_replace": 0.0},
    REWEIGHT: {"self_replace": 0.0},
    "shape": {"focus_from": 0.5},
}
"""What suits a kind of edit better than the authors' settings, by the tuning scenes. Fresh noise leaves out objects."""
PLACES = 8
"""Places in a period, along either axis, at which a new texture is looked for."""


@dataclass(frozen=True)
class EditTask:
    """One edit of one picture.

    ``source``: (H, W, 3) in 0…1. ``changes``: bool (H, W), where a right edit may change it. ``truths``: the right
    answers, several where the prompt leaves one open, none where nobody knows. ``target``: the scene that a right
    answer shows, likewise. ``settings``: how Prompt-to-Prompt is asked for it, by the authors' constants; ``suited``:
    by those that suit its kind, where anything does better.
    """

    name: str
    kind: str
    source: np.ndarray
    source_prompt: str
    edit_prompt: str
    changes: np.ndarray
    settings: EditSettings
    suited: EditSettings | None = None
    truths: tuple[np.ndarray, ...] = ()
    target: Scene | None = None


def scene_task(seed: int) -> EditTask:
    """The edit of a seed; kinds take turns."""
    kind = KINDS[seed % len(KINDS)]
    case = sample_edit(seed, REWEIGHTED if kind == REWEIGHT else kind)
    settings = edit_settings(case)
    if kind == REWEIGHT:
        settings = replace(settings, weights={case.target.background.texture: WEIGHT})
    objects = [o.shape for o in case.source.objects]
    suited = replace(settings, steady=objects, **SUITED[kind]) if kind in SUITED else None
    source, truths = render(case.source), right_answers(case)
    differs = np.any([np.abs(source - truth).max(-1) > 0.5 / 255 for truth in truths], axis=0)
    return EditTask(
        name=str(seed),
        kind=kind,
        source=source,
        source_prompt=case.source.caption,
        edit_prompt=case.target.caption,
        changes=dilate(differs, 2),
        settings=settings,
        suited=suited,
        truths=truths,
        target=case.target,
    )


def right_answers(case: EditCase) -> tuple[np.ndarray, ...]:
    """Pictures (128, 128, 3) that answer an edit, the generator's own first: a new texture may lie anywhere."""
    target, ground = case.target, case.target.background
    answers = [render(target)]
    if ground.texture not in ("plain", case.source.background.texture):
        shifts = np.arange(PLACES) / PLACES
        striped = ground.texture == "striped"
        for angle in DIRECTIONS if striped else DIRECTIONS[:2]:
            for phase in ((u, v) for u in shifts for v in (shifts[:1] if striped else shifts)):
                answers.append(render(replace(target, background=replace(ground, angle=angle, phase=phase))))
    return tuple(answers)
