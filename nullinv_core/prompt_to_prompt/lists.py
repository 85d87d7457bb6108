"""What people write into one line: words that commas separate, and replace windows and factors of words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from ..errors import InputError, short
from ..settings import EDIT, EditSettings, Window
from .emphasis import check_text

Value = TypeVar("Value")
COMMA = re.compile("[,，、،]")
NUMBER = re.compile(r"\d+(?:\.\d+)?")


def word_list(text: str) -> list[str]:
    """Words or phrases of a text, which commas of any script separate.

    Raises InputError for what ``emphasis.check_text`` refuses.
    """
    check_text(text)
    return [word.strip() for word in COMMA.split(text) if word.strip()]


def take_windows(text: str) -> dict[str, Window]:
    """Replace windows by word from ``word=0.4, other word=0.2-0.8``; raises InputError for anything else, and for a
    word that comes twice."""
    return _by_word("word_windows", map(_window, word_list(text)))


def take_weights(text: str) -> dict[str, float]:
    """Factors by word from ``word=2.0, other word=0.5``; raises InputError for anything else, and for a word that comes
    twice."""
    return _by_word("weights", map(_weight, word_list(text)))


def read_settings(given: Mapping[str, Any]) -> EditSettings:
    """Settings of an edit whose lists are texts, as the nodes have them; raises InputError for what is wrong in one."""
    readers: dict[str, Callable[[str], Any]] = {"words": word_list, "windows": take_windows}
    lists = {one.name: readers[one.kind] for one in EDIT if one.kind in readers}
    read = {name: lists[name](text) for name, text in given.items() if name in lists}
    return EditSettings(**{**given, **read})


def _by_word(setting: str, pairs: Iterable[tuple[str, Value]]) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for word, value in pairs:
        if word in found:
            raise InputError(f'the setting {setting} names "{short(word)}" twice; give each word one')
        found[word] = value
    return found


def _weight(part: str) -> tuple[str, float]:
    word, _, value = part.rpartition("=")
    try:
        return word.rstrip(), float(value)
    except ValueError as error:
        raise InputError(f'the weight "{short(part)}" must look like WORD=2.0') from error


def _window(part: str) -> tuple[str, Window]:
    word, _, span = part.rpartition("=")
    numbers = [number.strip() for number in span.split("-")]
    if not word.strip() or len(numbers) > 2 or not all(map(NUMBER.fullmatch, numbers)):
        raise InputError(f'"{short(part)}" is not a window for a word; write word=0.4 or word=0.2-0.8')
    start, *end = map(float, numbers)
    return word.rstrip(), (start, end[0]) if end else start
