"""Write the tables of settings: ``python -m docs.options``. On the command line's page they are made from the command
line itself, on the nodes' help pages from ``nullinv_core/settings.py``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import typer

from nullinv_core.cli import app
from nullinv_core.cli.options import ADVANCED
from nullinv_core.settings import LISTS, NODES, Setting

PAGE = Path(__file__).parent / "command-line.md"
HELP = Path(__file__).parents[1] / "web" / "docs"
TABLE = re.compile(r"(<!-- (options|settings|choices) of (\w+) -->\n\n).*?(<!-- end -->)", re.DOTALL)


def pages() -> list[Path]:
    """Every page that has such tables."""
    return [PAGE, *(HELP / f"{node}.md" for node in NODES)]


def page(text: str) -> str:
    """A page with every table made again. Raises KeyError for a table of what is not there."""
    given = dict(re.findall(r"<!-- (choices) of (\w+) -->", text))

    def made(found: re.Match[str]) -> str:
        kind, name = found[2], found[3]
        if kind == "options":
            table = options(commands()[name])
        elif kind == "choices":
            table = choices(next(one for settings in NODES.values() for one in settings if one.name == name))
        else:
            table = settings_table(NODES[name], set(given.values()))
        return f"{found[1]}{table}\n{found[4]}"

    return TABLE.sub(made, text)


def rows(head: str, lines: Iterable[Iterable[str]]) -> str:
    """A Markdown table. ``head``: names of columns, separated by bars."""
    columns = head.split("|")
    escaped = (" | ".join(cell.replace("|", "\\|") for cell in line) for line in lines)
    return "\n".join([f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", *(f"| {e} |" for e in escaped)]) + "\n"


def settings_table(settings: Iterable[Setting], apart: set[str]) -> str:
    """What a node's widgets are: first those that are shown, then the advanced ones. ``apart``: those whose choices
    have a table of their own."""
    shown = sorted((one for one in settings if one.in_node), key=lambda one: one.advanced)
    return rows("setting|what it does|default|try", (
        (one.widget + " *(advanced)*" * one.advanced, one.help if one.name in apart else one.text, start_of(one),
         one.good)
        for one in shown
    ))  # fmt: skip


def start_of(setting: Setting) -> str:
    """A setting's default as the node shows it."""
    if setting.kind in LISTS:
        return ""
    if setting.kind == "bool":
        return "on" if setting.default else "off"
    if setting.kind not in ("float", "window"):
        return str(setting.default)
    return f"{setting.default:.6f}".rstrip("0").rstrip(".")


def choices(setting: Setting) -> str:
    """What each choice does."""
    return rows(f"{setting.name}|what it does", ((f"`{n}`", t) for n, t in (setting.choices or dict)().items()))


def options(command: Any) -> str:
    """A command's options as its ``--help`` has them, the advanced ones last."""
    ordered = sorted(command.params, key=lambda option: option.rich_help_panel or "")
    return rows("option|what it does|default", (
        (" / ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
         + " *(advanced)*" * (option.rich_help_panel == ADVANCED), option.help or "",
         default_of(option))
        for option in ordered
    ))  # fmt: skip


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


if __name__ == "__main__":
    for one in pages():
        one.write_text(page(one.read_text(encoding="utf-8")), encoding="utf-8")
