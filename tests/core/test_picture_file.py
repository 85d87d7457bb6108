"""Picture files of strangers: what is decoded at all, and what a file may claim. More is in ``tests/fuzz``."""

import struct
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nullinv_core import InputError
from nullinv_core.photo import picture_file
from nullinv_core.photo.images import read_picture

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


def directory(end, large, entries, count=None):
    """Tags (kind, number of values) as a TIFF or BigTIFF holds them, in either order of bytes."""
    count = len(entries) if count is None else count
    mark = {"<": b"II", ">": b"MM"}[end]
    if large:
        head = mark + struct.pack(f"{end}HHHQQ", 43, 8, 0, 16, count)
        return head + b"".join(struct.pack(f"{end}HHQQ", 700 + i, *entry, 0) for i, entry in enumerate(entries))
    head = mark + struct.pack(f"{end}HIH", 42, 8, count)
    return head + b"".join(struct.pack(f"{end}HHII", 700 + i, *entry, 0) for i, entry in enumerate(entries))


def with_notes(**info):
    picture = Image.new("L", (1, 1))
    picture.info |= info
    return picture


@pytest.mark.parametrize("prefix", [b"", b"Exif\0\0"])
@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("end", "<>")
@given(entries=st.lists(st.tuples(st.sampled_from([1, 3, 5, 7, 12, 99]), st.integers(0, 40)), max_size=6))
def test_notes_may_claim_what_there_is(end, large, prefix, entries):
    """Guards every kind of TIFF and EXIF: values beside the tags are counted, in bytes, and unknown ones are none."""
    data = directory(end, large, entries)
    bytes_of = {1: 1, 3: 2, 5: 8, 7: 1, 12: 8, 99: 0}
    values = [bytes_of[kind] * number for kind, number in entries]
    claimed = sum(value for value in values if value > (8 if large else 4))
    if claimed > len(data):
        with pytest.raises(InputError, match=r"^a photo claims more notes"):
            picture_file.check_claims(with_notes(exif=prefix + data), "a photo")
    else:
        picture_file.check_claims(with_notes(exif=prefix + data), "a photo")
    # the last byte that there is, and one more
    room = len(directory(end, large, [(1, 0)]))
    picture_file.check_claims(with_notes(exif=prefix + directory(end, large, [(1, room)])), "a photo")
    with pytest.raises(InputError, match=r"^a photo claims more notes"):
        picture_file.check_claims(with_notes(exif=prefix + directory(end, large, [(1, room + 1)])), "a photo")


@pytest.mark.parametrize(("large", "beside"), [(False, 4), (True, 8)])
def test_only_values_that_are_elsewhere_are_claimed(large, beside):
    """Guards what fits into the tag itself, to the byte, and a directory wherever it begins."""
    length = len(directory("<", large, [(1, 0)] * 2))
    good, bad = (directory("<", large, [(1, length - beside), (1, number)]) for number in (beside, beside + 1))
    picture_file.check_claims(with_notes(exif=good), "a photo")
    with pytest.raises(InputError, match="claims more notes"):
        picture_file.check_claims(with_notes(exif=bad), "a photo")
    if not large:
        # the first byte of its place is BigTIFF's sign
        tags = directory("<", False, [(1, 9999)])
        moved = tags[:4] + struct.pack("<I", ord("+")) + bytes(ord("+") - 8) + tags[8:]
        with pytest.raises(InputError, match="claims more notes"):
            picture_file.check_claims(with_notes(exif=moved), "a photo")


@pytest.mark.parametrize("end", "<>")
def test_more_tags_than_there_are_numbers_are_refused(end):
    """Guards BigTIFF, which may claim any number of tags; where there is no directory, the decoder says so."""
    most = picture_file.MOST_TAGS
    picture_file.check_claims(with_notes(exif=directory(end, True, [], most)), "a photo")
    with pytest.raises(InputError, match="claims more notes"):
        picture_file.check_claims(with_notes(exif=directory(end, True, [], most + 1)), "a photo")
    for large in (False, True):
        whole = directory(end, large, [(1, 99)])
        for length in (2, 4, 9, 12, 17):
            picture_file.check_claims(with_notes(exif=whole[:length]), "a photo")


def test_notes_that_a_png_has_as_text_are_looked_at():
    """Guards EXIF in hexadecimal digits, on lines of their own behind three others; EXIF proper goes before it."""
    good, bad = (directory("<", False, [(7, number)]) for number in (1, 10_000))
    texts = ["\nexif\n    22\n" + data.hex()[:30] + "\n" + data.hex()[30:] + "\n" for data in (good, bad)]
    picture_file.check_claims(with_notes(**{"Raw profile type exif": texts[0]}), "a photo")
    picture_file.check_claims(with_notes(**{"Raw profile type exif": texts[1]}, exif=good), "a photo")
    with pytest.raises(InputError, match=r"^a photo claims more notes"):
        picture_file.check_claims(with_notes(**{"Raw profile type exif": texts[1]}), "a photo")


def test_the_largest_picture_is_taken():
    """Guards the limit, and what is said beyond it."""
    picture_file.check_claims(Image.new("1", (10_000, 10_000)), "a photo")
    with pytest.raises(InputError, match=r"^a photo has 10000×10001 pixels; scale it to at most 100 megapixels"):
        picture_file.check_claims(Image.new("1", (10_000, 10_001)), "a photo")


def test_a_file_too_large_is_refused_unread(tmp_path, monkeypatch):
    """Guards memory and time."""
    COLOURS.save(tmp_path / "photo.png")
    monkeypatch.setattr(picture_file, "LARGEST_FILE", 10)
    with pytest.raises(InputError, match=f'^"{tmp_path / "photo.png"}" is larger than'):
        read_picture(tmp_path / "photo.png")
