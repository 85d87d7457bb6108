"""Solids as signed distances: a ``Solid`` maps points (3, n) to their distance from a surface, negative inside.

y points up, z to the viewer. The formulas are those of I. Quilez, "Distance functions" (iquilezles.org).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Solid = Callable[[Tensor], Tensor]
Vector = tuple[float, float, float]
Outline = Sequence[tuple[float, float]]
"""Corners of a polygon in order."""


def _length(*coordinates: Tensor) -> Tensor:
    total = coordinates[0].square()
    for c in coordinates[1:]:
        total = total.addcmul(c, c)
    return total.sqrt()


def ball(centre: Vector, radius: float) -> Solid:
    """A sphere."""
    return lambda p: _length(*(p[i] - centre[i] for i in range(3))) - radius


def ellipsoid(centre: Vector, radii: Vector) -> Solid:
    """An ellipsoid along the axes; the distance is a close bound."""

    def distance(p: Tensor) -> Tensor:
        scaled = [(p[i] - centre[i]) / radii[i] for i in range(3)]
        near = _length(*scaled)
        slope = _length(*(scaled[i] / radii[i] for i in range(3)))
        return near * (near - 1) / slope.clamp_min(1e-6)

    return distance


def rod(start: Vector, end: Vector, radius: float, end_radius: float | None = None) -> Solid:
    """A straight rod with round ends whose radius runs from ``radius`` to ``end_radius``."""
    along = tuple(b - a for a, b in zip(start, end, strict=True))
    square = sum(c * c for c in along)
    growth = (radius if end_radius is None else end_radius) - radius

    def distance(p: Tensor) -> Tensor:
        q = [p[i] - start[i] for i in range(3)]
        share = ((q[0] * along[0] + q[1] * along[1] + q[2] * along[2]) / square).clamp(0, 1)
        return _length(*(q[i] - share * along[i] for i in range(3))) - radius - growth * share

    return distance


def chain(points: Sequence[Vector], radius: float, end_radius: float | None = None) -> Solid:
    """Rods from point to point, the radius running evenly from the first to the last."""
    last = radius if end_radius is None else end_radius
    steps = [radius + (last - radius) * i / (len(points) - 1) for i in range(len(points))]
    pieces = zip(points, points[1:], steps, steps[1:], strict=False)
    return union(*(rod(a, b, ra, rb) for a, b, ra, rb in pieces))


def block(centre: Vector, half: Vector, edge: float) -> Solid:
    """A box with half sides ``half`` and edges rounded by ``edge``."""

    def distance(p: Tensor) -> Tensor:
        q = [(p[i] - centre[i]).abs() - (half[i] - edge) for i in range(3)]
        inside = torch.maximum(torch.maximum(q[0], q[1]), q[2]).clamp_max(0)
        return _length(*(c.clamp_min(0) for c in q)) + inside - edge

    return distance


def ring(centre: Vector, radius: float, thickness: float, axis: int = 1) -> Solid:
    """A torus about an axis (0 x, 1 y, 2 z); with ``radius`` below ``thickness`` a ball with dimples."""
    a, b = [i for i in range(3) if i != axis]

    def distance(p: Tensor) -> Tensor:
        q = [p[i] - centre[i] for i in range(3)]
        return _length(_length(q[a], q[b]) - radius, q[axis]) - thickness

    return distance


def _polygon(x: Tensor, y: Tensor, corners: Outline) -> Tensor:
    """Signed distance of points of a plane to a polygon."""
    nearest, sign = torch.full_like(x, math.inf), torch.ones_like(x)
    for (ax, ay), (bx, by) in zip(corners, [*corners[1:], corners[0]], strict=True):
        ex, ey = bx - ax, by - ay
        wx, wy = x - ax, y - ay
        share = ((wx * ex + wy * ey) / (ex * ex + ey * ey)).clamp(0, 1)
        dx, dy = wx - share * ex, wy - share * ey
        nearest = torch.minimum(nearest, dx * dx + dy * dy)
        above, below, left = y >= ay, y < by, ex * wy > ey * wx
        sign = torch.where((above & below & left) | ~(above | below | left), -sign, sign)
    return sign * nearest.sqrt()


def turned_on_a_wheel(profile: Outline, edge: float = 0.0, centre: tuple[float, float] = (0.0, 0.0)) -> Solid:
    """A solid of revolution about a vertical axis through (x, z); ``profile`` in (radius, height), grown by ``edge``.

    A side that lies on the axis should reach to negative radii, or the rounding shows there.
    """

    def distance(p: Tensor) -> Tensor:
        return _polygon(_length(p[0] - centre[0], p[2] - centre[1]), p[1], profile) - edge

    return distance


def slab(outline: Outline, depth: tuple[float, float], edge: float = 0.0, axis: int = 2) -> Solid:
    """A polygon drawn along an axis, from ``depth[0]`` to ``depth[1]``, with edges rounded by ``edge``.

    The polygon lies in (x, y) for axis 2 and in (z, y) for axis 0.
    """
    middle, half = (depth[0] + depth[1]) / 2, (depth[1] - depth[0]) / 2 - edge

    def distance(p: Tensor) -> Tensor:
        flat = _polygon(p[0] if axis == 2 else p[2], p[1], outline)
        thick = (p[axis] - middle).abs() - half
        outside = _length(flat.clamp_min(0), thick.clamp_min(0))
        return outside + torch.maximum(flat, thick).clamp_max(0) - edge

    return distance


def disc(centre: Vector, radius: float, half: float, edge: float, axis: int = 1) -> Solid:
    """A cylinder about an axis (0 x, 1 y, 2 z) with rounded rims."""
    a, b = [i for i in range(3) if i != axis]

    def distance(p: Tensor) -> Tensor:
        q = [p[i] - centre[i] for i in range(3)]
        across, along = _length(q[a], q[b]) - (radius - edge), q[axis].abs() - (half - edge)
        return _length(across.clamp_min(0), along.clamp_min(0)) + torch.maximum(across, along).clamp_max(0) - edge

    return distance


def union(*solids: Solid) -> Solid:
    """All of several solids."""

    def distance(p: Tensor) -> Tensor:
        nearest = solids[0](p)
        for solid in solids[1:]:
            nearest = torch.minimum(nearest, solid(p))
        return nearest

    return distance


def cut(solid: Solid, *others: Solid) -> Solid:
    """A solid without what lies in the others."""

    def distance(p: Tensor) -> Tensor:
        left = solid(p)
        for other in others:
            left = torch.maximum(left, -other(p))
        return left

    return distance


def above(solid: Solid, height: float) -> Solid:
    """The part of a solid above a height."""
    return lambda p: torch.maximum(solid(p), height - p[1])


def in_front(solid: Solid, z: float) -> Solid:
    """The part of a solid nearer to the viewer than ``z``."""
    return lambda p: torch.maximum(solid(p), z - p[2])


def both_sides(solid: Solid) -> Solid:
    """A solid and its mirror image in x, at the cost of one; it must lie at x > 0."""
    return lambda p: solid(torch.stack([p[0].abs(), p[1], p[2]]))


def moved(solid: Solid, by: Vector) -> Solid:
    """A solid moved."""
    return lambda p: solid(p - p.new_tensor(by)[:, None])


def tilted(solid: Solid, degrees: float, pivot: Vector, axis: int = 0) -> Solid:
    """A solid turned about an axis through ``pivot``; about x a positive angle leans it to the viewer."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    a, b = [(1, 2), (2, 0), (0, 1)][axis]

    def distance(p: Tensor) -> Tensor:
        q = [p[i] - pivot[i] for i in range(3)]
        q[a], q[b] = c * q[a] + s * q[b], c * q[b] - s * q[a]
        return solid(torch.stack([q[i] + pivot[i] for i in range(3)]))

    return distance


def ribbed(solid: Solid, depth: float) -> Solid:
    """A solid of revolution with eight ribs, as a pumpkin has."""

    def distance(p: Tensor) -> Tensor:
        square = (p[0] * p[0] / (p[0] * p[0] + p[2] * p[2]).clamp_min(1e-9)).clamp(0, 1)
        double = 2 * square - 1
        fourfold = 2 * double * double - 1
        # cos 8φ by doubling the angle three times from cos² φ
        return solid(p) - depth * (2 * fourfold * fourfold - 1)

    return distance


def smooth_union(first: Tensor, second: Tensor, blend: float) -> Tensor:
    """The smaller of two distances, with a fillet of size ``blend`` where they meet (0: none)."""
    nearest = torch.minimum(first, second)
    if blend <= 0:
        return nearest
    near = (blend - (first - second).abs()).clamp_min(0)
    return nearest - near * near * (0.25 / blend)
