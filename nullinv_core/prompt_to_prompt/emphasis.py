"""Weights of words, written into a text as ComfyUI has them: ``(word:1.5)``.

``(word)`` is 1.1, once more for each further pair of brackets; ``\\(`` is a bracket of the text, as is one without a
partner. A weight says how strongly its word is encoded (``emphasized``). In an edit, a word that comes from one of the
source is encoded as strongly as that one, and its attention is multiplied by what its own weight has more: the same
weight in both texts changes nothing (``carried``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from ..errors import InputError, short

if TYPE_CHECKING:
    from torch import Tensor

PLAIN_WEIGHT = 1.1
"""Factor of ``(word)``."""
MOST_WEIGHT = 1000.0
"""Far beyond what changes anything, and far below what float16 can hold."""
MOST_LETTERS = 20_000
"""Most characters of a text, or of a list of words: ten times what fills the longest prompts that people write."""
DEEPEST = 64
"""Most brackets inside of one another."""
ESCAPED = (("\\)", "\0\1"), ("\\(", "\0\2"))
Segment = tuple[str, float]
"""A piece of a text and its weight."""


def parse(text: str) -> list[Segment]:
    """The pieces of a text without their marks, each with its weight, in order.

    Raises InputError for a weight outside of ±``MOST_WEIGHT``, brackets deeper than ``DEEPEST``, and what
    ``check_text`` refuses.
    """
    check_text(text)
    for written, kept in ESCAPED:
        text = text.replace(written, kept)
    return [(_unescaped(piece), weight) for piece, weight in _weighted(text, 1.0, 0)]


def without_marks(text: str) -> str:
    """A text as it reads without its weights."""
    return "".join(piece for piece, _ in parse(text))


def literal(text: str) -> str:
    """A text whose brackets are brackets, not weights."""
    return text.replace("(", "\\(").replace(")", "\\)")


def check_text(text: str) -> None:
    """Raise InputError where a text is none: half characters, as bytes of another encoding become, and NUL; or where it
    is longer than ``MOST_LETTERS``."""
    if len(text) > MOST_LETTERS:
        raise InputError(f"a text has {len(text)} characters; {MOST_LETTERS} at most, so make it shorter")
    shown = text.encode("utf-8", "replace").decode().replace("\0", "?")
    if shown != text:
        raise InputError(
            f'"{short(shown)}" has bytes that are not text; save it again in UTF-8 (Latin-1 and others are not read)'
        )


def check_weight(word: str, weight: float) -> None:
    """Raise InputError for a weight that is no number within ±``MOST_WEIGHT``."""
    if not abs(weight) <= MOST_WEIGHT:
        raise InputError(
            f'the weight of "{short(word)}" must be a number in ±{MOST_WEIGHT:g}, not {short(str(weight))}'
        )


def emphasized(text: Tensor, empty: Tensor, weights: Tensor) -> Tensor:
    """Encodings (B, tokens, width) as strong as their weights (B, tokens) say: away from the empty text's, as ComfyUI
    does. Where a weight is 1, the encoding itself."""
    each = weights.to(text)[..., None]
    return text.where(each == 1, (text - empty) * each + empty)


def carried(
    source: Sequence[float], edit: Sequence[float], pairs: Iterable[tuple[Sequence[int], Sequence[int]]]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """For each word of an edit, how strongly it is encoded, and the factor on its attention.

    ``source``, ``edit``: weights by word; ``pairs``: words of the source and those of the edit that come from them. A
    word that comes from none, or from several with different weights, starts from 1, and so does one whose weight
    differs from an origin's that is 0 or less.
    """
    strength, factors = [1.0] * len(edit), list(edit)
    for olds, news in pairs:
        origins = {source[i] for i in olds}
        origin = origins.pop() if len(origins) == 1 else 1.0
        for j in news:
            if edit[j] == origin:
                strength[j], factors[j] = origin, 1.0
            elif origin > 0:
                strength[j], factors[j] = origin, edit[j] / origin
    return tuple(strength), tuple(factors)


def _unescaped(text: str) -> str:
    for written, kept in ESCAPED:
        text = text.replace(kept, written[1:])
    return text


def _weighted(text: str, weight: float, depth: int) -> Iterator[Segment]:
    """Pieces of an escaped text inside of ``depth`` brackets."""
    for piece in _groups(text):
        if len(piece) < 2 or piece[0] != "(" or piece[-1] != ")":
            yield piece, weight
            continue
        if depth == DEEPEST:
            raise InputError(f"a text has more than {DEEPEST} brackets inside of one another; take some out")
        inner, stress = piece[1:-1], weight * PLAIN_WEIGHT
        words, colon, number = inner.rpartition(":")
        if words and colon:
            with suppress(ValueError):
                stress, inner = float(number), words
        check_weight(inner, stress)
        yield from _weighted(inner, stress, depth + 1)


def _groups(text: str) -> Iterator[str]:
    """A text cut at its outermost brackets, which stay on their pieces."""
    piece: list[str] = []
    depth = 0
    for sign in text:
        if sign == "(" and depth == 0 and piece:
            yield "".join(piece)
            piece = []
        piece.append(sign)
        depth += (sign == "(") - (sign == ")")
        if sign == ")" and depth == 0:
            yield "".join(piece)
            piece = []
    if piece:
        yield "".join(piece)
