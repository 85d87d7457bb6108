"""Outlines of the demo's shapes, as polygons in a unit circle (y points down)."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

Polygon = tuple[np.ndarray, bool]
"""Points (n, 2) and whether they are filled (True) or cut out (False)."""


def _arc(radius: float, start: float = 0.0, stop: float = 360.0, points: int = 72) -> np.ndarray:
    turn = np.deg2rad(np.linspace(start, stop, points))
    return np.stack([np.sin(turn), -np.cos(turn)], -1) * radius


def _circle() -> list[Polygon]:
    return [(_arc(0.88), True)]


def _square() -> list[Polygon]:
    side = 0.78
    return [(np.asarray([[-side, -side], [side, -side], [side, side], [-side, side]]), True)]


def _triangle() -> list[Polygon]:
    return [(_arc(1.0, points=4)[:3] + np.asarray([0.0, 0.12]), True)]


def _star() -> list[Polygon]:
    tips = _arc(1.0, points=11)[:10]
    return [(tips * np.where(np.arange(10) % 2 == 0, 1.0, 0.5)[:, None], True)]


def _heart() -> list[Polygon]:
    t = np.linspace(0, 2 * np.pi, 72)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return [(np.stack([x, y], -1) / 17.0 + (0.0, -0.1), True)]


def _cross() -> list[Polygon]:
    long, short = 0.95, 0.32
    corner = [(-short, -long), (short, -long), (short, -short), (long, -short), (long, short), (short, short)]
    rest = [(-x, -y) for x, y in corner]
    return [(np.asarray(corner + rest), True)]


def _ring() -> list[Polygon]:
    return [(_arc(0.95), True), (_arc(0.58), False)]


def _moon() -> list[Polygon]:
    # the inner arc meets the outer one at its tips, so the crescent is one simple polygon
    outer = _arc(0.95, 40, 320, 60)
    tips = outer[[0, -1]]
    centre, radius = np.asarray([0.0, -0.42]), np.linalg.norm(tips[0] - (0.0, -0.42))
    start = np.rad2deg(np.arctan2(tips[1][0], -(tips[1][1] - centre[1])))
    inner = _arc(float(radius), start, start - 2 * (start + 180) - 0.0, 60) + centre
    return [(np.concatenate([outer, inner]) @ np.asarray([[0.0, -1.0], [1.0, 0.0]]), True)]


SHAPES: dict[str, Callable[[], list[Polygon]]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "heart": _heart,
    "cross": _cross,
    "ring": _ring,
    "moon": _moon,
}


@lru_cache(maxsize=len(SHAPES))
def outline(shape: str) -> list[Polygon]:
    """Polygons of a shape in drawing order; raises KeyError for a name that is not in ``SHAPES``."""
    return SHAPES[shape]()
