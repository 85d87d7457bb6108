"""What ``nullinv batch`` costs and keeps: ``python -m benchmarks.batch_run --out FOLDER``.

Pictures of the clay world go through it three times: in one process, by Ray on two workers, and killed three times on
the way. All must give the same bytes. A few go through ``invert`` and ``edit`` one by one, in a process each, as people
do without it.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

from .batch_folder import SETTINGS, write_folder

JOURNAL = "journal.sqlite"


def command(*arguments: object) -> list[str]:
    """A command of the pack's command line."""
    return [sys.executable, "-m", "nullinv_core", *map(str, arguments)]


def digest(folder: Path) -> str:
    """SHA-256 over all files of an output folder but the journal, which holds times."""
    whole = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith(JOURNAL):
            whole.update(f"{path.relative_to(folder).as_posix()}\0".encode() + path.read_bytes())
    return whole.hexdigest()


def finish(arguments: list[str]) -> float:
    """Seconds that a command takes to its good end."""
    started = time.perf_counter()
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def kill_at(arguments: list[str], out: Path, pictures: int) -> None:
    """Start a command, and kill it when so many pictures are there."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while sum(1 for _ in out.rglob("*.png")) < pictures:
        if process.poll() is not None:
            raise RuntimeError("it ended before it was killed")
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def computing(out: Path) -> float:
    """Seconds that workers computed, by the journal."""
    with sqlite3.connect(out / JOURNAL) as database:
        return float(database.execute("SELECT sum(seconds) FROM jobs").fetchone()[0])


def one_by_one(rows: list[dict[str, str]], folder: Path, settings: list[str], out: Path) -> float:
    """Seconds for each picture by ``invert`` and ``edit``."""
    started = time.perf_counter()
    for number, row in enumerate(rows):
        file, model = out / f"{number}.safetensors", ["--model", "demo"]
        photo = folder / row["picture"]
        finish(command("invert", *model, "--image", photo, "--prompt", row["prompt"], "--out", file, *settings))
        own = [part for name in SETTINGS if row[name] for part in (f"--{name.replace('_', '-')}", row[name])]
        finish(
            command("edit", "--inversion", file, "--prompt", row["edit"], "--reference", photo, *own,
                    "--out", out / f"{number}.png")
        )  # fmt: skip
    return (time.perf_counter() - started) / len(rows)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--single", type=int, default=6)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--batch", default="8")
    options = parser.parse_args()
    count, out = options.pictures, options.out
    file = out / "data" / "list.csv"
    if not file.exists():
        write_folder(out / "data", range(count))
    rows = list(csv.DictReader(file.open(encoding="utf-8")))
    settings = ["--steps", str(options.steps), "--preset", options.preset, "--guidance", "3", "--device", "cpu"]

    def batch(name: str, *more: object) -> list[str]:
        return command(
            "batch", file, "--model", "demo", "--out", out / name, "--batch", options.batch, *settings, *more
        )

    told: dict[str, object] = {"pictures": count, "steps": options.steps, "preset": options.preset}
    for name, workers in (("whole", 1), ("two", 2)):
        seconds = finish(batch(name, "--workers", workers))
        told[name] = {"seconds": round(seconds, 1), "computing": round(computing(out / name), 1)}
        print(json.dumps(told), flush=True)
    for part in (1, 2, 3):
        kill_at(batch("killed", "--workers", 1 + part % 2), out / "killed", count * part // 4)
    told["killed"] = {"seconds of the last run": round(finish(batch("killed", "--workers", 2)), 1)}
    told["same"] = len({digest(out / name) for name in ("whole", "two", "killed")}) == 1
    (out / "single").mkdir(exist_ok=True)
    told["single, seconds a picture"] = round(
        one_by_one(rows[: options.single], out / "data", settings, out / "single"), 2
    )
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
