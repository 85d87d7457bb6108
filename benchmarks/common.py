"""What every benchmark writes beside its figures, its clock, and the plain edit that edits are compared with."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

import diffusers
import numpy as np
import torch
import transformers

from nullinv_core import Edit, NullEmbeddings, Trajectory
from nullinv_core.backends.diffusers.attention import ControlledAttention
from nullinv_core.context import Context

from . import reference

RESULTS = Path(__file__).parent / "results"


def check_installed(*names: str) -> None:
    """Raise SystemExit where a library that figures or plots need is missing: before hours of work, not after."""
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise SystemExit(f"this needs {' and '.join(missing)}; python -m pip install {' '.join(missing)}")


def environment() -> dict[str, Any]:
    """Commit, versions and machine of a run."""
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True, cwd=Path(__file__).parent
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    return {
        "commit": commit,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
        "machine": platform.machine(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a result file, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def known_records(path: Path, settings: Mapping[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Where and with which versions a file of rows was begun, and its rows; starts the file where there is none.

    Its first line are the settings and that. A line that a stop cut off is left out, so that its row is made again.
    Raises SystemExit for rows of other settings.
    """
    begun = environment()
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_name(f"{path.name}.{uuid4().hex}")
    try:
        whole.write_text(json.dumps({"settings": settings, "begun": begun}) + "\n", encoding="utf-8")
        # a file that is opened before it is written would be empty to a part that starts in between
        os.link(whole, path)
    except FileExistsError:
        first, found = read_records(path)
        if first.get("settings") != json.loads(json.dumps(settings)):
            raise SystemExit(f"{path} holds rows of another run; remove it, or write elsewhere with --out") from None
        return first["begun"], found
    finally:
        whole.unlink()
    return begun, []


def read_records(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The first line of a file of rows, and its rows."""
    first, *found = map(_read, path.read_text(encoding="utf-8").splitlines() or [""])
    return first or {}, [record for record in found if record is not None]


def add_records(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Add rows to a file that ``known_records`` has begun."""
    cut = not path.read_bytes().endswith(b"\n")
    with path.open("a", encoding="utf-8") as file:
        file.write("\n" * cut + "".join(json.dumps(record) + "\n" for record in records))


def _read(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def now(device: torch.device | str) -> float:
    """Seconds on a clock, once all work on the device is done."""
    if str(device).startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter()


def dense_edit(
    unet: Any, trajectory: Trajectory, null: NullEmbeddings, plan: Edit, contexts: Context, guidance: float
) -> float:
    """Seconds that the plain transcription takes for an edit: four samples a step, whole attention matrices.

    ``contexts``: of the source and of the edit.
    """
    mapping, schedule = plan.alignment.mapping, trajectory.schedule
    pairs = [(i, j, float(mapping[i, j])) for i, j in mapping.nonzero().tolist()]
    windows = [row.nonzero().flatten().tolist() for row in plan.cross_window]
    controller = reference.Controller([pairs], [{}], [windows], int(plan.self_window.sum()), 256)
    unet.set_attn_processor(reference.DenseAttention(controller))
    try:
        started = now(unet.device)
        with torch.no_grad():
            reference.edit(
                unet, trajectory.noisiest, contexts.text, list(null.embeddings.text.flip(0)),
                [int(t) for t in schedule.timesteps], schedule.alphas_cumprod, guidance, controller,
            )  # fmt: skip
        return now(unet.device) - started
    finally:
        unet.set_attn_processor(ControlledAttention())
