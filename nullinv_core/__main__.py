"""``python -m nullinv_core`` and the command ``nullinv``: see ``cli.py``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; where what only it needs is missing, say what to install and end with exit status 2."""
    try:
        from .cli import main as run
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        sys.stderr.write("error: the command line needs typer and rich; python -m pip install typer rich\n")
        sys.exit(2)
    run()


if __name__ == "__main__":
    main()
