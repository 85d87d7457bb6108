"""What the edit benchmark asks for: pictures, prompts, what may change, and the true answer where it is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nullinv_core import EditSettings
from nullinv_core.demo.run import edit_settings
from nullinv_core.demo.scenes import EDITS, Scene, render, sample_edit

REWEIGHT = "reweight"
KINDS = (*EDITS, REWEIGHT)
WEIGHT = -2.0
"""Of the texture's word, where its weight alone takes the texture away."""


@dataclass(frozen=True)
class EditTask:
    """One edit of one picture.

    ``source``: (H, W, 3) in 0…1. ``changes``: bool (H, W), where a right edit may change it. ``truth``: the right
    answer, None where nobody knows it. ``target``: the scene that a right answer shows, likewise. ``settings``: how
    Prompt-to-Prompt is asked for it.
    """

    name: str
    kind: str
    source: np.ndarray
    source_prompt: str
    edit_prompt: str
    changes: np.ndarray
    settings: EditSettings
    truth: np.ndarray | None = None
    target: Scene | None = None


def scene_task(seed: int) -> EditTask:
    """The edit of a seed; kinds take turns."""
    kind = KINDS[seed % len(KINDS)]
    case = sample_edit(seed, "remove-texture" if kind == REWEIGHT else kind)
    settings, prompt = edit_settings(case), case.target.caption
    if kind == REWEIGHT:
        settings, prompt = EditSettings(weights={case.source.background.texture: WEIGHT}), case.source.caption
    return EditTask(
        name=str(seed),
        kind=kind,
        source=render(case.source),
        source_prompt=case.source.caption,
        edit_prompt=prompt,
        changes=case.mask,
        settings=settings,
        truth=render(case.target),
        target=case.target,
    )
