"""Words of a text, read from the tokens of whichever tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from ..families import WordMark
from ..prompt_to_prompt.prompt import END, PAD, START, Prompt


@dataclass(frozen=True)
class Token:
    """A token of a text. ``piece``: as the tokenizer spells it. ``weight``: how strongly it is encoded.

    ``group``: a word never has tokens of two. ``learned``: the word that a learned embedding stands for, which has no
    number and no spelling of its own.
    """

    number: int
    piece: str
    weight: float = 1.0
    group: int = 0
    learned: str = ""


@dataclass(frozen=True)
class Chunk:
    """What an encoder reads at once: the token that begins it, the text's tokens, then the one that ends it and the
    padding, if there are any."""

    start: int
    tokens: Sequence[Token]
    rest: Sequence[int]


def read_words(text: str, chunks: Iterable[Chunk], mark: WordMark, decode: Callable[[list[int]], str]) -> Prompt:
    """A prompt from its tokens: each word has the tokens up to where ``mark`` or the end of their group ends it, in one
    chunk or in two.

    ``decode``: the spelling of some tokens' numbers. A word is as strong as its first token.
    """
    numbers: list[int] = []
    places: list[int] = []
    words: list[str] = []
    weights: list[float] = []
    word: list[Token] = []
    whole = list(chunks)
    for chunk, later in zip_longest(whole, whole[1:]):
        numbers.append(chunk.start)
        places.append(START)
        # a long word may go on in the next chunk
        beyond = later.tokens[:1] if later else ()
        for token, following in zip_longest(chunk.tokens, [*chunk.tokens, *beyond][1:]):
            numbers.append(token.number)
            places.append(len(words))
            word.append(token)
            if _ends(token, following, mark):
                words.append(token.learned or decode([one.number for one in word]).strip())
                weights.append(word[0].weight)
                word = []
        numbers += chunk.rest
        places += [END, *[PAD] * (len(chunk.rest) - 1)][: len(chunk.rest)]
    return Prompt(text, tuple(numbers), tuple(words), tuple(places), tuple(weights))


def _ends(token: Token, following: Token | None, mark: WordMark) -> bool:
    """Whether a word ends with a token."""
    if following is None or following.group != token.group:
        return True
    return following.piece.startswith(mark.text) if mark.starts else token.piece.endswith(mark.text)
