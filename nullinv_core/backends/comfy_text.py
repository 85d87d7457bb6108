"""Prompts as ComfyUI's CLIP sees them."""

from __future__ import annotations

import re
from typing import Any

from ..errors import InputError
from ..prompt_to_prompt.prompt import END, PAD, START, Prompt

WEIGHT = re.compile(r"(?<!\\)\(((?:[^()\\]|\\.)*?):\s*(-?\d+(?:\.\d+)?)\s*\)")
"""``(word:2.0)``: the words inside and their weight."""


def take_weights(text: str) -> tuple[str, dict[str, float]]:
    """A text without its ``(word:2.0)`` marks, and the weights by word; raises InputError for a word weighted twice."""
    weights: dict[str, float] = {}
    for words, weight in WEIGHT.findall(text):
        if not words.strip():
            raise InputError(f'the weight :{weight} in "{text}" has no word')
        if words.strip() in weights:
            raise InputError(f'"{words.strip()}" has two weights in "{text}"; give it one')
        weights[words.strip()] = float(weight)
    return WEIGHT.sub(r"\1", text), weights


def prompt_of(clip: Any, text: str) -> Prompt:
    """Tokens and words of a text, in as many chunks of 77 as it takes.

    A word ends with the token that ends in ``</w>``; a textual-inversion embedding is one word.
    Raises InputError for a CLIP with several encoders.
    """
    chunks_by_encoder = clip.tokenize(text, return_word_ids=True)
    name, chunks = next(iter(chunks_by_encoder.items()))
    tokenizer = getattr(clip.tokenizer, f"clip_{name}", None)
    if tokenizer is None or len(chunks_by_encoder) > 1:
        raise InputError("this CLIP is not that of a Stable Diffusion 1.x or 2.x model; load one that is")
    ids: list[int] = []
    places: list[int] = []
    words: list[str] = []
    for chunk in chunks:
        start, *inner = chunk
        end = next((i for i, (token, *_) in enumerate(inner) if _is(token, tokenizer.end_token)), len(inner))
        ids.append(int(start[0]))
        places.append(START)
        open_word: list[int] = []
        for i, (token, _, group) in enumerate(inner[:end]):
            learned = not isinstance(token, int)
            places.append(len(words))
            ids.append(-1 if learned else token)
            following = inner[i + 1][2] if i + 1 < end else None
            if learned:
                if following != group:
                    words.append(f"embedding {group}")
                continue
            open_word.append(token)
            if tokenizer.inv_vocab[token].endswith("</w>") or following != group:
                words.append(tokenizer.tokenizer.decode(open_word).strip())
                open_word = []
        for i, (token, *_) in enumerate(inner[end:]):
            places.append(PAD if i else END)
            ids.append(int(token))
    return Prompt(text, tuple(ids), tuple(words), tuple(places))


def _is(token: Any, identity: int) -> bool:
    return isinstance(token, int) and token == identity
