"""Write the tables of options on the command line's page, from the command line itself: ``python -m docs.options``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import typer

from nullinv_core.cli import app

PAGE = Path(__file__).parent / "command-line.md"
TABLE = re.compile(r"(<!-- options of (\w+) -->\n\n).*?(<!-- end -->)", re.DOTALL)


def table(command: Any) -> str:
    """A command's options as a Markdown table, as its ``--help`` has them."""
    rows = ["| option | what it does | default |", "|---|---|---|"]
    for option in command.params:
        names = " / ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
        text = (option.help or "").replace("|", "\\|")
        rows.append(f"| {names} | {text} | {default_of(option)} |")
    return "\n".join(rows) + "\n"


def default_of(option: Any) -> str:
    """A default as a reader would write it."""
    if option.required:
        return "*needed*"
    if option.default in (None, "", (), []):
        return ""
    if isinstance(option.default, bool):
        return "on" if option.default else "off"
    return f"`{option.default}`"


def commands() -> dict[str, Any]:
    """The commands of the command line, by name, as click has them."""
    found: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return found


def page(text: str) -> str:
    """The page with every table made again. Raises KeyError for a table of no command."""
    known = commands()
    return TABLE.sub(lambda found: f"{found[1]}{table(known[found[2]])}\n{found[3]}", text)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
