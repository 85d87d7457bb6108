"""A prompt as its tokens and words, and finding words in it."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

from ..errors import InputError, short

LISTED = 300
"""Most characters of a message's list of words."""
SIGNS = ("P", "Sc", "Sk", "Sm")
"""Unicode's categories of punctuation and of signs that are no pictures."""
START, END, PAD = -1, -2, -3
"""Entries of ``Prompt.word_of_token`` for tokens that belong to no word."""
Thing = TypeVar("Thing", bound=Hashable)


@dataclass(frozen=True)
class Prompt:
    """One prompt as a text encoder sees it.

    ``text``: as it was written. ``token_ids``: every token, special and padding ones included. ``words``: the words in
    order, lower case. ``word_of_token``: for each token the index of its word, or START, END or PAD. ``weights``: how
    strongly each word is encoded (see ``emphasis``), by default 1.
    """

    text: str
    token_ids: tuple[int, ...]
    words: tuple[str, ...]
    word_of_token: tuple[int, ...]
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.weights:
            object.__setattr__(self, "weights", (1.0,) * len(self.words))
        if len(self.token_ids) != len(self.word_of_token) or len(self.words) != len(self.weights):
            raise InputError("a prompt needs one word index for each token and one weight for each word")

    @property
    def length(self) -> int:
        """Number of tokens, padding included."""
        return len(self.token_ids)

    @property
    def weight_of_token(self) -> tuple[float, ...]:
        """Weight of each token's word; 1 for tokens of none."""
        return tuple(self.weights[w] if w >= 0 else 1.0 for w in self.word_of_token)

    def repeated(self, times: int) -> Prompt:
        """The prompt whose encoding is repeated, which changes no attention: every word has so many more tokens."""
        return replace(self, token_ids=self.token_ids * times, word_of_token=self.word_of_token * times)

    def tokens_of_word(self, word: int) -> list[int]:
        """Positions of the tokens of a word."""
        return list(self._tokens.get(word, ()))

    def positions(self, kind: int) -> list[int]:
        """Positions of the tokens that are START, END or PAD."""
        return list(self._tokens.get(kind, ()))

    def places(self, words: list[str]) -> list[int]:
        """Where a run of words begins in the text, each time that it does."""
        starts = self._starts.get(words[0], ()) if words else ()
        return [start for start in starts if list(self.words[start : start + len(words)]) == words]

    @cached_property
    def spelled(self) -> str:
        """All words in a row, as ``find_phrase`` compares them."""
        return _letters("".join(self.words))

    @cached_property
    def _tokens(self) -> Mapping[int, list[int]]:
        return _places(self.word_of_token)

    @cached_property
    def _starts(self) -> Mapping[str, list[int]]:
        return _places(self.words)


def _places(things: Iterable[Thing]) -> dict[Thing, list[int]]:
    """Where each thing stands, in one pass."""
    found = defaultdict[Thing, list[int]](list)
    for place, thing in enumerate(things):
        found[thing].append(place)
    return dict(found)


def check_tokens(highest: int, vocabulary: int) -> None:
    """Raise InputError where a tokenizer gives a token that a text encoder with so many of them does not have."""
    if highest >= vocabulary:
        raise InputError(
            f"the tokenizer is not the text encoder's: it knows the token {highest}, the encoder has {vocabulary} "
            "tokens; get a complete copy of the model"
        )


def as_tokenized(text: str) -> str:
    """A text as CLIP's tokenizer reads it: lower case, letters and their accents in one character (NFC)."""
    return unicodedata.normalize("NFC", text).lower()


def split_words(text: str) -> list[str]:
    """Words as CLIP's tokenizer separates them: letters, single digits, runs of other signs; lower case."""
    return re.findall(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|[^\s\w]+|_+", as_tokenized(text))


def is_sign(word: str) -> bool:
    """Whether a word is punctuation or a mathematical sign; pictographs are words."""
    return all(unicodedata.category(c).startswith(SIGNS) for c in word)


def _letters(text: str) -> str:
    """A text whose words are compared by their letters: a sigma at a word's end is a sigma."""
    return as_tokenized(text).replace("ς", "σ")


def _pieces(prompt: Prompt, pieces: list[str]) -> list[int]:
    """Words that spell out a phrase however a tokenizer parts it: each piece is a run of whole words."""
    found: list[int] = []
    # words with a space between them spell no word, though their letters do
    text = _letters(prompt.text)
    if _letters("".join(pieces)) not in prompt.spelled or not all(_letters(piece) in text for piece in pieces):
        return found
    for start in range(len(prompt.words)):
        end = start
        for piece in map(_letters, pieces):
            begin, spelled = end, ""
            while end < len(prompt.words) and len(spelled) < len(piece):
                spelled += _letters(prompt.words[end])
                end += 1
            if begin == end or spelled != piece:
                break
        else:
            found += range(max(start, found[-1] + 1) if found else start, end)
    return found


def find_phrase(prompt: Prompt, phrase: str, what: str = "word") -> list[int]:
    """Token positions of every occurrence of a word or phrase; raises InputError that lists the prompt's words."""
    # a learned word (embedding:name) is one word, though the same letters in a text are several
    whole = [as_tokenized(phrase)]
    wanted = whole if prompt.places(whole) else split_words(phrase)
    hits: list[int] = []
    for start in prompt.places(wanted):
        # each word once, where places overlap
        hits += range(max(start, hits[-1] + 1) if hits else start, start + len(wanted))
    hits = hits or _pieces(prompt, as_tokenized(phrase).split())
    if not hits:
        listed = short(", ".join(dict.fromkeys(prompt.words)), LISTED) or "(none)"
        phrase, text = short(phrase), short(prompt.text)
        raise InputError(f'{what} "{phrase}" is not in the prompt "{text}"; its words are: {listed}')
    return [token for word in hits for token in prompt.tokens_of_word(word)]
