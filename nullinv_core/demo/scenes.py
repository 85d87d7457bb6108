"""Synthetic scenes with a caption, and the true answer of an edit.

A scene is one or two shapes on a plain, striped or dotted background. Every attribute that a caption names
(shape, colour, size, background colour, texture) is exact; position, rotation and brightness are free. Because the
generator draws both sides, it also gives what no photo can: the *true* result of an edit and the mask of what may
change.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .shapes import SHAPES, outline

SIZE = 128
"""Side of a scene in pixels."""
SUPERSAMPLING = 4
SOFTNESS = 0.7
"""Blur of an outline in pixels, as a lens would soften it."""
MARGIN = 5
"""Objects keep this many pixels from the border, so the border shows the background alone."""
GAP = 8
"""Two objects keep this many pixels between them."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 35, 40),
    "orange": (245, 135, 25),
    "yellow": (245, 225, 60),
    "green": (45, 160, 60),
    "cyan": (70, 210, 220),
    "blue": (35, 75, 215),
    "purple": (135, 45, 175),
    "pink": (245, 140, 190),
    "brown": (115, 70, 35),
    "black": (20, 20, 20),
    "gray": (130, 130, 130),
    "white": (245, 245, 245),
}
DARK = ("black", "blue", "purple")
"""Colours whose second tone is lighter, not darker."""
TEXTURES = ("plain", "striped", "dotted")
RADII = {"small": (20.0, 23.0), "medium": (26.0, 30.0), "large": (34.0, 40.0)}
"""Radius in pixels by size word (a square's corners reach a tenth further); ``medium`` is left unsaid."""
PERIOD = 32.0
"""Pixels from one stripe, or one row of dots, to the next."""
DIRECTIONS = (0.0, 45.0, 90.0, 135.0)
"""Angles of textures in degrees."""
TILT = 15.0
"""Objects are turned by at most so many degrees."""

Split = Literal["train", "held-out"]
EDITS = (
    "shape",
    "colour",
    "background-colour",
    "background-texture",
    "add-texture",
    "remove-texture",
    "swap-colours",
)


@dataclass(frozen=True)
class Object:
    """One shape. ``x, y, radius`` in pixels, ``angle`` in degrees, ``brightness`` a factor near 1."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float
    angle: float
    brightness: float


@dataclass(frozen=True)
class Background:
    """``angle`` in degrees, ``phase`` in 0…1: the texture's free parameters."""

    colour: str
    texture: str
    angle: float
    phase: tuple[float, float]
    brightness: float


@dataclass(frozen=True)
class Scene:
    """Everything that is needed to draw a scene and to caption it."""

    objects: tuple[Object, ...]
    background: Background

    @property
    def caption(self) -> str:
        """Plain English that names every attribute of the scene."""
        things = " and ".join(_phrase(o) for o in self.objects)
        texture = "" if self.background.texture == "plain" else f"{self.background.texture} "
        return f"{things} on {_article(texture + self.background.colour)} background"


@dataclass(frozen=True)
class EditCase:
    """A source scene, the scene that a right edit would give, and what kind of edit leads there."""

    kind: str
    source: Scene
    target: Scene

    @property
    def mask(self) -> np.ndarray:
        """Where a right edit may change the image: bool (128, 128)."""
        return change_mask(self.source, self.target)


def _article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _phrase(thing: Object) -> str:
    size = "" if thing.size == "medium" else f"{thing.size} "
    return _article(f"{size}{thing.colour} {thing.shape}")


def rgb(colour: str, brightness: float = 1.0) -> np.ndarray:
    """Colour by name as float32 (3,) in 0…1."""
    return np.clip(np.asarray(COLOURS[colour], np.float32) / 255 * brightness, 0, 1).astype(np.float32)


def tones(colour: str, brightness: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Both tones of a textured background, float32 (3,) in 0…1: the colour, and it darker (a dark one: lighter)."""
    first = rgb(colour, brightness)
    second = first + (1 - first) * 0.22 if colour in DARK else first * 0.75
    return first, second.astype(np.float32)


def is_held_out(shape: str, colour: str, background: str) -> bool:
    """Whether training never shows this shape in this colour on this background (one of eight combinations)."""
    names = list(COLOURS)
    return (3 * list(SHAPES).index(shape) + 5 * names.index(colour) + 7 * names.index(background)) % 8 == 0


def contrasts(colour: str, background: str) -> bool:
    """Whether an object of ``colour`` stands out from both tones of a background."""
    return min(float(np.linalg.norm(rgb(colour) - tone)) for tone in tones(background)) > 0.3


def sample_scene(seed: int, split: Split = "train", objects: int | None = None) -> Scene:
    """Return the scene of a seed.

    ``train`` scenes hold no held-out combination at all; every ``held-out`` scene holds at least one.
    """
    rng = np.random.default_rng([seed, 0 if split == "train" else 1])
    count = objects or int(rng.choice([1, 2], p=[0.4, 0.6]))
    while True:
        scene = _draw(rng, count)
        if scene is None:
            continue
        held = [is_held_out(o.shape, o.colour, scene.background.colour) for o in scene.objects]
        if any(held) == (split == "held-out"):
            return scene


def _draw(rng: np.random.Generator, count: int) -> Scene | None:
    names = list(COLOURS)
    background = Background(
        colour=str(rng.choice(names)),
        texture=str(rng.choice(TEXTURES)),
        angle=float(rng.choice(DIRECTIONS)),
        phase=(float(rng.uniform()), float(rng.uniform())),
        brightness=float(rng.uniform(0.93, 1.07)),
    )
    sizes = ["small", "medium", "large"] if count == 1 else ["small", "medium", "medium", "large"]
    placed: list[Object] = []
    for _ in range(count):
        size = str(rng.choice(sizes))
        radius = float(rng.uniform(*RADII[size]))
        x, y = rng.uniform(MARGIN + radius, SIZE - MARGIN - radius, 2)
        thing = Object(
            shape=str(rng.choice(list(SHAPES))),
            colour=str(rng.choice(names)),
            size=size,
            x=float(x),
            y=float(y),
            radius=radius,
            angle=float(rng.uniform(-TILT, TILT)),
            brightness=float(rng.uniform(0.93, 1.07)),
        )
        if not contrasts(thing.colour, background.colour):
            return None
        if any(np.hypot(o.x - x, o.y - y) < o.radius + radius + GAP for o in placed):
            return None
        if any((o.shape, o.colour) == (thing.shape, thing.colour) for o in placed):
            return None
        placed.append(thing)
    return Scene(tuple(placed), background)


def coverage(thing: Object) -> np.ndarray:
    """Antialiased coverage of a shape: float32 (128, 128) in 0…1."""
    canvas = Image.new("L", (SIZE * SUPERSAMPLING, SIZE * SUPERSAMPLING), 0)
    draw = ImageDraw.Draw(canvas)
    turn = np.deg2rad(thing.angle)
    rotation = np.asarray([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    for points, fill in outline(thing.shape):
        placed = (points @ rotation.T * thing.radius + (thing.x, thing.y)) * SUPERSAMPLING
        draw.polygon([tuple(p) for p in placed.tolist()], fill=255 if fill else 0)
    soft = canvas.reduce(SUPERSAMPLING).filter(ImageFilter.GaussianBlur(SOFTNESS))
    return np.asarray(soft, np.float32) / 255


def discs(scene: Scene, side: int) -> np.ndarray:
    """Roughly where the objects are, on a grid of side × side: float32 in 0…1, a soft disc for each."""
    cell = SIZE / side
    y, x = (np.mgrid[0:side, 0:side].astype(np.float32) + 0.5) * cell
    edge = max(cell, 4.0)
    soft = [np.clip((o.radius - np.hypot(x - o.x, y - o.y)) / edge + 1.25, 0, 1) for o in scene.objects]
    return np.asarray(np.maximum.reduce(soft), np.float32)


def texture_weight(background: Background) -> np.ndarray:
    """Share of the second tone per pixel: float32 (128, 128) in 0…1, as soft at its edges as the shapes."""
    if background.texture == "plain":
        return np.zeros((SIZE, SIZE), np.float32)
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) + 0.5
    turn = np.deg2rad(background.angle)
    u = (x * np.cos(turn) + y * np.sin(turn)) / PERIOD + background.phase[0]
    v = (-x * np.sin(turn) + y * np.cos(turn)) / PERIOD + background.phase[1]
    to_edge_u, to_edge_v = np.abs(u % 1 - 0.5), np.abs(v % 1 - 0.5)
    striped = background.texture == "striped"
    inside = 0.25 - to_edge_u if striped else 0.3 - np.hypot(to_edge_u, to_edge_v)
    return np.clip(inside * PERIOD / (3 * SOFTNESS) + 0.5, 0, 1).astype(np.float32)


def render(scene: Scene) -> np.ndarray:
    """Draw a scene: float32 (128, 128, 3) in 0…1."""
    first, second = tones(scene.background.colour, scene.background.brightness)
    weight = texture_weight(scene.background)[..., None]
    image = first * (1 - weight) + second * weight
    for thing in scene.objects:
        alpha = coverage(thing)[..., None]
        image = image * (1 - alpha) + rgb(thing.colour, thing.brightness) * alpha
    return image


def dilate(mask: np.ndarray, pixels: int) -> np.ndarray:
    """Grow a boolean mask by a square of ``pixels`` on every side."""
    padded = np.pad(mask, pixels)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * pixels + 1, 2 * pixels + 1))
    return np.asarray(windows.any((-2, -1)))


def change_mask(source: Scene, target: Scene, margin: int = 2) -> np.ndarray:
    """Where two renderings differ, grown by ``margin`` pixels: bool (128, 128)."""
    difference = np.abs(render(source) - render(target)).max(-1) > 0.5 / 255
    return dilate(difference, margin)


def sample_edit(seed: int, kind: str, split: Split = "held-out", objects: int | None = None) -> EditCase:
    """Return a scene of the split for which an edit of ``kind`` exists, and the scene that answers it.

    Raises ValueError for a kind that is not in ``EDITS``.
    """
    if kind not in EDITS:
        raise ValueError(f"unknown edit kind {kind!r}; choose one of {', '.join(EDITS)}")
    count = 2 if kind == "swap-colours" else objects
    for attempt in range(10_000):
        source = sample_scene(seed * 10_007 + attempt, split, count)
        target = _edited(source, kind, np.random.default_rng([seed, attempt, EDITS.index(kind)]))
        if target is not None:
            return EditCase(kind, source, target)
    raise RuntimeError(f"no scene of the {split} split admits the edit {kind!r}")


def _edited(scene: Scene, kind: str, rng: np.random.Generator) -> Scene | None:
    """The scene after a random edit of ``kind``, or None where the scene does not admit one."""
    things, ground = list(scene.objects), scene.background
    which = int(rng.integers(len(things)))
    thing = things[which]
    if kind == "shape":
        things[which] = replace(thing, shape=str(rng.choice([s for s in SHAPES if s != thing.shape])))
    elif kind == "colour":
        things[which] = replace(thing, colour=str(rng.choice([c for c in COLOURS if c != thing.colour])))
    elif kind == "swap-colours" and things[0].shape == things[1].shape:
        return None
    elif kind == "swap-colours":
        things = [replace(a, colour=b.colour) for a, b in zip(things, things[::-1], strict=True)]
    elif kind == "background-colour":
        ground = replace(ground, colour=str(rng.choice([c for c in COLOURS if c != ground.colour])))
    else:
        wanted = {
            "background-texture": {"striped": "dotted", "dotted": "striped"},
            "add-texture": {"plain": str(rng.choice(TEXTURES[1:]))},
            "remove-texture": {"striped": "plain", "dotted": "plain"},
        }[kind]
        if ground.texture not in wanted:
            return None
        ground = replace(ground, texture=wanted[ground.texture])
    target = Scene(tuple(things), ground)
    return target if _is_fair(target) and target != scene else None


def _is_fair(scene: Scene) -> bool:
    pairs = [(o.shape, o.colour) for o in scene.objects]
    return len(set(pairs)) == len(pairs) and all(contrasts(c, scene.background.colour) for _, c in pairs)
