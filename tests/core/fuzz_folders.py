"""Wrong model folders: entries of configurations that no library wrote, files that are none, whole parts exchanged."""

import json
import os
import random
import resource
import shutil
import stat
import time
from collections import Counter

import torch

from nullinv_core import InputError
from nullinv_core.backends.diffusers import load_model
from nullinv_core.backends.model_folder import read_folder, settings_file

PARTS = ("scheduler", "unet", "vae", "text_encoder", "text_encoder_2")
VALUES = [
    None, True, False, 0, 1, 2, 3, 7, -1, 64, 100_000_000, 2**63, 10**400, 0.5, -0.0, 1e-300, 1e300, float("nan"),
    float("inf"), "", "x", "x" * 10_000, "../../evil", "None", "evil.Evil", [], [0], [1], [-1, 2], [[1], [2]],
    [None] * 3, [2**31] * 8, list(range(1, 1000)), {}, {"a": {"b": []}}, {"__type": "AddedToken", "content": 3},
]  # fmt: skip
"""What an entry may become; see also ``_deep``."""
HOOKS = {
    "auto_map": {"AutoModel": "evil.Evil", "AutoTokenizer": ["evil.Evil", None]}, "_class_name": ["evil", "Evil"],
    "custom_pipeline": "evil", "trust_remote_code": True, "quantization_config": {"quant_method": "bitsandbytes"},
    "architectures": ["Evil"], "_attn_implementation": "evil/kernel", "tokenizer_class": "Evil", "model_type": "evil",
    "tokenizer_file": "/etc/hostname", "vocab_file": "/etc/hostname", "torch_dtype": "evil", "dtype": "int8",
    "_name_or_path": "//host/share", "base_model_name_or_path": "//host/share",
}  # fmt: skip
"""Entries by which libraries are told of other code, classes and files."""
RAW = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe",
    b'{"a": 1' + b"0" * 5000 + b"}",
    b"[" * 100_000,
    b'{"\\ud800": "\\ud800"}',
]
"""Contents of a JSON file."""


GONE = "(gone)"


def _deep():
    found = []
    for _ in range(500):
        found = [found]
    return found


def entries(folder):
    """The JSON files of a folder, and (file, entry) of each."""
    files = sorted(path.relative_to(folder) for path in folder.rglob("*.json") if path.name != "vocab.json")
    both = []
    for file in files:
        both += [(file, name) for name in json.loads((folder / file).read_text())]
    return files, both


def put(path, what):
    """Put something else than an ordinary file at a path: a device that never ends, a pipe that nobody writes to, a
    folder, or a link to itself."""
    if what == "zero":
        path.symlink_to("/dev/zero")
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "loop":
        path.symlink_to(path)
    else:
        raise ValueError(what)


def break_folder(folder, rng):
    """Do one wrong thing to a folder, or two; return what it was, for people."""
    files, both = entries(folder)
    told = []
    for _ in range(rng.choice([1, 1, 1, 2])):
        # what an earlier turn made a device or a pipe of is left alone
        files = [file for file in files if stat.S_ISREG(_mode(folder / file))]
        both = [(file, name) for file, name in both if file in files]
        kind = rng.choice(["entry"] * 12 + ["hook"] * 3 + ["missing"] * 2 + ["raw", "file", "swap", "vocabulary"])
        if kind in ("entry", "missing"):
            file, name = rng.choice(both)
            value = GONE if kind == "missing" else rng.choice([*VALUES, _deep()])
            _set(folder / file, name, value)
            told.append(f"{file}: {name} becomes {str(value)[:60]}")
        elif kind == "hook":
            file, name = rng.choice(files), rng.choice(list(HOOKS))
            _set(folder / file, name, HOOKS[name])
            told.append(f"{file}: {name}")
        elif kind == "raw":
            file, content = rng.choice(files), rng.choice(RAW)
            (folder / file).write_bytes(content)
            told.append(f"{file} is {content[:30]!r}")
        elif kind == "file":
            file = rng.choice([p for p in sorted(folder.rglob("*")) if p.is_file()])
            file.unlink()
            what = rng.choice(["gone", "zero", "pipe", "folder", "cut", "loop"])
            if what == "cut":
                file.write_bytes(b"\x10\0\0\0\0\0\0\0{}")
            elif what != "gone":
                put(file, what)
            told.append(f"{file.relative_to(folder)} is {what}")
        elif kind == "swap":
            one, other = rng.sample(PARTS, 2)
            source, target = (folder / part / settings_file(part) for part in (other, one))
            if stat.S_ISREG(_mode(source)) and stat.S_ISREG(_mode(target)):
                shutil.copyfile(source, target)
            told.append(f"{one} says what {other} does")
        else:
            file = folder / "tokenizer" / rng.choice(["vocab.json", "merges.txt"])
            if stat.S_ISREG(_mode(file)):
                text = file.read_text(encoding="utf-8")
                file.write_text(
                    rng.choice([text[: len(text) // 2], text[5:], text + "\nx", text.replace('"a"', '"b"')])
                )
            told.append(f"{file.name} is another")
    return "; ".join(told)


def _set(file, name, value):
    """Change an entry of a JSON file, where it still is one."""
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError):
        return
    if isinstance(found, dict):
        file.write_text(json.dumps({key: v for key, v in {**found, name: value}.items() if v is not GONE}))


def use(model):
    """Encode a text, predict once and decode with a model."""
    context = model.encode_prompts([model.prompt("a red cat")])
    side = min(model.check_size(model.native_size) // model.factor, 16)
    latents = torch.zeros(1, 4, side, side)
    assert model.denoiser(latents, model.schedule(2).level(2), context).shape == latents.shape
    model.decode(latents)


def fuzz_folders(whole, work, count, seed=0, most_seconds=20.0, every=1, load=load_model, use=use):
    """How many broken copies of the folder ``whole`` were read ("loaded") or refused in words ("refused").

    Of those that pass the check, one in ``every`` is built (``load``) and tried (``use``); the others count as
    "checked". Any other end is raised, with the case's number, and so are more than ``most_seconds`` and 1 GB.
    """
    ends = Counter()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    folder = work / "wrong"
    for case in range(count):
        restore(whole, folder)
        told = break_folder(folder, random.Random(f"{seed} {case}"))
        start = time.monotonic()
        try:
            read_folder(folder)
            if case % every == 0:
                use(load(folder))
            ends["checked" if case % every else "loaded"] += 1
        except InputError as error:
            sentence = "\n" not in str(error) and len(str(error)) < 1000
            ends["refused" if sentence else f"case {case} of seed {seed} ({told}): {error}"] += 1
        except Exception as error:
            raise AssertionError(f"case {case} of seed {seed} ({told}) ends in {error!r}") from error
        took = time.monotonic() - start
        assert took < most_seconds, f"case {case} of seed {seed} ({told}) took {took:.0f} s"
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
        assert grown < 1, f"case {case} of seed {seed} ({told}) took {grown:.1f} GB"
    return dict(ends)


def restore(whole, folder):
    """Make ``folder`` the same as ``whole`` again; weights are links to its own."""
    for source in (path for path in whole.rglob("*") if path.is_file()):
        target = folder / source.relative_to(whole)
        weights, ordinary = source.suffix == ".safetensors", stat.S_ISREG(_mode(target))
        same = (
            target.read_bytes() == source.read_bytes()
            if ordinary
            else os.path.realpath(target) == os.path.realpath(source)
        )
        if same:
            continue
        if stat.S_ISDIR(_mode(target)):
            target.rmdir()
        target.unlink(missing_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        if weights:
            target.symlink_to(source)
        else:
            shutil.copyfile(source, target)


def _mode(path):
    return os.lstat(path).st_mode if os.path.lexists(path) else 0
