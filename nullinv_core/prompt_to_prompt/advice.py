"""What people are told of an edit's text before they wonder at the picture."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..errors import short
from .alignment import says_little
from .edit import Edit
from .prompt import Prompt, is_sign

ORDERS = (
    "add", "change", "convert", "delete", "erase", "give", "insert", "let", "make", "put", "remove", "replace", "swap",
    "transform", "turn",
)  # fmt: skip
"""Words that an order begins with, and a description hardly."""
SAME = "the edit text is the photo's own, so it asks for no change; change a word in it, or a word's weight"
ENOUGH = 3
"""From so many words of meaning on, a photo's text can be compared; one of so many must stay."""


def advise(edits: Iterable[Edit], tell: Callable[[str], None]) -> None:
    """Tell the user what ``advice`` says of each edit, and of one that asks for nothing."""
    for edit in edits:
        said = SAME if asks_nothing(edit) else advice(edit.source, edit.prompt)
        if said:
            tell(said)


def asks_nothing(edit: Edit) -> bool:
    """Whether an edit has the photo's own words, each as strong, and no noise of its own."""
    alike = (edit.source.words, edit.source.weights) == (edit.prompt.words, edit.prompt.weights)
    return alike and bool((edit.equalizer == 1).all()) and not edit.settings.fresh_noise


def advice(source: Prompt, edit: Prompt) -> str:
    """A sentence where an edit text reads like an order, or has hardly a word of the photo's text; else nothing."""
    first = next((word for word in edit.words if not is_sign(word)), "")
    meant = {word for word in source.words if not says_little(word)}
    if first in ORDERS and first not in source.words:
        return (
            f'the edit text "{short(edit.text)}" reads like an order; write the photo\'s own text with other words in '
            "it, as the finished picture is described"
        )
    if len(meant) >= ENOUGH and ENOUGH * len(meant.intersection(edit.words)) < len(meant):
        return (
            f'the edit text "{short(edit.text)}" has hardly a word of the photo\'s text, so little holds the photo in '
            "place; write the photo's own text with few words changed"
        )
    return ""
