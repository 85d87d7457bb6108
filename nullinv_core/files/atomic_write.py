"""Whole files or none: what is written appears under its name only when it is complete.

It is written in a folder of its own beside its place, which nobody else can have made: a hidden one with a random
name, locked by the process that writes. A folder whose lock nobody holds is what a killed process left, and goes.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from ..errors import InputError, short

PREFIX, SUFFIX = ".nullinv-", ".partial"
"""Names of the hidden folders."""
LOCK = "lock"
ABANDONED = 3600.0
"""Seconds after which a hidden folder counts as left behind where locks say nothing."""


def check_suffix(path: Path, *suffixes: str) -> None:
    """Raise InputError where a name says another format than those that can be written."""
    if path.suffix.lower() not in suffixes:
        raise InputError(f'the name "{path}" must end in {" or ".join(suffixes)}')


def check_outputs(outputs: Sequence[Path], inputs: Sequence[Path], suffix: str) -> None:
    """Raise InputError unless every output can be written, under a name of its own that is none of the ``inputs``.

    Inputs are files and folders that are read, all files in them included; links to them count as they do.
    """
    for path in outputs:
        check_suffix(path, suffix)
        check_writable(path)
    places = [os.path.normcase(os.path.realpath(path)) for path in outputs]
    read = [os.path.normcase(os.path.realpath(path)) for path in inputs]
    for number, (path, place) in enumerate(zip(outputs, places, strict=True)):
        if place in places[:number]:
            raise InputError(f'two pictures would be written to "{path}"; give one of them another name')
        if not os.path.exists(path):
            continue
        for source, name in zip(read, inputs, strict=True):
            if os.path.exists(source) and (os.path.samefile(path, source) or Path(place).is_relative_to(source)):
                raise InputError(f'"{path}" would be written over what is read from "{name}"; give another name')


def check_writable(path: Path) -> None:
    """Raise InputError where no file could be written to ``path``: there is a folder, device or pipe of that name, the
    name is too long, or its folder does not exist or takes no file."""
    _check_name(path)
    check_takes_files(path.parent, path)


def check_takes_files(folder: Path, file: Path | None = None) -> None:
    """Raise InputError where a folder that is there takes no file, whatever its name. ``file``: the one that it is
    about, for people."""
    try:
        # permissions alone do not tell: read-only disks, access lists, other systems
        with _hidden_folder(folder):
            pass
    except OSError as error:
        raise _unwritable(file or folder, error) from error


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A place to write to; what is written there becomes ``path`` when the block ends well, else it vanishes.

    Raises InputError where the folder or disk does not take it; then the old file is as it was.
    """
    _check_name(path)
    try:
        with _hidden_folder(path.parent) as folder:
            content = folder / "content"
            yield content
            _finish(content)
            os.replace(content, path)
    except OSError as error:
        raise _unwritable(path, error) from error


def numbered_file(stem: Path, suffix: str, write: Callable[[Path], None]) -> Path:
    """Write to the first free name ``stem_00001suffix``, ``stem_00002suffix`` … and return it.

    ``write`` gets the place to write to. Whoever numbers files here at the same time gets other numbers: no file is
    replaced. Raises InputError where the folder or disk does not take it.
    """
    names = (stem.with_name(f"{stem.name}_{number:05d}{suffix}") for number in count(1))
    path = next(names)
    _check_name(path)
    try:
        with _hidden_folder(path.parent) as folder:
            content = folder / "content"
            write(content)
            _finish(content)
            while os.path.lexists(path) or not _placed(content, path):
                path = next(names)
    except OSError as error:
        raise _unwritable(path, error) from error
    return path


def _check_name(path: Path) -> None:
    if os.path.isdir(path):
        raise _unwritable(path, "it is a folder")
    if not os.path.isdir(path.parent):
        raise _unwritable(path, f'the folder "{short(str(path.parent))}" does not exist')
    try:
        with suppress(FileNotFoundError):
            # a device or a pipe would be replaced, and whoever uses it finds a picture
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise _unwritable(path, "it is not an ordinary file")
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, reason: str | Exception) -> InputError:
    return InputError(f'cannot write "{short(str(path))}": {getattr(reason, "strerror", None) or reason}')


@contextmanager
def _hidden_folder(parent: Path) -> Iterator[Path]:
    """A new folder in ``parent`` that only we write to; it is gone when the block ends."""
    _sweep(parent)
    while True:
        folder = parent / f"{PREFIX}{secrets.token_hex(8)}{SUFFIX}"
        folder.mkdir(mode=0o700)
        try:
            try:
                lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            except FileNotFoundError:
                # a sweep of another process took it for one that was left
                continue
            try:
                # a sweep of another process may come between making the lock and holding it
                if _locked(lock) is False or not (folder / LOCK).exists():
                    continue
                yield folder
                return
            finally:
                os.close(lock)
        finally:
            with suppress(OSError):
                _remove(folder)


def _sweep(parent: Path) -> None:
    """Remove the hidden folders of ``parent`` that a killed process left."""
    with suppress(OSError):
        for name in os.listdir(parent):
            folder = parent / name
            if name.startswith(PREFIX) and name.endswith(SUFFIX) and not os.path.islink(folder):
                with suppress(OSError):
                    _remove_abandoned(folder)


def _remove_abandoned(folder: Path) -> None:
    """Remove a hidden folder in which nobody writes any more; raises OSError where that is not possible."""
    old = time.time() - folder.stat().st_mtime > ABANDONED
    try:
        lock = os.open(folder / LOCK, os.O_RDWR)
    except FileNotFoundError:
        if old:
            _remove(folder)
        else:
            # one that is empty: its owner, if it is about to make the lock, takes another
            folder.rmdir()
        return
    try:
        free = _locked(lock)
        if free:
            # while the lock is held, or its owner might take it in between
            _remove(folder)
    finally:
        os.close(lock)
    if free is None and old:
        _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a hidden folder, its lock last: killed in between, it leaves what the next sweep knows as left."""
    for path in folder.iterdir():
        if path.name != LOCK:
            path.unlink()
    shutil.rmtree(folder)


def _locked(file: int) -> bool | None:
    """Lock an open file until it is closed; False where another process has it, None where there are no locks."""
    try:
        import fcntl
    except ImportError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _finish(content: Path) -> None:
    """Give a written file the permissions of any new one, and have it on the disk."""
    content.chmod((content.parent / LOCK).stat().st_mode & 0o777)
    # Windows flushes only handles that may write
    with content.open("r+b") as file:
        os.fsync(file.fileno())


def _placed(content: Path, path: Path) -> bool:
    """Whether ``content`` became ``path``, in one step; False where another took the name first."""
    try:
        try:
            os.link(content, path)
        except FileExistsError:
            raise
        except OSError:
            # a disk without links: an empty file claims the name
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
            os.replace(content, path)
    except FileExistsError:
        return False
    return True
