"""Scenes of one or two toys: drawn by seed, rendered, and split into those that training sees and those it does not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np

from .geometry import FINE, Buffers, Placed, View, geometry
from .looks import COLOURS, MATERIALS, STYLES, Look, compose
from .objects import ANIMALS, FACING, LIDDED, LIERS, OBJECTS, Form, span
from .places import PLACES

Split = Literal["train", "held-out", "all"]
ROOM = 0.93
"""Toys keep within so much of the middle, in their own units, at z = 0."""
GAP = 0.05
"""Two toys keep so much apart."""


FRONT = View()


@dataclass(frozen=True)
class Thing:
    """A toy with everything that a caption can say of it, and where it stands (see ``Placed``).

    ``facing``: "", "left" or "right" as the picture shows it; "" is more or less to the viewer.
    """

    form: Form
    colour: str
    material: str = "clay"
    facing: str = ""
    x: float = 0.0
    z: float = 0.0
    scale: float = 1.0
    yaw: float = 0.0

    @property
    def kind(self) -> str:
        """The toy's name in captions."""
        return self.form.kind

    @property
    def placed(self) -> Placed:
        """The toy without its colours."""
        return Placed(self.form, self.x, self.z, self.scale, self.yaw)


@dataclass(frozen=True)
class Scene:
    """Everything that is needed to draw a picture and to caption it; ``things`` from left to right.

    ``setting``: see ``Look``.
    """

    things: tuple[Thing, ...]
    place: str
    style: str = "photo"
    view: View = FRONT
    setting: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)

    @property
    def look(self) -> Look:
        """Colours, materials, place and style."""
        colours, materials = zip(*((t.colour, t.material) for t in self.things), strict=True)
        return Look(colours, materials, self.place, self.setting, self.style)


def buffers_of(scene: Scene, side: int = FINE) -> Buffers:
    """The scene's geometry, see ``geometry``; the last few are kept, as scenes often differ in colours alone."""
    return _geometry(tuple(t.placed for t in scene.things), scene.view, side)


@lru_cache(maxsize=16)
def _geometry(things: tuple[Placed, ...], view: View, side: int) -> Buffers:
    return geometry(things, view, side=side)


def render(scene: Scene, side: int = FINE // 2) -> np.ndarray:
    """Draw a scene: float32 (128, 128, 3), or of another side, in 0…1, the same bytes every time."""
    return np.asarray(compose(buffers_of(scene, 2 * side), scene.view, scene.look).numpy())


def is_held_out(kind: str, colour: str, place: str) -> bool:
    """Whether training never shows this toy in this colour in this place (one of eight combinations)."""
    kinds, colours, places = list(OBJECTS), list(COLOURS), list(PLACES)
    return (3 * kinds.index(kind) + 5 * colours.index(colour) + 7 * places.index(place)) % 8 == 0


def belongs(scene: Scene, split: Split) -> bool:
    """Whether a scene is of a split: training holds no held-out combination, a held-out scene at least one."""
    if split == "all":
        return True
    held = [is_held_out(t.kind, t.colour, scene.place) for t in scene.things]
    return any(held) == (split == "held-out")


def sample_scene(seed: int, split: Split = "train", count: int | None = None, plain: bool = False) -> Scene:
    """Return the scene of a seed. ``plain``: clay photos of toys that look ahead, wear nothing and are closed."""
    rng = np.random.default_rng([seed, 0 if split == "train" else 1])
    things, view = sample_stage(rng, count, plain)
    return sample_look(rng, things, view, split, plain)


def sample_stage(
    rng: np.random.Generator, count: int | None = None, plain: bool = False
) -> tuple[tuple[Thing, ...], View]:
    """Toys with their places but without colours yet, and the camera with the light."""
    number = count or int(rng.choice([1, 2], p=[0.45, 0.55]))
    kinds = rng.choice(list(OBJECTS), 2, replace=False)
    things = [_sample_thing(rng, str(kind), plain) for kind in kinds[:number]]
    # a toy alone sometimes stands as if a second were beside it, or nothing could be added to a picture
    beside = number == 1 and rng.uniform() < 0.3
    placed = _in_a_row(rng, [*things, _sample_thing(rng, str(kinds[1]), True)] if beside else things)
    if beside:
        placed = [placed[0]] if rng.uniform() < 0.5 else [_shifted_right(placed[0])]
    view = View(
        side=_round(rng.uniform(-0.35, 0.35)),
        height=_round(rng.uniform(1.55, 1.95)),
        distance=_round(rng.uniform(3.9, 4.15)),
        azimuth=_round(rng.uniform(-80, 80)),
        elevation=_round(rng.uniform(35, 62)),
    )
    return tuple(placed), view


def _round(value: float) -> float:
    return round(float(value), 4)


def _sample_thing(rng: np.random.Generator, kind: str, plain: bool) -> Thing:
    pose, wears, facing = "", "", ""
    chances = rng.uniform(size=4)
    sides = rng.integers(2, size=2)
    if not plain:
        pose = "lying" if kind in LIERS and chances[0] < 0.2 else ""
        wears = ("hat", "scarf")[sides[0]] if kind in ANIMALS and chances[1] < 0.28 else ""
        facing = ("left", "right")[sides[1]] if kind in FACING and not pose and chances[2] < 0.24 else ""
    yaw = _round(rng.uniform(-20, 20) if not facing else rng.uniform(48, 66) * (1 if facing == "right" else -1))
    form = Form(kind, pose, wears, kind in LIDDED and not plain and bool(chances[3] < 0.45))
    return Thing(form, next(iter(COLOURS)), facing=facing, z=_round(rng.uniform(-0.1, 0.18)), yaw=yaw)


def _in_a_row(rng: np.random.Generator, things: list[Thing]) -> list[Thing]:
    """The things side by side with sizes that fit, the room that is left shared out between them at random."""
    wanted = rng.uniform(1.0, 1.1) if len(things) == 1 else rng.uniform(0.84, 0.94)
    reaches = [span(t.form, t.yaw) for t in things]
    wide = sum(right - left for left, right in reaches)
    scale = min(wanted, (2 * ROOM - GAP * (len(things) - 1)) / wide)
    slack = 2 * ROOM - GAP * (len(things) - 1) - scale * wide
    if len(things) == 1:
        shares = np.asarray([rng.uniform(0.3, 0.7), 0.0])
    else:
        shares = rng.dirichlet([2.0] * (len(things) + 1))[:-1]
    result, start = [], -ROOM
    for thing, (left, right), share in zip(things, reaches, shares, strict=False):
        start += slack * share
        x = start - left * scale
        result.append(replace(thing, x=_round(x), scale=_round(scale)))
        start += (right - left) * scale + GAP
    return result


def _shifted_right(thing: Thing) -> Thing:
    """The thing as far from the right border as it was from the left."""
    left, right = span(thing.form, thing.yaw)
    return replace(thing, x=_round(-(thing.x + left * thing.scale) - right * thing.scale))


def sample_look(
    rng: np.random.Generator, things: tuple[Thing, ...], view: View, split: Split, plain: bool = False
) -> Scene:
    """A scene of placed toys with colours, materials, a place and a style that are of the split."""
    while True:
        style = str(rng.choice(STYLES, p=[0.82, 0.06, 0.06, 0.06]))
        painted = tuple(
            replace(
                thing,
                colour=str(rng.choice(list(COLOURS))),
                material=str(rng.choice(MATERIALS, p=[0.58, 0.14, 0.14, 0.14])) if not plain else "clay",
            )
            for thing in things
        )
        scene = Scene(
            painted,
            place=str(rng.choice(list(PLACES))),
            style="photo" if plain else style,
            view=view,
            setting=(
                _round(rng.uniform()),
                _round(rng.uniform()),
                _round(rng.uniform(-25, 25)),
                _round(rng.uniform()),
            ),
        )
        if belongs(scene, split):
            return scene


@lru_cache(maxsize=1)
def all_forms() -> tuple[Form, ...]:
    """Every shape that a toy can have, hats and scarves apart."""
    plain = [Form(kind) for kind in OBJECTS]
    return (*plain, *(Form(k, pose="lying") for k in LIERS), *(Form(k, open=True) for k in LIDDED))
