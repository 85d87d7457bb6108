"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..null_text.presets import PRESETS

DEVICE_HELP = "cpu, cuda or mps; by default a GPU if there is one."
Device = Annotated[str, typer.Option(help=DEVICE_HELP)]
Precision = Literal["float32", "bfloat16", "float16"]
if TYPE_CHECKING:
    Preset = str
else:
    Preset = Literal[tuple(PRESETS)]
Dtype = Annotated[Precision, typer.Option(help="Precision of the network.")]
OtherDtype = Annotated[Precision | None, typer.Option(help="Precision of the network; by default that of `invert`.")]
InversionFile = Annotated[Path, typer.Option(help="File that `invert` wrote.")]
OtherModel = Annotated[str, typer.Option(help="Where the model is now, if it moved since `invert`.")]
Config = Annotated[
    Path | None,
    typer.Option(help="For a .safetensors checkpoint: a diffusers folder that says how to build it; rarely needed."),
]
