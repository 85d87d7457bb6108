"""A judge without any training: of all renderings that a picture could be meant to be, is the asked one the nearest?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

import numpy as np

from .edits import fitted
from .looks import COLOURS
from .objects import OBJECTS, Form
from .places import PLACES
from .scenes import Scene, Thing, render


def candidates(scene: Scene) -> Iterator[tuple[str, Scene]]:
    """The scene in every other place, and with each toy in every other colour and of every other kind, and their names.

    One thing is changed at a time; what another kind of toy cannot do (lie, wear a hat, be open) it does not do.
    """
    for place in PLACES:
        if place != scene.place:
            yield place, replace(scene, place=place)
    for which, thing in enumerate(scene.things):
        for colour in COLOURS:
            if colour != thing.colour:
                yield f"{colour} {thing.kind}", _with(scene, which, replace(thing, colour=colour))
        for kind in OBJECTS:
            if kind != thing.kind:
                yield kind, _with(scene, which, fitted(scene, which, replace(thing, form=Form(kind))))


def _with(scene: Scene, which: int, thing: Thing) -> Scene:
    things = tuple(thing if number == which else other for number, other in enumerate(scene.things))
    return replace(scene, things=things)


def nearer(picture: np.ndarray, scene: Scene) -> list[str]:
    """Names of the candidates that a picture (128, 128, 3) in 0…1 is nearer to than to ``scene``, by mean square.

    Empty where the picture is right. In styles without colour only kinds of toys are asked for.
    """
    own = float(np.square(picture - render(scene)).mean())
    return [name for name, other in _pictures(scene) if float(np.square(picture - other).mean()) < own]


@lru_cache(maxsize=16)
def _pictures(scene: Scene) -> tuple[tuple[str, np.ndarray], ...]:
    """The candidates' pictures; kept, as many pictures are compared with those of one scene."""
    kinds = scene.style in ("pencil", "monochrome")
    return tuple((name, render(other)) for name, other in candidates(scene) if not kinds or name in OBJECTS)
