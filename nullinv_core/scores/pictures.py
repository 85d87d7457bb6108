"""The pictures of a method and the photos that they were made from, by a rule."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import InputError
from ..photo.images import from_pil, load_image, read_picture
from ..photo.picture_file import decoding, opened
from .pie_bench import PHOTOS, PieEdit
from .rules import SIDE, Rule

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
"""Of a method's pictures, in the order in which they are looked for."""


def picture_of(folder: Path, edit: PieEdit) -> Path | None:
    """Where a method's picture of an edit lies, or None where there is none.

    Below ``annotation_images/`` or the folder itself: by the photo's own place and name, with any suffix, or by the
    edit's name. The first one that is there.
    """
    for base in (folder / PHOTOS, folder):
        own = base / edit.picture
        found = [own, *(own.with_suffix(suffix) for suffix in SUFFIXES), *(base / (edit.name + s) for s in SUFFIXES)]
        for path in found:
            if path.is_file():
                return path
    return None


def read_photo(path: Path, rule: Rule) -> np.ndarray:
    """A photo, or a true answer: float32 (512, 512, 3) in 0…1. Raises InputError for a file that is none, and by the
    rule for another size."""
    if not rule.stored:
        return load_image(path, SIDE)[0].numpy()
    return _sized(_stored(path), path)


def read_edited(path: Path, photo: tuple[int, int], rule: Rule) -> np.ndarray:
    """A method's picture as ``read_photo``, of a wide one its last part. ``photo``: the photo's (width, height)."""
    if rule.stored:
        picture = _stored(path)
        width, height = picture.size
        if width != height and width >= SIDE <= height:
            picture = picture.crop((width - SIDE, height - SIDE, width, height))
        return _sized(picture, path)
    picture = read_picture(path)
    width, height = picture.size
    if width > height and width % height == 0 and width * photo[1] > photo[0] * height:
        picture = picture.crop((width - height, 0, width, height))
    return load_image(picture, SIDE)[0].numpy()


def size_of(path: Path) -> tuple[int, int]:
    """(width, height) of a photo, upright. Raises InputError for a file that is none."""
    return read_picture(path).size


def _stored(path: Path) -> Image.Image:
    """The pixels as they are in a file, as RGB: neither turned nor in other colours."""
    name = f'"{path}"'
    if not path.is_file():
        raise InputError(f"there is no image file {name}")
    with decoding(name), opened(path, name) as file:
        return file.convert("RGB")


def _sized(picture: Image.Image, path: Path) -> np.ndarray:
    if picture.size != (SIDE, SIDE):
        raise InputError(
            f'"{path}" has {picture.width}×{picture.height} pixels, and this rule compares {SIDE}×{SIDE} alone; scale '
            "the pictures, or take --rule default, which does"
        )
    return from_pil(picture)[0].numpy()
