"""Which source token each edit token takes its attention from (Hertz et al. 2022, arXiv 2208.01626, section 3.2).

Words are aligned first, then their tokens, so an edit may replace words by more or fewer, add, remove and move them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from ..errors import InputError
from .prompt import END, PAD, START, Prompt

ARTICLES = ("a", "an", "the", "and", "or", "is", "are", "its")
PLACES = ("of", "on", "in", "at", "by", "to", "with")
SMALL_WORDS = frozenset([*ARTICLES, *PLACES, *",.;:"])
"""Words and signs that say little about what a picture shows."""
Mode = Literal["auto", "replace", "refine"]
Pair = tuple[tuple[int, ...], tuple[int, ...]]
"""Source words and the edit words that stand for them."""


@dataclass(frozen=True)
class WordAlignment:
    """How the words of an edit came about. All entries are word indices."""

    same: tuple[tuple[int, int], ...]
    replaced: tuple[Pair, ...]
    removed: tuple[int, ...]
    added: tuple[int, ...]


@dataclass(frozen=True)
class TokenAlignment:
    """``mapping``: (source tokens, edit tokens), the source attention that each edit column takes.

    ``keep``: (edit tokens,), 1 where the column comes from the source, 0 where the edit keeps its own.
    """

    mode: Literal["replace", "refine"]
    mapping: Tensor
    keep: Tensor


def align_words(source: tuple[str, ...], edit: tuple[str, ...]) -> WordAlignment:
    """Align two word lists: kept and moved words are ``same``, the rest is replaced in place, removed or added.

    A word counts as moved when it vanishes at one place and appears at another. Where as many words stand in for as
    many, each replaces its opposite; words that so change places ("a red cat and a blue dog" -> "a blue cat and a
    red dog") count as replaced, not moved.
    """
    same = kept_words(source, edit)
    corners = pairwise([(-1, -1), *same, (len(source), len(edit))])
    gaps = [(list(range(a + 1, b)), list(range(c + 1, d))) for (a, c), (b, d) in corners]
    even = [(set(olds), set(news)) for olds, news in gaps if len(olds) == len(news)]
    swapped = (set[int]().union(*(olds for olds, _ in even)), set[int]().union(*(news for _, news in even)))
    for _, news in gaps:
        for j in tuple(news):
            origins = (
                (olds, i) for olds, _ in gaps for i in olds
                if source[i] == edit[j] and not (i in swapped[0] and j in swapped[1])
            )  # fmt: skip
            found = next(origins, None)
            if found is not None:
                same.append((found[1], j))
                found[0].remove(found[1])
                news.remove(j)
    replaced: list[Pair] = []
    removed: list[int] = []
    added: list[int] = []
    for olds, news in gaps:
        if len(olds) == len(news):
            replaced += [((i,), (j,)) for i, j in zip(olds, news, strict=True)]
        elif olds and news:
            replaced.append((tuple(olds), tuple(news)))
        else:
            removed += olds
            added += news
    return WordAlignment(tuple(sorted(same)), tuple(replaced), tuple(removed), tuple(added))


def kept_words(source: tuple[str, ...], edit: tuple[str, ...]) -> list[tuple[int, int]]:
    """The heaviest common subsequence of two word lists, as (source word, edit word) in order.

    A word that carries meaning weighs more than any number of small ones beside it, so "a cat" and "cat with a hat"
    agree in the cat and not in the article.
    """
    heavy = len(source) + len(edit)
    best = [[0] * (len(edit) + 1) for _ in range(len(source) + 1)]
    for i in reversed(range(len(source))):
        for j in reversed(range(len(edit))):
            best[i][j] = max(best[i + 1][j], best[i][j + 1])
            if source[i] == edit[j]:
                weight = 1 if source[i] in SMALL_WORDS else heavy
                best[i][j] = max(best[i][j], best[i + 1][j + 1] + weight)
    pairs, i, j = [], 0, 0
    while i < len(source) and j < len(edit):
        if source[i] == edit[j] and best[i][j] > max(best[i + 1][j], best[i][j + 1]):
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif best[i + 1][j] >= best[i][j + 1]:
            i += 1
        else:
            j += 1
    return pairs


def choose_mode(words: WordAlignment) -> Literal["replace", "refine"]:
    """Replace where words only stand in for words; refine as soon as one is added or removed."""
    return "refine" if words.added or words.removed else "replace"


def align_tokens(source: Prompt, edit: Prompt, mode: Mode = "auto") -> TokenAlignment:
    """Align the tokens of two prompts.

    In both modes kept and moved words map token to token, start to start, end to end, and padding keeps its order.
    ``replace``: the tokens of a replaced word share its attention evenly, and each source row sums to 1; what a
    removed word attended to goes to the next word that stays. ``refine``: replaced words, like added ones, keep
    their own attention, and that of a removed word is dropped.
    """
    words = align_words(source.words, edit.words)
    if mode == "auto":
        mode = choose_mode(words)
    elif mode not in ("replace", "refine"):
        raise InputError(f'mode must be auto, replace or refine, not "{mode}"')
    mapping = torch.zeros(source.length, edit.length)
    for i, j in words.same:
        _spread(mapping, source.tokens_of_word(i), edit.tokens_of_word(j))
    if mode == "replace":
        for olds, news in words.replaced:
            _spread(mapping, _tokens(source, olds), _tokens(edit, news))
        for i in words.removed:
            for token in source.tokens_of_word(i):
                mapping[token, _heir(words, source, edit, i)] = 1
    for special in (START, END):
        _spread(mapping, source.positions(special), edit.positions(special))
    _align_padding(mapping, source, edit, conserve=mode == "replace")
    return TokenAlignment(mode, mapping, (mapping.sum(0) > 0).to(mapping.dtype))


def _tokens(prompt: Prompt, words: tuple[int, ...]) -> list[int]:
    return [token for word in words for token in prompt.tokens_of_word(word)]


def _spread(mapping: Tensor, olds: list[int], news: list[int]) -> None:
    """Token to token where the counts agree, else every old token evenly over the new ones."""
    if len(olds) == len(news):
        mapping[olds, news] = 1
    else:
        for token in olds:
            mapping[token, news] = 1 / len(news)


def _heir(words: WordAlignment, source: Prompt, edit: Prompt, removed: int) -> int:
    """The edit token that inherits a removed word: first of the next word that stays, else the end token."""
    for word in range(removed + 1, len(source.words)):
        heirs = [j for i, j in words.same if i == word] + [news[0] for olds, news in words.replaced if word in olds]
        if heirs:
            return edit.tokens_of_word(heirs[0])[0]
    return edit.positions(END)[0]


def _align_padding(mapping: Tensor, source: Prompt, edit: Prompt, conserve: bool) -> None:
    """The k-th padding token takes from the k-th.

    Source padding beyond the edit's goes to its last one (``conserve``) or is dropped; edit padding beyond the
    source's shares the source's last one. Without padding on one side, the end token stands in.
    """
    olds = source.positions(PAD)
    news = edit.positions(PAD)
    common = min(len(olds), len(news))
    mapping[olds[:common], news[:common]] = 1
    if len(olds) > common and conserve:
        last = news[-1] if news else edit.positions(END)[-1]
        mapping[olds[common:], last] = 1
    elif len(news) > common:
        last = olds[-1] if olds else source.positions(END)[-1]
        shared = news[max(0, common - 1) :] if olds else [edit.positions(END)[-1], *news]
        mapping[last, shared] = 1 / len(shared) if conserve else 1


def explain(source: Prompt, edit: Prompt, alignment: TokenAlignment) -> str:
    """One line per edit word: which source words it takes its attention from. For people."""
    lines = []
    for j, word in enumerate(edit.words):
        columns = edit.tokens_of_word(j)
        rows = alignment.mapping[:, columns].sum(1).nonzero().flatten().tolist()
        sources = dict.fromkeys(source.words[w] for w in (source.word_of_token[r] for r in rows) if w >= 0)
        lines.append(f"{word} <- {' '.join(sources) if sources else '(its own attention)'}")
    return "\n".join(lines)
