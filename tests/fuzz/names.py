"""Names of files to write: long, hidden, half, of pipes and devices, with links and folders on the way.

All lie in a folder of their own, so that a mistake of ours costs nothing: no device is named but through a link.
"""

import os
from contextlib import contextmanager
from pathlib import Path

from nullinv_core.files.atomic_write import check_outputs, numbered_file, whole_file

PARTS = [
    "a", "b.png", "photo", ".", "..", "", " ", "~", "-", "*", "?", "a" * 250, "a" * 300, "é" * 130, "🙂", "\0", "\n",
    "\x1b[2J", "\ud800", "\udcff", "con", "nul", "%date:yyyy%", "%width%", "%", "link", "dangling", "loop", "folder",
    "file", "pipe", "device", ".nullinv-x.partial", "lock", "\\", ":", "|", "\u202e",
]  # fmt: skip
ENDINGS = [".png", ".PNG", ".safetensors", "", ".", ".png.exe", " .png"]
NOWHERE = ["/proc/self/x.png", "/nowhere/x.png"]


def name(rng):
    """A path of parts at random that stays below three folders."""
    parts = rng.choices(PARTS, k=rng.choice([1, 1, 2, 3]))
    return "/".join(parts) + rng.choice(ENDINGS)


def files_of(root):
    """Every file and link below a folder with its content."""
    found = {}
    for folder, folders, names in os.walk(root):
        for one in (*names, *folders):
            path = Path(folder, one)
            found[str(path)] = os.readlink(path) if path.is_symlink() else path.is_file() and path.read_bytes()
    return found


@contextmanager
def prepare(folder):
    """What is written is whole, under the name that was asked for, and nothing else changes; else a sentence."""
    root = folder / "1" / "2" / "3" / "4"
    root.mkdir(parents=True)
    (root / "file").write_text("mine")
    (root / "folder").mkdir()
    (root / "link").symlink_to(root / "file")
    (root / "dangling").symlink_to(root / "nowhere")
    (root / "loop").symlink_to(root / "loop")
    (root / "device").symlink_to("/dev/full")
    os.mkfifo(root / "pipe")
    original = files_of(folder)

    def case(rng):
        asked = Path(rng.choice(NOWHERE)) if rng.random() < 0.05 else root / name(rng).lstrip("/")
        written = []
        try:
            kind = rng.randrange(3)
            if kind == 0:
                check_outputs([asked], [root / "file", root / "folder"], ".png")
            elif kind == 1:
                with whole_file(asked) as place:
                    place.write_bytes(b"whole")
                written = [asked]
            else:
                written = [numbered_file(asked, ".txt", lambda place: place.write_bytes(b"whole"))]
        finally:
            now = files_of(folder)
            changed = {path for path in {*now, *original} if now.get(path) != original.get(path)}
            assert changed <= {os.path.join(os.path.realpath(path.parent), path.name) for path in written}, changed
            for path in written:
                assert path.read_bytes() == b"whole"
                path.unlink()
                if str(path) in original or files_of(folder) != original:
                    _restore(root)
            assert files_of(folder) == original

    yield case


def _restore(root):
    """Put back what a case wrote over, as it was asked to."""
    links = {"link": "file", "dangling": "nowhere"}
    if not (root / "file").exists():
        (root / "file").write_text("mine")
    for one, to in links.items():
        if not (root / one).is_symlink():
            (root / one).symlink_to(root / to)
