"""What a batch has done, in one SQLite file of its output folder: whole after every kill, and of one process at a time.

A group is planned once, and stays as it was planned. What is written for a job is on the disk before the journal says
so: a kill in between costs the group's time again and changes nothing.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import InputError, short
from .jobs import JOURNAL, job_of
from .plan import Group

VERSION = 2
TABLES = """
CREATE TABLE run (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE groups (id INTEGER PRIMARY KEY, size TEXT NOT NULL, jobs TEXT NOT NULL);
CREATE TABLE jobs (
    name TEXT PRIMARY KEY, digest TEXT NOT NULL, of_group INTEGER NOT NULL, state TEXT NOT NULL,
    sentence TEXT NOT NULL DEFAULT '', files TEXT NOT NULL DEFAULT '{}', seconds REAL NOT NULL DEFAULT 0,
    picture TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID;
"""
NEEDED = {"batch", "fingerprint", "precision", "device", "threads"}
"""What every begun run has said of itself."""
DAMAGED = "the journal is damaged ({}); give another --out"
State = Literal["waiting", "done", "failed"]


@dataclass(frozen=True)
class Row:
    """What is known of a job. ``files``: SHA-256 of each file, named from the output folder. ``seconds``: its share of
    its group's time. ``picture``: what tells the picture that it was made of from others; empty where there was
    none."""

    name: str
    digest: str
    of_group: int
    state: State
    sentence: str = ""
    files: Mapping[str, str] | None = None
    seconds: float = 0.0
    picture: str = ""


class Journal:
    """An open journal; see ``opened``."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def options(self) -> dict[str, Any]:
        """What the folder was begun with; empty where it is new."""
        found = {key: _read(value) for key, value in self._database.execute("SELECT key, value FROM run")}
        if found and not found.keys() >= NEEDED:
            raise InputError(DAMAGED.format(f"it has no {min(NEEDED - found.keys())}"))
        return found

    def keep(self, options: Mapping[str, Any]) -> None:
        """Add what the folder was begun with."""
        with self._database:
            rows = [(key, json.dumps(value)) for key, value in options.items()]
            self._database.executemany("INSERT INTO run VALUES (?, ?)", rows)

    def rows(self) -> dict[str, Row]:
        """Every job that was ever planned, by its name."""
        found = self._database.execute(
            "SELECT name, digest, of_group, state, sentence, files, seconds, picture FROM jobs"
        )
        rows = {}
        for name, digest, group, state, sentence, text, seconds, picture in found:
            files = _read(text)
            if not isinstance(files, dict) or not isinstance(picture, str):
                raise InputError(DAMAGED.format(f'"{short(str(name))}" is of another kind'))
            rows[name] = Row(name, digest, group, state, sentence, files, seconds, picture)
        return rows

    def add(self, groups: Sequence[Group], pictures: Mapping[str, str]) -> None:
        """Groups that were planned now, by the ``pictures`` of their jobs' names, as in ``Row``. A job takes the place
        of an earlier one of its name."""
        with self._database:
            for group in groups:
                records = json.dumps([job.record() for job in group.jobs])
                made = self._database.execute(
                    "INSERT INTO groups (size, jobs) VALUES (?, ?)", (json.dumps(group.size), records)
                )
                self._database.executemany(
                    "INSERT OR REPLACE INTO jobs (name, digest, of_group, picture, state) "
                    "VALUES (?, ?, ?, ?, 'waiting')",
                    [(job.name, job.digest, made.lastrowid, pictures[job.name]) for job in group.jobs],
                )

    def group(self, number: int) -> Group:
        """A group as it was planned."""
        try:
            size, jobs = self._database.execute("SELECT size, jobs FROM groups WHERE id = ?", (number,)).fetchone()
            found = json.loads(size)
            return Group(
                None if found is None else (int(found[0]), int(found[1])), tuple(map(job_of, json.loads(jobs)))
            )
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise InputError(DAMAGED.format(short(str(error)))) from error

    def record(self, rows: Sequence[Row]) -> None:
        """What became of jobs, all or none."""
        with self._database:
            self._database.executemany(
                "UPDATE jobs SET state = ?, sentence = ?, files = ?, seconds = ?, picture = ? WHERE name = ?",
                [(r.state, r.sentence, json.dumps(r.files or {}), r.seconds, r.picture, r.name) for r in rows],
            )


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(DAMAGED.format(short(str(error)))) from error


@contextmanager
def opened(folder: Path) -> Iterator[Journal]:
    """The journal of an output folder, made where there is none, and locked until the block ends.

    Raises InputError where another process works in the folder, and for a file that is no journal.
    """
    path = folder / JOURNAL
    if os.path.lexists(path) and not os.path.isfile(path):
        raise InputError(f'"{path}" is no file; give another --out')
    database = sqlite3.connect(path, timeout=0, isolation_level="DEFERRED")
    try:
        # one process alone, and on the disk before it goes on; the rollback journal works on any disk
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("BEGIN EXCLUSIVE")
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version == 0:
            for statement in TABLES.split(";"):
                database.execute(statement)
            database.execute(f"PRAGMA user_version = {VERSION}")
        database.commit()
        if version not in (0, VERSION):
            raise InputError(f'"{path}" is of another version of this program; give another --out')
        yield Journal(database)
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise InputError(f'another process works in "{folder}"; wait until it ends, or stop it') from error
        raise InputError(f'the journal "{path}" cannot be written ({error})') from error
    except sqlite3.DatabaseError as error:
        raise InputError(f'the journal "{path}" is damaged ({error}); give another --out') from error
    finally:
        database.close()
