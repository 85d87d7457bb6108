"""Labelled picture strips and simple line plots, drawn with Pillow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .errors import InputError
from .photo.images import from_pil, to_pil
from .prompt_to_prompt.maps import WordMaps
from .prompt_to_prompt.prompt import Prompt, find_phrase
from .types import NullEmbeddings

MOST_DRAWN = 2**29
"""Most numbers of all the maps that are drawn at once: 2 GB."""
INK, PAPER, GRID, LINE = (30, 30, 30), (255, 255, 255), (225, 225, 225), (30, 90, 200)


def side_by_side(pictures: Mapping[str, Tensor | np.ndarray], side: int = 256) -> Image.Image:
    """Pictures (H, W, 3) in 0…1 in a row, each ``side`` pixels high with its label above."""
    tiles = {label: to_pil(p) for label, p in pictures.items()}
    tiles = {k: t.resize((round(side * t.width / t.height), side), Image.Resampling.LANCZOS) for k, t in tiles.items()}
    gap, head = 8, 30
    font = ImageFont.load_default(15)
    strip = Image.new("RGB", (sum(t.width + gap for t in tiles.values()) + gap, side + head + gap), PAPER)
    draw = ImageDraw.Draw(strip)
    left = gap
    for label, tile in tiles.items():
        draw.text((left, 7), label, INK, font)
        strip.paste(tile, (left, head))
        left += tile.width + gap
    return strip


def heat_map(picture: Tensor | np.ndarray, weights: np.ndarray) -> np.ndarray:
    """A picture (H, W, 3) darkened where ``weights`` (h, w) are low against their maximum, reddened where high."""
    base = np.asarray(picture, np.float32)
    scaled = Image.fromarray((weights / max(float(weights.max()), 1e-12) * 255).astype(np.uint8))
    share = (
        np.asarray(scaled.resize((base.shape[1], base.shape[0]), Image.Resampling.BICUBIC), np.float32)[..., None] / 255
    )
    return base * (0.25 + 0.45 * share) + share * np.asarray([0.3, 0.05, 0.0], np.float32)


def word_maps(picture: Tensor | np.ndarray, maps: Tensor, prompt: Prompt) -> Image.Image:
    """One labelled heat map per word of a prompt. ``maps``: mean attention (h, w, tokens)."""
    tiles = {"picture": picture}
    for index, word in enumerate(prompt.words):
        weights = maps[..., prompt.tokens_of_word(index)].sum(-1).numpy()
        tiles[f"{index + 1} {word}"] = heat_map(picture, weights)
    return side_by_side(tiles, side=128)


def heat_maps(attention: WordMaps, branch: int, words: Sequence[str], pictures: Tensor | None) -> tuple[Tensor, Tensor]:
    """Drawings (B·words, H, W, 3) and masks (B·words, h, w) in 0…1 of the words of one branch (0: the source).

    ``words`` empty: every word of the prompt. ``pictures``: what to draw on, one for all images or one for each. Raises
    InputError for a branch, a word or a number of pictures that does not fit.
    """
    if attention.maps is None:
        raise InputError("the model has no cross-attention of the size that maps are read at")
    if branch >= len(attention.prompts):
        raise InputError(f"there are {len(attention.prompts) - 1} edits, not {branch}; 0 is the photo")
    maps, prompt = attention.maps[:, branch], attention.prompts[branch]
    tokens = {word: find_phrase(prompt, word) for word in words} or {
        f"{i + 1} {word}": prompt.tokens_of_word(i) for i, word in enumerate(prompt.words)
    }
    pictures = torch.full((1, 256, 256, 3), 0.6) if pictures is None else pictures.cpu()
    if len(pictures) not in (1, len(maps)):
        raise InputError(f"there are {len(pictures)} pictures to draw on, and maps of {len(maps)}")
    numbers = len(tokens) * len(maps) * pictures[0].numel()
    if numbers > MOST_DRAWN:
        raise InputError(
            f"maps of {len(tokens)} words would take {numbers * 4 / 2**30:.0f} GB; name some of the words, or draw "
            "on a smaller picture"
        )
    masks = torch.stack([maps[..., t].sum(-1) for t in tokens.values()], 1)
    masks = masks / masks.amax((2, 3), keepdim=True).clamp(min=1e-12)
    drawings = [
        from_pil(side_by_side({label: heat_map(picture, mask.numpy())}, picture.shape[0]))
        for picture, rows in zip(pictures.expand(len(maps), -1, -1, -1), masks, strict=True)
        for label, mask in zip(tokens, rows, strict=True)
    ]
    return torch.cat(drawings), masks.flatten(0, 1)


def loss_plot(null: NullEmbeddings, image: int = 0) -> Image.Image:
    """Last loss and iterations of every step of an image, from noise to clean."""
    losses, iterations = (column[:, image].flip(0).tolist() for column in (null.losses, null.iterations))
    if not any(losses):
        return log_plot(losses, "nothing was optimized, so no loss was measured", "step, from noise to clean")
    title = "last loss per timestep; nothing had to be optimized"
    if null.guidance == 1:
        title = "last loss per timestep; at cfg 1 nothing can be optimized"
    elif max(iterations):
        title = f"last loss (line) and inner iterations (bars, at most {max(iterations):.0f}) per timestep"
    return log_plot(losses, title, "step, from noise to clean", iterations)


def log_plot(values: Sequence[float], title: str, x_label: str, bars: Sequence[float] = ()) -> Image.Image:
    """A line of positive values on a logarithmic axis, over optional light bars on a linear one."""
    # lighter than a photo of 512×512 pixels, so that ComfyUI's cache lets go of photos first, not of the optimization
    width, height, left, top, right, bottom = 640, 360, 80, 50, 30, 55
    picture = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(picture)
    font, large = ImageFont.load_default(13), ImageFont.load_default(17)
    logs = [math.log10(max(v, 1e-12)) for v in values]
    low, high = math.floor(min(logs)), math.ceil(max(logs))
    high += high == low

    def x_of(index: float) -> float:
        return left + (index + 0.5) * (width - left - right) / len(values)

    def y_of(value: float) -> float:
        return top + (high - value) / (high - low) * (height - top - bottom)

    floor = height - bottom
    for index, value in enumerate(bars):
        half = 0.4 * (width - left - right) / len(values)
        reach = value / max(1, *bars) * (floor - top)
        draw.rectangle([x_of(index) - half, floor - reach, x_of(index) + half, floor], (222, 232, 248))
    for decade in range(low, high + 1):
        draw.line([(left, y_of(decade)), (width - right, y_of(decade))], GRID)
        draw.text((left - 10, y_of(decade)), f"1e{decade}", INK, font, anchor="rm")
    for index in range(0, len(values), max(1, len(values) // 10)):
        draw.text((x_of(index), floor + 8), str(index + 1), INK, font, anchor="mt")
    draw.line([(x_of(i), y_of(v)) for i, v in enumerate(logs)], LINE, 2, joint="curve")
    draw.line([(left, top), (left, floor), (width - right, floor)], INK)
    draw.text((left, 16), title, INK, large)
    draw.text(((left + width - right) / 2, height - 12), x_label, INK, font, anchor="mb")
    return picture
