"""What a camera sees of placed toys, apart from colours: parts, light, shadows, normals. Ray marching on distances.

J. C. Hart, "Sphere tracing" (1996); the soft shadows are those of I. Quilez (iquilezles.org/articles/rmshadows).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .objects import ROLES, Form, bounds, distance, roles_at

SIZE = 128
"""Side of a picture in pixels."""
FINE = 2 * SIZE
"""Side of the buffers: each pixel of a picture is the mean of four samples."""
LENS = 0.235
"""Tangent of half the angle of view."""
TARGET = (0.0, 0.56, 0.0)
"""Where the camera looks."""
PENUMBRA = 7.0
"""Sharpness of shadows: smaller is softer."""
GLOSS = 20
"""Exponent of the stored highlight (Blinn 1977)."""


@dataclass(frozen=True)
class Placed:
    """A toy on the ground: its middle at (x, z), its size, and ``yaw`` in degrees: 90 looks to the picture's right."""

    form: Form
    x: float
    z: float
    scale: float
    yaw: float


@dataclass(frozen=True)
class View:
    """Where the camera stands, and where the light comes from in degrees (azimuth 0: from the camera, 90: right)."""

    side: float = 0.0
    height: float = 1.75
    distance: float = 4.0
    azimuth: float = -40.0
    elevation: float = 50.0

    @property
    def eye(self) -> tuple[float, float, float]:
        """The camera's place."""
        return self.side, self.height, self.distance

    @property
    def light(self) -> tuple[float, float, float]:
        """Unit vector to the light."""
        turn, rise = math.radians(self.azimuth), math.radians(self.elevation)
        return math.sin(turn) * math.cos(rise), math.sin(rise), math.cos(turn) * math.cos(rise)


@dataclass(frozen=True)
class Buffers:
    """What is known of each sample, uint8 (256, 256) each, normals (3, 256, 256); other sides where asked for.

    ``label``: 0 for the ground, else 1 + 32·(number of the toy) + (index in ``ROLES``); ``light``: direct light, and
    ``ambient``: open sky, both in 0…255 for 0…1; ``gloss``: the highlight; ``normal``: 128 + 127·n; ``grain``: rings
    of the wood that the toy might be carved from.
    """

    label: Tensor
    light: Tensor
    ambient: Tensor
    gloss: Tensor
    normal: Tensor
    grain: Tensor

    def stacked(self) -> Tensor:
        """All in one: uint8 (8, 256, 256)."""
        return torch.cat([torch.stack([self.label, self.light, self.ambient, self.gloss, self.grain]), self.normal])

    @staticmethod
    def of(stacked: Tensor) -> Buffers:
        """The inverse of ``stacked``."""
        return Buffers(stacked[0], stacked[1], stacked[2], stacked[3], stacked[5:8], stacked[4])


def rays(view: View, side: int = FINE, device: str = "cpu") -> Tensor:
    """Unit directions through the samples of a picture, row by row: float32 (3, side²)."""
    forward = torch.tensor([t - e for t, e in zip(TARGET, view.eye, strict=True)], dtype=torch.float64)
    forward = forward / forward.norm()
    right = torch.linalg.cross(forward, torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64))
    right = right / right.norm()
    up = torch.linalg.cross(right, forward)
    axis = ((torch.arange(side, dtype=torch.float64) + 0.5) / side * 2 - 1) * LENS
    y, x = torch.meshgrid(-axis, axis, indexing="ij")
    directions = forward[:, None] + right[:, None] * x.flatten() + up[:, None] * y.flatten()
    return (directions / directions.norm(dim=0)).float().to(device)


def ground_distance(view: View, directions: Tensor) -> Tensor:
    """How far along each ray the ground lies; 1000 where it does not."""
    down = directions[1]
    return torch.where(down < -1e-3, -view.height / down.clamp_max(-1e-3), torch.full_like(down, 1e3)).clamp_max(1e3)


def _to_frame(thing: Placed, vectors: Tensor) -> Tensor:
    """Directions (3, n) in the toy's own frame."""
    c, s = math.cos(math.radians(thing.yaw)), math.sin(math.radians(thing.yaw))
    return torch.stack([c * vectors[0] - s * vectors[2], vectors[1], s * vectors[0] + c * vectors[2]])


def _points_to_frame(thing: Placed, points: Tensor) -> Tensor:
    place = points.new_tensor([thing.x, 0.0, thing.z])[:, None]
    return _to_frame(thing, points - place) / thing.scale


def _near(form: Form, origin: Tensor, direction: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rays that pass the toy's bounding ball, and where they enter and leave it."""
    middle, radius = bounds(form)
    to = origin.new_tensor(middle)[:, None] - origin
    along = (to * direction).sum(0)
    room = radius * radius - (to.square().sum(0) - along.square())
    half = room.clamp_min(0).sqrt()
    hit = torch.nonzero((room > 0) & (along + half > 0))[:, 0]
    return hit, (along - half)[hit].clamp_min(0), (along + half)[hit]


def march(form: Form, origin: Tensor, direction: Tensor, steps: int = 72) -> Tensor:
    """Distance along rays (3, n) to a toy in its own frame: float32 (n,), infinite where they miss it."""
    rows, start, end = _near(form, origin, direction)
    result = origin.new_full((origin.shape[1],), math.inf)
    places, ways, travelled = origin[:, rows], direction[:, rows], start
    for _ in range(steps):
        if len(rows) == 0:
            break
        gap = distance(form, places + travelled * ways)
        travelled = travelled + 0.92 * gap
        arrived = gap < 0.0015
        result[rows[arrived]] = travelled[arrived]
        going = ~arrived & (travelled < end)
        rows, places, ways, travelled, end = rows[going], places[:, going], ways[:, going], travelled[going], end[going]
    return result


def lit(form: Form, origin: Tensor, direction: Tensor, steps: int = 28) -> Tensor:
    """Share of the light along rays (3, n) that a toy lets through, in its own frame: float32 (n,) in 0…1."""
    rows, start, end = _near(form, origin, direction)
    result = origin.new_ones(origin.shape[1])
    places, ways, travelled = origin[:, rows], direction[:, rows], start.clamp_min(0.03)
    for _ in range(steps):
        if len(rows) == 0:
            break
        gap = distance(form, places + travelled * ways)
        result[rows] = torch.minimum(result[rows], 0.5 + 0.5 * (PENUMBRA * gap / travelled).clamp(-1, 1))
        travelled = travelled + gap.clamp(0.02, 0.25)
        going = (travelled < end) & (result[rows] > 0.01)
        rows, places, ways, travelled, end = rows[going], places[:, going], ways[:, going], travelled[going], end[going]
    share = ((result - 0.5) * 2).clamp(0, 1)
    return share * share * (3 - 2 * share)


def _normals(form: Form, points: Tensor) -> Tensor:
    """Unit normals of a toy at points of its surface, in its own frame: (3, n)."""
    corners = points.new_tensor([[1, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]])
    step = 0.004
    total = sum(corner[:, None] * distance(form, points + step * corner[:, None]) for corner in corners)
    assert isinstance(total, Tensor)
    return total / total.norm(dim=0).clamp_min(1e-9)


def _openness(things: tuple[Placed, ...], points: Tensor, normals: Tensor) -> Tensor:
    """How open the sky is above points (3, n) of a surface: float32 (n,) in 0…1, darker where things touch."""
    result = points.new_ones(points.shape[1])
    for reach, weight in ((0.06, 0.45), (0.2, 0.4)):
        samples = points + reach * normals
        for thing in things:
            local = _points_to_frame(thing, samples)
            middle, radius = bounds(thing.form)
            close = torch.nonzero((local - local.new_tensor(middle)[:, None]).norm(dim=0) < radius + reach)[:, 0]
            gap = distance(thing.form, local[:, close]) * thing.scale
            result[close] = torch.minimum(result[close], 1 - weight * (1 - gap / reach).clamp(0, 1))
    return result


def _wood_grain(points: Tensor) -> Tensor:
    """Year rings of a block of wood at points (3, n): float32 (n,) in 0…1."""
    x, y, z = points[0] * 1.0 + 0.35, points[1] * 0.22 + 0.1, points[2] + 0.55
    wobble = 0.05 * torch.sin(points[1] * 5.0 + points[0] * 2.0) + 0.03 * torch.sin(points[1] * 9.0 + points[2] * 4.0)
    rings = ((x.square() + z.square()).sqrt() + 0.35 * y + wobble) * 9.0
    wave = (rings - rings.floor() - 0.5).abs() * 2
    return wave * wave * (3 - 2 * wave)


def _bytes(values: Tensor) -> Tensor:
    return (values.clamp(0, 1) * 255 + 0.5).to(torch.uint8)


def geometry(things: tuple[Placed, ...], view: View, device: str = "cpu", side: int = FINE) -> Buffers:
    """Everything that a camera sees of toys on a ground, apart from colours, in buffers of side × side samples."""
    with torch.no_grad():
        return _geometry(things, view, device, side)


def _geometry(things: tuple[Placed, ...], view: View, device: str, side: int) -> Buffers:
    directions = rays(view, side, device)
    eye = directions.new_tensor(view.eye)[:, None]
    floor = ground_distance(view, directions)
    travelled, owner = floor.clone(), torch.full_like(floor, -1, dtype=torch.int64)
    for number, thing in enumerate(things):
        origin = _points_to_frame(thing, eye).expand_as(directions)
        reach = march(thing.form, origin, _to_frame(thing, directions)) * thing.scale
        nearer = reach < travelled
        travelled, owner[nearer] = torch.where(nearer, reach, travelled), number

    label = torch.zeros_like(owner)
    light, ambient = torch.ones_like(floor), torch.ones_like(floor)
    gloss, grain = torch.zeros_like(floor), torch.zeros_like(floor)
    normal = torch.zeros_like(directions)
    normal[1] = 1
    toward = directions.new_tensor(view.light)[:, None]
    for number, thing in enumerate(things):
        rows = torch.nonzero(owner == number)[:, 0]
        points = eye + travelled[rows] * directions[:, rows]
        local = _points_to_frame(thing, points)
        own = _normals(thing.form, local)
        # the inverse turn brings normals back to the world
        normals = _to_frame(Placed(thing.form, 0, 0, 1, -thing.yaw), own)
        label[rows] = 1 + 32 * number + roles_at(thing.form, local)
        grain[rows] = _wood_grain(local)
        normal[:, rows] = normals
        shadow = _shadow(things, points + 0.015 * normals, toward)
        light[rows] = (normals * toward).sum(0).clamp_min(0) * shadow
        half = toward - directions[:, rows]
        half = half / half.norm(dim=0)
        gloss[rows] = (normals * half).sum(0).clamp(0, 1) ** GLOSS * shadow
        ambient[rows] = _openness(things, points, normals)
    _shade_ground(things, view, directions, floor, owner < 0, light, ambient)
    square = (side, side)
    return Buffers(
        label=label.to(torch.uint8).view(square),
        light=_bytes(light).view(square),
        ambient=_bytes(ambient).view(square),
        gloss=_bytes(gloss).view(square),
        normal=(normal * 127 + 128.5).to(torch.uint8).view(3, *square),
        grain=_bytes(grain).view(square),
    )


def _shadow(things: tuple[Placed, ...], points: Tensor, toward: Tensor) -> Tensor:
    shares = [lit(t.form, _points_to_frame(t, points), _to_frame(t, toward).expand_as(points)) for t in things]
    return torch.stack(shares).amin(0)


def _shade_ground(
    things: tuple[Placed, ...],
    view: View,
    directions: Tensor,
    floor: Tensor,
    seen: Tensor,
    light: Tensor,
    ambient: Tensor,
) -> None:
    """Write shadows and contact darkening of the ground, worked out for every second sample and spread between."""
    side = math.isqrt(directions.shape[1])
    grid = torch.arange(side * side, device=directions.device).view(side, side)[::2, ::2].flatten()
    near = grid[floor[grid] < 9]
    points = directions.new_tensor(view.eye)[:, None] + floor[near] * directions[:, near]
    toward = directions.new_tensor(view.light)[:, None]
    up = directions.new_tensor([0.0, 1.0, 0.0])[:, None]
    for target, values in (
        (light, _shadow(things, points + 0.004 * up, toward)),
        (ambient, _openness(things, points, up.expand_as(points))),
    ):
        coarse = torch.ones_like(floor)
        coarse[near] = values
        coarse = coarse.view(side, side)[::2, ::2][None, None]
        spread = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear", align_corners=False)
        target[seen] = spread.flatten()[seen]


__all__ = ["FINE", "ROLES", "SIZE", "Buffers", "Placed", "View", "geometry", "rays"]
