"""Picture files of strangers: what is decoded at all, and what a file may claim. More is in ``tests/fuzz``."""

import struct
import subprocess

import pytest
from PIL import Image

from nullinv_core import InputError, picture_file
from nullinv_core.images import read_picture

from ..fuzz.pictures import OTHERS

COLOURS = Image.new("RGB", (24, 24), (200, 30, 30))
TAGS = 50_000


@pytest.mark.parametrize("kind", OTHERS)
def test_seven_formats_are_decoded_and_no_other(tmp_path, monkeypatch, kind):
    """Guards against decoders that few people need, and the program that one of them starts (EPS, Ghostscript)."""

    def started(*_, **__):
        raise AssertionError("another program was started")

    path = tmp_path / "photo.png"
    (COLOURS.convert("1") if kind in ("XBM", "MSP") else COLOURS).save(path, format=kind)
    for name in ("Popen", "check_call", "run"):
        monkeypatch.setattr(subprocess, name, started)
    with pytest.raises(InputError, match="cannot be read as an image; give a PNG, JPEG or WebP file"):
        read_picture(path)


def notes():
    """A TIFF or EXIF that claims gigabytes: all of its tags are of the same bytes."""
    length = 8 + 2 + 12 * TAGS
    tags = b"".join(struct.pack("<HHII", 1000 + number % 60_000, 7, length, 0) for number in range(TAGS))
    return b"II*\0" + struct.pack("<IH", 8, TAGS) + tags


@pytest.mark.parametrize("suffix", [".tif", ".png", ".webp"])
def test_notes_that_claim_more_than_there_is_are_refused(tmp_path, suffix):
    """Guards memory: half a megabyte of notes would become thirty gigabytes."""
    path = tmp_path / f"photo{suffix}"
    if suffix == ".tif":
        path.write_bytes(notes())
    else:
        COLOURS.save(path, exif=notes())
    with pytest.raises(InputError, match="claims more notes"):
        read_picture(path)


def test_a_file_too_large_is_refused_unread(tmp_path, monkeypatch):
    """Guards memory and time."""
    COLOURS.save(tmp_path / "photo.png")
    monkeypatch.setattr(picture_file, "LARGEST_FILE", 10)
    with pytest.raises(InputError, match="larger than"):
        read_picture(tmp_path / "photo.png")
