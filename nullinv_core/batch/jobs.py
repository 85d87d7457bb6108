"""What a batch has to do, read from a folder, a CSV or JSONL list, or PIE-Bench's layout, and checked line by line.

Nothing here loads PyTorch, and no picture is opened. Every mistake is one sentence that names the line.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import InputError, short
from ..files.job_file import JOB_FORMAT, RUN
from ..files.ordinary import open_ordinary
from ..prompt_to_prompt.emphasis import check_text, parse, without_marks
from ..prompt_to_prompt.kinds import chosen, layered
from ..prompt_to_prompt.lists import take_weights, take_windows, word_list
from ..scores.pie_bench import MAPPING, PHOTOS, pie_edits
from ..settings import BY_KIND, EDIT, EditSettings, Setting

PICTURES = (".avif", ".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
CAPTION = ".txt"
JOURNAL = "journal.sqlite"
"""By this file the folder of a run's results is known."""
MOST_JOBS = 2_000_000
MOST_EDITS = 64
LARGEST_LIST, LARGEST_CAPTION = 2**30, 2**16
"""Most bytes of a list and of a caption file."""
LONGEST_NAME = 200
"""Most bytes of a part of an output's name; most disks take 255, and an ending is added."""
OWN = ("picture", "prompt", "name")
"""Columns beside the edits and the settings."""
OF_LIST = {one.name: one for one in (*BY_KIND, *EDIT)}
"""Settings that a line may have, by name."""
FORBIDDEN = set('<>:"|?*\\')
"""Signs that no name of an output has: some disk takes each of them for something else."""
DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\..*)?", re.IGNORECASE)
"""Names that Windows takes for devices, whatever their ending."""
RENAME = 'rename the picture, or give it another "name" in a list'
"""What helps where an output cannot have its name."""
NO_PROMPT = (
    "nothing says what the picture shows; write it into the first line of the .txt file beside it or into the column "
    '"prompt", or give --prompt for all'
)
NO_EDIT = (
    "there is no edit; write it into the second line of the .txt file beside the picture or into the column "
    '"edit", or give --edit for all'
)
Place = tuple[str, Mapping[str, Any]]
"""Where a line stands, for people, and what it says."""


@dataclass(frozen=True)
class Job:
    """One picture and its edits.

    ``name``: of what is written for it, with ``/`` between folders and no ending; no other job has it. ``picture``: its
    file, as the list names it. ``prompt``: what it shows. ``edits``: what it should show instead, a text each.
    """

    name: str
    picture: str
    prompt: str
    edits: tuple[str, ...]
    settings: EditSettings = field(default_factory=EditSettings)

    def record(self) -> dict[str, Any]:
        """What ``job_of`` reads; JSON keeps it as it is."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return found

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that it says."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def job_of(record: Mapping[str, Any]) -> Job:
    """A job of its ``record``; raises InputError for names that no job has."""
    _check_name(record["name"])
    return Job(**{**record, "edits": tuple(record["edits"]), "settings": EditSettings(**record["settings"])})


@dataclass(frozen=True)
class Defaults:
    """What a line that does not say so means. ``settings``: by name, in any form that a list may have."""

    prompt: str = ""
    edits: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Jobs:
    """A list of jobs; ``root``: the folder that their pictures are named from."""

    root: Path
    jobs: tuple[Job, ...]

    def path(self, job: Job) -> Path:
        """Where a job's picture is; raises InputError for one outside of the folder."""
        _check_picture(job.picture, self.root)
        return self.root / job.picture


def read_jobs(
    source: Path, defaults: Defaults | None = None, pictures: Path | None = None, out: Path | None = None,
    edits_needed: bool = True,
) -> Jobs:  # fmt: skip
    """The jobs of a source: a folder of pictures with captions, a .csv or .jsonl list, or a folder of PIE-Bench.

    ``pictures``: the folder from which a list names its pictures, by default its own. ``out``: a folder that is not
    searched for pictures. ``edits_needed``: whether a picture without an edit is a mistake. Raises InputError for what
    is wrong, before a picture is opened.
    """
    defaults = defaults or Defaults()
    _check_edits(defaults.edits)
    lines_are_files = False
    if os.path.isfile(source / MAPPING):
        root, lines = pictures or source / PHOTOS, _of_pie(source)
    elif os.path.isdir(source):
        if pictures is not None:
            raise InputError(f'"{source}" is a folder of pictures itself, not a list of others; leave out --pictures')
        root, lines, lines_are_files = source, _of_folder(source, out), True
    elif source.suffix.lower() in READERS and os.path.isfile(source):
        root, lines = pictures or source.parent, READERS[source.suffix.lower()](source)
    else:
        raise InputError(
            f'there is no folder and no .csv or .jsonl list "{short(str(source))}"; name the folder with your pictures'
        )
    jobs = []
    lacking: dict[str, list[str]] = {}
    for number, (place, line) in enumerate(lines):
        if number == MOST_JOBS:
            raise InputError(f'"{source}" has more than {MOST_JOBS} pictures; split it')
        try:
            job = _job(line, defaults, root, exact=lines_are_files)
        except InputError as error:
            raise InputError(f"{place}: {error}") from error
        if not without_marks(job.prompt).strip():
            lacking.setdefault(NO_PROMPT, []).append(place)
        elif edits_needed and not job.edits:
            lacking.setdefault(NO_EDIT, []).append(place)
        jobs.append(job)
    for what, places in lacking.items():
        more = f" (and {len(places) - 1} more)" * (len(places) > 1)
        raise InputError(f"{places[0]}{more}: {what}")
    if not jobs:
        raise InputError(f'"{source}" has no pictures; they end in {", ".join(PICTURES)}')
    _check_names(jobs)
    return Jobs(root, tuple(jobs))


def _job(line: Mapping[str, Any], defaults: Defaults, root: Path, exact: bool = False) -> Job:
    """The job of a line; ``exact``: the picture's name is the disk's own, whatever it begins or ends with."""
    picture = line["picture"] if exact else _text(line, "picture")
    if not picture:
        raise InputError('it names no "picture"')
    _check_picture(picture, root)
    name = _text(line, "name") or Path(picture).with_suffix("").as_posix()
    _check_name(name)
    edits = line.get("edits", ())
    edits = (edits,) if isinstance(edits, str) else edits
    if not isinstance(edits, list | tuple) or not all(isinstance(text, str) for text in edits):
        raise InputError("its edits are no texts")
    edits = tuple(text for text in edits if text.strip()) or defaults.edits
    if len(edits) > MOST_EDITS:
        raise InputError(f"it has {len(edits)} edits; {MOST_EDITS} at most, so split them")
    prompt = _text(line, "prompt") or defaults.prompt
    parse(prompt)
    _check_edits(edits)
    given = line.get("settings", {})
    if not isinstance(given, Mapping):
        raise InputError("its settings are no names with values")
    asked = layered(defaults.settings, given)
    settings = chosen({name: read_value(name, value) for name, value in asked.items()})
    return Job(name, picture, prompt, edits, settings)


def _check_edits(edits: Sequence[str]) -> None:
    if not all(without_marks(text).strip() for text in edits):
        raise InputError("an edit is empty; say what the picture should show instead, or leave it out")


def _text(line: Mapping[str, Any], key: str) -> str:
    value = line.get(key) or ""
    if not isinstance(value, str):
        raise InputError(f"its {key} is no text")
    check_text(value)
    return value.strip()


def _check_picture(picture: str, root: Path) -> None:
    """Raise InputError for a name that leads out of the folder, or is the folder; links in it are followed, as who set
    them up meant."""
    inside = Path(os.path.abspath(root / picture)).is_relative_to(os.path.abspath(root))
    if not inside or os.path.isabs(picture) or picture.startswith(("/", "\\")) or ".." in Path(picture).parts:
        raise InputError(
            f'the picture "{short(picture)}" lies outside of "{short(str(root))}"; name the folder it is in with '
            "--pictures, or copy it"
        )
    if not Path(picture).name:
        raise InputError(f'the picture "{short(picture)}" is a folder; name a file')


def _check_name(name: str) -> None:
    parts = name.split("/")
    bad = any(not part or part != part.strip(" .") or DEVICES.fullmatch(part) for part in parts)
    if bad or not name.isprintable() or FORBIDDEN & set(name):
        raise InputError(f'"{short(name)}" is no name for files on every system; {RENAME}, with / between folders')
    if max(len(part.encode()) for part in parts) > LONGEST_NAME or len(name.encode()) > 4 * LONGEST_NAME:
        raise InputError(f'the name "{short(name)}" is too long; {RENAME}')
    if any(part.lower().endswith((".png", ".safetensors")) for part in parts[:-1]):
        raise InputError(f'the folder in "{short(name)}" ends like a file; {RENAME}')


def _check_names(jobs: Sequence[Job]) -> None:
    """Raise InputError where two jobs would write to one file, on any disk."""
    seen: dict[str, Job] = {}
    for job in jobs:
        other = seen.setdefault(_as_disks_see(job.name), job)
        if other is not job and other.picture == job.picture:
            raise InputError(
                f'"{short(job.picture)}" comes twice, and both would be written to "{short(job.name)}"; put all its '
                'edits into one line of a list, or give each line a "name" there'
            )
        if other is not job:
            raise InputError(
                f'"{short(other.picture)}" and "{short(job.picture)}" would both be written to "{short(job.name)}"; '
                'rename one of them, or give it another "name" in a list'
            )


def _as_disks_see(name: str) -> str:
    """A text that two names share where some disk takes both for one file: Unicode's D145, canonical caseless."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())


def read_value(name: str, given: Any) -> Any:
    """A setting's value as a list has it: as JSON has it, or as a text. Raises InputError for anything else."""
    if name not in OF_LIST:
        raise InputError(f'there is no setting "{short(name)}"; there are {", ".join(OF_LIST)}')
    setting = OF_LIST[name]
    try:
        value = _of_text(setting, given) if isinstance(given, str) else given
        return KINDS[setting.kind](value)
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f'the setting {name} cannot be "{short(str(given))}"; give {EXAMPLES[setting.kind]}'
        ) from error


def _of_text(setting: Setting, text: str) -> Any:
    if setting.kind == "words":
        return word_list(text)
    if setting.kind == "windows":
        return take_windows(text)
    if setting.kind == "weights":
        return take_weights(text)
    if setting.kind == "window":
        ends = [float(end) for end in text.split("-")]
        return ends[0] if len(ends) == 1 else ends
    if setting.kind == "choice":
        return text.strip()
    return int(text) if setting.kind in ("int", "seed") else float(text)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(value)
    return value


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(value)
    return value


def _window(value: Any) -> Any:
    if isinstance(value, list | tuple):
        start, end = map(_number, value)
        return start, end
    return _number(value)


def _words(value: Any) -> list[str]:
    if not isinstance(value, list | tuple) or not all(isinstance(word, str) for word in value):
        raise TypeError(value)
    for word in value:
        check_text(word)
    return list(value)


def _by_word(kind: Callable[[Any], Any]) -> Callable[[Any], dict[str, Any]]:
    def read(value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise TypeError(value)
        return {word: kind(one) for word, one in zip(_words(list(value)), value.values(), strict=True)}

    return read


def _choice(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


KINDS: dict[str, Callable[[Any], Any]] = {
    "int": _whole, "seed": _whole, "float": _number, "window": _window, "words": _words, "choice": _choice,
    "windows": _by_word(_window), "weights": _by_word(_number),
}  # fmt: skip
EXAMPLES = {
    "int": "a whole number", "seed": "a whole number", "float": "a number", "window": "0.4 or 0.2-0.8",
    "words": "words with commas between them", "choice": "one of its choices", "windows": "word=0.4, other=0.2-0.8",
    "weights": "word=2.0, other=0.5",
}  # fmt: skip


def _of_pie(folder: Path) -> Iterator[Place]:
    for edit in pie_edits(folder):
        settings = {"blend_words": edit.blend_words} if edit.blend_words else {}
        texts = {"prompt": edit.source_prompt, "edits": [edit.edit_prompt]}
        yield f'entry "{short(edit.name)}"', {"picture": str(edit.picture), **texts, "settings": settings}


def real(path: Path) -> str:
    """Where a path leads, as this disk spells it: the same for every way to one place."""
    return os.path.normcase(os.path.realpath(path))


def _of_folder(folder: Path, out: Path | None) -> Iterator[Place]:
    """Pictures in the order of their names; see ``_files_of``."""
    for path in _files_of(folder, out):
        if path.name.lower().endswith(PICTURES):
            yield f'"{short(str(path))}"', {"picture": path.relative_to(folder).as_posix(), **_caption(path)}


def unread(folder: Path, out: Path | None) -> list[Path]:
    """Files of a folder of pictures that have a caption and no picture that is read, such as photos in HEIC."""
    by_stem: dict[Path, list[Path]] = {}
    for path in _files_of(folder, out):
        by_stem.setdefault(path.with_suffix(""), []).append(path)
    found = []
    for beside in by_stem.values():
        kinds = [path.suffix.lower() for path in beside]
        if CAPTION in kinds and not any(kind in PICTURES for kind in kinds):
            found += [path for path, kind in zip(beside, kinds, strict=True) if kind != CAPTION]
    return found


def _files_of(folder: Path, out: Path | None) -> Iterator[Path]:
    """Files in the order of their names; what is hidden, what lies in ``out`` and what another run wrote is left out:
    its edits are no photos."""
    skipped = None if out is None else real(out)

    def searched(path: Path) -> bool:
        return not path.name.startswith(".") and real(path) != skipped and not os.path.exists(path / JOURNAL)

    for where, folders, names in os.walk(folder, followlinks=False):
        folders[:] = sorted(name for name in folders if searched(Path(where, name)))
        yield from (Path(where, name) for name in sorted(names) if not name.startswith("."))


def _caption(picture: Path) -> dict[str, Any]:
    """What a caption file beside a picture says: first what it shows, then an edit in each line."""
    file = picture.with_suffix(CAPTION)
    if not os.path.isfile(file):
        return {}
    lines = [line.strip() for line in _read(file, LARGEST_CAPTION).splitlines()]
    lines = [line for line in lines if line]
    return {"prompt": lines[0], "edits": lines[1:]} if lines else {}


def _of_csv(file: Path) -> Iterator[Place]:
    rows = csv.reader(io.StringIO(_read(file, LARGEST_LIST), newline=""), strict=True)
    try:
        head = [name.strip() for name in next(rows, [])]
        edits = [name for name in head if _is_edit(name)]
        _check_head(file, head)
        for row in rows:
            if not any(cell.strip() for cell in row):
                continue
            place = f'line {rows.line_num} of "{file}"'
            if len(row) != len(head):
                raise InputError(
                    f"{place}: it has {len(row)} cells, the first line has {len(head)}; quote what has commas"
                )
            cells = dict(zip(head, row, strict=True))
            settings = {name: cells[name] for name in OF_LIST if cells.get(name, "").strip()}
            own = {name: cells[name] for name in OWN if name in cells}
            yield place, {**own, "edits": [cells[name] for name in edits], "settings": settings}
    except csv.Error as error:
        raise InputError(
            f'line {rows.line_num} of "{file}" is no CSV ({error}); save it again as CSV in UTF-8'
        ) from error


def _is_edit(column: str) -> bool:
    return column == "edit" or column.startswith("edit_")


def _check_head(file: Path, head: Sequence[str]) -> None:
    if "" in head:
        raise InputError(
            f'column {head.index("") + 1} of "{file}" has no name in the first line; name it, or delete it'
        )
    twice = [name for name, number in Counter(head).items() if number > 1]
    if twice:
        raise InputError(f'the first line of "{file}" has the column {short(twice[0])!r} twice; delete one of them')
    wrong = [name for name in head if name not in OWN and name not in OF_LIST and not _is_edit(name)]
    if "picture" not in head or wrong:
        raise InputError(
            f'the first line of "{file}" must name the columns: picture, and as you like prompt, edit, edit_2 …, '
            f"name, {', '.join(OF_LIST)}{f'; not {short(wrong[0])!r}' if wrong else ''}"
        )


def _of_jsonl(file: Path) -> Iterator[Place]:
    known = {*OWN, "edits", "edit", "settings"}
    for number, text in enumerate(_read(file, LARGEST_LIST).split("\n"), 1):
        if not text.strip():
            continue
        place = f'line {number} of "{file}"'
        line = _json(text, place)
        if unknown := set(line) - known:
            raise InputError(f"{place}: there is no {short(min(unknown))!r}; a line has {', '.join(sorted(known))}")
        edit = line.pop("edit", None)
        if edit is not None and line.get("edits"):
            raise InputError(f'{place}: it has "edit" and "edits"; put all of them into "edits"')
        yield place, line if edit is None else {**line, "edits": [edit]}


def _json(text: str, place: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place} is no JSON ({short(str(error))})") from error
    if not isinstance(found, dict):
        raise InputError(f"{place} is no JSON object; write {{...}}")
    return found


def _read(file: Path, most: int) -> str:
    try:
        with open_ordinary(file) as opened:
            data = opened.read(most + 1)
        if len(data) > most:
            raise InputError(f'"{file}" is larger than {most} bytes; split it')
        return data.decode("utf-8-sig")
    except OSError as error:
        raise InputError(f'"{file}" cannot be read ({error.strerror})') from error
    except UnicodeDecodeError as error:
        raise InputError(f'"{file}" is not text in UTF-8; save it again in UTF-8') from error


READERS: dict[str, Callable[[Path], Iterator[Place]]] = {".csv": _of_csv, ".jsonl": _of_jsonl}


def read_job_file(file: Path) -> tuple[Defaults, dict[str, Any]]:
    """What Save Batch Job wrote: defaults for every picture, and options of the run (``RUN``).

    Raises InputError for anything else.
    """
    found = _json(_read(file, LARGEST_CAPTION * 16), f'"{file}"')
    if found.pop("format", None) != JOB_FORMAT or found.pop("version", None) != 1:
        raise InputError(f'"{file}" is no job file of version 1; write one with the node Save Batch Job')
    unknown = set(found) - {"prompt", "edits", "settings", *RUN}
    if unknown:
        raise InputError(f'"{file}" has {short(min(unknown))!r}, which no job file has')
    try:
        job = _job({"picture": "any.png", **{k: found[k] for k in ("prompt", "edits", "settings") if k in found}},
                   Defaults(), Path())  # fmt: skip
    except InputError as error:
        raise InputError(f'"{file}": {error}') from error
    return Defaults(job.prompt, job.edits, found.get("settings", {})), {k: found[k] for k in RUN if k in found}
