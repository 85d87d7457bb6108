"""``python -m nullinv_core``: see ``cli.py``."""

from .cli import main

main()
