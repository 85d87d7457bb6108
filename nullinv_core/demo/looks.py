"""From geometry buffers to a picture: colours, materials, the place, the style. About ten milliseconds a picture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, interpolate

from .geometry import FINE, LENS, TARGET, Buffers, View
from .objects import ROLES
from .places import SPAN, ground, to_linear

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.84, 0.13, 0.12),
    "orange": (0.95, 0.49, 0.09),
    "yellow": (0.97, 0.83, 0.16),
    "green": (0.17, 0.60, 0.21),
    "turquoise": (0.14, 0.74, 0.73),
    "blue": (0.14, 0.32, 0.84),
    "purple": (0.50, 0.20, 0.69),
    "pink": (0.96, 0.55, 0.72),
    "brown": (0.47, 0.28, 0.15),
    "black": (0.10, 0.10, 0.11),
    "gray": (0.52, 0.53, 0.55),
    "white": (0.95, 0.95, 0.93),
}
"""sRGB in 0…1."""
MATERIALS = ("clay", "polished", "wooden", "metal")
"""``clay`` is left unsaid."""
STYLES = ("photo", "pencil", "monochrome", "night")
OWN = {
    "white": (0.95, 0.94, 0.92),
    "black": (0.07, 0.07, 0.08),
    "glass": (0.62, 0.80, 0.90),
    "rose": (0.96, 0.62, 0.65),
    "orange": (0.97, 0.60, 0.11),
    "wood": (0.55, 0.36, 0.20),
    "green": (0.35, 0.62, 0.22),
    "cream": (0.94, 0.83, 0.63),
    "gold": (0.98, 0.82, 0.30),
    "brown": (0.62, 0.36, 0.24),
    "trim": (0.96, 0.95, 0.93),
}
"""Colours of parts that the caption's colour does not reach, sRGB."""
TINTED = tuple(ROLES.index(role) for role in ("main", "shade", "light"))
WARM = ("red", "orange", "pink", "brown")
"""Toys of these colours wear blue, the others red, so that a hat always stands out."""


@dataclass(frozen=True)
class Look:
    """What a picture shows apart from geometry: a colour and a material for each toy, where they stand, the style.

    ``setting``: shift of the ground's texture along both axes in tiles, its turn in degrees, shift of the backdrop.
    """

    colours: tuple[str, ...]
    materials: tuple[str, ...]
    place: str
    setting: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    style: str = "photo"


@dataclass(frozen=True)
class _Daylight:
    """Colours of the direct and of the open light, and how bright the backdrop is."""

    sun: tuple[float, float, float]
    sky: tuple[float, float, float]
    backdrop: float


DAY = _Daylight((1.02, 0.98, 0.90), (0.34, 0.36, 0.40), 1.0)
NIGHT = _Daylight((0.24, 0.29, 0.46), (0.05, 0.065, 0.13), 0.10)


@lru_cache(maxsize=len(COLOURS))
def palette(colour: str) -> Tensor:
    """Linear colours of a toy's parts: float32 (len(ROLES), 3)."""
    main = np.asarray(COLOURS[colour])
    own = {role: np.asarray(value) for role, value in OWN.items()}
    own["main"] = main
    own["shade"] = main * 0.62 if colour != "black" else main + 0.13
    own["light"] = 0.28 * main + 0.72 * np.asarray((0.99, 0.93, 0.85))
    own["accent"] = np.asarray(COLOURS["blue" if colour in WARM else "red"])
    return torch.from_numpy(to_linear(np.stack([own[role] for role in ROLES]))).float()


def compose(buffers: Buffers, view: View, look: Look) -> Tensor:
    """Return the picture, float32 (128, 128, 3) in 0…1: half the side of the buffers."""
    with torch.no_grad():
        day = NIGHT if look.style == "night" else DAY
        linear = _ground(buffers, view, look, day)
        _paint_toys(linear, buffers, view, look, day)
        picture = linear.clamp_(0, 1).sqrt_()
        if look.style == "monochrome":
            picture = _monochrome(picture)
        elif look.style == "pencil":
            picture = _pencil(picture, buffers)
        return avg_pool2d(picture[None], 2)[0].permute(1, 2, 0).contiguous()


def _axes(view: View) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The camera's directions forward, right and up."""
    forward = np.asarray(TARGET) - np.asarray(view.eye)
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, (0.0, 1.0, 0.0))
    right /= np.linalg.norm(right)
    return forward, right, np.cross(right, forward)


def _ground(buffers: Buffers, view: View, look: Look, day: _Daylight) -> Tensor:
    """Linear light of the ground and the backdrop without the toys: float32 (3, 256, 256)."""
    forward, right, up = _axes(view)
    side = buffers.label.shape[-1]
    axis = ((torch.arange(side) + 0.5) / side * 2 - 1) * LENS
    across, down = axis[None, :], -axis[:, None]
    # the camera does not roll, so how steeply a ray falls depends on its row alone
    fall = (float(forward[1]) + float(up[1]) * down).clamp_max(-1e-3)
    reach = (-view.height / fall).clamp_max(60)
    x = view.eye[0] + reach * (float(forward[0]) + float(right[0]) * across + float(up[0]) * down)
    z = view.eye[2] + reach * (float(forward[2]) + float(right[2]) * across + float(up[2]) * down)
    shift_x, shift_z, degrees, shift_backdrop = look.setting
    c, s = math.cos(math.radians(degrees)) / SPAN, math.sin(math.radians(degrees)) / SPAN
    tile = torch.stack([c * x - s * z + shift_x, s * x + c * z + shift_z], -1)
    scenery = ground(look.place)
    texture = grid_sample(scenery.texture[None], (tile - tile.floor())[None] * 2 - 1, align_corners=True)[0]
    soft = ((-z - 0.1) / 1.6).clamp(0, 1)
    surface = texture[:3].lerp(texture[3:], soft)
    light, ambient = buffers.light.float() * (0.80 / 255), buffers.ambient.float() * (1 / 255)
    sun, sky = torch.tensor(day.sun)[:, None, None], torch.tensor(day.sky)[:, None, None]
    surface = surface * (sun * light + sky * ambient)
    fade = ((-z - 1.3) / 1.5).clamp(0, 1)
    fade = fade * fade * (3 - 2 * fade)
    return surface.lerp(_seen_backdrop(look, shift_backdrop, side) * day.backdrop, fade)


def _seen_backdrop(look: Look, shift: float, side: int) -> Tensor:
    """The backdrop over the picture: rows from the top down to the horizon at about two fifths of the height."""
    tile = ground(look.place).backdrop
    rows = ((0.46 * FINE - torch.arange(FINE)) / (0.46 * FINE) * 255).clamp(0, 255).long()
    seen = torch.roll(tile[:, rows], int(shift * tile.shape[2]), 2)
    return interpolate(seen[None], size=(side, side), mode="bilinear", align_corners=False)[0]


def _surroundings(rise: Tensor, look: Look, day: _Daylight) -> Tensor:
    """What a mirror shows that reflects a ray rising by ``rise`` (n,): linear light (3, n)."""
    scenery = ground(look.place)
    below = scenery.mean * torch.tensor(day.sun) * 0.55
    above = scenery.backdrop.mean((1, 2)) * day.backdrop
    lamp = torch.tensor(day.sun) * 1.5

    def step(start: float, stop: float) -> Tensor:
        share = ((rise - start) / (stop - start)).clamp(0, 1)
        return share * share * (3 - 2 * share)

    sky = step(-0.12, 0.12)
    window = step(0.3, 0.42) * (1 - step(0.72, 0.88))
    dim = 1 - 0.75 * step(-0.35, -0.02) * (1 - step(-0.02, 0.16))
    mixed = below[:, None] * (1 - sky) + above[:, None] * (0.55 + 0.45 * rise.clamp_min(0)) * sky
    return mixed * dim + (lamp[:, None] * 0.75 - mixed) * window * 0.8


def _paint_toys(linear: Tensor, buffers: Buffers, view: View, look: Look, day: _Daylight) -> None:
    """Write the toys' linear light over the ground."""
    flat = linear.view(3, -1)
    label = buffers.label.flatten()
    owner = torch.div(label.int() - 1, 32, rounding_mode="floor")
    for number, (colour, material) in enumerate(zip(look.colours, look.materials, strict=True)):
        rows = torch.nonzero((owner == number) & (label > 0))[:, 0]
        role = (label[rows].long() - 1) % 32
        flat[:, rows] = _toy(buffers, view, look, day, _Surface(rows, role, palette(colour)[role].T, material))


class _Surface(NamedTuple):
    """A toy's samples: the ``rows`` that show it, and of each its role and albedo (3, n)."""

    rows: Tensor
    role: Tensor
    albedo: Tensor
    material: str


def _toy(buffers: Buffers, view: View, look: Look, day: _Daylight, surface: _Surface) -> Tensor:
    """Linear light (3, n) of the samples of one toy."""
    rows, role, albedo, material = surface
    light, ambient, gloss, grain = (
        part.flatten()[rows].float() / 255 for part in (buffers.light, buffers.ambient, buffers.gloss, buffers.grain)
    )
    normal = (buffers.normal.view(3, -1)[:, rows].float() - 128) / 127
    sun, sky = torch.tensor(day.sun)[:, None], torch.tensor(day.sky)[:, None]
    tinted = role <= max(TINTED)
    if material == "wooden":
        bare = torch.from_numpy(to_linear(np.asarray((0.80, 0.60, 0.38)))).float()[:, None]
        stained = (0.84 * albedo + 0.16 * bare) * (0.62 + 0.5 * grain)
        albedo = torch.where(tinted, stained, albedo)
    bounce = ground(look.place).mean[:, None] * sun
    upward = 0.5 + 0.5 * normal[1]
    diffuse = albedo * (sun * light + (sky * (0.35 + 0.65 * upward) + 0.22 * bounce * (1 - upward)) * ambient)
    reflected, facing = _reflection(view, rows, normal, buffers.label.shape[-1])
    shown = _surroundings(reflected, look, day) * ambient
    rim = (1 - facing).clamp(0, 1) ** 3
    eye = (role == ROLES.index("black")) | (role == ROLES.index("glass"))
    if material == "metal":
        mirror = albedo * (1.25 * shown + 0.12 * sun) + sun * 0.9 * gloss**3 * (0.4 + 0.6 * albedo)
        return torch.where(tinted, 0.32 * diffuse + 0.95 * mirror, diffuse + 0.35 * sun * gloss**3 * eye)
    if material == "polished":
        return diffuse + (0.05 + 0.45 * rim) * shown + 0.85 * sun * gloss**5
    shine = torch.where(eye, 0.4 * gloss**3, 0.045 * gloss)
    return diffuse + sun * shine + 0.06 * rim * sky * ambient


def _reflection(view: View, rows: Tensor, normal: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """How steeply the reflected ray rises, and the cosine of normal and ray to the camera: (n,) each."""
    forward, right, up = _axes(view)
    y = -((torch.div(rows, side, rounding_mode="floor") + 0.5) / side * 2 - 1) * LENS
    x = ((rows % side + 0.5) / side * 2 - 1) * LENS
    ray = [float(forward[i]) + float(right[i]) * x + float(up[i]) * y for i in range(3)]
    length = (ray[0] * ray[0] + ray[1] * ray[1] + ray[2] * ray[2]).sqrt()
    inward = (ray[0] * normal[0] + ray[1] * normal[1] + ray[2] * normal[2]) / length
    return ray[1] / length - 2 * inward * normal[1], -inward


def _monochrome(picture: Tensor) -> Tensor:
    luminance = (picture * torch.tensor((0.30, 0.59, 0.11))[:, None, None]).sum(0, keepdim=True)
    return (luminance + 0.25 * (luminance - 0.45) * (1 - luminance)).clamp(0, 1).expand(3, -1, -1)


def _pencil(picture: Tensor, buffers: Buffers) -> Tensor:
    """Lines where parts meet or bend, and hatching where it is dark, on white paper."""
    grey, side = (picture * torch.tensor((0.30, 0.59, 0.11))[:, None, None]).sum(0), picture.shape[-1]
    label, normal = buffers.label.int(), (buffers.normal.float() - 128) / 127
    edge = torch.zeros_like(grey)
    for axis in (0, 1):
        a, b = (label.narrow(axis, start, side - 1) for start in (0, 1))
        na, nb = (normal.narrow(axis + 1, start, side - 1) for start in (0, 1))
        line = torch.maximum((a != b).float(), ((0.75 - (na * nb).sum(0)) * 3).clamp(0, 0.8))
        edge.narrow(axis, 0, side - 1).copy_(torch.maximum(edge.narrow(axis, 0, side - 1), line))
    # lines and hatching are wide and soft, or an autoencoder of eight pixels a cell loses them
    edge = avg_pool2d(torch.nn.functional.max_pool2d(edge[None, None], 3, 1, 1), 3, 1, 1)[0, 0]
    steps = torch.arange(side, dtype=torch.float32)
    phase = (steps[None] + steps[:, None] * 0.8) / 16
    hatch = ((phase - phase.floor() - 0.5).abs() * 3 - 0.25).clamp(0, 1)
    shade = (1 - grey).clamp(0, 1)
    drawn = 0.96 - 0.42 * shade - 0.2 * (shade - 0.35).clamp_min(0) * hatch - 0.58 * edge
    filled = (label > 0) & ((label - 1) % 32 == ROLES.index("black"))
    return torch.where(filled, 0.2, drawn.clamp(0, 1)).expand(3, -1, -1)
