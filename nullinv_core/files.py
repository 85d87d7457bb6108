"""Whole files or none: what is written appears under its name only when it is complete."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .errors import InputError


def check_suffix(path: Path, suffix: str) -> None:
    """Raise InputError where a name says another format than the one that will be written."""
    if path.suffix.lower() != suffix:
        raise InputError(f'the name "{path}" must end in {suffix}')


def check_outputs(outputs: Sequence[Path], inputs: Sequence[Path], suffix: str) -> None:
    """Raise InputError unless every output can be written, under a name of its own that is none of the ``inputs``.

    Inputs are files and folders that are read, all files in them included; links to them count as they do.
    """
    places = [os.path.normcase(os.path.realpath(path)) for path in outputs]
    read = [os.path.normcase(os.path.realpath(path)) for path in inputs]
    for number, (path, place) in enumerate(zip(outputs, places, strict=True)):
        check_suffix(path, suffix)
        check_writable(path)
        if place in places[:number]:
            raise InputError(f'two pictures would be written to "{path}"; give one of them another name')
        if not os.path.exists(path):
            continue
        for source, own in zip(read, inputs, strict=True):
            if os.path.exists(source) and (os.path.samefile(path, source) or Path(place).is_relative_to(source)):
                raise InputError(f'"{path}" would be written over what is read from "{own}"; give another name')


def check_writable(path: Path) -> None:
    """Raise InputError where a file could not be written to ``path``: one is begun and removed."""
    if os.path.isdir(path):
        raise InputError(f'cannot write "{path}": it is a folder')
    if not os.path.isdir(path.parent):
        raise InputError(f'cannot write "{path}": the folder "{path.parent}" does not exist')
    if not os.access(path.parent, os.W_OK):
        raise InputError(f'cannot write "{path}": the folder "{path.parent}" is not writable')
    partial = _partial(path)
    try:
        partial.touch()
        partial.unlink()
    except OSError as error:
        raise InputError(f'cannot write "{path}": {error.strerror or error}') from error


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path`` to write to; it becomes ``path`` when the block ends well, else it vanishes.

    Raises InputError where the folder or disk does not take it; then the old file is as it was.
    """
    check_writable(path)
    partial = _partial(path)
    try:
        partial.touch()
        mode = partial.stat().st_mode
        yield partial
        partial.chmod(mode)
        # Windows flushes only handles that may write
        with partial.open("r+b") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise InputError(f'cannot write "{path}": {error.strerror or error}') from error
    finally:
        partial.unlink(missing_ok=True)
