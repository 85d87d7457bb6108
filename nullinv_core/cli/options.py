"""Options of the command line, made from ``settings``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer

from ..prompt_to_prompt.kinds import chosen
from ..prompt_to_prompt.lists import take_weights, take_windows, word_list
from ..settings import EDIT, LISTS, OLD_OPTIONS, EditSettings, Setting

Command = TypeVar("Command", bound=Callable[..., None])

ADVANCED = "Advanced"
Precision = Literal["float32", "bfloat16", "float16"]
Device = Annotated[
    str, typer.Option(help="cpu, cuda or mps; by default a GPU if there is one.", rich_help_panel=ADVANCED)
]
Dtype = Annotated[Precision, typer.Option(help="Precision of the network.", rich_help_panel=ADVANCED)]
OtherDtype = Annotated[
    Precision | None,
    typer.Option(help="Precision of the network; by default that of `invert`.", rich_help_panel=ADVANCED),
]
InversionFile = Annotated[Path, typer.Option(help="File that `invert` wrote.")]
OtherModel = Annotated[
    str, typer.Option(help="Where the model is now, if it moved since `invert`.", rich_help_panel=ADVANCED)
]
Config = Annotated[
    Path | None,
    typer.Option(
        help="For a .safetensors checkpoint: a diffusers folder that says how to build it; rarely needed.",
        rich_help_panel=ADVANCED,
    ),
]
TYPES: dict[str, Any] = {"int": int, "seed": int, "float": float, "window": float, "bool": bool}


def takes(*settings: Setting) -> Callable[[Command], Command]:
    """A command that takes these settings as options: by its parameters of their names, and by ``**`` what it has no
    such parameter for; those come behind what must be given."""

    def made(command: Command) -> Command:
        by_name = {setting.name: setting for setting in settings}
        needed: list[inspect.Parameter] = []
        rest: list[inspect.Parameter] = []
        for one in inspect.signature(command, eval_str=True).parameters.values():
            if one.name in by_name:
                rest.append(_parameter(by_name.pop(one.name)))
            elif one.kind is not one.VAR_KEYWORD:
                (needed if one.default is one.empty else rest).append(one)
        parameters = [*needed, *map(_parameter, by_name.values()), *rest]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {one.name: one.annotation for one in parameters}
        return command

    return made


def _parameter(setting: Setting) -> inspect.Parameter:
    kind: Any = list[str] if setting.kind in LISTS else TYPES.get(setting.kind)
    if setting.choices:
        kind = Literal[tuple(setting.choices())]
    default = None if setting.kind in LISTS else setting.default
    text = f"{setting.text} Can be given several times." if setting.kind in LISTS else setting.text
    option = typer.Option(help=text, rich_help_panel=ADVANCED if setting.advanced else None)
    annotation: Any = Annotated[kind if default is not None else kind | None, option]
    return inspect.Parameter(setting.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def edit_settings(given: Mapping[str, Any]) -> EditSettings:
    """Settings of an edit, read from its options; what is not among them has its default.

    Raises InputError for what cannot be read or is out of range.
    """
    readers: dict[str, Callable[[str], Any]] = {"words": word_list, "windows": take_windows, "weights": take_weights}
    lists = {one.name: readers[one.kind] for one in EDIT if one.kind in readers}
    read = {name: lists[name](",".join(value or ())) for name, value in given.items() if name in lists}
    return chosen({**given, **read})


def typed(context: typer.Context, given: Mapping[str, Any]) -> dict[str, Any]:
    """Those options that the user gave; the others have their defaults."""
    sources = {name: context.get_parameter_source(name) for name in given}
    return {name: given[name] for name, source in sources.items() if source and source.name == "COMMANDLINE"}


def current_name(option: str) -> str:
    """What an option, without its dashes, is called now."""
    return OLD_OPTIONS.get(option, option)
