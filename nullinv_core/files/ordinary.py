"""Files of strangers are opened here: an ordinary file, and never one that would be waited for."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from ..errors import InputError


def open_ordinary(path: Path | str) -> BinaryIO:
    """An ordinary file, open for reading. Raises InputError for a pipe, a device or a folder, OSError as ``open``."""
    # a pipe that nobody writes to would be waited for
    opened = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise InputError(f'"{path}" is not an ordinary file')
    return os.fdopen(opened, "rb")
