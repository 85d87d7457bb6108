"""The toys: one function for each, made of named parts. Each stands on y = 0, looks to +z and is about 1.2 high."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from .shapes import (
    Outline,
    Solid,
    Vector,
    above,
    ball,
    block,
    both_sides,
    chain,
    cut,
    disc,
    ellipsoid,
    in_front,
    moved,
    ribbed,
    ring,
    rod,
    slab,
    smooth_union,
    tilted,
    turned_on_a_wheel,
    union,
)

ROLES = (
    "main",
    "shade",
    "light",
    "white",
    "black",
    "glass",
    "rose",
    "orange",
    "wood",
    "green",
    "cream",
    "gold",
    "brown",
    "accent",
    "trim",
)
"""What a part is to the toy: ``main`` has the colour that a caption names, ``shade`` and ``light`` are made from it,
``accent`` and ``trim`` belong to hats, scarves and ribbons; the others have a colour of their own."""


@dataclass(frozen=True)
class Form:
    """What decides a toy's shape: its kind, ``pose`` ("" or "lying"), ``wears`` ("", "hat", "scarf"), ``open`` lid."""

    kind: str
    pose: str = ""
    wears: str = ""
    open: bool = False


@dataclass(frozen=True)
class Part:
    """A solid, its role, and how softly it melts into the parts before it."""

    solid: Solid
    role: str
    blend: float = 0.0


Parts = list[Part]


def _moved(parts: Parts, by: Vector) -> Parts:
    return [replace(part, solid=moved(part.solid, by)) for part in parts]


def _eyes(x: float, y: float, z: float, size: float = 1.0) -> Parts:
    """Two large eyes, the middle of the right one's white at (x, y, z)."""
    white = both_sides(ellipsoid((x, y, z), (0.085 * size, 0.098 * size, 0.06 * size)))
    pupil = both_sides(ellipsoid((x - 0.008, y - 0.004, z + 0.032 * size), (0.062 * size, 0.074 * size, 0.045 * size)))
    spark = [ball((s * x - 0.026 * size, y + 0.03 * size, z + 0.066 * size), 0.022 * size) for s in (-1, 1)]
    return [Part(white, "white"), Part(pupil, "black"), Part(union(*spark), "white")]


# animals: a large head on a small body


@dataclass(frozen=True)
class _Head:
    """A head around the origin, and where a hat sits on it (height, depth)."""

    parts: Parts
    crown: tuple[float, float] = (0.25, -0.02)


def _skull(wide: float = 0.35, high: float = 0.29, deep: float = 0.29) -> Part:
    return Part(ellipsoid((0, 0, 0), (wide, high, deep)), "main", 0.05)


def _cat_head() -> _Head:
    ears = both_sides(rod((0.2, 0.17, -0.02), (0.29, 0.4, -0.04), 0.125, 0.02))
    inner = both_sides(rod((0.205, 0.19, 0.06), (0.28, 0.35, 0.0), 0.07, 0.015))
    muzzle = both_sides(ellipsoid((0.06, -0.11, 0.24), (0.09, 0.07, 0.08)))
    nose = ellipsoid((0, -0.055, 0.31), (0.042, 0.03, 0.03))
    return _Head([
        _skull(), Part(ears, "main", 0.04), Part(inner, "rose"), Part(muzzle, "light", 0.02), Part(nose, "rose"),
        *_eyes(0.145, 0.045, 0.235),
    ])  # fmt: skip


def _dog_head() -> _Head:
    ears = both_sides(tilted(ellipsoid((0.35, 0.0, 0.02), (0.085, 0.25, 0.14)), 14, (0.3, 0.2, 0), axis=2))
    muzzle = ellipsoid((0, -0.1, 0.27), (0.155, 0.12, 0.15))
    nose = ellipsoid((0, -0.045, 0.405), (0.07, 0.052, 0.045))
    tongue = ellipsoid((0, -0.205, 0.35), (0.055, 0.075, 0.03))
    return _Head([
        _skull(0.32, 0.3), Part(ears, "shade", 0.02), Part(muzzle, "light", 0.03), Part(tongue, "rose"),
        Part(nose, "black"), *_eyes(0.135, 0.075, 0.235),
    ])  # fmt: skip


def _rabbit_head() -> _Head:
    ears = both_sides(rod((0.13, 0.2, -0.02), (0.19, 0.47, -0.05), 0.09, 0.075))
    inner = both_sides(rod((0.135, 0.24, 0.05), (0.188, 0.45, 0.008), 0.05, 0.045))
    cheeks = both_sides(ellipsoid((0.055, -0.11, 0.24), (0.085, 0.07, 0.07)))
    nose = ellipsoid((0, -0.06, 0.3), (0.038, 0.03, 0.025))
    teeth = block((0, -0.185, 0.265), (0.04, 0.045, 0.02), 0.012)
    return _Head([
        _skull(0.32, 0.27), Part(ears, "main", 0.05), Part(inner, "rose"), Part(teeth, "white"),
        Part(cheeks, "light", 0.02), Part(nose, "rose"), *_eyes(0.135, 0.045, 0.23),
    ])  # fmt: skip


def _bear_head() -> _Head:
    ears = both_sides(ellipsoid((0.26, 0.23, -0.02), (0.12, 0.12, 0.07)))
    inner = both_sides(ellipsoid((0.26, 0.225, 0.045), (0.07, 0.07, 0.03)))
    muzzle = ellipsoid((0, -0.1, 0.25), (0.16, 0.125, 0.12))
    nose = ellipsoid((0, -0.04, 0.36), (0.065, 0.045, 0.035))
    mouth = rod((0, -0.08, 0.365), (0, -0.14, 0.35), 0.013)
    return _Head([
        _skull(0.34), Part(ears, "main", 0.03), Part(inner, "light"), Part(muzzle, "light", 0.02),
        Part(nose, "black"), Part(mouth, "black"), *_eyes(0.135, 0.075, 0.235, 0.85),
    ])  # fmt: skip


def _pig_head() -> _Head:
    ears = both_sides(rod((0.21, 0.17, 0.04), (0.3, 0.31, 0.14), 0.11, 0.025))
    snout = disc((0, -0.07, 0.31), 0.135, 0.07, 0.035, axis=2)
    nostrils = both_sides(ellipsoid((0.048, -0.07, 0.38), (0.024, 0.042, 0.015)))
    mouth = ellipsoid((0, -0.225, 0.2), (0.08, 0.02, 0.04))
    return _Head([
        _skull(0.36), Part(ears, "shade", 0.03), Part(snout, "shade", 0.01), Part(nostrils, "black"),
        Part(mouth, "black"), *_eyes(0.165, 0.09, 0.22, 0.9),
    ])  # fmt: skip


def _elephant_head() -> _Head:
    ears = both_sides(ellipsoid((0.41, 0.05, -0.06), (0.23, 0.27, 0.06)))
    inner = both_sides(ellipsoid((0.415, 0.04, -0.015), (0.165, 0.2, 0.04)))
    trunk = chain([(0, -0.06, 0.25), (0, -0.22, 0.4), (0, -0.38, 0.46), (0, -0.47, 0.54)], 0.1, 0.062)
    tip = ball((0, -0.472, 0.58), 0.035)
    tusks = both_sides(rod((0.12, -0.17, 0.25), (0.14, -0.26, 0.4), 0.04, 0.018))
    return _Head([
        _skull(0.3, 0.29), Part(ears, "main", 0.02), Part(inner, "light", 0.01), Part(trunk, "main", 0.05),
        Part(tip, "light"), Part(tusks, "white"), *_eyes(0.14, 0.075, 0.225, 0.8),
    ])  # fmt: skip


def _frog_head() -> _Head:
    bulbs = both_sides(ball((0.2, 0.2, 0.05), 0.15))
    mouth = in_front(ring((0, 0.06, 0.0), 0.275, 0.016, axis=2), 0.0)
    smile = moved(tilted(cut(mouth, block((0, 0.16, 0), (1, 0.2, 1), 0.0)), 0, (0, 0, 0)), (0, 0.0, 0.215))
    cheeks = both_sides(ellipsoid((0.27, -0.06, 0.17), (0.05, 0.035, 0.03)))
    return _Head([
        _skull(0.4, 0.25, 0.29), Part(bulbs, "main", 0.04), Part(smile, "black"), Part(cheeks, "rose", 0.0),
        *_eyes(0.2, 0.215, 0.15, 1.05),
    ], crown=(0.21, -0.02))  # fmt: skip


def _tail_up() -> Part:
    return Part(chain([(0.1, 0.1, -0.2), (0.36, 0.16, -0.18), (0.44, 0.36, -0.16), (0.36, 0.5, -0.16)], 0.06), "main")


def _tail_short() -> Part:
    return Part(rod((0.05, 0.2, -0.2), (0.3, 0.4, -0.26), 0.055, 0.03), "main", 0.03)


def _tail_round() -> Part:
    return Part(ball((0, 0.16, -0.26), 0.1), "light", 0.02)


def _tail_thin() -> Part:
    return Part(chain([(0.1, 0.2, -0.2), (0.33, 0.3, -0.24), (0.36, 0.2, -0.24)], 0.03), "main", 0.02)


@dataclass(frozen=True)
class _Animal:
    head: Callable[[], _Head]
    tail: Callable[[], Part]
    paws: str = "light"


_ANIMALS = {
    "cat": _Animal(_cat_head, _tail_up),
    "dog": _Animal(_dog_head, _tail_short),
    "rabbit": _Animal(_rabbit_head, _tail_round),
    "bear": _Animal(_bear_head, _tail_round, "shade"),
    "pig": _Animal(_pig_head, _tail_thin, "shade"),
    "elephant": _Animal(_elephant_head, _tail_thin),
    "frog": _Animal(_frog_head, lambda: Part(ball((0, 0.1, -0.2), 0.05), "main", 0.05), "main"),
}


def _sitting(animal: _Animal) -> tuple[Parts, Vector]:
    body = ellipsoid((0, 0.27, -0.02), (0.27, 0.27, 0.23))
    belly = ellipsoid((0, 0.25, 0.09), (0.175, 0.19, 0.15))
    arms = both_sides(rod((0.2, 0.36, 0.08), (0.18, 0.17, 0.23), 0.075, 0.07))
    feet = both_sides(ellipsoid((0.19, 0.085, 0.2), (0.105, 0.085, 0.14)))
    soles = both_sides(ellipsoid((0.195, 0.085, 0.315), (0.06, 0.055, 0.035)))
    parts = [
        Part(body, "main"), Part(belly, "light", 0.02), animal.tail(), Part(arms, "main", 0.04),
        Part(feet, "main", 0.03), Part(soles, animal.paws, 0.01),
    ]  # fmt: skip
    return parts, (0, 0.72, 0.04)


def _lying(animal: _Animal) -> tuple[Parts, Vector]:
    """Stretched out sideways, the head over the forepaws at the left."""
    body = union(ellipsoid((0.2, 0.2, -0.06), (0.42, 0.2, 0.23)), ellipsoid((0.45, 0.21, -0.04), (0.22, 0.21, 0.23)))
    arms = union(rod((-0.3, 0.1, 0.1), (-0.36, 0.07, 0.36), 0.085), rod((-0.06, 0.1, 0.1), (-0.04, 0.07, 0.36), 0.085))
    paws = union(ball((-0.365, 0.07, 0.39), 0.06), ball((-0.04, 0.07, 0.39), 0.06))
    leg = union(ellipsoid((0.48, 0.14, 0.14), (0.17, 0.14, 0.12)), rod((0.5, 0.07, 0.2), (0.3, 0.07, 0.26), 0.07))
    tail = chain([(0.62, 0.12, -0.1), (0.78, 0.07, 0.1), (0.66, 0.06, 0.28)], 0.055)
    parts = [
        Part(body, "main"), Part(arms, "main", 0.05), Part(leg, "main", 0.03), Part(paws, animal.paws, 0.01),
        Part(tail, animal.tail().role, 0.03),
    ]  # fmt: skip
    return parts, (-0.2, 0.42, 0.1)


def _animal(form: Form) -> Parts:
    animal = _ANIMALS[form.kind]
    body, place = (_lying if form.pose == "lying" else _sitting)(animal)
    head = animal.head()
    return [*body, *_moved([*head.parts, *_clothes(form.wears, head.crown)], place)]


def _clothes(wears: str, crown: tuple[float, float], neck: tuple[float, float] = (-0.245, 0.225)) -> Parts:
    """A pointed hat or a scarf for a head around the origin. ``neck``: height, radius."""
    if wears == "hat":
        y, z = crown
        cone = turned_on_a_wheel([(-0.1, 0.0), (0.17, 0.0), (0.02, 0.29), (-0.1, 0.29)], 0.012)
        brim, bobble = ring((0, 0.0, 0), 0.175, 0.045), ball((0, 0.315, 0), 0.07)
        hat = [Part(cone, "accent"), Part(brim, "trim"), Part(bobble, "trim")]
        return _moved(hat, (0, y, z))
    if wears == "scarf":
        y, radius = neck
        band = ring((0, y, 0.0), radius, 0.085)
        end = rod((0.13, y - 0.03, radius + 0.04), (0.17, y - 0.27, radius + 0.1), 0.075, 0.085)
        fringe = ellipsoid((0.172, y - 0.33, radius + 0.115), (0.08, 0.05, 0.07))
        return [Part(band, "accent"), Part(end, "accent", 0.02), Part(fringe, "trim")]
    return []


def _duck(form: Form) -> Parts:
    body = ellipsoid((0, 0.3, -0.04), (0.33, 0.28, 0.4))
    tail = rod((0, 0.36, -0.34), (0, 0.54, -0.5), 0.12, 0.03)
    wings = both_sides(tilted(ellipsoid((0.32, 0.33, -0.06), (0.07, 0.16, 0.26)), 12, (0.32, 0.33, -0.06)))
    head = ball((0, 0.78, 0.1), 0.3)
    beak = ellipsoid((0, 0.72, 0.43), (0.155, 0.04, 0.13))
    below = ellipsoid((0, 0.675, 0.4), (0.11, 0.035, 0.1))
    feet = both_sides(ellipsoid((0.15, 0.03, 0.26), (0.12, 0.04, 0.15)))
    return [
        Part(feet, "orange"), Part(body, "main"), Part(tail, "main", 0.08), Part(head, "main", 0.06),
        Part(wings, "shade", 0.02), Part(beak, "orange"), Part(below, "orange"), *_eyes(0.135, 0.86, 0.335, 0.95),
        *_moved(_clothes(form.wears, (0.26, -0.03), (-0.27, 0.2)), (0, 0.78, 0.1)),
    ]  # fmt: skip


def _penguin(form: Form) -> Parts:
    body = ellipsoid((0, 0.5, 0), (0.37, 0.5, 0.31))
    belly = ellipsoid((0, 0.36, 0.1), (0.28, 0.31, 0.25))
    face = both_sides(ellipsoid((0.12, 0.74, 0.15), (0.16, 0.16, 0.12)))
    wings = both_sides(tilted(ellipsoid((0.42, 0.42, 0.02), (0.06, 0.25, 0.13)), -16, (0.36, 0.6, 0), axis=2))
    feet = both_sides(ellipsoid((0.15, 0.04, 0.22), (0.12, 0.045, 0.16)))
    beak = rod((0, 0.66, 0.27), (0, 0.64, 0.4), 0.06, 0.022)
    return [
        Part(feet, "orange"), Part(body, "main"), Part(belly, "white", 0.01), Part(face, "white", 0.01),
        Part(wings, "main", 0.03), Part(beak, "orange"), *_eyes(0.125, 0.77, 0.235, 0.9),
        *_moved(_clothes(form.wears, (0.24, -0.02), (-0.2, 0.31)), (0, 0.74, 0.0)),
    ]  # fmt: skip


# food


def _apple(form: Form) -> Parts:
    fruit = ring((0, 0.45, 0), 0.19, 0.36)
    low = ellipsoid((0, 0.3, 0), (0.4, 0.3, 0.4))
    stem = rod((0, 0.68, 0), (0.07, 0.98, 0.0), 0.035, 0.04)
    leaf = tilted(ellipsoid((0.25, 0.9, 0.03), (0.2, 0.035, 0.1)), 25, (0.07, 0.88, 0), axis=2)
    return [Part(fruit, "main"), Part(low, "main", 0.2), Part(stem, "wood"), Part(leaf, "green")]


def _pumpkin(form: Form) -> Parts:
    fruit = ribbed(ring((0, 0.4, 0), 0.26, 0.34), 0.035)
    stem = chain([(0, 0.6, 0), (0.0, 0.86, 0), (0.1, 0.98, 0)], 0.075, 0.06)
    vine = chain([(0.02, 0.76, 0.05), (0.24, 0.82, 0.12), (0.36, 0.74, 0.2)], 0.025)
    leaf = tilted(ellipsoid((-0.22, 0.8, 0.1), (0.2, 0.03, 0.14)), -15, (0, 0.76, 0), axis=2)
    return [Part(fruit, "main"), Part(stem, "green", 0.03), Part(vine, "green"), Part(leaf, "green")]


SPRINKLES = ((20, 0.32, 0), (65, 0.44, 70), (110, 0.36, 20), (150, 0.45, 120), (195, 0.33, 60), (240, 0.43, 10),
             (285, 0.34, 100), (325, 0.45, 40))  # fmt: skip
"""Angle in degrees and radius of a sprinkle's place, and its own direction."""


def _donut(form: Form) -> Parts:
    def sprinkle(angle: float, radius: float, way: float) -> Solid:
        turn, direction = math.radians(angle), math.radians(way)
        x, y = radius * math.cos(turn), 0.55 + radius * math.sin(turn)
        dx, dy = 0.045 * math.cos(direction), 0.045 * math.sin(direction)
        z = 0.215 - 1.2 * (radius - 0.36) ** 2
        return rod((x - dx, y - dy, z), (x + dx, y + dy, z), 0.026)

    solids = [sprinkle(*s) for s in SPRINKLES]
    dough = ring((0, 0.55, 0), 0.345, 0.2, axis=2)
    icing = in_front(ring((0, 0.55, 0.012), 0.345, 0.205, axis=2), 0.03)
    parts = [
        Part(dough, "cream"), Part(icing, "main", 0.03), Part(union(*solids[::2]), "white"),
        Part(union(*solids[1::2]), "gold"),
    ]  # fmt: skip
    return [replace(part, solid=tilted(part.solid, -16, (0, 0, 0))) for part in parts]


def _cupcake(form: Form) -> Parts:
    cup = ribbed(turned_on_a_wheel([(-0.2, 0.02), (0.26, 0.02), (0.37, 0.44), (-0.2, 0.44)], 0.02), 0.012)
    swirl = union(
        ellipsoid((0, 0.52, 0), (0.45, 0.17, 0.45)),
        ellipsoid((0.02, 0.69, 0.01), (0.34, 0.15, 0.34)),
        ellipsoid((-0.01, 0.84, 0), (0.22, 0.13, 0.22)),
    )
    cherry = ball((0, 1.0, 0.03), 0.115)
    stem = chain([(0, 1.09, 0.03), (0.04, 1.2, 0.02), (0.1, 1.26, 0.0)], 0.02)
    return [Part(cup, "cream"), Part(swirl, "main", 0.01), Part(cherry, "rose", 0.01), Part(stem, "green")]


def _mushroom(form: Form) -> Parts:
    foot = turned_on_a_wheel([(-0.1, 0.05), (0.17, 0.05), (0.12, 0.5), (-0.1, 0.5)], 0.05)
    cap = above(ellipsoid((0, 0.5, 0), (0.52, 0.5, 0.52)), 0.46)
    under = ellipsoid((0, 0.47, 0), (0.45, 0.06, 0.45))
    places = [(0.0, 0.83, 0.36), (0.3, 0.76, 0.23), (-0.3, 0.79, 0.22), (0.14, 0.6, 0.48), (-0.21, 0.58, 0.45),
              (0.05, 0.99, 0.05), (0.45, 0.58, 0.2), (-0.46, 0.58, 0.16)]  # fmt: skip
    sizes = [0.1, 0.08, 0.085, 0.065, 0.07, 0.1, 0.06, 0.065]
    spots = union(*(ball(p, s) for p, s in zip(places, sizes, strict=True)))
    return [Part(foot, "cream"), Part(under, "cream", 0.02), Part(cap, "main", 0.02), Part(spots, "white")]


# things


def _mug(form: Form) -> Parts:
    wall: Outline = [(-0.1, 0.03), (0.34, 0.03), (0.38, 0.82), (0.31, 0.82), (0.28, 0.12), (-0.1, 0.12)]
    inside: Outline = [(-0.1, 0.0), (0.34, 0.0), (0.37, 0.9), (-0.1, 0.9)]
    handle = cut(ring((0.42, 0.43, 0), 0.2, 0.06, axis=2), turned_on_a_wheel(inside))
    drink = disc((0, 0.66, 0), 0.32, 0.03, 0.01)
    stripe = turned_on_a_wheel([(0.3, 0.2), (0.356, 0.2), (0.361, 0.3), (0.3, 0.3)], 0.025)
    return [
        Part(turned_on_a_wheel(wall, 0.025), "main"), Part(handle, "main", 0.04), Part(drink, "brown"),
        Part(stripe, "light"),
    ]  # fmt: skip


def _teapot(form: Form) -> Parts:
    body = ellipsoid((0, 0.4, 0), (0.4, 0.37, 0.4))
    foot = disc((0, 0.04, 0), 0.26, 0.04, 0.02)
    spout = chain([(-0.3, 0.3, 0), (-0.5, 0.44, 0), (-0.64, 0.72, 0)], 0.12, 0.055)
    handle = ring((0.42, 0.44, 0), 0.2, 0.055, axis=2)
    lid = above(ellipsoid((0, 0.68, 0), (0.27, 0.16, 0.27)), 0.69)
    rim = ring((0, 0.7, 0), 0.25, 0.03)
    knob = ball((0, 0.9, 0), 0.08)
    return [
        Part(body, "main"), Part(foot, "shade", 0.02), Part(spout, "main", 0.06), Part(handle, "main", 0.05),
        Part(lid, "main", 0.01), Part(rim, "light"), Part(knob, "light", 0.03),
    ]  # fmt: skip


def _pot(form: Form) -> Parts:
    wall: Outline = [(-0.1, 0.04), (0.42, 0.04), (0.44, 0.5), (0.38, 0.5), (0.36, 0.12), (-0.1, 0.12)]
    rim = ring((0, 0.52, 0), 0.425, 0.04)
    ears = both_sides(ring((0.5, 0.38, 0), 0.1, 0.042, axis=1))
    parts = [Part(turned_on_a_wheel(wall, 0.025), "main"), Part(ears, "black"), Part(rim, "main", 0.01)]
    if form.open:
        soup = disc((0, 0.42, 0), 0.4, 0.02, 0.01)
        dots = union(ball((0.12, 0.43, 0.1), 0.075), ball((-0.16, 0.43, 0.05), 0.07), ball((0.0, 0.43, -0.2), 0.075))
        greens = union(ball((0.2, 0.43, -0.12), 0.06), ball((-0.06, 0.43, 0.22), 0.06), ball((-0.2, 0.43, -0.15), 0.05))
        return [*parts, Part(soup, "gold"), Part(dots, "orange"), Part(greens, "green")]
    lid = above(ellipsoid((0, 0.54, 0), (0.43, 0.24, 0.43)), 0.54)
    knob = union(rod((0, 0.76, 0), (0, 0.82, 0), 0.04), ellipsoid((0, 0.86, 0), (0.1, 0.06, 0.1)))
    return [*parts, Part(lid, "light", 0.0), Part(knob, "black")]


def _gift(form: Form) -> Parts:
    box = block((0, 0.33, 0), (0.4, 0.33, 0.4), 0.03)
    bands = union(block((0, 0.33, 0), (0.09, 0.335, 0.412), 0.01), block((0, 0.33, 0), (0.412, 0.335, 0.09), 0.01))
    lid = block((0, 0.72, 0), (0.44, 0.09, 0.44), 0.03)
    over = union(block((0, 0.72, 0), (0.09, 0.1, 0.45), 0.01), block((0, 0.72, 0), (0.45, 0.1, 0.09), 0.01))
    bow = union(
        both_sides(tilted(ring((0.17, 0.9, 0), 0.12, 0.055, axis=2), -20, (0, 0.82, 0), axis=2)),
        ball((0, 0.87, 0.02), 0.085),
    )
    top = [Part(lid, "main"), Part(over, "accent"), Part(bow, "accent", 0.02)]
    if not form.open:
        return [Part(box, "main"), Part(bands, "accent"), *top]
    hollow = cut(box, block((0, 0.45, 0), (0.34, 0.4, 0.34), 0.01))
    hollow_bands = cut(bands, block((0, 0.45, 0), (0.34, 0.4, 0.34), 0.01))
    ball_inside = ball((0.02, 0.62, 0.02), 0.28)
    raised = [replace(p, solid=moved(tilted(p.solid, -66, (0, 0.66, -0.42)), (0, -0.14, 0))) for p in top[:2]]
    return [Part(hollow, "main"), Part(hollow_bands, "accent"), Part(ball_inside, "white"), *raised]


def _house(form: Form) -> Parts:
    walls = slab([(-0.38, 0.0), (0.38, 0.0), (0.38, 0.56), (0.0, 0.93), (-0.38, 0.56)], (-0.34, 0.34), 0.01)
    roof = slab([(0.0, 1.14), (0.56, 0.55), (0.47, 0.5), (0.0, 0.97), (-0.47, 0.5), (-0.56, 0.55)], (-0.42, 0.42), 0.02)
    chimney = block((0.27, 0.95, -0.08), (0.075, 0.2, 0.075), 0.015)
    door = block((-0.12, 0.2, 0.345), (0.105, 0.2, 0.02), 0.015)
    knob = ball((-0.05, 0.2, 0.37), 0.025)
    window = union(block((0.2, 0.32, 0.345), (0.1, 0.11, 0.012), 0.01), disc((0, 0.71, 0.345), 0.085, 0.012, 0.01, 2))
    frame = union(
        cut(block((0.2, 0.32, 0.345), (0.13, 0.14, 0.022), 0.01), block((0.2, 0.32, 0.345), (0.1, 0.11, 0.1), 0.0)),
        rod((0.2, 0.22, 0.36), (0.2, 0.42, 0.36), 0.014),
        rod((0.1, 0.32, 0.36), (0.3, 0.32, 0.36), 0.014),
    )
    return [
        Part(walls, "cream"), Part(chimney, "brown"), Part(roof, "main"), Part(door, "wood"), Part(knob, "gold"),
        Part(window, "glass"), Part(frame, "white"),
    ]  # fmt: skip


# vehicles


def _wheels(x: float, ends: tuple[float, float], radius: float) -> Parts:
    tyres = both_sides(union(*(disc((x, radius, z), radius, 0.075, 0.04, axis=0) for z in ends)))
    hubs = both_sides(union(*(disc((x + 0.07, radius, z), radius * 0.5, 0.02, 0.01, axis=0) for z in ends)))
    return [Part(tyres, "black"), Part(hubs, "white")]


def _car(form: Form) -> Parts:
    body = block((0, 0.34, 0), (0.36, 0.18, 0.62), 0.13)
    cabin = block((0, 0.6, -0.06), (0.29, 0.2, 0.36), 0.13)
    side = block((0, 0.61, -0.06), (0.3, 0.11, 0.25), 0.04)
    front = block((0, 0.61, -0.06), (0.22, 0.11, 0.37), 0.04)
    lamps = both_sides(ellipsoid((0.21, 0.39, 0.59), (0.085, 0.085, 0.05)))
    bumper = rod((-0.26, 0.22, 0.6), (0.26, 0.22, 0.6), 0.055)
    grill = block((0, 0.33, 0.62), (0.09, 0.035, 0.02), 0.01)
    parts = [
        Part(body, "main"), Part(cabin, "main", 0.05), Part(union(side, front), "glass"), Part(lamps, "gold"),
        Part(bumper, "white"), Part(grill, "black"), *_wheels(0.33, (-0.36, 0.36), 0.19),
    ]  # fmt: skip
    return parts


def _boat(form: Form) -> Parts:
    hull = above(ellipsoid((0, 0.36, 0), (0.64, 0.36, 0.3)), 0.0)
    hull = cut(hull, block((0, 0.66, 0), (1.0, 0.3, 1.0), 0.0), ellipsoid((0, 0.42, 0), (0.52, 0.22, 0.22)))
    plank = cut(
        ellipsoid((0, 0.36, 0), (0.655, 0.36, 0.315)),
        block((0, 0.68, 0), (1, 0.28, 1), 0),
        block((0, 0.12, 0), (1, 0.19, 1), 0),
        ellipsoid((0, 0.42, 0), (0.54, 0.3, 0.23)),
    )
    mast = rod((0.0, 0.25, 0), (0.0, 1.25, 0), 0.035)
    sail = slab([(0.06, 0.5), (0.52, 0.5), (0.06, 1.2)], (-0.02, 0.02), 0.015)
    jib = slab([(-0.06, 0.5), (-0.42, 0.5), (-0.06, 1.02)], (-0.02, 0.02), 0.015)
    flag = slab([(0.0, 1.24), (0.0, 1.36), (-0.2, 1.3)], (-0.02, 0.02), 0.01)
    return [
        Part(hull, "main"), Part(plank, "wood"), Part(mast, "wood"), Part(sail, "white"),
        Part(union(jib, flag), "main"),
    ]  # fmt: skip


def _rocket(form: Form) -> Parts:
    body = turned_on_a_wheel([(-0.1, 0.2), (0.2, 0.2), (0.29, 0.45), (0.29, 0.65), (0.22, 0.88), (-0.1, 0.88)], 0.03)
    nose = turned_on_a_wheel([(-0.1, 0.9), (0.21, 0.9), (0.13, 1.1), (0.0, 1.25), (-0.1, 1.25)], 0.03)
    fin: Outline = [(0.2, 0.5), (0.32, 0.42), (0.5, 0.12), (0.48, 0.0), (0.36, 0.14), (0.2, 0.22)]
    fins = union(both_sides(slab(fin, (-0.035, 0.035), 0.02)), slab([(z, y) for z, y in fin], (-0.035, 0.035), 0.02, 0))
    nozzle = turned_on_a_wheel([(-0.1, 0.08), (0.2, 0.08), (0.15, 0.2), (-0.1, 0.2)], 0.02)
    window = disc((0, 0.66, 0.29), 0.13, 0.04, 0.02, axis=2)
    frame = ring((0, 0.66, 0.305), 0.14, 0.035, axis=2)
    return [
        Part(nozzle, "black"), Part(body, "main"), Part(nose, "light"), Part(fins, "light"), Part(window, "glass"),
        Part(frame, "white"),
    ]  # fmt: skip


# plants


def _tree(form: Form) -> Parts:
    trunk = turned_on_a_wheel([(-0.1, 0.03), (0.12, 0.03), (0.08, 0.2), (0.08, 0.6), (-0.1, 0.6)], 0.03)
    crown = [
        ball((0, 0.86, 0), 0.34), ball((0.26, 0.68, 0.08), 0.25), ball((-0.26, 0.69, 0.06), 0.25),
        ball((0.02, 0.64, 0.24), 0.23), ball((0.05, 0.66, -0.24), 0.25), ball((-0.08, 1.08, 0.05), 0.2),
        ball((0.16, 0.98, 0.14), 0.19),
    ]  # fmt: skip
    return [Part(trunk, "wood"), *(Part(c, "main", 0.06) for c in crown)]


def _planter() -> Parts:
    wall = turned_on_a_wheel([(-0.1, 0.02), (0.2, 0.02), (0.28, 0.3), (-0.1, 0.3)], 0.02)
    rim = turned_on_a_wheel([(-0.1, 0.3), (0.3, 0.3), (0.3, 0.38), (-0.1, 0.38)], 0.025)
    soil = disc((0, 0.4, 0), 0.27, 0.025, 0.01)
    return [Part(wall, "brown"), Part(rim, "brown"), Part(soil, "wood")]


def _cactus(form: Form) -> Parts:
    stem = ribbed(rod((0, 0.35, 0), (0, 0.98, 0), 0.2), 0.014)
    left = chain([(-0.1, 0.6, 0), (-0.38, 0.62, 0), (-0.4, 0.88, 0)], 0.095)
    right = chain([(0.1, 0.5, 0), (0.38, 0.52, 0), (0.4, 0.72, 0)], 0.085)
    petals = union(
        *(ball((0.085 * math.cos(a), 1.2, 0.085 * math.sin(a)), 0.075) for a in (0.3, 1.56, 2.81, 4.07, 5.33))
    )
    heart = ball((0, 1.24, 0), 0.06)
    return [
        *_planter(), Part(stem, "main"), Part(left, "main", 0.06), Part(right, "main", 0.06), Part(petals, "rose"),
        Part(heart, "gold"),
    ]  # fmt: skip


def _flower(form: Form) -> Parts:
    stem = chain([(0, 0.4, 0), (0.03, 0.6, 0), (0, 0.8, 0.0)], 0.04)
    leaves = both_sides(tilted(ellipsoid((0.17, 0.56, 0.02), (0.17, 0.035, 0.085)), 30, (0.02, 0.52, 0), axis=2))
    angles = [i * 1.0471975512 + 0.5235987756 for i in range(6)]
    petals = union(
        *(ellipsoid((0.24 * math.cos(a), 0.92 + 0.24 * math.sin(a), 0.05), (0.155, 0.155, 0.07)) for a in angles)
    )
    heart = ellipsoid((0, 0.92, 0.1), (0.14, 0.14, 0.08))
    return [
        *_planter(), Part(stem, "green"), Part(leaves, "green", 0.02), Part(petals, "main", 0.015),
        Part(heart, "gold"),
    ]  # fmt: skip


OBJECTS: dict[str, Callable[[Form], Parts]] = {
    **dict.fromkeys(_ANIMALS, _animal),
    "duck": _duck,
    "penguin": _penguin,
    "apple": _apple,
    "donut": _donut,
    "cupcake": _cupcake,
    "pumpkin": _pumpkin,
    "mug": _mug,
    "teapot": _teapot,
    "pot": _pot,
    "gift": _gift,
    "house": _house,
    "car": _car,
    "boat": _boat,
    "rocket": _rocket,
    "tree": _tree,
    "cactus": _cactus,
    "flower": _flower,
    "mushroom": _mushroom,
}
ANIMALS = (*_ANIMALS, "duck", "penguin")
LIERS = tuple(kind for kind in _ANIMALS if kind != "frog")
"""Animals that can lie down."""
LIDDED = ("pot", "gift")
"""Things that can be open."""
FACING = (*ANIMALS, "car")
"""Toys of which one can say where they face."""


@lru_cache(maxsize=256)
def parts_of(form: Form) -> tuple[Part, ...]:
    """The parts of a toy in the order in which they melt together. Raises KeyError for an unknown kind."""
    return tuple(OBJECTS[form.kind](form))


def distance(form: Form, points: Tensor) -> Tensor:
    """Signed distance of points (3, n) to a toy in its own frame: (n,)."""
    first, *others = parts_of(form)
    total = first.solid(points)
    for part in others:
        total = smooth_union(total, part.solid(points), part.blend)
    return total


def roles_at(form: Form, points: Tensor) -> Tensor:
    """Index into ``ROLES`` of the part nearest to each point (3, n): int64 (n,)."""
    parts = parts_of(form)
    nearest = torch.stack([part.solid(points) for part in parts]).argmin(0)
    return torch.tensor([ROLES.index(part.role) for part in parts], device=points.device)[nearest]


@lru_cache(maxsize=256)
def _inside(form: Form) -> Tensor:
    """Points of a grid that lie in or close to the toy: (3, n)."""
    axis = torch.linspace(-1, 1, 41)
    x, y, z = torch.meshgrid(axis, axis + 0.75, axis, indexing="ij")
    grid = torch.stack([x.flatten(), y.flatten(), z.flatten()])
    return grid[:, distance(form, grid) < 0.035]


@lru_cache(maxsize=256)
def bounds(form: Form) -> tuple[Vector, float]:
    """Middle and radius of a ball that holds the toy, in its own frame."""
    inside = _inside(form)
    middle = (inside.amin(1) + inside.amax(1)) / 2
    radius = float((inside - middle[:, None]).norm(dim=0).max()) + 0.035
    return (float(middle[0]), float(middle[1]), float(middle[2])), radius


def span(form: Form, yaw: float) -> tuple[float, float]:
    """How far a toy turned by ``yaw`` degrees reaches to the left (negative) and to the right of its middle."""
    inside, turn = _inside(form), math.radians(yaw)
    across = inside[0] * math.cos(turn) + inside[2] * math.sin(turn)
    return float(across.min()), float(across.max())
