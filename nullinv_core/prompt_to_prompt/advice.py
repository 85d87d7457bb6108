"""What people are told of an edit's text before they wonder at the picture."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..errors import short
from .alignment import says_little
from .prompt import Prompt, is_sign

ORDERS = (
    "add", "change", "convert", "delete", "erase", "give", "insert", "let", "make", "put", "remove", "replace", "swap",
    "transform", "turn",
)  # fmt: skip
"""Words that an order begins with, and a description hardly."""
ENOUGH = 3
"""From so many words of meaning on, a photo's text can be compared; one of so many must stay."""


def advise(source: Prompt, edits: Iterable[Prompt], tell: Callable[[str], None]) -> None:
    """Tell the user what ``advice`` says of each edit."""
    for edit in edits:
        if said := advice(source, edit):
            tell(said)


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
