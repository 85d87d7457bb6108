"""The command ``demo``."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from ..settings import GUIDANCE, STEPS
from . import models
from .console import progress
from .options import takes

DEMO_SEED = 5
"""What the demo shows unless asked for another: a cat that becomes a dog."""


@takes(STEPS, replace(GUIDANCE, help="Guidance of the reconstruction. The edit has its own, 3."))
def demo(
    *,
    out: Annotated[Path, typer.Option(help="Folder for the pictures and report.json.")] = Path("demo-out"),
    seed: Annotated[int, typer.Option(min=0, help="Which scene and edit.")] = DEMO_SEED,
    steps: int,
    guidance: float,
) -> None:
    """Invert, reconstruct and edit a scene that the demo model never saw."""
    from ..demo.run import DemoSetup, demo_case, run_case, write_demo
    from ..schedule import check_guidance

    check_guidance(guidance)
    models.check_steps(steps)
    models.check_folder(out)
    model = models.load("demo", "cpu", "float32")
    with progress() as callback:
        report, pictures = run_case(model, demo_case(seed), seed, DemoSetup(steps, guidance), callback)
    write_demo(out, report, pictures)
    table = Table(title=f'"{report.source_prompt}" -> "{report.edit_prompt}"', show_header=False)
    for name, value in asdict(report).items():
        if name.startswith(("psnr", "background", "changed")):
            table.add_row(name, f"{value:.2f} dB")
        elif name.startswith(("edit_judged", "unet")):
            table.add_row(name, str(value))
        elif name.startswith("seconds"):
            table.add_row(name, f"{value:.1f} s")
    Console().print(table)
    typer.echo(f"pictures: {out.resolve()}; look at comparison.png")
