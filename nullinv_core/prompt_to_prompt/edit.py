"""What an edit is: the source prompt, one edit prompt and the knobs of Prompt-to-Prompt, turned into tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, short
from ..schedule import steps_of
from ..settings import EDIT, LISTS, EditSettings, Window, bounds
from .alignment import Pair, TokenAlignment, WordAlignment, align_tokens, align_words
from .emphasis import carried, check_weight
from .prompt import LISTED, Prompt, find_phrase

MOST_REPEATED = 4
"""How many times the tokens of the longest text all texts may take together."""
MOST_EDITS = 64
"""Most edits of a picture in one run."""
MOST_CELLS = 2**24
"""Most pairs of a source token and an edit token, in all edits together: 64 MB."""


@dataclass(frozen=True)
class Edit:
    """One edit of one image, ready for the sampler. K: tokens, the same for both prompts.

    ``prompt``: as it is to be encoded; where the source took more tokens or fewer, both are repeated up to a common
    multiple, and so are their encodings.
    ``cross_window``, ``focus_window``: bool (T, K), in the order of sampling. ``self_window``: bool (T,).
    ``equalizer``: (K,), factors on the attention of tokens whose cross window opens; the others' words are encoded as
    strongly instead.
    ``blend``, ``exclude``, ``steady``: (2, K) 0 or 1, source row first; all zero where unused. ``blend_window``,
    ``exclude_window``: bool (T,), where local blend acts at all, and where it leaves out the exclude words' regions.
    """

    source: Prompt
    prompt: Prompt
    alignment: TokenAlignment
    equalizer: Tensor
    cross_window: Tensor
    focus_window: Tensor
    self_window: Tensor
    blend: Tensor
    exclude: Tensor
    steady: Tensor
    blend_window: Tensor
    exclude_window: Tensor
    settings: EditSettings


def plan_edit(
    source: Prompt, prompt: Prompt, steps: int, settings: EditSettings | None = None, tokens: int = 0
) -> Edit:
    """Turn prompts and settings into the tensors of an edit over ``steps`` steps.

    ``tokens``: up to which both prompts are repeated; 0: their ``common_length``. Raises InputError for words that are
    not in the prompt, and for prompts of all too different length.
    """
    settings, tokens = settings or EditSettings(), tokens or common_length([source, prompt])
    words = align_words(source.words, prompt.words)
    alignment = align_tokens(source, prompt, settings.mode, words)
    pairs: list[Pair] = [((i,), (j,)) for i, j in words.same]
    pairs += words.replaced if alignment.mode == "replace" else ()
    strengths, factors = carried(source.weights, prompt.weights, pairs)
    times = tokens // source.length, tokens // prompt.length
    alignment = alignment.repeated(*times)
    source, prompt = source.repeated(times[0]), replace(prompt, weights=strengths).repeated(times[1])
    equalizer = torch.tensor(replace(prompt, weights=factors).weight_of_token)
    for word, weight in settings.weights.items():
        equalizer[find_phrase(prompt, word, "weight word")] *= float(weight)
    cross_window = _steps_inside(settings.cross_replace, steps)[:, None].repeat(1, prompt.length)
    rewritten = torch.full((prompt.length,), _opens(settings.cross_replace))
    for word, window in settings.word_windows.items():
        places = find_phrase(prompt, word, "word with a replace window")
        cross_window[:, places], rewritten[places] = _steps_inside(window, steps)[:, None], _opens(window)
    replaced = _replaced(words, prompt, alignment)
    rewritten |= replaced & _opens((settings.focus_from, 1.0))
    prompt, equalizer = _stressed(prompt, equalizer, rewritten)
    focused = _steps_inside((settings.focus_from, 1.0), steps)
    blend = _select(source, prompt, words, settings.blend_words, "blend word")
    exclude = _select(source, prompt, words, settings.exclude_words, "exclude word")
    excluded = exclude.any() & _steps_inside((settings.blend_start, settings.exclude_end), steps)
    return Edit(
        source=source,
        prompt=prompt,
        alignment=alignment,
        equalizer=equalizer,
        cross_window=cross_window,
        focus_window=focused[:, None] & replaced,
        self_window=_steps_inside(settings.self_replace, steps),
        blend=blend,
        exclude=exclude,
        steady=_select(source, prompt, words, settings.steady_words, "steady word"),
        blend_window=excluded | (blend.any() & _steps_inside((settings.blend_start, 1.0), steps)),
        exclude_window=excluded,
        settings=settings,
    )


def common_length(prompts: Sequence[Prompt]) -> int:
    """To how many tokens the encodings of a source and its edits are repeated, so that all are as long.

    Raises InputError for texts that would take many times the longest of them, and for more than ``MOST_CELLS``.
    """
    lengths = [prompt.length for prompt in prompts]
    tokens = math.lcm(*lengths)
    if tokens > MOST_REPEATED * max(lengths):
        raise InputError(
            f"texts of {', '.join(map(str, dict.fromkeys(lengths)))} tokens cannot be repeated to one length; "
            "make them about equally long"
        )
    if tokens**2 * (len(prompts) - 1) > MOST_CELLS:
        most = math.isqrt(MOST_CELLS // (len(prompts) - 1))
        raise InputError(f"the texts take {tokens} tokens; for so many edits {most} at most, so make them shorter")
    return tokens


def plan_edits(source: Prompt, prompts: Sequence[Prompt], steps: int, settings: EditSettings) -> list[Edit]:
    """Several edits of one image under shared settings: each leaves out the words that only another edit has.

    Raises InputError for a word that none of the prompts has, and for more than ``MOST_EDITS`` edits.
    """
    if len(prompts) > MOST_EDITS:
        raise InputError(f"there are {len(prompts)} edits; {MOST_EDITS} at most, so run them in several goes")
    plans, tokens = [], common_length([source, *prompts])
    lists = {one.name: getattr(settings, one.name) for one in EDIT if one.kind in LISTS}
    named = [word for listed in lists.values() for word in listed]
    having = {w: [p for p in prompts if _tokens_or_none(p, w) is not None] for w in dict.fromkeys(named)}
    of_source = {w for w in having if _tokens_or_none(source, w) is not None}
    for prompt in prompts:

        def concerns(word: str, source_too: bool = False, prompt: Prompt = prompt) -> bool:
            here = any(p is prompt for p in having[word]) or (source_too and word in of_source)
            return here or not having[word]

        mine: dict[str, Any] = {}
        for name, listed in lists.items():
            if isinstance(listed, Mapping):
                mine[name] = {word: value for word, value in listed.items() if concerns(word)}
            else:
                mine[name] = [word for word in listed if concerns(word, source_too=True)]
        plans.append(plan_edit(source, prompt, steps, replace(settings, **mine), tokens))
    return plans


def _stressed(prompt: Prompt, equalizer: Tensor, rewritten: Tensor) -> tuple[Prompt, Tensor]:
    """The prompt and the factors on its tokens' attention, (K,). Where attention is never ``rewritten``, bool (K,), a
    word is encoded as strongly instead."""
    weights = list(prompt.weights)
    for word in range(len(weights)):
        for token in prompt.tokens_of_word(word)[:1]:
            weights[word] *= 1.0 if rewritten[token] else float(equalizer[token])
            check_weight(prompt.words[word], weights[word])
    return replace(prompt, weights=tuple(weights)), equalizer.where(rewritten, 1.0)


def _opens(window: Window) -> bool:
    start, end = bounds(window)
    return start < end


def _steps_inside(window: Window, steps: int) -> Tensor:
    """bool (T,): the steps of a window, one at least of a window that opens."""
    start, end = bounds(window)
    first, last = steps_of(start, steps), steps_of(end, steps)
    if start < end:
        first = min(first, steps - 1)
        last = max(last, first + 1)
    index = torch.arange(steps)
    return (index >= first) & (index < last)


def _replaced(words: WordAlignment, prompt: Prompt, alignment: TokenAlignment) -> Tensor:
    """bool (K,): tokens of the edit's words that stand for other words and take their attention."""
    chosen = torch.zeros(prompt.length, dtype=torch.bool)
    for _, news in words.replaced:
        chosen[[token for word in news for token in prompt.tokens_of_word(word)]] = True
    return chosen & (alignment.keep > 0)


def _select(source: Prompt, prompt: Prompt, words: WordAlignment, phrases: Sequence[str], what: str) -> Tensor:
    """(2, K): tokens of the phrases in the source and in the edit; where one lacks a phrase, its counterpart."""
    chosen = torch.zeros(2, source.length)
    there: list[Pair] = [((i,), (j,)) for i, j in words.same] + list(words.replaced)
    back = [(news, olds) for olds, news in there]
    for phrase in phrases:
        found = [_tokens_or_none(p, phrase) for p in (source, prompt)]
        if found == [None, None]:
            listed = short(", ".join(dict.fromkeys([*source.words, *prompt.words])), LISTED)
            raise InputError(f'{what} "{short(phrase)}" is in neither prompt; their words are: {listed}')
        if found[0] is None and found[1] is not None:
            found[0] = _counterpart(prompt, source, back, found[1])
        if found[1] is None and found[0] is not None:
            found[1] = _counterpart(source, prompt, there, found[0])
        for row, tokens in enumerate(found):
            chosen[row, tokens or []] = 1
    return chosen


def _tokens_or_none(prompt: Prompt, phrase: str) -> list[int] | None:
    try:
        return find_phrase(prompt, phrase)
    except InputError:
        return None


def _counterpart(here: Prompt, there: Prompt, pairs: Sequence[Pair], tokens: list[int]) -> list[int]:
    """Tokens of the words that stand for those of ``tokens`` in the other prompt; empty where none do."""
    words = {here.word_of_token[t] for t in tokens}
    partners = [j for olds, news in pairs if not words.isdisjoint(olds) for j in news]
    return [t for word in partners for t in there.tokens_of_word(word)]
