"""Ctrl-C and SIGTERM on the command line, from the imports to the middle of the work."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from nullinv_core.photo.images import save_image

ROOT = Path(__file__).parents[2]
pty = pytest.importorskip("pty", reason="terminals of POSIX")


def until(terminal, moment, most=120):
    """What a process shows on a terminal, up to ``moment``; all of it where ``moment`` is None."""
    shown, end = "", time.monotonic() + most
    while (moment is None or moment not in shown) and time.monotonic() < end:
        try:
            shown += os.read(terminal, 4096).decode(errors="replace")
        except OSError:
            # the other side is closed
            break
    return shown


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("moment", ["importing", "inverting"])
def test_a_stop_is_one_sentence_and_leaves_nothing(tmp_path, number, status, moment):
    """Guards a stop while PyTorch is imported, and one in the middle of the work."""
    save_image(torch.rand(128, 128, 3), tmp_path / "photo.png")
    terminal, theirs = pty.openpty()
    # an import says so once it is done: the package's own cheap ones come first, PyTorch's hundreds after them
    watched = ["-X", "importtime"] if moment == "importing" else []
    process = subprocess.Popen(
        [sys.executable, *watched, "-m", "nullinv_core", "invert", "--model", "demo", "--image", tmp_path / "photo.png",
         "--prompt", "a red dog", "--steps", "999", "--out", tmp_path / "x.safetensors"],
        stderr=theirs, cwd=ROOT,
    )  # fmt: skip
    os.close(theirs)
    until(terminal, "torch.types" if watched else moment)
    process.send_signal(number)
    told = until(terminal, None)
    assert process.wait(60) == status, told
    assert "Traceback" not in told
    assert told.strip().splitlines()[-1].strip() == "stopped; nothing half-written is left"
    assert [p.name for p in tmp_path.iterdir()] == ["photo.png"]
