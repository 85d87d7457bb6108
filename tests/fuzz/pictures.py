"""Broken picture files of every format that is read, and files of others under a picture's name."""

import struct
import zlib
from contextlib import contextmanager

import numpy as np
from PIL import Image, features

from nullinv_core.photo.images import load_image

from ..core.test_images import P3
from .runner import naming

NUMBERS = [0, 1, 2, 7, 255, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1]
NAMES = ["x.png", "x.jpg", "x.eps", "x.tif", "x", "x.wmf", "x.pdf"]
OTHERS = ["EPS", "PPM", "TGA", "PCX", "SGI", "ICO", "IM", "XBM", "DDS", "MSP"]
"""Formats that Pillow reads and we do not."""


def samples(folder):
    """The bytes of small pictures in every format that photos come in, with profile and EXIF where they have them."""
    generator, exif = np.random.default_rng(0), Image.Exif()
    exif[0x0112] = 6
    colours = Image.fromarray(generator.integers(0, 256, (24, 24, 3), np.uint8))
    notes = {"exif": exif, "icc_profile": P3}
    for name in ("x.jpg", "x.png", "x.webp", "x.tif", *(["x.avif"] if features.check("avif") else [])):
        colours.save(folder / name, **notes)
    colours.save(folder / "packed.tif", compression="tiff_lzw")
    colours.save(folder / "sure.webp", lossless=True)
    colours.save(folder / "x.bmp")
    colours.convert("CMYK").save(folder / "ink.jpg", icc_profile=P3)
    colours.quantize(16).save(folder / "x.gif", transparency=1)
    colours.quantize(16).save(folder / "few.png", transparency=1)
    frames = [colours.rotate(angle) for angle in (90, 180)]
    for name in ("moves.png", "moves.gif", "moves.webp", "pages.tif"):
        colours.save(folder / name, save_all=True, append_images=frames)
    colours.save(folder / "two.jpg", format="MPO", save_all=True, append_images=frames)
    Image.fromarray(generator.random((24, 24), np.float32)).save(folder / "float.tif")
    Image.fromarray(generator.integers(0, 2**16, (24, 24), np.uint16)).save(folder / "deep.png")
    found = [path.read_bytes() for path in sorted(folder.iterdir())]
    for kind in OTHERS:
        picture = colours.convert("1") if kind in ("XBM", "MSP") else colours
        picture.save(folder / "other", format=kind)
        found.append((folder / "other").read_bytes())
    return found


def mutated(data, rng, all_samples):
    """The bytes of a picture with something wrong."""
    special = {b"\x89PNG": _chunks, b"II*\0": _tags, b"MM\0*": _tags}.get(data[:4], _numbers)
    kind = rng.choice([_flipped, _cut, _numbers, _repeated, special, special])
    changed = kind(data, rng)
    if rng.random() < 0.05:
        other = rng.choice(all_samples)
        changed = changed[: rng.randrange(len(changed) + 1)] + other[rng.randrange(len(other)) :]
    return changed


def _place(data, rng):
    """A place, rather at the beginning: most of what matters stands there."""
    return int(rng.random() ** 2 * len(data))


def _flipped(data, rng):
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        changed[_place(data, rng)] = rng.randrange(256)
    return bytes(changed)


def _cut(data, rng):
    return data[: rng.randrange(len(data))] + bytes(rng.choice([0, 0, 1000]))


def _numbers(data, rng):
    place = _place(data, rng)
    number = struct.pack(rng.choice("<>") + "I", rng.choice(NUMBERS))[: rng.choice([2, 4])]
    return data[:place] + number + data[place + len(number) :]


def _repeated(data, rng):
    start, stop = sorted((_place(data, rng), _place(data, rng)))
    return data[:stop] + data[start:stop] * rng.choice([1, 2, 50]) + data[stop:]


def _chunks(data, rng):
    """Another chunk of a PNG, with a sum that is right, so that its reader believes it."""
    chunks, place = [], 8
    while place + 8 <= len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    number = rng.randrange(len(chunks))
    name, body = chunks[number]
    made = [
        (name, _flipped(body, rng) if body else b"\0"), (name, body[: len(body) // 2]), (name, b""),
        (b"IHDR", struct.pack(">IIBBBBB", rng.choice(NUMBERS), rng.choice(NUMBERS), rng.choice([1, 8, 16]),
                              rng.choice([0, 2, 3, 4, 6, 9]), 0, 0, rng.choice([0, 1]))),
        (b"zTXt", b"note\0\0" + zlib.compress(bytes(rng.choice([10, 10**6, 3 * 10**6])))),
        (b"iCCP", b"x\0\0" + zlib.compress(rng.randbytes(50) + bytes(rng.choice([10, 10**6, 3 * 10**6])))),
        (b"tEXt", b"Raw profile type exif\0\nexif\n9\n" + rng.choice([b"4d4d002a", b"zz", P3.hex().encode()])),
        (b"eXIf", rng.choice([b"", b"II*\0\x08\0\0\0" + rng.randbytes(40), b"MM\0*" + rng.randbytes(4)])),
        (b"PLTE", rng.randbytes(rng.choice([0, 1, 3, 900]))), (b"tRNS", rng.randbytes(rng.choice([0, 1, 300]))),
        (b"acTL", struct.pack(">II", rng.choice(NUMBERS), 0)), (b"fcTL", rng.randbytes(26)),
    ]  # fmt: skip
    chunks[number : number + rng.randrange(2)] = [rng.choice(made)] * rng.choice([1, 1, 1, 40])
    return data[:8] + b"".join(
        struct.pack(">I", len(b)) + n + b + struct.pack(">I", zlib.crc32(n + b)) for n, b in chunks
    )


def _tags(data, rng):
    """Other tags in the first directory of a TIFF."""
    end = "<>"[data[:1] == b"M"]
    (start,) = struct.unpack(f"{end}I", data[4:8])
    if start + 2 > len(data):
        return _flipped(data, rng)
    (count,) = struct.unpack(f"{end}H", data[start : start + 2])
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 3])):
        place = start + 2 + 12 * rng.randrange(max(count, 1))
        tag, kind, size, value = struct.unpack(f"{end}HHII", data[place : place + 12].ljust(12, b"\0"))
        part = rng.randrange(4)
        tag = rng.randrange(2**16) if part == 0 else tag
        kind = rng.randrange(20) if part == 1 else kind
        size = rng.choice(NUMBERS) if part == 2 else size
        value = rng.choice(NUMBERS) if part == 3 else value
        changed[place : place + 12] = struct.pack(f"{end}HHII", tag, kind, size, value)
    return bytes(changed)


@contextmanager
def prepare(folder):
    """Broken pictures are read, or refused by a sentence; those of other formats are refused."""
    known = samples(folder)
    others = {data[:4] for data in known[-len(OTHERS) :]}

    def case(rng):
        data = rng.choice(known)
        if rng.random() < 0.98:
            data = mutated(data, rng, known)
        path = folder / rng.choice(NAMES)
        path.write_bytes(data)
        try:
            with naming(path):
                assert load_image(path, 16).shape == (1, 16, 16, 3)
            assert data[:4] not in others, "another format was read"
        finally:
            path.unlink()

    yield case
