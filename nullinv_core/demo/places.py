"""Where toys can stand: soft textures of the ground, and what is out of focus behind it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

TILE = 256
"""Side of a ground's texture in texels; it repeats."""
SPAN = 4.0
"""Side of the tile on the ground, in the units of the toys."""

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Place:
    """``phrases``: what follows the things in a caption, the usual one first; ``texture`` draws the ground.

    ``backdrop``: colours from the horizon up, sRGB in 0…1; ``blur``: how strongly blurred blobs show in it.
    """

    phrases: tuple[str, ...]
    texture: Callable[[np.random.Generator], np.ndarray]
    backdrop: tuple[Colour, ...]
    blur: float


def noise(rng: np.random.Generator, across: int, down: int | None = None, side: int = TILE) -> np.ndarray:
    """Smooth noise that repeats, float64 (side, side) in 0…1, with ``across`` and ``down`` bumps a side."""
    down = across if down is None else down
    lattice = rng.uniform(size=(down, across))
    rows, columns = (np.arange(side) * n / side for n in (down, across))
    r, c = rows.astype(int), columns.astype(int)
    fr, fc = rows - r, columns - c
    fr, fc = (f * f * f * (f * (f * 6 - 15) + 10) for f in (fr, fc))
    top = lattice[r][:, c] * (1 - fc) + lattice[r][:, (c + 1) % across] * fc
    low = lattice[(r + 1) % down][:, c] * (1 - fc) + lattice[(r + 1) % down][:, (c + 1) % across] * fc
    return np.asarray(top * (1 - fr)[:, None] + low * fr[:, None])


def clouds(rng: np.random.Generator, across: int, down: int | None = None, octaves: int = 3) -> np.ndarray:
    """Noise of several sizes, each half as strong as the one before: (256, 256) in 0…1 around a half."""
    down = across if down is None else down
    layers = [noise(rng, across * 2**k, down * 2**k) / 2**k for k in range(octaves)]
    return np.asarray(sum(layers) / sum(0.5**k for k in range(octaves)))


def _mixed(share: np.ndarray, first: Colour, second: Colour) -> np.ndarray:
    weight = np.clip(share, 0, 1)[..., None]
    return np.asarray(first) * (1 - weight) + np.asarray(second) * weight


def _soft_step(values: np.ndarray, start: float, stop: float) -> np.ndarray:
    share = np.clip((values - start) / (stop - start), 0, 1)
    return np.asarray(share * share * (3 - 2 * share))


def _to_line(position: np.ndarray) -> np.ndarray:
    """Distance to the nearest whole number."""
    return np.asarray(np.abs(position - np.rint(position)))


def _grid() -> tuple[np.ndarray, np.ndarray]:
    axis = np.arange(TILE) / TILE
    return np.meshgrid(axis, axis)


def _wood(rng: np.random.Generator) -> np.ndarray:
    x, _ = _grid()
    planks = 6
    plank = (x * planks).astype(int)
    tones = rng.uniform(-0.16, 0.16, planks)[plank]
    grain = clouds(rng, 24, 3, 2)
    line = 1 - _soft_step(_to_line(x * planks), 0.01, 0.045)
    colour = _mixed(0.5 + tones + 0.55 * (grain - 0.5), (0.56, 0.36, 0.20), (0.80, 0.58, 0.36))
    return colour * (1 - 0.4 * line)[..., None]


def _grass(rng: np.random.Generator) -> np.ndarray:
    blades = 0.45 * noise(rng, 56, 36) + 0.55 * clouds(rng, 10, 8)
    return _mixed(_soft_step(blades, 0.22, 0.8), (0.27, 0.49, 0.13), (0.51, 0.72, 0.26))


def _sand(rng: np.random.Generator) -> np.ndarray:
    x, y = _grid()
    wave = 0.5 + 0.5 * np.sin(2 * np.pi * (9 * y + 1.1 * clouds(rng, 4) + x))
    return _mixed(0.55 * wave + 0.45 * clouds(rng, 12), (0.80, 0.66, 0.45), (0.95, 0.86, 0.66))


def _snow(rng: np.random.Generator) -> np.ndarray:
    return _mixed(clouds(rng, 6), (0.80, 0.86, 0.95), (0.98, 0.99, 1.0))


def _marble(rng: np.random.Generator) -> np.ndarray:
    x, y = _grid()
    bend = x + y + 0.9 * clouds(rng, 3, octaves=4)
    vein = 1 - _soft_step(_to_line(2 * bend), 0.0, 0.09)
    fine = 1 - _soft_step(_to_line(3 * (x - y + 0.8 * clouds(rng, 4))), 0.0, 0.05)
    dark = 0.75 * vein * noise(rng, 5) + 0.3 * fine * noise(rng, 6) + 0.2 * clouds(rng, 5)
    return _mixed(dark, (0.93, 0.93, 0.92), (0.52, 0.54, 0.58))


def _brick(rng: np.random.Generator) -> np.ndarray:
    x, y = _grid()
    rows, columns = 10, 5
    row = (y * rows).astype(int)
    along = x * columns + 0.5 * (row % 2)
    tones = rng.uniform(0, 1, (rows, columns))[row, along.astype(int) % columns]
    gap = np.minimum(_to_line(along) / columns, _to_line(y * rows) / rows)
    brick = _mixed(0.6 * tones + 0.4 * clouds(rng, 12), (0.58, 0.26, 0.19), (0.76, 0.42, 0.31))
    mortar = (1 - _soft_step(gap, 0.003, 0.013))[..., None]
    return brick * (1 - 0.75 * mortar) + np.asarray((0.76, 0.70, 0.63)) * 0.75 * mortar


def _moss(rng: np.random.Generator) -> np.ndarray:
    cushions = 0.65 * noise(rng, 14) + 0.35 * noise(rng, 40)
    green = _mixed(_soft_step(cushions, 0.2, 0.85), (0.19, 0.27, 0.09), (0.44, 0.50, 0.16))
    earth = _soft_step(clouds(rng, 6), 0.56, 0.68)[..., None] * 0.75
    return green * (1 - earth) + np.asarray((0.38, 0.27, 0.17)) * earth


def _cloth(rng: np.random.Generator) -> np.ndarray:
    x, y = _grid()
    checks = 5
    bands = [_soft_step(0.25 - _to_line(checks * axis), -0.02, 0.02) for axis in (x, y)]
    weave = 0.06 * (clouds(rng, 30, octaves=2) - 0.5)
    return _mixed(0.5 * (bands[0] + bands[1]) + weave, (0.97, 0.95, 0.93), (0.79, 0.14, 0.18))


PLACES: dict[str, Place] = {
    "wood": Place(
        ("on a wooden table", "on a table"), _wood, ((0.45, 0.37, 0.31), (0.66, 0.58, 0.49), (0.80, 0.74, 0.66)), 0.6
    ),
    "grass": Place(
        ("on grass", "on the grass"), _grass, ((0.38, 0.56, 0.24), (0.47, 0.66, 0.42), (0.62, 0.81, 0.94)), 0.7
    ),
    "sand": Place(
        ("on sand", "on the sand"), _sand, ((0.33, 0.62, 0.74), (0.56, 0.78, 0.88), (0.70, 0.86, 0.96)), 0.25
    ),
    "snow": Place(("in snow", "in the snow"), _snow, ((0.72, 0.80, 0.88), (0.62, 0.73, 0.84), (0.74, 0.83, 0.93)), 0.5),
    "marble": Place(
        ("on a marble table", "on marble"), _marble, ((0.50, 0.53, 0.56), (0.64, 0.67, 0.70), (0.76, 0.78, 0.80)), 0.5
    ),
    "brick": Place(
        ("on a brick floor", "on bricks"), _brick, ((0.56, 0.52, 0.45), (0.70, 0.66, 0.57), (0.82, 0.79, 0.70)), 0.4
    ),
    "moss": Place(("on moss", "on the moss"), _moss, ((0.14, 0.21, 0.12), (0.20, 0.30, 0.17), (0.36, 0.46, 0.28)), 0.9),
    "cloth": Place(
        ("on a checkered cloth", "on a picnic blanket"),
        _cloth,
        ((0.50, 0.60, 0.32), (0.66, 0.74, 0.46), (0.85, 0.88, 0.66)),
        0.7,
    ),
}


def to_linear(colours: np.ndarray) -> np.ndarray:
    """sRGB in 0…1 to linear light (IEC 61966-2-1)."""
    return np.where(colours <= 0.04045, colours / 12.92, ((np.clip(colours, 0, None) + 0.055) / 1.055) ** 2.4)


def _blurred(tile: np.ndarray) -> np.ndarray:
    """A tile without what is finer than a sixteenth of it."""
    spectrum = np.fft.rfft2(tile, axes=(0, 1))
    down = np.fft.fftfreq(TILE)[:, None, None] * TILE
    across = np.fft.rfftfreq(TILE)[None, :, None] * TILE
    return np.asarray(np.fft.irfft2(spectrum * np.exp(-(down**2 + across**2) / 60), s=(TILE, TILE), axes=(0, 1)))


@dataclass(frozen=True)
class Ground:
    """Linear light, float32: the texture sharp and blurred, (6, 257, 257) with the first row and column repeated;
    the backdrop (3, 256, 256), upwards from the horizon; the mean colour (3,)."""

    texture: Tensor
    backdrop: Tensor
    mean: Tensor


@lru_cache(maxsize=len(PLACES))
def ground(name: str) -> Ground:
    """The texture and backdrop of a place; raises KeyError for a name that is not in ``PLACES``."""
    place = PLACES[name]
    rng = np.random.default_rng([list(PLACES).index(name), 5])
    tile = to_linear(np.clip(place.texture(rng), 0, 1))
    both = np.concatenate([tile, _blurred(tile)], axis=2)
    wrapped = np.pad(both, ((0, 1), (0, 1), (0, 0)), mode="wrap")
    backdrop = to_linear(np.clip(_backdrop(place, rng), 0, 1))
    return Ground(
        torch.from_numpy(wrapped).float().permute(2, 0, 1).contiguous(),
        torch.from_numpy(backdrop).float().permute(2, 0, 1).contiguous(),
        torch.from_numpy(tile.mean((0, 1))).float(),
    )


def _backdrop(place: Place, rng: np.random.Generator) -> np.ndarray:
    """What is out of focus behind the ground: (256, 256, 3) sRGB, the horizon first; repeats from left to right."""
    height = np.linspace(0, 1, TILE)
    stops = np.linspace(0, 1, len(place.backdrop))
    up = np.stack([np.interp(height, stops, [c[i] for c in place.backdrop]) for i in range(3)], -1)
    blobs = _blurred((0.6 * noise(rng, 7, 5) + 0.4 * noise(rng, 13, 8))[..., None])[..., 0] * 1.4 - 0.7
    return np.asarray(up[:, None] * (1 + 0.55 * place.blur * blobs[..., None]))
