"""A file of what was tried by hand: both texts and all settings, for ``nullinv batch``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ..settings import EditSettings

JOB_FORMAT = "nullinv-batch-job"
RUN = ("model", "steps", "guidance", "preset", "size", "keep_pixels")
"""What a job file may say of the whole run, by the names of the options."""


def job_file(prompt: str, edits: Sequence[str], settings: EditSettings, **run: Any) -> str:
    """What ``batch --job`` reads: JSON of both texts, the settings that are not the usual ones, and options of the
    run (``RUN``)."""
    usual = asdict(EditSettings())
    changed = {name: value for name, value in asdict(settings).items() if value != usual[name]}
    chosen = {name: value for name, value in changed.items() if value or usual[name]}
    record = {"format": JOB_FORMAT, "version": 1, "prompt": prompt, "edits": list(edits), "settings": chosen, **run}
    return json.dumps(record, indent=1) + "\n"
