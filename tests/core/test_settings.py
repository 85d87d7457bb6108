"""Settings are declared once: the dataclass, the command line and the nodes have the same, and old names still work."""

import math
import os
import subprocess
import sys
from dataclasses import fields, replace
from inspect import signature
from typing import get_args

import pytest
from typer.main import get_command

from nullinv_core import EditSettings, InputError
from nullinv_core.cli import app, edit, invert, options
from nullinv_core.null_text.settings import PAPER
from nullinv_core.prompt_to_prompt.kinds import KINDS, suited
from nullinv_core.prompt_to_prompt.lists import read_settings
from nullinv_core.settings import (
    BY_KIND,
    EDIT,
    EDIT_PHOTO,
    GUIDANCE,
    INNER_STEPS,
    KEEP_PIXELS,
    LISTS,
    NODES,
    OF_CUSTOM,
    OLD_NAMES,
    OLD_OPTIONS,
    OPTIMIZE_POOLED,
    OWN_SIZE,
    PRESET,
    SAME_GUIDANCE,
    SAMPLE_LATER,
    STEPS,
    Setting,
)

from ..published import PACK
from ..saved_widgets import AFTER_A_RUN, SAVED_WIDGETS

EVERY = {f"{node}.{one.name}": one for node, settings in NODES.items() for one in settings}
COMMANDS = {"edit": edit.edit, "invert": invert.invert}
OF_COMMAND = {
    "edit": (*BY_KIND, *EDIT, SAME_GUIDANCE, *SAMPLE_LATER, KEEP_PIXELS),
    "invert": (STEPS, PRESET, OWN_SIZE, INNER_STEPS),
}


def parameters(command):
    """The options of a command by name, as click has them."""
    return {one.name: one for one in get_command(app).commands[command].params}


def parsed(command, *arguments):
    """What a command gets of its arguments."""
    return get_command(app).commands[command].make_context(
        command, list(arguments), token_normalize_func=options.current_name
    ).params  # fmt: skip


NEEDED = ("--inversion", "x", "--prompt", "a", "--out", "y.png")


@pytest.mark.parametrize(
    ("command", "setting"), [(command, one) for command, settings in OF_COMMAND.items() for one in settings],
    ids=lambda one: getattr(one, "name", one),
)  # fmt: skip
def test_the_command_line_has_every_setting(command, setting):
    """Guards options: name, default, help, choices and whether few need it come from the setting."""
    option = parameters(command)[setting.name]
    assert option.help.startswith(setting.text)
    assert (option.rich_help_panel == "Advanced") is setting.advanced
    if setting.kind in LISTS:
        assert option.multiple and not option.default
    else:
        assert option.default == setting.default
    if setting.choices:
        # typer keeps them in a place of its own, which has moved
        offered = get_args(signature(COMMANDS[command]).parameters[setting.name].annotation)[0]
        named = offered if setting.default else get_args(offered)[0]
        assert get_args(named) == tuple(setting.choices())


def test_settings_of_an_edit_are_the_dataclass_and_its_defaults():
    """Guards the one place: what the command line and P2P Edit give when nothing is asked for is the default."""
    assert [one.name for one in EDIT] == [one.name for one in fields(EditSettings)]
    names = [one.name for one in EDIT]
    given = {name: value for name, value in parsed("edit", *NEEDED).items() if name in names}
    assert options.edit_settings(given) == EditSettings(blend_words=[], exclude_words=[], steady_words=[])
    of_node = {one.widget: "" if one.kind in LISTS else one.default for one in EDIT if one.in_node}
    assert read_settings(of_node) == EditSettings(blend_words=[], exclude_words=[], steady_words=[])


@pytest.mark.parametrize("setting", EVERY.values(), ids=list(EVERY))
def test_a_setting_is_whole(setting):
    """Guards what is shown: help in sentences, a default within its range, one way to spell guidance in nodes."""
    assert setting.help.endswith(".") and setting.tooltip.endswith(".") and ".." not in setting.tooltip
    setting.check(setting.default)
    assert ("guidance" in setting.name) is ("cfg" in setting.widget)
    if setting.kind in ("int", "seed", "float"):
        for beyond in (setting.least - 1, setting.most + 1, math.nan):
            with pytest.raises(InputError, match=f"^{setting.name.replace('_', ' ')} must lie in "):
                setting.check(beyond)


def test_constants_of_the_optimization_are_declared_with_the_settings():
    """Guards the one place: the authors' numbers are the settings' defaults, and Python takes what makes sense, though
    the nodes offer less."""
    for setting in (GUIDANCE, *OF_CUSTOM, OPTIMIZE_POOLED):
        assert getattr(PAPER, setting.name) == setting.default
    for name, wide, wrong in (
        ("inner_steps", 1000, 0), ("learning_rate", 1e-9, 0.0), ("learning_rate", 9.0, math.inf),
        ("early_stop", math.inf, -1e-9), ("early_stop", 0.0, math.nan), ("learning_rate", 1.0, math.nan),
    ):  # fmt: skip
        assert getattr(replace(PAPER, **{name: wide}), name) == wide
        with pytest.raises(
            InputError, match=f"^{name.replace('_', ' ')} must be (at least [01]|positive), not {wrong}"
        ):
            replace(PAPER, **{name: wrong})


def test_a_choice_is_one_of_the_table():
    """Guards choices: every one is taken, with what it does; another names them all."""
    setting = Setting("kind", "choice", "a", "Which.", choices=lambda: {"a": "one", "b": "two"})
    assert setting.text == "Which. a: one; b: two."
    for name in ("a", "b"):
        setting.check(name)
    with pytest.raises(InputError, match=r'^kind must be one of a, b, not "c"$'):
        setting.check("c")


def test_few_settings_are_left_to_see():
    """Guards the first look: of P2P Edit three beside its two texts, of Edit Photo eight, of others at most five."""
    shown = {node: [one.widget for one in settings if one.in_node and not one.advanced]
             for node, settings in NODES.items()}  # fmt: skip
    assert shown["NullInvP2PEdit"] == ["cross_replace", "self_replace", "blend_words"]
    assert len(shown.pop("NullInvEditPhoto")) == 8
    assert all(len(names) <= 5 for names in shown.values())


@pytest.mark.parametrize("node", NODES)
def test_saved_workflows_find_their_widgets(node):
    """Guards saved workflows, which know a widget by its place alone: what was saved stays first, in its order. The
    list is written by hand and must never be made from the code: it would agree with every mistake. ``test_pack.py``
    has the nodes' other widgets too."""
    saved = [name for name in SAVED_WIDGETS[node] if name not in ("source_text", "edit_text", AFTER_A_RUN)]
    assert [one.widget for one in NODES[node] if one.in_node][: len(saved)] == saved


def test_the_same_setting_is_the_same_in_every_node():
    """Guards one name for one idea: a name that two nodes share has one kind and one range."""
    for one in EVERY.values():
        others = [other for other in EVERY.values() if other.name == one.name]
        assert all((one.kind, one.least, one.most, one.step) == (o.kind, o.least, o.most, o.step) for o in others)
    assert next(one for one in EDIT_PHOTO if one.name == "blend_words") in EDIT


def test_numbers_of_custom_are_the_papers():
    """Guards the defaults of Null-Text Optimize."""
    assert {one.name: one.default for one in OF_CUSTOM} == {
        name: getattr(PAPER, name) for name in ("inner_steps", "learning_rate", "early_stop")
    }


@pytest.mark.parametrize("old", OLD_NAMES)
def test_old_python_names_are_taken(old):
    """Guards scripts: the old keyword does the same, and a warning says the new one."""
    value = {"noise_seed": 3, "word_cross_replace": {"a": 0.5}}.get(old, ["a"])
    with pytest.warns(DeprecationWarning, match=f"^{old} is called {OLD_NAMES[old]} now$"):
        found = EditSettings(**{old: value})
    assert found == EditSettings(**{OLD_NAMES[old]: value})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (["--blend", "cat"], ["--blend-words", "cat"]),
        (["--blend=cat", "--blend", "dog"], ["--blend-words", "cat", "--blend-words", "dog"]),
        (["--blend-exclude", "cat"], ["--exclude-words", "cat"]),
        (["--steady", "cat"], ["--steady-words", "cat"]),
        (["--noise-seed", "3"], ["--variant", "3"]),
        (["--weight", "cat=2"], ["--weights", "cat=2"]),
        (["--no-keep-photo"], ["--no-keep-pixels"]),
        (["--keep-photo"], ["--keep-pixels"]),
    ],
)
def test_old_options_are_taken(old, new):
    """Guards shell scripts: an old option does the same."""
    assert parsed("edit", *NEEDED, *old) == parsed("edit", *NEEDED, *new)


def test_no_old_name_is_shown():
    """Guards one name for one idea: old names are hidden, and none is the name of something else."""
    for command in get_command(app).commands.values():
        shown = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
        assert not shown & {f"--{old}" for old in OLD_OPTIONS}
    assert not OLD_NAMES.keys() & {one.name for one in EVERY.values()}


def test_words_come_one_by_one_or_separated_by_commas():
    """Guards both ways to name several words on the command line, and windows and factors of words."""
    one = parsed("edit", *NEEDED, "--blend-words", "cat, black dog", "--word-windows", "hat=0.2-0.8,cat=1")
    many = parsed("edit", *NEEDED, "--blend-words", "cat", "--blend-words", "black dog", "--weights", "cat=2")
    names = [setting.name for setting in EDIT]
    first, second = (options.edit_settings({name: given[name] for name in names}) for given in (one, many))
    assert first.blend_words == second.blend_words == ["cat", "black dog"]
    assert first.word_windows == {"hat": (0.2, 0.8), "cat": 1.0} and second.weights == {"cat": 2.0}
    for text, words in (("", []), (" ", []), ("cat,", ["cat"]), (",cat,,dog", ["cat", "dog"])):
        assert options.edit_settings({"blend_words": [text]}).blend_words == words
    assert options.edit_settings({"weights": [""]}).weights == {}
    assert options.edit_settings({"weights": ["a=2,dog=3", "b=1"]}).weights == {"a": 2.0, "dog": 3.0, "b": 1.0}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_kind_on_the_command_line_brings_its_settings(kind):
    """Guards ``--kind``: as in Edit Photo, and each option that is given beside it counts, defaults do not."""
    words = [] if kind == "background" else ["--blend-words", "hat"]
    arguments = [*NEEDED, "--kind", kind, *words, "--exclude-words", "cat"]

    def settings(*more):
        context = get_command(app).commands["edit"].make_context("edit", [*arguments, *more])
        names = [one.name for one in (*BY_KIND, *EDIT)]
        return options.edit_settings(options.typed(context, {name: context.params[name] for name in names}))

    wanted = suited(kind, blend_words=["hat"] if words else (), exclude_words=["cat"])
    assert settings() == wanted
    if kind == "replace":
        freer = suited(kind, 0.9, wanted.blend_words, wanted.exclude_words)
        assert settings("--strength", "0.9") == freer != wanted
    else:
        with pytest.raises(
            InputError, match=f'strength is for the kind replace alone, and the kind is "{kind}"; leave'
        ):
            settings("--strength", "0.9")
    assert settings("--cross-replace", "0.8", "--mode", "refine") == replace(wanted, cross_replace=0.8, mode="refine")


def test_settings_need_no_pytorch():
    """Guards start-up: the command line and the nodes read the table before anything heavy is loaded."""
    script = "import sys; import nullinv_core.settings; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


FIELD = """
    made_up: float = _field("float", 0.0, "What a test makes up.", most=3, step=0.5, good="2", advanced=True)
    weights: Mapping[str, float] = _field("""
USE = """
from nullinv_core.settings import EDIT, NODES, EditSettings
from docs.options import settings_table
assert EditSettings(made_up=3).made_up == 3
try:
    EditSettings(made_up=3.1)
except ValueError as error:
    print(error)
print(settings_table(NODES["NullInvP2PEdit"], set()).splitlines()[-1])
"""


def test_a_new_setting_is_one_field(tmp_path):
    """Guards CONTRIBUTING's recipe: one more field is checked, an option, a widget's row on the help page."""
    package = tmp_path / "nullinv_core"
    package.mkdir()
    for entry in (PACK / "nullinv_core").iterdir():
        if entry.name not in ("settings.py", "__pycache__"):
            (package / entry.name).symlink_to(entry)
    (tmp_path / "docs").symlink_to(PACK / "docs")
    text = (PACK / "nullinv_core" / "settings.py").read_text(encoding="utf-8")
    (package / "settings.py").write_text(text.replace(FIELD.rsplit("\n", 1)[1], FIELD[1:], 1), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "200"}

    def run(*arguments):
        return subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        ).stdout  # fmt: skip

    assert run("-c", USE).splitlines() == [
        "made up must lie in 0…3, not 3.1", "| made_up *(advanced)* | What a test makes up. | 0 | 2 |",
    ]  # fmt: skip
    shown = " ".join(run("-m", "nullinv_core", "edit", "--help").replace("│", " ").split())
    assert "--made-up" in shown and "What a test makes up. [default: 0.0]" in shown
