"""Broken inversion files: bytes, headers and lengths that no program of ours wrote."""

import json
import struct
from contextlib import contextmanager

from nullinv_core import load_inversion, save_inversion
from nullinv_core.files.store import write_inversion

from ..core.test_store import some_inversion
from .runner import naming

DTYPES = ["F16", "BF16", "F32", "F64", "I8", "I64", "U8", "BOOL", "F8_E4M3", "X9", 3, None]
SCALARS = [None, True, -1, 0, 1, 2**63, 2**70, 1e400, "", "x" * 1000, [], {}, [[]], {"a": 1}]


def mutated(data, rng):
    """The bytes of a safetensors file with one thing wrong."""
    kind = rng.choice([_flipped, _cut, _grown, _length, _header, _header, _header, _metadata, _metadata, _metadata])
    return kind(data, rng)


def _flipped(data, rng):
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 20])):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(data, rng):
    return data[: rng.randrange(len(data))]


def _grown(data, rng):
    return data + rng.randbytes(rng.randrange(1, 200))


def _length(data, rng):
    return struct.pack("<Q", rng.choice([0, 1, len(data), 2**31, 2**63, 2**64 - 1])) + data[8:]


def _parts(data):
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def _joined(header, body):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def _header(data, rng):
    """Another dtype, shape or place of a tensor, another name, or one fewer."""
    header, body = _parts(data)
    name = rng.choice([key for key in header if key != "__metadata__"])
    entry = header[name]
    change = rng.randrange(6)
    if change == 0:
        entry["dtype"] = rng.choice(DTYPES)
    elif change == 1:
        entry["shape"] = rng.choice([[], [0], [2**40, 2**40], entry["shape"][::-1], [*entry["shape"], 1], *SCALARS])
    elif change == 2:
        entry["data_offsets"] = rng.choice([[0, 2**62], [10, 4], [-1, 3], entry["data_offsets"][::-1], *SCALARS])
    elif change == 3:
        del header[name]
    elif change == 4:
        header[rng.choice(["trajectory", "null_embeddings", "other", "", "🙂"])] = header.pop(name)
    else:
        header[name] = rng.choice(SCALARS)
    return _joined(header, body)


def _metadata(data, rng):
    """Another value of an entry of the metadata, an entry too many or one fewer."""
    header, body = _parts(data)
    inner = json.loads(header["__metadata__"]["inversion"])
    key = rng.choice([*inner, "new"])
    if rng.random() < 0.3 and key in inner:
        del inner[key]
    else:
        inner[key] = rng.choice(SCALARS)
    text = json.dumps(inner)
    header["__metadata__"] = rng.choice([{"inversion": text}] * 8 + [{"inversion": text[:-3]}, {}, {"inversion": 3}])
    return _joined(header, body)


@contextmanager
def prepare(folder):
    """Broken copies of an inversion: read, or refused by a sentence that names the file. What was read can be saved."""
    path = folder / "x.safetensors"
    save_inversion(path, some_inversion())
    data = path.read_bytes()

    def case(rng):
        path.write_bytes(mutated(data, rng))
        with naming(path):
            read = load_inversion(path)
        write_inversion(path, read)
        load_inversion(path)

    yield case
