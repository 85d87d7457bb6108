"""One new file is a solver, a preset or an attention edit: it shows up in the tables and works."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nullinv_core import Counted, EditSettings, Pin, batch_edits, edit, embed, invert, plan_edit
from nullinv_core.inversion.methods import METHODS
from nullinv_core.null_text.presets import CHOICES, DEFAULT, PRESETS
from nullinv_core.prompt_to_prompt.attention_edit import FeatureEdit, InputEdit, ProbabilityEdit, from_source
from nullinv_core.settings import PRESET as PRESET_SETTING

from .helpers import context_of, controlled, empty_context, latents_of, tiny_schedule, tiny_unet, word_prompt

PACKAGE = Path(__file__).parents[2] / "nullinv_core"
SOURCE, EDIT = word_prompt("a red cat on grass"), word_prompt("a blue cat on grass")
STEPS = 4
SOLVER = '''
from ...schedule import ddim_inverse_step
from ..method import Method


def twice(predict, latents, schedule):
    """The mean of ε at both ends of a step."""
    for step in range(1, schedule.steps + 1):
        first = predict(latents, step)
        second = predict(ddim_inverse_step(latents, first, schedule, step), step)
        epsilon = (first + second) / 2
        latents = ddim_inverse_step(latents, epsilon, schedule, step)
        yield latents, epsilon


METHOD = Method("twice", twice, per_step=2, once=0, help="asks at both ends of a step")
'''
PRESET = """
from ..recipe import Preset, Recipe

PRESET = Preset("made-up", Recipe("twice", None, pinned=True), "inverts twice as slowly", samples=2)
"""
USE = """
import torch
from nullinv_core import PRESETS, Context, embed, invert, leading_schedule
from nullinv_core.inversion.methods import METHODS
from nullinv_core.schedule import scaled_linear_alphas

schedule, text = leading_schedule(scaled_linear_alphas(), 4), Context(torch.zeros(1, 3, 2))
asked = []


def network(latents, level, context, attention=None, unconditional=0):
    asked.append(level)
    return 0.5 * latents


recipe = PRESETS["made-up"]
found = invert(network, torch.ones(1, 4, 2, 2), text, schedule, method=recipe.inversion)
null, reached = embed(network, found, text[0], recipe, 7.5)
assert len(asked) == METHODS["twice"].samples(4) == 8
assert torch.equal(reached, found.clean) and null.pinned
print(*METHODS, *PRESETS)
"""


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A copy of the package (of links) with one more file in two of its folders."""
    folder = tmp_path_factory.mktemp("house")
    extra = {Path("inversion/methods"): ("zz_twice.py", SOLVER), Path("null_text/presets"): ("zz_made_up.py", PRESET)}
    real = {Path("."), *extra, *(path.parent for path in extra)}
    for path in real:
        place = folder / "nullinv_core" / path
        place.mkdir(parents=True, exist_ok=True)
        for entry in (PACKAGE / path).iterdir():
            if path / entry.name not in real and entry.name != "__pycache__":
                (place / entry.name).symlink_to(entry)
    for path, (name, text) in extra.items():
        (folder / "nullinv_core" / path / name).write_text(text)
    return folder


def run(house, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(house), "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "200"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=house, env=environment, capture_output=True, text=True, check=True).stdout


def test_a_solver_and_a_preset_in_a_file_each_are_in_the_tables_and_work(house):
    """Guards the promise of one file: found in their folder, in the order of the files' names, asked as they say."""
    assert run(house, "-c", USE).split() == [*METHODS, "twice", *PRESETS, "made-up"]


def test_the_command_line_offers_a_new_preset(house):
    """Guards the choices and the help of ``invert``, which are made from the presets."""
    shown = " ".join(run(house, "-m", "nullinv_core", "invert", "--help").replace("│", " ").split())
    assert "made-up" in shown and "inverts twice as slowly" in shown


@pytest.mark.parametrize("name", METHODS)
def test_a_solver_costs_what_it_says(name):
    """Guards the price in the table."""
    counted = Counted(controlled(tiny_unet(torch.float64)))
    invert(counted, latents_of(), context_of(SOURCE)[None], tiny_schedule(STEPS), method=name)
    assert METHODS[name].name == name and METHODS[name].samples(STEPS) == counted.forwards


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_costs_no_more_than_it_says(name):
    """Guards the price in the table, gradients counted as one more each."""
    counted = Counted(controlled(tiny_unet(torch.float64)))
    recipe, context = PRESETS[name], context_of(SOURCE)[None]
    # a budget is spent over all steps, and the prices are for the authors' 50
    steps = 50 if recipe.optimization and recipe.optimization.budget else STEPS
    trajectory = invert(counted, latents_of(), context, tiny_schedule(steps), method=recipe.inversion)
    embed(counted, trajectory, empty_context(), recipe, 7.5)
    spent = (counted.forwards + counted.backwards) / steps
    assert spent <= CHOICES[name].samples, f"the preset {name} needs samples={spent:g} or more"
    assert CHOICES[name].name == name and CHOICES[name].help in PRESET_SETTING.text and DEFAULT in PRESETS


class Keys(InputEdit):
    """The edit looks up the source's keys and values."""

    def wants(self, layer, size):
        return layer.part == "self"

    def rewrite(self, query, key, value, here):
        return query, from_source(key, here.window), from_source(value, here.window)


class Even(ProbabilityEdit):
    """The edit attends to everything alike, itself included."""

    def wants(self, layer, size):
        return layer.part == "self"

    def rewrite(self, source, own, edited, here):
        return edited.mean(-1, keepdim=True).expand_as(edited)


class Features(FeatureEdit):
    """The edit has the source's features in the decoder."""

    def wants(self, layer, size):
        return (layer.part, layer.stage) == ("features", "up")

    def rewrite(self, features, here):
        return from_source(features, here.window)


@pytest.mark.parametrize("kind", [Keys, Even, Features])
def test_an_attention_edit_is_a_class(kind):
    """Guards edits of one's own: they act inside of their window alone, on the edits alone, and cost nothing else."""
    denoiser = controlled(tiny_unet(torch.float64))
    trajectory = invert(denoiser, latents_of(), context_of(SOURCE)[None], tiny_schedule(STEPS))
    plans = [[plan_edit(SOURCE, EDIT, STEPS, EditSettings(cross_replace=0.0, self_replace=0.0))]]

    def edited(*more):
        return edit(
            denoiser, trajectory, Pin(empty_context()), context_of(EDIT)[None, None], batch_edits(plans, more), 3.0
        )

    plain, never = edited(), edited(kind(torch.zeros(1, 1, STEPS, dtype=torch.bool)))
    assert torch.equal(plain.latents, never.latents)
    found = edited(kind(torch.ones(1, 1, STEPS, dtype=torch.bool)))
    assert torch.equal(found.source, plain.source) and not torch.allclose(found.latents, plain.latents)
