"""Prompts as ComfyUI's CLIP sees them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import InputError, short
from ..prompt_to_prompt.alignment import align_tokens, explain
from ..prompt_to_prompt.edit import Edit, EditSettings, Window, plan_edits, reweight
from ..prompt_to_prompt.prompt import END, PAD, START, Prompt

WEIGHT = re.compile(r"(?<!\\)\(((?:[^()\\]|\\.)*?)(?::\s*(-?(?:\d+\.?\d*|\.\d+))\s*)?\)")
"""``(word:2.0)``: the words inside and their weight."""
PLAIN_WEIGHT = "1.1"
"""What ComfyUI gives to ``(word)``."""
BRACKET = re.compile(r"(?<!\\)[()]")
WINDOW = re.compile(r"(.+?)\s*=\s*(\d+(?:\.\d+)?)\s*(?:-\s*(\d+(?:\.\d+)?))?")
"""``word=0.4`` or ``word=0.2-0.8``."""
SDXL_ENCODERS = {"l", "g"}
"""How ComfyUI names the text encoders of SDXL."""
Mark = tuple[int, int, float]
"""Start and end of weighted words in a text, and their weight."""
EMBEDDING = re.compile(r"(?:^|(?<=[\s(]))embedding:([^\s<\[\],():]+)")
"""``embedding:name``, a textual-inversion word."""


@dataclass(frozen=True, repr=False)
class EditRequest:
    """What P2P Edit hands to the sampler: prompts, their encodings and the settings of one or several edits.

    ``weights``: for each edit the factors on single words, by their number in its prompt. ``empty``: the empty text's
    conditioning, for the unconditional rows.
    """

    source: Prompt
    prompts: tuple[Prompt, ...]
    weights: tuple[Mapping[int, float], ...]
    source_conditioning: Any
    conditionings: tuple[Any, ...]
    empty: Any
    settings: EditSettings

    def __repr__(self) -> str:
        return f"EditRequest({self.source.text!r} -> {', '.join(repr(p.text) for p in self.prompts)})"

    def plans(self, steps: int) -> list[Edit]:
        """The edits over ``steps`` steps."""
        plans = plan_edits(self.source, self.prompts, steps, self.settings)
        return [reweight(plan, weights) for plan, weights in zip(plans, self.weights, strict=True)]


def plan_request(clip: Any, source: str, edits: str, settings: EditSettings) -> EditRequest:
    """Encode the source text and every line of ``edits``; ``(word:2.0)`` in a line weights that word there.

    Raises InputError for an empty text, brackets that are no weights, and words of the settings that no text has.
    """
    lines = [line.strip() for line in edits.splitlines() if line.strip()]
    if not source.strip() or not lines:
        raise InputError(f"the {'edit' if source.strip() else 'source'} text is empty; say what the picture shows")
    texts, marks = zip(*(take_weights(line) for line in lines), strict=True)

    def encode(text: str) -> Any:
        return clip.encode_from_tokens_scheduled(clip.tokenize(text))

    prompts = tuple(prompt_of(clip, text) for text in texts)
    request = EditRequest(
        source=prompt_of(clip, source),
        prompts=prompts,
        weights=tuple(_words_of(clip, prompt, own) for prompt, own in zip(prompts, marks, strict=True)),
        source_conditioning=encode(source),
        conditionings=tuple(encode(text) for text in texts),
        empty=encode(""),
        settings=settings,
    )
    # whatever is wrong with the words is said here, before a photo is inverted
    request.plans(1)
    return request


def explain_edits(request: EditRequest) -> str:
    """For each edit, which words take their attention from which words of the source. For people."""
    parts = []
    for prompt in request.prompts:
        alignment = align_tokens(request.source, prompt, request.settings.mode)
        parts.append(f"{prompt.text} ({alignment.mode})\n{explain(request.source, prompt, alignment)}")
    return "\n\n".join(parts)


def take_weights(text: str) -> tuple[str, list[Mark]]:
    """A text without its ``(word:2.0)`` marks, and where in it they were.

    Raises InputError for one inside another, and for brackets that stand alone; ``\\(`` is a bracket of the text.
    """
    marks: list[Mark] = []
    taken = ""
    end = 0
    for found in WEIGHT.finditer(text):
        taken += text[end : found.start()]
        if not found[1].strip():
            raise InputError(f'the weight {short(found[0])} in "{short(text)}" has no word')
        marks.append((len(taken), len(taken) + len(found[1]), float(found[2] or PLAIN_WEIGHT)))
        taken += found[1]
        end = found.end()
    taken += text[end:]
    if WEIGHT.search(taken):
        raise InputError(f'"{short(text)}" has a weight inside of another; give every word one')
    if BRACKET.search(taken):
        raise InputError(f'"{short(text)}" has a bracket without its partner; write \\( for a bracket of it')
    return taken, marks


def _words_of(clip: Any, prompt: Prompt, marks: list[Mark]) -> dict[int, float]:
    """Factors by word number for marks in a prompt's text."""
    text, words = prompt.text, prompt.words
    weights: dict[int, float] = {}
    for start, end, weight in marks:
        before, inside = (prompt_of(clip, text[:place]).words for place in (start, end))
        if words[: len(inside)] != inside or inside[: len(before)] != before:
            marked = short(text[start:end])
            raise InputError(f'the weight in "{short(text)}" must stand around whole words, not "{marked}"')
        weights |= dict.fromkeys(range(len(before), len(inside)), weight)
    return weights


def take_windows(text: str) -> dict[str, Window]:
    """Replace windows by word from ``word=0.4, other word=0.2-0.8``; raises InputError for anything else."""
    windows: dict[str, Window] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        found = WINDOW.fullmatch(part)
        if not found:
            raise InputError(f'"{short(part)}" is no window of a word; write word=0.4 or word=0.2-0.8')
        word, start, end = found.groups()
        windows[word] = (float(start), float(end)) if end else float(start)
    return windows


def prompt_of(clip: Any, text: str) -> Prompt:
    """Tokens and words of a text, in as many chunks of 77 as it takes.

    A word ends with the token that ends in ``</w>``; a textual-inversion embedding is one word, ``embedding:name``.
    Raises InputError for a CLIP of another family, and for an embedding that ComfyUI does not find.
    """
    chunks_by_encoder = clip.tokenize(text, return_word_ids=True)
    # SDXL's two encoders split a text alike
    both = set(chunks_by_encoder) == SDXL_ENCODERS
    name = "l" if both else next(iter(chunks_by_encoder))
    tokenizer, chunks = getattr(clip.tokenizer, f"clip_{name}", None), chunks_by_encoder[name]
    if tokenizer is None or (len(chunks_by_encoder) > 1 and not both):
        raise InputError("this CLIP is not that of a Stable Diffusion 1.x, 2.x or SDXL model; load one that is")
    names = EMBEDDING.findall(text)
    learned_groups = _learned(tokenizer, chunks)
    # an embedding for one of SDXL's encoders alone leaves the other a token short
    whole = all(
        _learned(getattr(clip.tokenizer, f"clip_{n}"), c) == learned_groups for n, c in chunks_by_encoder.items()
    )
    if len(names) != len(learned_groups) or not whole:
        raise InputError(
            f'not all of the embeddings in "{short(text)}" ({short(", ".join(names))}) are in models/embeddings and '
            "made for this model; check their names"
        )
    name_of = dict(zip(sorted(learned_groups), names, strict=True))
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
                    words.append(f"embedding:{name_of[group].lower()}")
                continue
            open_word.append(token)
            if tokenizer.inv_vocab[token].endswith("</w>") or following != group:
                words.append(tokenizer.tokenizer.decode(open_word).strip())
                open_word = []
        for i, (token, *_) in enumerate(inner[end:]):
            places.append(PAD if i else END)
            ids.append(int(token))
    return Prompt(text, tuple(ids), tuple(words), tuple(places))


def _learned(tokenizer: Any, chunks: Any) -> set[int]:
    """Numbers of the words that are textual-inversion embeddings of the encoder's width; others it would leave out."""
    return {
        group
        for chunk in chunks
        for token, _, group in chunk
        if not isinstance(token, int) and token.shape[-1] == tokenizer.embedding_size
    }


def _is(token: Any, identity: int) -> bool:
    return isinstance(token, int) and token == identity
