"""``python -m nullinv_core`` and the command ``nullinv``: see ``cli``."""

from __future__ import annotations

import signal
import sys
from types import FrameType

from .version import INSTALL


class Stopped(SystemExit):
    """Ctrl-C, or SIGTERM. No ``except Exception`` or library on the way takes it for an error of its own."""


def stop(number: int, frame: FrameType | None) -> None:
    """End the program by way of every ``finally``, so that no half file stays; exit status 130 or 143."""
    raise Stopped(128 + number)


def main() -> None:
    """Run the command line; where what only it needs is missing, say what to install and end with exit status 2."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        from .cli import main as run

        run()
    except Stopped:
        sys.stderr.write("\nstopped; nothing half-written is left\n")
        raise
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        sys.stderr.write(f"error: the command line needs typer, rich and diffusers; {INSTALL}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
