"""A judge that reads a scene off its picture by classical means: colours by palette, shapes by template.

It knows the palette and the outlines of the generator and nothing of any trained model, so it can say whether a
generated or edited picture shows what its caption says, and whether objects lie where another reading has them.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from .scenes import COLOURS, SIZE, Scene, dilate, rgb, tones
from .shapes import SHAPES, outline

FRAME = 4
"""Width in pixels of the border that shows the background alone."""
BRIGHTNESS = tuple(np.linspace(0.91, 1.09, 7).tolist())
FOREGROUND = 0.17
"""Distance in RGB (0…1) from every mix of the background's tones that makes a pixel part of an object."""
SMALLEST = 70
"""Fewest pixels of an object."""
TEMPLATE = 40
MOVED, GROWN = 8.0, 1.4
"""Pixels that an object may be elsewhere, and the factor that its area may be off, to be in its place. Within a size
word areas differ by up to 1.4, between the middles of neighbouring ones by 1.7."""
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Reading:
    """What the judge sees. ``objects``: sorted (shape, colour) pairs. ``places``: x, y and area in pixels of each.

    Places do not count where readings are compared.
    """

    objects: tuple[tuple[str, str], ...]
    background: str
    texture: str
    places: tuple[tuple[float, float, float], ...] = field(default=(), compare=False)


def truth(scene: Scene) -> Reading:
    """The reading that a picture of ``scene`` should give."""
    pairs = tuple(sorted((o.shape, o.colour) for o in scene.objects))
    return Reading(pairs, scene.background.colour, scene.background.texture)


def is_right(image: np.ndarray, scene: Scene) -> bool:
    """Whether a picture (128, 128, 3) in 0…1 shows every shape, colour and background of ``scene``."""
    return read(image) == truth(scene)


def in_place(seen: Reading, wanted: Reading, source: Reading) -> bool:
    """Whether every object lies where ``wanted`` has it, within ``MOVED``, and is as large, within ``GROWN``.

    Or as the nearest object of ``source``, in either: a new shape may take the middle of what was there, as that of a
    crescent lies beside its circle's, and be as large as its own shape is. ``seen`` and ``wanted`` are of the same
    objects.
    """
    before = np.asarray(source.places).reshape(-1, 3)
    for place, right in zip(np.asarray(seen.places), np.asarray(wanted.places), strict=True):
        nearest = before[np.linalg.norm(before[:, :2] - right[:2], axis=1).argmin()] if len(before) else right
        allowed = np.stack([right, nearest])
        moved = np.linalg.norm(allowed[:, :2] - place[:2], axis=1).min()
        grown = np.maximum(allowed[:, 2] / place[2], place[2] / allowed[:, 2]).min()
        if moved > MOVED or grown > GROWN:
            return False
    return True


def read(image: np.ndarray) -> Reading:
    """Read a picture, float (128, 128, 3) in 0…1."""
    colour, pair = _background(image)
    distance, share = _distance_to_segment(image, *pair)
    foreground = distance > FOREGROUND
    texture = _texture(share, ~dilate(foreground, 3), pair)
    objects = []
    for part in components(foreground):
        tone = _tone(image, part)
        # pixels between the two colours go to the nearer one, or thin shapes would lose their edges
        whole = dilate(part, 3) & (np.linalg.norm(image - tone, axis=-1) < distance)
        whole = whole if whole.any() else part
        ys, xs = np.nonzero(whole)
        place = (float(xs.mean()), float(ys.mean()), float(len(xs)))
        objects.append(((_shape(whole), _colour_name(tone)), place))
    objects.sort()
    return Reading(tuple(o for o, _ in objects), colour, texture, tuple(place for _, place in objects))


def _background(image: np.ndarray) -> tuple[str, tuple[np.ndarray, np.ndarray]]:
    """The background's colour and its two tones, from the border."""
    frame = np.ones((SIZE, SIZE), bool)
    frame[FRAME:-FRAME, FRAME:-FRAME] = False
    pixels = image[frame]
    best: tuple[float, str, tuple[np.ndarray, np.ndarray]] | None = None
    for name in COLOURS:
        for brightness in BRIGHTNESS:
            first, second = tones(name, brightness)
            to_first = np.linalg.norm(pixels - first, axis=1)
            to_second = np.linalg.norm(pixels - second, axis=1)
            # a second tone alone is another colour's first: the named tone must show
            if (to_first <= to_second).mean() < 0.15:
                continue
            cost = float(np.minimum(np.minimum(to_first, to_second), 0.3).mean())
            if best is None or cost < best[0]:
                best = (cost, name, (first, second))
    if best is None:
        mean = pixels.mean(0)
        return UNKNOWN, (mean, mean)
    return best[1], best[2]


def _distance_to_segment(image: np.ndarray, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance of every pixel to the line between two tones, and its place on it (0 first, 1 second)."""
    direction = second - first
    length = float(direction @ direction) or 1.0
    share = np.clip((image - first) @ direction / length, -0.1, 1.1)
    nearest = first + share[..., None] * direction
    return np.linalg.norm(image - nearest, axis=-1), share


def _texture(share: np.ndarray, ground: np.ndarray, pair: tuple[np.ndarray, np.ndarray]) -> str:
    """Plain, striped or dotted: by how much of the second tone there is and whether its edges run one way."""
    if np.linalg.norm(pair[1] - pair[0]) < 1e-6 or not ground.any() or (share[ground] > 0.5).mean() < 0.1:
        return "plain"
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(share, 2, mode="edge"), (5, 5))
    dy, dx = np.gradient(windows.mean((-2, -1)))
    inside = ~dilate(~ground, 3)
    xx, yy, xy = ((a * b)[inside].sum() for a, b in ((dx, dx), (dy, dy), (dx, dy)))
    coherence = np.hypot(xx - yy, 2 * xy) / max(float(xx + yy), 1e-9)
    return "striped" if coherence > 0.5 else "dotted"


def components(mask: np.ndarray) -> list[np.ndarray]:
    """Connected parts (4-neighbours) of at least ``SMALLEST`` pixels, as masks."""
    left = mask.copy()
    parts = []
    for start in zip(*np.nonzero(mask), strict=True):
        if not left[start]:
            continue
        part = np.zeros_like(mask)
        queue = deque([start])
        left[start] = False
        while queue:
            y, x = queue.popleft()
            part[y, x] = True
            for ny, nx in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                if 0 <= ny < mask.shape[0] and 0 <= nx < mask.shape[1] and left[ny, nx]:
                    left[ny, nx] = False
                    queue.append((ny, nx))
        if part.sum() >= SMALLEST:
            parts.append(part)
    return parts


def _tone(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Median colour of a part's core: (3,)."""
    core = ~dilate(~mask, 2)
    return np.median(image[core if core.sum() >= 12 else mask], axis=0)


def _colour_name(tone: np.ndarray) -> str:
    """The named colour nearest to a tone, brightness aside."""
    distance = {n: min(float(np.linalg.norm(tone - rgb(n, b))) for b in BRIGHTNESS) for n in COLOURS}
    name = min(distance, key=lambda n: distance[n])
    return name if distance[name] < 0.25 else UNKNOWN


@lru_cache(maxsize=1)
def _templates() -> dict[str, np.ndarray]:
    """Each shape at 13 angles in the normal frame: bool (angles, TEMPLATE, TEMPLATE)."""
    bank = {}
    for shape in SHAPES:
        masks = []
        for angle in np.linspace(-36, 36, 13):
            turn = np.deg2rad(angle)
            rotation = np.asarray([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
            canvas = Image.new("L", (256, 256), 0)
            draw = ImageDraw.Draw(canvas)
            for points, fill in outline(shape):
                draw.polygon([tuple(p) for p in (points @ rotation.T * 90 + 128).tolist()], fill=255 if fill else 0)
            masks.append(_normal_frame(np.asarray(canvas) > 127))
        bank[shape] = np.stack(masks)
    return bank


def _normal_frame(mask: np.ndarray) -> np.ndarray:
    """A mask moved to its centroid and scaled to equal area: bool (TEMPLATE, TEMPLATE)."""
    ys, xs = np.nonzero(mask)
    scale = np.sqrt(mask.sum()) / (TEMPLATE * 0.42)
    grid = (np.arange(TEMPLATE) + 0.5 - TEMPLATE / 2) * scale
    y = np.clip(np.rint(grid + ys.mean()).astype(int), 0, mask.shape[0] - 1)
    x = np.clip(np.rint(grid + xs.mean()).astype(int), 0, mask.shape[1] - 1)
    return mask[np.ix_(y, x)]


def _shape(mask: np.ndarray) -> str:
    """The shape whose template overlaps best, by intersection over union."""
    normal = _normal_frame(np.pad(mask, SIZE // 4))
    score = {
        shape: float(((bank & normal).sum((1, 2)) / (bank | normal).sum((1, 2))).max())
        for shape, bank in _templates().items()
    }
    best = max(score, key=lambda s: score[s])
    return best if score[best] > 0.6 else UNKNOWN


def wrong_attributes(image: np.ndarray, scene: Scene) -> list[str]:
    """What a picture gets wrong against ``scene``, in words; empty when it is right."""
    seen, wanted = read(image), truth(scene)
    wrong = [] if seen.background == wanted.background else [f"background {seen.background}, not {wanted.background}"]
    if seen.texture != wanted.texture:
        wrong.append(f"texture {seen.texture}, not {wanted.texture}")
    missing, extra = Counter(wanted.objects), Counter(seen.objects)
    wrong += [f"no {c} {s}" for s, c in (missing - extra).elements()]
    wrong += [f"an unasked {c} {s}" for s, c in (extra - missing).elements()]
    return wrong
