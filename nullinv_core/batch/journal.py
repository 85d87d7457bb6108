"""What a batch has done, in one SQLite file of its output folder: whole after every kill, and of one process at a time.

A group is planned once, and stays as it was planned. What is written for a job is on the disk before the journal says
so: a kill in between costs the group's time again and changes nothing.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import InputError, short
from .jobs import Job, job_of
from .plan import Group

NAME = "journal.sqlite"
VERSION = 1
TABLES = """
CREATE TABLE run (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE groups (id INTEGER PRIMARY KEY, size TEXT NOT NULL, jobs TEXT NOT NULL);
CREATE TABLE jobs (
    name TEXT PRIMARY KEY, digest TEXT NOT NULL, of_group INTEGER NOT NULL, state TEXT NOT NULL,
    sentence TEXT NOT NULL DEFAULT '', files TEXT NOT NULL DEFAULT '{}', seconds REAL NOT NULL DEFAULT 0
) WITHOUT ROWID;
"""
State = Literal["waiting", "done", "failed"]


@dataclass(frozen=True)
class Row:
    """What is known of a job. ``files``: SHA-256 of each file, named from the output folder. ``seconds``: its share of
    its group's time."""

    name: str
    digest: str
    of_group: int
    state: State
    sentence: str = ""
    files: Mapping[str, str] | None = None
    seconds: float = 0.0


class Journal:
    """An open journal; see ``opened``."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def options(self) -> dict[str, Any]:
        """What the folder was begun with; empty where it is new."""
        return {key: json.loads(value) for key, value in self._database.execute("SELECT key, value FROM run")}

    def keep(self, options: Mapping[str, Any]) -> None:
        """Add what the folder was begun with."""
        with self._database:
            rows = [(key, json.dumps(value)) for key, value in options.items()]
            self._database.executemany("INSERT INTO run VALUES (?, ?)", rows)

    def rows(self) -> dict[str, Row]:
        """Every job that was ever planned, by its name."""
        found = self._database.execute("SELECT name, digest, of_group, state, sentence, files, seconds FROM jobs")
        return {
            name: Row(name, digest, group, state, sentence, json.loads(files), seconds)
            for name, digest, group, state, sentence, files, seconds in found
        }

    def add(self, groups: Sequence[Group]) -> None:
        """Groups that were planned now. A job takes the place of an earlier one of its name."""
        with self._database:
            for group in groups:
                records = json.dumps([job.record() for job in group.jobs])
                made = self._database.execute(
                    "INSERT INTO groups (size, jobs) VALUES (?, ?)", (json.dumps(group.size), records)
                )
                self._database.executemany(
                    "INSERT OR REPLACE INTO jobs (name, digest, of_group, state) VALUES (?, ?, ?, 'waiting')",
                    [(job.name, job.digest, made.lastrowid) for job in group.jobs],
                )

    def group(self, number: int) -> Group:
        """A group as it was planned."""
        size, jobs = self._database.execute("SELECT size, jobs FROM groups WHERE id = ?", (number,)).fetchone()
        try:
            found = json.loads(size)
            return Group(
                None if found is None else (int(found[0]), int(found[1])), tuple(map(job_of, json.loads(jobs)))
            )
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise InputError(f"the journal is damaged ({short(str(error))}); give another --out") from error

    def record(self, rows: Sequence[Row]) -> None:
        """What became of jobs, all or none."""
        with self._database:
            self._database.executemany(
                "UPDATE jobs SET state = ?, sentence = ?, files = ?, seconds = ? WHERE name = ? AND digest = ?",
                [(r.state, r.sentence, json.dumps(r.files or {}), r.seconds, r.name, r.digest) for r in rows],
            )

    def adopt(self, jobs: Sequence[Job], plan: Callable[[Sequence[Job]], Sequence[Group]]) -> dict[str, Row]:
        """The rows of these jobs; those that the journal does not know as they are now are planned first."""
        known = self.rows()
        new = [job for job in jobs if job.name not in known or known[job.name].digest != job.digest]
        if new:
            self.add(plan(new))
            known = self.rows()
        return {job.name: known[job.name] for job in jobs}


@contextmanager
def opened(folder: Path) -> Iterator[Journal]:
    """The journal of an output folder, made where there is none, and locked until the block ends.

    Raises InputError where another process works in the folder, and for a file that is no journal.
    """
    path = folder / NAME
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
