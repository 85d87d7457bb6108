"""The command line: ``python -m nullinv_core COMMAND``. One module for each command."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from io import TextIOWrapper
from typing import Annotated

import typer

from ..errors import InputError, NonFiniteError, printable, short
from . import batch, data_set, demo, edit, invert, reconstruct, score
from .options import current_name

NO_MEMORY = (
    "there is not enough memory; take a smaller --size at invert, fewer edits at once, --dtype float16, or close other "
    "programs that use the GPU"
)
app = typer.Typer(
    help="Edit real images by their text prompt: null-text inversion and Prompt-to-Prompt.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"token_normalize_func": current_name},
)
COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo.demo, "invert": invert.invert, "reconstruct": reconstruct.reconstruct, "edit": edit.edit,
    "batch": batch.batch, "inspect": data_set.inspect, "index": data_set.index, "export": data_set.export,
    "import": data_set.take, "score": score.score,
}  # fmt: skip
for name, command in COMMANDS.items():
    app.command(name)(command)


@app.callback()
def _options(debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False) -> None:
    pass


def main() -> None:
    """Entry point: errors that are meant for people, and what the system refuses, end in one line and exit status 2."""
    if isinstance(sys.stdout, TextIOWrapper):
        # a path or a word that the terminal cannot show stops nothing
        sys.stdout.reconfigure(errors="backslashreplace")
    debug = "--debug" in sys.argv
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    try:
        app(arguments)
    except (InputError, NonFiniteError, OSError) as error:
        if debug:
            traceback.print_exc()
        unexpected = isinstance(error, OSError)
        # libraries write paragraphs
        typer.echo(f"error: {printable(short(str(error), 300)) if unexpected else error}", err=True)
        if unexpected and isinstance(sys.stdout, TextIOWrapper):
            # where it is the output itself, Python would try it once more at the end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(2)
    except (RuntimeError, MemoryError) as error:
        from ..model import is_out_of_memory

        if debug or not (isinstance(error, MemoryError) or is_out_of_memory(error)):
            raise
        typer.echo(f"error: {NO_MEMORY}", err=True)
        sys.exit(2)
