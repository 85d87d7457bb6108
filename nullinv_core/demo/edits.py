"""Edits of clay scenes with their true answers: the kinds of PIE-Bench as far as a renderer can answer them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from difflib import SequenceMatcher

import numpy as np

from .captions import USUAL, Wording, caption
from .looks import COLOURS, MATERIALS, STYLES, WARM
from .objects import ANIMALS, FACING, LIDDED, LIERS, OBJECTS, span
from .places import PLACES
from .scenes import GAP, ROOM, Scene, Split, Thing, belongs, buffers_of, render, sample_scene

KINDS = ("object", "add", "delete", "content", "pose", "colour", "material", "background", "style", "swap")
"""``swap`` exchanges the colours of two toys; ``content`` puts on a hat or a scarf, opens or closes a lid."""
VISIBLE = 1.5 / 255
"""A pixel that differs by more has changed."""
MIRRORED = 20 / 255
"""A toy's pixel that differs by more mirrors the new place."""
LEAST_SIZE = 0.85
"""No toy of a true answer is smaller, by what it was: no caption says so."""


@dataclass(frozen=True)
class EditCase:
    """A source scene, the scene that a right edit would give, and how both captions are worded."""

    kind: str
    source: Scene
    target: Scene
    wording: Wording = USUAL

    @property
    def captions(self) -> tuple[str, str]:
        """The captions of source and target."""
        return caption(self.source, self.wording), caption(self.target, self.wording)

    @property
    def marked(self) -> tuple[str, str]:
        """Both captions with brackets around the words that differ, as PIE-Bench marks them."""
        return mark(*self.captions)

    @property
    def mask(self) -> np.ndarray:
        """Where a right edit may change the picture: bool (128, 128).

        A new style changes everything, a new place everything but the toys, and what these mirror of it; all else what
        differs in truth, shadows and reflections included.
        """
        if self.kind == "style":
            return np.ones((128, 128), bool)
        difference = np.abs(render(self.source) - render(self.target)).max(-1)
        if self.kind == "background":
            toys = toy_mask(self.source)
            return ~toys | dilate(toys & (difference > MIRRORED), 2)
        return dilate(difference > VISIBLE, 2)


def toy_mask(scene: Scene) -> np.ndarray:
    """Pixels that show nothing but toys: bool (128, 128)."""
    toy = (buffers_of(scene).label > 0).numpy()
    return np.asarray(toy.reshape(128, 2, 128, 2).all((1, 3)))


def mark(source: str, target: str) -> tuple[str, str]:
    """Two captions with brackets around each run of words that only one of them has."""
    before, after = source.split(), target.split()
    first, second = (["a" if word == "an" else word for word in words] for words in (before, after))
    marked: tuple[list[str], list[str]] = ([], [])
    for tag, a0, a1, b0, b1 in SequenceMatcher(None, first, second, autojunk=False).get_opcodes():
        for words, run in zip(marked, (before[a0:a1], after[b0:b1]), strict=True):
            words += run if tag == "equal" or not run else f"[{' '.join(run)}]".split()
    return " ".join(marked[0]), " ".join(marked[1])


def sample_edit(seed: int, kind: str, split: Split = "held-out") -> EditCase:
    """Return a scene of the split for which an edit of ``kind`` exists, and the scene that answers it.

    Raises ValueError for a kind that is not in ``KINDS``.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown edit kind {kind!r}; choose one of {', '.join(KINDS)}")
    count = 2 if kind in ("add", "delete", "swap") else None
    for attempt in range(10_000):
        rng = np.random.default_rng([seed, attempt, KINDS.index(kind), 6])
        scene = replace(sample_scene(seed * 10_007 + attempt, split, count), style="photo")
        case = _edited(scene, kind, rng)
        if case is None or case.source == case.target:
            continue
        if belongs(case.source, split) and _is_fair(case.target):
            return case
    raise RuntimeError(f"no scene of the {split} split admits the edit {kind!r}")


def _is_fair(scene: Scene) -> bool:
    pairs = [(t.kind, t.colour) for t in scene.things]
    return len(set(pairs)) == len(pairs)


def _edited(scene: Scene, kind: str, rng: np.random.Generator) -> EditCase | None:
    """A random edit of ``kind`` on a scene, or None where the scene does not admit one."""
    which = int(rng.integers(len(scene.things)))
    thing = scene.things[which]
    if kind in ("add", "delete"):
        fewer = replace(scene, things=tuple(t for i, t in enumerate(scene.things) if i != which))
        return EditCase(kind, fewer, scene) if kind == "add" else EditCase(kind, scene, fewer)
    if kind == "background":
        return EditCase(kind, scene, replace(scene, place=_other(rng, list(PLACES), scene.place)))
    if kind == "style":
        return EditCase(kind, scene, replace(scene, style=_other(rng, list(STYLES), "photo")))
    if kind == "swap":
        first, second = scene.things
        if not (_keeps_clothes(first, second.colour) and _keeps_clothes(second, first.colour)):
            return None
        pair = (replace(first, colour=second.colour), replace(second, colour=first.colour))
        return EditCase(kind, scene, replace(scene, things=pair))
    changed = _changed(thing, kind, rng)
    if changed is None:
        return None
    placed = fitted(scene, which, changed)
    if placed.scale < LEAST_SIZE * thing.scale:
        return None
    things = tuple(placed if i == which else t for i, t in enumerate(scene.things))
    # both captions say what a lid or an animal does, so that one word answers another
    wording = Wording(closed=True, sitting=True) if kind in ("content", "pose") else USUAL
    return EditCase(kind, scene, replace(scene, things=things), wording)


def _other(rng: np.random.Generator, names: list[str], but: str) -> str:
    return str(rng.choice([name for name in names if name != but]))


def _keeps_clothes(thing: Thing, colour: str) -> bool:
    """Whether a hat, a scarf or a ribbon stays as it is when its toy takes a colour, see ``WARM``."""
    return not (thing.form.wears or thing.kind == "gift") or (colour in WARM) == (thing.colour in WARM)


def _changed(thing: Thing, kind: str, rng: np.random.Generator) -> Thing | None:
    """One toy after an edit, where it stood."""
    form = thing.form
    if kind == "colour":
        return replace(thing, colour=_other(rng, [c for c in COLOURS if _keeps_clothes(thing, c)], thing.colour))
    if kind == "material":
        return replace(thing, material=_other(rng, list(MATERIALS), thing.material))
    if kind == "object":
        return _other_kind(thing, rng)
    if kind == "content" and form.kind in LIDDED:
        return replace(thing, form=replace(form, open=not form.open))
    if kind == "content" and form.kind in ANIMALS and not form.wears:
        return replace(thing, form=replace(form, wears=str(rng.choice(["hat", "scarf"]))))
    if kind == "pose" and form.kind in FACING:
        return _other_pose(thing, rng)
    return None


def _other_kind(thing: Thing, rng: np.random.Generator) -> Thing | None:
    """Another kind of toy that can have what a caption says of this one; most often of the same family."""
    form = thing.form
    animal, plain = form.kind in ANIMALS, not (form.pose or form.wears or form.open or thing.facing)
    near = [k for k in OBJECTS if (k in ANIMALS) == animal and k != form.kind]
    able = [
        k for k in (near if not plain or rng.uniform() < 0.7 else list(OBJECTS))
        if k != form.kind and (not form.pose or k in LIERS) and (not form.wears or k in ANIMALS)
        and (not form.open or k in LIDDED) and (not thing.facing or k in FACING)
    ]  # fmt: skip
    return replace(thing, form=replace(form, kind=str(rng.choice(able)))) if able else None


def _other_pose(thing: Thing, rng: np.random.Generator) -> Thing | None:
    form, turn = thing.form, abs(thing.yaw)
    if thing.facing:
        other = {"left": "right", "right": "left"}[thing.facing]
        return replace(thing, facing=other, yaw=-thing.yaw)
    if form.kind in LIERS and rng.uniform() < 0.5:
        return replace(thing, form=replace(form, pose="" if form.pose else "lying"))
    if form.pose:
        return None
    facing = str(rng.choice(["left", "right"]))
    return replace(thing, facing=facing, yaw=(50 + turn / 2) * (1 if facing == "right" else -1))


def fitted(scene: Scene, which: int, changed: Thing) -> Thing:
    """A changed toy in the room of the one before it, smaller where it would touch its neighbour or the border."""
    before = scene.things[which]
    if (changed.form, changed.yaw) == (before.form, before.yaw):
        return changed
    low, high = -ROOM, ROOM
    for number, other in enumerate(scene.things):
        left, right = _extent(other)
        if number < which:
            low = max(low, right + GAP)
        elif number > which:
            high = min(high, left - GAP)
    start, stop = span(changed.form, changed.yaw)
    scale = min(before.scale, (high - low) / (stop - start))
    middle = sum(_extent(before)) / 2 - (start + stop) / 2 * scale
    x = min(max(middle, low - start * scale), high - stop * scale)
    return replace(changed, x=round(x, 4), scale=round(scale, 4))


def _extent(thing: Thing) -> tuple[float, float]:
    left, right = span(thing.form, thing.yaw)
    return thing.x + left * thing.scale, thing.x + right * thing.scale


def dilate(mask: np.ndarray, pixels: int) -> np.ndarray:
    """Grow a boolean mask by a square of ``pixels`` on every side."""
    padded = np.pad(mask, pixels)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * pixels + 1, 2 * pixels + 1))
    return np.asarray(windows.any((-2, -1)))
