"""Which source token each edit token takes its attention from (Hertz et al. 2022, arXiv 2208.01626, section 3.2).

Words are aligned first, then their tokens, so an edit may replace words by more or fewer, add, remove and move them.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..settings import Mode
from .kinds import hint
from .prompt import END, PAD, START, Prompt, is_sign

ARTICLES = ("a", "an", "the", "and", "or", "is", "are", "its")
PLACES = ("of", "on", "in", "at", "by", "to", "with")
SMALL_WORDS = frozenset([*ARTICLES, *PLACES])
"""Words that say little about what a picture shows, as signs do."""
MOST_WORDS = 2_000
"""Most words of a text that is compared with another; the table of ``_best_moves`` has then four million entries."""
KEEP, REPLACE, REMOVE, ADD = range(4)
"""What an alignment does with the next words."""
EVEN = 1
NEVER = np.int64(-(2**61))
"""Score of what cannot be."""
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

    def repeated(self, source: int, edit: int) -> TokenAlignment:
        """Of prompts whose encodings are repeated so many times: a token's attention is then that of all its copies."""
        if source == edit == 1:
            return self
        return TokenAlignment(self.mode, self.mapping.repeat(source, edit) / edit, self.keep.repeat(edit))


def align_words(source: tuple[str, ...], edit: tuple[str, ...]) -> WordAlignment:
    """Align two word lists: kept and moved words are ``same``, the rest is replaced in place, removed or added.

    A word counts as moved when it vanishes at one place and appears at another. Where as many words stand in for as
    many, each replaces its opposite; words that so change places ("a red cat and a blue dog" -> "a blue cat and a
    red dog") count as replaced, not moved. Signs stand in for signs alone.
    """
    same = kept_words(source, edit)
    corners = pairwise([(-1, -1), *same, (len(source), len(edit))])

    def of_kind(words: tuple[str, ...], start: int, stop: int, signs: bool) -> list[int]:
        return [k for k in range(start + 1, stop) if is_sign(words[k]) == signs]

    gaps = [
        (of_kind(source, a, b, signs), of_kind(edit, c, d, signs))
        for (a, c), (b, d) in corners
        for signs in (False, True)
    ]
    even = [(set(olds), set(news)) for olds, news in gaps if len(olds) == len(news)]
    swapped = (set[int]().union(*(olds for olds, _ in even)), set[int]().union(*(news for _, news in even)))
    origins = defaultdict[str, list[tuple[list[int], int]]](list)
    for olds, _ in gaps:
        for i in olds:
            origins[source[i]].append((olds, i))
    for _, news in gaps:
        for j in tuple(news):
            moved = (o for o in origins[edit[j]] if not (o[1] in swapped[0] and j in swapped[1]))
            found = next(moved, None)
            if found is not None:
                same.append((found[1], j))
                found[0].remove(found[1])
                origins[edit[j]].remove(found)
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
    return WordAlignment(tuple(sorted(same)), tuple(sorted(replaced)), tuple(sorted(removed)), tuple(sorted(added)))


def kept_words(source: tuple[str, ...], edit: tuple[str, ...]) -> list[tuple[int, int]]:
    """The heaviest common subsequence of two word lists, as (source word, edit word) in order.

    A word that carries meaning weighs more than any number of small ones beside it, so "a cat" and "cat with a hat"
    agree in the cat and not in the article. Of equally heavy ones it is the one that leaves the fewest words without
    an opposite, then the one with the most words in gaps of equal length, so the second "red" of "a red red dress" is
    what "a red blue dress" replaces. Raises InputError for more than ``MOST_WORDS`` words.
    """
    if max(len(source), len(edit)) > MOST_WORDS:
        raise InputError(f"a text of {max(len(source), len(edit))} words is too long to compare; {MOST_WORDS} at most")
    moves = _best_moves(source, edit)
    pairs, i, j, even = [], 0, 0, None
    while i < len(source) and j < len(edit):
        move = int(moves[i, j])
        even = bool(move & EVEN) if even is None else even
        step = (move >> (4 if even else 2)) & 3
        if step == KEEP:
            pairs.append((i, j))
            even = None
        i, j = i + (step != ADD), j + (step != REMOVE)
    return pairs


def _best_moves(source: tuple[str, ...], edit: tuple[str, ...]) -> np.ndarray:
    """How the best alignment of source[i:] and edit[j:] begins: uint8 (source words, edit words).

    Bit 0 (``EVEN``): in a gap of equal length, or in none. Bits 2 and 3: what to do inside of an uneven gap; bits 4 and
    5: in an even one. A score is kept meaning, less words without an opposite, plus words in even gaps, each in units
    that the next cannot reach. A row at a time, from the last word back: within it, R_j = max(T_j, R_{j+1} - unit).
    """
    unit = len(source) + len(edit) + 1
    number = {word: k for k, word in enumerate(dict.fromkeys([*source, *edit]))}
    words, signs = np.array([number[w] for w in edit]), np.array([is_sign(w) for w in edit])
    slope = unit * np.arange(len(edit) + 1)
    even = np.full(len(edit) + 1, NEVER)
    even[-1] = 0
    uneven = slope - slope[-1]
    moves = np.zeros((len(source), len(edit)), np.uint8)
    for i in reversed(range(len(source))):
        meaning = unit**2 * (1 if says_little(source[i]) else unit)
        keep = np.where(words == number[source[i]], meaning + np.maximum(even, uneven)[1:], NEVER)
        opposite = signs == is_sign(source[i])
        replace_even = np.where(opposite, even[1:] + 1, NEVER)
        replace_uneven = np.where(opposite, uneven[1:], NEVER)
        remove = uneven - unit
        best = remove.copy()
        best[:-1] = np.maximum(remove[:-1], np.maximum(keep, replace_uneven))
        best = np.maximum.accumulate((best - slope)[::-1])[::-1] + slope
        even = np.append(np.maximum(keep, replace_even), NEVER)
        uneven = best
        step = np.select(
            [best[:-1] == remove[:-1], best[:-1] == best[1:] - unit, best[:-1] == replace_uneven],
            [REMOVE, ADD, REPLACE],
            KEEP,
        )
        moves[i] = (even > best)[:-1] * EVEN + (step << 2) + (np.where(keep > replace_even, KEEP, REPLACE) << 4)
    return moves


def choose_mode(source: tuple[str, ...], edit: tuple[str, ...], words: WordAlignment) -> Literal["replace", "refine"]:
    """Replace where words only stand in for words; refine as soon as one is added or removed. Signs decide nothing."""
    alone = [source[i] for i in words.removed] + [edit[j] for j in words.added]
    return "replace" if all(map(is_sign, alone)) else "refine"


def says_little(word: str) -> bool:
    """Whether a word or sign says little about what a picture shows."""
    return word in SMALL_WORDS or is_sign(word)


def align_tokens(
    source: Prompt, edit: Prompt, mode: Mode = "auto", words: WordAlignment | None = None
) -> TokenAlignment:
    """Align the tokens of two prompts; ``words``: their ``align_words``, where it is at hand.

    In both modes kept and moved words map token to token, start to start, end to end, and padding keeps its order.
    ``replace``: the tokens of a replaced word share its attention evenly, and each source row sums to 1; what a
    removed word attended to goes to the next word that stays. ``refine``: replaced words, like added ones, keep
    their own attention, and that of a removed word is dropped.
    """
    words = words or align_words(source.words, edit.words)
    if mode == "auto":
        mode = choose_mode(source.words, edit.words, words)
    elif mode not in ("replace", "refine"):
        raise InputError(f'mode must be auto, replace or refine, not "{mode}"')
    mapping = torch.zeros(source.length, edit.length)
    for i, j in words.same:
        _spread(mapping, source.tokens_of_word(i), edit.tokens_of_word(j))
    if mode == "replace":
        for olds, news in words.replaced:
            _spread(mapping, _tokens(source, olds), _tokens(edit, news))
        heirs = _heirs(words, source, edit)
        for i in words.removed:
            mapping[source.tokens_of_word(i), heirs[i]] = 1
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


def _heirs(words: WordAlignment, source: Prompt, edit: Prompt) -> list[int]:
    """For each source word the edit token that inherits what a removed word there attended to: the first one of the
    next word that stays, else the end token."""
    stays = dict(words.same) | {i: news[0] for olds, news in words.replaced for i in olds}
    heir, heirs = edit.positions(END)[0], [0] * len(source.words)
    for word in reversed(range(len(source.words))):
        if word in stays:
            heir = edit.tokens_of_word(stays[word])[0]
        heirs[word] = heir
    return heirs


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
    """One line per edit word: which source words it takes its attention from; what was left out. For people."""
    lines = []
    for j, word in enumerate(edit.words):
        columns = edit.tokens_of_word(j)
        rows = alignment.mapping[:, columns].sum(1).nonzero().flatten().tolist()
        sources = dict.fromkeys(source.words[w] for w in (source.word_of_token[r] for r in rows) if w >= 0)
        lines.append(f"{word} <- {' '.join(sources) if sources else '(its own attention)'}")
    words = align_words(source.words, edit.words)
    gone, new = [source.words[i] for i in words.removed], [edit.words[j] for j in words.added]
    if gone:
        lines.append(f"left out: {' '.join(gone)}")
    if not all(map(says_little, [*gone, *new])):
        lines.append(hint())
    return "\n".join(lines)
