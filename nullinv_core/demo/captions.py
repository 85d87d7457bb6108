"""Captions in plain English, as people write them, and what a caption says read back from its words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .looks import COLOURS
from .objects import LIDDED, LIERS, OBJECTS
from .places import PLACES
from .scenes import Scene, Thing

OPENINGS = {
    "photo": ("a photo of", "", "a picture of"),
    "pencil": ("a pencil drawing of", "a pencil sketch of"),
    "monochrome": ("a black and white photo of", "a black and white picture of"),
    "night": ("a photo of", "", "a picture of"),
}
"""How a caption of each style may begin, the usual way first."""
NIGHT = "at night"
WEARING = ("wearing a", "with a")


@dataclass(frozen=True)
class Wording:
    """Which of several ways a caption takes; all zero is the usual one.

    ``opening`` and ``place`` number the ways in ``OPENINGS`` and ``Place.phrases``; ``wearing`` those in ``WEARING``;
    ``material_first``: "a wooden red cat", not "a red wooden cat"; ``closed``: says that a lid is closed,
    ``sitting`` that an animal which could lie sits.
    """

    opening: int = 0
    place: int = 0
    wearing: int = 0
    material_first: bool = False
    closed: bool = False
    sitting: bool = False


USUAL = Wording()


def sample_wording(rng: np.random.Generator) -> Wording:
    """A way to word a caption, the usual one most often."""
    return Wording(
        opening=int(rng.choice(3, p=[0.5, 0.4, 0.1])),
        place=int(rng.uniform() < 0.3),
        wearing=int(rng.uniform() < 0.3),
        material_first=bool(rng.uniform() < 0.3),
        closed=bool(rng.uniform() < 0.3),
        sitting=bool(rng.uniform() < 0.3),
    )


@dataclass(frozen=True)
class Said:
    """What a phrase says of a toy; "" where it says nothing."""

    kind: str
    colour: str
    material: str = "clay"
    facing: str = ""
    pose: str = ""
    wears: str = ""
    open: bool = False


@dataclass(frozen=True)
class Reading:
    """What a caption says."""

    things: tuple[Said, ...]
    place: str
    style: str


def said_of(thing: Thing) -> Said:
    """What a caption says of a toy."""
    form = thing.form
    return Said(form.kind, thing.colour, thing.material, thing.facing, form.pose, form.wears, form.open)


def reading_of(scene: Scene) -> Reading:
    """What a caption says of a scene."""
    return Reading(tuple(said_of(t) for t in scene.things), scene.place, scene.style)


def caption(scene: Scene, wording: Wording = USUAL) -> str:
    """Plain English that names every attribute of the scene, things from left to right."""
    return caption_of(reading_of(scene), wording)


def caption_of(reading: Reading, wording: Wording = USUAL) -> str:
    """What is to be said, in words."""
    openings, phrases = OPENINGS[reading.style], PLACES[reading.place].phrases
    opening = openings[wording.opening % len(openings)]
    things = " and ".join(phrase(said, wording) for said in reading.things)
    end = [NIGHT] if reading.style == "night" else []
    return " ".join(part for part in (opening, things, phrases[wording.place % len(phrases)], *end) if part)


def phrase(said: Said, wording: Wording = USUAL) -> str:
    """A toy in words with its article."""
    if said.material == "clay":
        looks = [said.colour]
    elif said.material == "polished" or wording.material_first:
        looks = [said.material, said.colour]
    else:
        looks = [said.colour, said.material]
    lid = ["open"] if said.open else ["closed"] if wording.closed and said.kind in LIDDED else []
    ways = [f"facing {said.facing}"] if said.facing else []
    sits = wording.sitting and said.kind in LIERS and not said.facing
    ways += ["lying down"] if said.pose else ["sitting"] if sits else []
    ways += [f"{WEARING[wording.wearing]} {said.wears}"] if said.wears else []
    return " ".join([_with_article(" ".join([*lid, *looks, said.kind])), *([" and ".join(ways)] if ways else [])])


def _with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def read_caption(text: str) -> Reading:
    """What a caption of ``caption`` says, word by word.

    Raises ValueError where no place or no toy is named.
    """
    style, rest = _style(text)
    places = [(len(p), name) for name, place in PLACES.items() for p in place.phrases if rest.endswith(" " + p)]
    if not places:
        raise ValueError(f"no place is named in {text!r}")
    length, place = max(places)
    things: list[dict[str, object]] = []
    before: dict[str, object] = {}
    for word in rest[: -length - 1].split():
        if word in COLOURS:
            before["colour"] = word
        elif word in ("polished", "wooden", "metal"):
            before["material"] = word
        elif word == "open":
            before["open"] = True
        elif word in OBJECTS:
            things.append({"kind": word, **before})
            before = {}
        elif word in ("left", "right"):
            things[-1]["facing"] = word
        elif word == "lying":
            things[-1]["pose"] = word
        elif word in ("hat", "scarf"):
            things[-1]["wears"] = word
    if not things:
        raise ValueError(f"no toy is named in {text!r}")
    return Reading(tuple(Said(**{"colour": "", **t}) for t in things), place, style)  # type: ignore[arg-type]


def _style(text: str) -> tuple[str, str]:
    """The style and the words without those that name it."""
    if text.endswith(" " + NIGHT):
        return "night", _without_opening(text[: -len(NIGHT) - 1], OPENINGS["night"])
    for style in ("pencil", "monochrome"):
        if text.startswith(OPENINGS[style]):
            return style, _without_opening(text, OPENINGS[style])
    return "photo", _without_opening(text, OPENINGS["photo"])


def _without_opening(text: str, openings: tuple[str, ...]) -> str:
    for opening in openings:
        if opening and text.startswith(opening):
            return text[len(opening) + 1 :]
    return text
