"""Picture files of strangers: which formats are decoded, what a file may claim, what is said of a damaged one."""

from __future__ import annotations

import io
import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from ..errors import InputError
from ..files.ordinary import open_ordinary

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""By Pillow's names. It knows forty more, among them EPS, which it has another program run."""
LARGEST = 100_000_000
"""Most pixels of a picture that is read."""
LARGEST_FILE = 2**30
"""Most bytes of its file."""
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of a value of each of TIFF's types."""
MOST_TAGS = 2**16
"""There are no more numbers for them."""
EXIF = b"Exif\0\0"
ORIENTATION = 0x0112
"""The tag that says how a picture is turned."""
BROKEN = (
    SyntaxError, OSError, EOFError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, AssertionError,
    struct.error,
)  # fmt: skip
"""What Pillow raises where notes are broken."""


@contextmanager
def decoding(name: str) -> Iterator[None]:
    """Turn whatever a decoder raises in the block into one sentence about ``name``; what it warns of is not shown."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise InputError(f"{name} is larger than {LARGEST // 10**6} megapixels; scale it down") from error
    except MemoryError as error:
        raise InputError(f"{name} needs more memory than there is; scale it down") from error
    except Exception as error:
        # of damaged files: among others KeyError, TypeError, AssertionError, RecursionError
        raise InputError(f"{name} cannot be read as an image; give a PNG, JPEG or WebP file") from error


@contextmanager
def opened(path: Path | str | io.BytesIO, name: str) -> Iterator[Image.Image]:
    """A picture file, or its content, in one of ``FORMATS``, not decoded yet.

    Raises InputError for one that claims too much.
    """
    Image.init()
    try:
        source = path if isinstance(path, io.BytesIO) else open_ordinary(path)
    except OSError as error:
        raise InputError(f"{name} cannot be read ({error.strerror})") from error
    with source as file:
        if file.seek(0, os.SEEK_END) > LARGEST_FILE:
            raise InputError(f"{name} is larger than {LARGEST_FILE / 2**30:g} GB; save it again as PNG")
        file.seek(0)
        _check_tags(file, name)
        file.seek(0)
        # Pillow is built without some of them here and there
        with Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN]) as picture:
            check_claims(picture, name)
            yield picture


def orientation(picture: Image.Image) -> int:
    """How a decoded picture is turned by its notes, as EXIF has it: 1 … 8; 1 where it has none, or broken ones."""
    try:
        found = picture.getexif().get(ORIENTATION)
    except BROKEN:
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def check_claims(picture: Image.Image, name: str) -> None:
    """Raise InputError for a picture of more pixels than ``LARGEST``, or notes (EXIF) that claim more than there is."""
    width, height = picture.size
    if width * height > LARGEST:
        raise InputError(f"{name} has {width}×{height} pixels; scale it to at most {LARGEST // 10**6} megapixels")
    notes = picture.info.get("exif", b"")
    # as some programs write it into a PNG: three lines, then hexadecimal digits
    written = picture.info.get("Raw profile type exif")
    if not notes and written is not None:
        # what is broken claims nothing
        with suppress(ValueError):
            notes = bytes.fromhex("".join(written.split("\n")[3:]))
    _check_tags(io.BytesIO(notes.removeprefix(EXIF)), name)


def _check_tags(file: BinaryIO, name: str) -> None:
    """Raise InputError where the tags of a TIFF or of EXIF claim more bytes than there are.

    Each of tens of thousands of tags may point at the same bytes, and Pillow before 13 copies them for each.
    """
    start, length = file.read(16), file.seek(0, os.SEEK_END)
    if start[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return
    end, large = "<>"[start[:1] == b"M"], b"+" in start[:4]
    try:
        file.seek(struct.unpack(f"{end}Q", start[8:])[0] if large else struct.unpack(f"{end}I", start[4:8])[0])
        count = struct.unpack(f"{end}Q", file.read(8))[0] if large else struct.unpack(f"{end}H", file.read(2))[0]
    except (struct.error, OSError, ValueError, OverflowError):
        # no directory of tags: for the decoder to say
        return
    entry = f"{end}HHQ8s" if large else f"{end}HHI4s"
    size = struct.calcsize(entry)
    table = file.read(min(count, MOST_TAGS) * size)
    entries = struct.iter_unpack(entry, table[: len(table) // size * size])
    values = [SIZES.get(kind, 0) * number for _, kind, number, _ in entries]
    if count > MOST_TAGS or sum(value for value in values if value > (8 if large else 4)) > length:
        raise InputError(f"{name} claims more notes (tags) than it holds; save it again as PNG")
