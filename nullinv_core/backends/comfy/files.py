"""Files inside ComfyUI's folders, and nowhere else."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import folder_paths

from ...errors import InputError, short
from ...files.atomic_write import numbered_file
from ...files.store import Inversion, load_inversion, write_inversion
from ...photo.images import pixels_of
from ..model_folder import DEMO_MODEL, INDEX

SUFFIX = ".safetensors"
DATE, PART = re.compile("%date:(.*?)%"), re.compile("yyyy|yy|MM?|dd?|hh?|mm?|ss?")
"""``%date:yyyy-MM-dd%``, and what stands for a part of the time in it."""
PLACES = {"output": folder_paths.get_output_directory, "input": folder_paths.get_input_directory}


def saved_files() -> list[str]:
    """Inversion files as "folder/name", newest first; entries that cannot be named or read are left out."""
    names = [
        f"{place}/{Path(os.path.relpath(path, root())).as_posix()}"
        for place, root in PLACES.items()
        for path in files_below(root(), SUFFIX)
    ]
    ages = {name: age(name) for name in names if is_text(name)}
    return sorted((name for name in ages if not math.isnan(ages[name])), key=lambda name: -ages[name])


def files_below(root: str, suffix: str) -> Iterator[str]:
    """Paths of the files below a folder whose names end in ``suffix``; folders that cannot be read count as empty."""
    for folder, _, names in os.walk(root):
        yield from (os.path.join(folder, name) for name in names if name.endswith(suffix))


def is_text(name: str) -> bool:
    """Whether a name can be shown, sent and written down: bytes of no encoding become half characters."""
    return "\0" not in name and not any("\ud800" <= letter <= "\udfff" for letter in name)


def place_of(name: str) -> Path:
    """The path of a file that ``saved_files`` named; raises InputError for one outside of ComfyUI's folders."""
    place, _, rest = name.partition("/")
    if place not in PLACES or not rest.endswith(SUFFIX):
        raise InputError(f'"{short(name)}" is not an inversion file; choose one from the list')
    return _inside(Path(PLACES[place]()), rest)


def _inside(root: Path, name: str) -> Path:
    if not is_text(name):
        raise InputError("the file name has a character that no disk accepts; choose another name")
    # links are followed, as ComfyUI itself does: who set them up meant them
    path = Path(os.path.abspath(root / name))
    if not path.is_relative_to(os.path.abspath(root)):
        raise InputError(f'"{short(name)}" lies outside ComfyUI\'s folders; give a name inside them')
    return path


def age(name: str) -> float:
    """When a file was written last, in seconds; NaN where there is none (any more)."""
    try:
        return os.path.getmtime(place_of(name))
    except (OSError, InputError):
        return math.nan


def save(trajectory: Inversion, null: Inversion | None, prompt: str, prefix: str) -> str:
    """Write an inversion to a new numbered file of the output folder; return its name as ``saved_files`` has it.

    ``prefix`` may hold the placeholders of ComfyUI's own save nodes (see ``_filled``).
    """
    # ComfyUI imports this file when it starts, and the rest when a node first runs
    from .jobs import null_of
    from .notices import tell

    embeddings = None if null is None else null_of(null, trajectory)
    # what was loaded knows the text of each photo
    own = trajectory.prompts if prompt in ("", trajectory.prompts[0]) else (prompt,) * trajectory.trajectory.batch
    if not all(text.strip() for text in own):
        tell(
            "no prompt is saved with this inversion: the command line cannot edit it, and in ComfyUI the text must be "
            "typed again; connect the photo's source text"
        )
    whole = replace(trajectory, null=embeddings, prompts=own)
    return write_numbered(trajectory, prefix, SUFFIX, lambda place: write_inversion(place, whole))


def write_numbered(of: Inversion, prefix: str, suffix: str, write: Callable[[Path], None]) -> str:
    """Write to a new numbered file of the output folder, about an inversion; return its name as ``saved_files`` has it.

    ``prefix`` as in ``save``.
    """
    root = Path(os.path.abspath(folder_paths.get_output_directory()))
    stem = _inside(root, _filled(root, prefix, *pixels_of(of.trajectory.clean)))
    if stem == root or not stem.name:
        raise InputError("the file name prefix is empty; give the file a name")
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f'the folder "{short(str(stem.parent))}" cannot be made ({error.strerror})') from error
    written = numbered_file(stem, suffix, write)
    return f"output/{written.relative_to(root).as_posix()}"


def _filled(root: Path, prefix: str, width: int, height: int) -> str:
    """A prefix with the time and the picture's size in place of ``%date:yyyy-MM-dd%``, ``%year%``, ``%width%`` ….

    The former is what ComfyUI's page fills in, but in its own nodes alone.
    """
    now = time.localtime()
    dated = DATE.sub(lambda found: PART.sub(lambda part: _part(part[0], now), found[1]), prefix)
    _inside(root, dated)
    if "%" not in dated:
        return dated
    try:
        return str(folder_paths.get_save_image_path(dated, str(root), width, height)[4])
    except OSError as error:
        raise InputError(f'a file cannot be named "{short(dated)}" ({error.strerror}); give another prefix') from error


def _part(letters: str, now: time.struct_time) -> str:
    """A part of a time, as "MM", with so many digits or more."""
    values = {"y": now.tm_year, "M": now.tm_mon, "d": now.tm_mday, "h": now.tm_hour, "m": now.tm_min, "s": now.tm_sec}
    return f"{now.tm_year % 100:02d}" if letters == "yy" else str(values[letters[0]]).zfill(len(letters))


def load(name: str) -> Inversion:
    """Read a file that ``saved_files`` named."""
    return load_inversion(place_of(name))


def model_folders() -> list[str]:
    """Names of diffusers folders under models/diffusers; entries that cannot be named or read are left out."""
    roots = [root for root in folder_paths.get_folder_paths("diffusers") if os.path.isdir(root)]
    return sorted({name for root in roots for name in _names_in(root) if _is_model(Path(root) / name)})


def _names_in(root: str) -> list[str]:
    try:
        return [name for name in os.listdir(root) if is_text(name)]
    except OSError:
        return []


def _is_model(folder: Path) -> bool:
    return os.path.isfile(folder / INDEX)


def model_folder(name: str | None) -> Path:
    """The folder of a name that ``model_folders`` gave; None is the demo model."""
    if name is None:
        return DEMO_MODEL
    for root in folder_paths.get_folder_paths("diffusers"):
        folder = _inside(Path(root), name)
        if _is_model(folder):
            return folder
    raise InputError(f'there is no diffusers model "{name}" under models/diffusers')
