"""What people are told of an edit's text."""

from dataclasses import replace

import pytest

from nullinv_core import EditSettings, plan_edit
from nullinv_core.demo.edits import KINDS, sample_edit
from nullinv_core.prompt_to_prompt.advice import SAME, advice, advise, asks_nothing

from .helpers import word_prompt as prompt_of


def word_prompt(text):
    return prompt_of(text, 60)


PHOTO = "a girl in a pink dress on a green hill"


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ("make the dress blue", "reads like an order"), (", add a hat", "reads like an order"),
        ("blue dress", "hardly a word"), ("a girl in a blue dress on a green hill", ""), ("a cat", "hardly a word"),
        ("a boy in blue trousers on a sandy beach", "hardly a word"), ("a pencil drawing of a girl in a dress", ""),
    ],
)  # fmt: skip
def test_orders_and_other_sentences_are_told(edit, said):
    """Guards people who come from models that take orders, and those who write the new thing alone."""
    found = advice(word_prompt(PHOTO), word_prompt(edit))
    assert (said in found and f'"{edit}"' in found) if said else not found


def test_a_photo_whose_own_text_begins_so_is_no_order():
    """Guards texts such as "turn of the road", and short ones, of which one word may be all that there is."""
    assert not advice(word_prompt("turn of a red road"), word_prompt("turn of a blue road"))
    assert not advice(word_prompt("a cat"), word_prompt("a dog"))


@pytest.mark.parametrize("kind", KINDS)
def test_edits_as_the_guide_has_them_are_no_news(kind):
    """Guards against notes that nobody needs."""
    for seed in range(20):
        assert not advice(*map(word_prompt, sample_edit(seed, kind).captions))


@pytest.mark.parametrize(
    ("edit", "settings", "told"),
    [
        (PHOTO, {}, True), (f" {PHOTO} ", {}, True), (PHOTO, {"fresh_noise": 0.5}, False),
        (PHOTO, {"weights": {"pink": 2.0}}, False), (PHOTO.replace("pink", "blue"), {}, False),
    ],
)  # fmt: skip
def test_an_edit_that_asks_for_nothing_is_told(edit, settings, told):
    """Guards people who change the upper text instead of the lower one; noise and weights of one's own ask for
    something."""
    plan, said = plan_edit(word_prompt(PHOTO), word_prompt(edit), 4, EditSettings(**settings)), []
    advise([plan], said.append)
    assert said == ([SAME] if told else [])


def test_a_weight_in_the_text_asks_for_something():
    """Guards an edit by (word:2.0) alone."""
    source = word_prompt(PHOTO)
    strong = replace(source, weights=(1.0, 2.0, *source.weights[2:]))
    assert not asks_nothing(plan_edit(source, strong, 4, EditSettings()))
    assert asks_nothing(plan_edit(strong, strong, 4, EditSettings()))
