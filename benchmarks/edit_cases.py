"""What the edit benchmark asks for: pictures, prompts, what may change, and the true answer where it is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count

import numpy as np

from nullinv_core import EditSettings
from nullinv_core.demo import edits
from nullinv_core.demo.edits import EditCase, sample_edit
from nullinv_core.demo.judge import wrong_edit
from nullinv_core.demo.run import edit_settings
from nullinv_core.demo.scenes import render

REWEIGHT, REWEIGHTED = "reweight", "material"
"""A new material whose word counts more than it would."""
KINDS = (*edits.KINDS, REWEIGHT)
SINGLE = tuple(kind for kind in KINDS if kind not in ("swap", "style"))
"""Those that change one thing."""
WEIGHT = 2.0
APART = 10**7
"""Between the seeds of two draws, so that no draw meets another's scenes."""


@dataclass(frozen=True)
class EditTask:
    """One edit of one picture.

    ``source``: (H, W, 3) in 0…1. ``changes``: bool (H, W), where a right edit may change it. ``truths``: the right
    answers, none where nobody knows. ``case``: the scenes behind them, likewise. ``settings``: how Prompt-to-Prompt is
    asked for it.
    """

    name: str
    kind: str
    source: np.ndarray
    source_prompt: str
    edit_prompt: str
    changes: np.ndarray
    settings: EditSettings
    truths: tuple[np.ndarray, ...] = ()
    case: EditCase | None = None


def readable_edit(seed: int, kind: str, accept: Callable[[EditCase], bool] = lambda case: True) -> EditCase:
    """The first edit from a seed on that is accepted, and whose true answer the judge takes for right.

    The judge misreads a rendering now and then, and there no method could be right.
    """
    draws = (sample_edit(seed + APART * draw, kind) for draw in count())
    return next(case for case in draws if accept(case) and not wrong_edit(render(case.target), case))


def new_material(case: EditCase) -> str:
    """The word for a toy's new material in the edit prompt; "" where it is no word of its own there.

    Clay is left unsaid, and another thing of that material would be weighed too.
    """
    word = next(b.material for a, b in zip(case.source.things, case.target.things, strict=True) if a != b)
    return word if case.captions[1].split().count(word) == 1 else ""


def scene_task(seed: int) -> EditTask:
    """The edit of a seed, the same for all methods; kinds take turns. See ``readable_edit``."""
    kind = KINDS[seed % len(KINDS)]
    if kind == REWEIGHT:
        case = readable_edit(seed, REWEIGHTED, lambda drawn: bool(new_material(drawn)))
        settings = replace(edit_settings(case), weights={new_material(case): WEIGHT})
    else:
        case = readable_edit(seed, kind)
        settings = edit_settings(case)
    source_prompt, edit_prompt = case.captions
    return EditTask(
        name=str(seed),
        kind=kind,
        source=render(case.source),
        source_prompt=source_prompt,
        edit_prompt=edit_prompt,
        changes=case.mask,
        settings=settings,
        truths=(render(case.target),),
        case=case,
    )
