"""Prompts as ComfyUI's CLIP sees them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import accumulate

from ... import families
from ...errors import InputError, short
from ...families import CLIP_L
from ...prompt_to_prompt.advice import advise
from ...prompt_to_prompt.alignment import align_tokens, explain
from ...prompt_to_prompt.edit import MOST_EDITS, Edit, plan_edits
from ...prompt_to_prompt.emphasis import check_text, parse, without_marks
from ...prompt_to_prompt.prompt import Prompt
from ...settings import EditSettings
from .. import words
from ..words import Chunk, read_words
from .checks import check_part
from .notices import tell
from .protocols import Chunks, Clip, Conditioning, Token, Tokenizer

EMBEDDING = re.compile(r"(?:^|(?<=[\s(]))embedding:([^\s<\[\],():]+)")
"""``embedding:name``, a textual-inversion word."""


@dataclass(frozen=True, repr=False)
class EditRequest:
    """What P2P Edit hands to the sampler: prompts, their encodings and the settings of one or several edits.

    ``empty``: the empty text's conditioning, for the unconditional rows.
    """

    source: Prompt
    prompts: tuple[Prompt, ...]
    source_conditioning: Conditioning
    conditionings: tuple[Conditioning, ...]
    empty: Conditioning
    settings: EditSettings

    def __repr__(self) -> str:
        return f"EditRequest({self.source.text!r} -> {', '.join(repr(p.text) for p in self.prompts)})"

    def plans(self, steps: int) -> list[Edit]:
        """The edits over ``steps`` steps."""
        return plan_edits(self.source, self.prompts, steps, self.settings)


def plan_request(clip: Clip, source: str, edits: str, settings: EditSettings) -> EditRequest:
    """Encode the source text and every line of ``edits``; weights of words are as in ``emphasis``.

    The user is told what ``advice`` says. Raises InputError for an empty text, what ``emphasis.parse`` refuses, more
    than ``MOST_EDITS`` lines, and words of the settings that no text has.
    """
    photo, prompts, plans = read_texts(clip, source, edits, settings)
    advise(plans, tell)
    strong = [replace(p, weights=plan.prompt.weights) for p, plan in zip(prompts, plans, strict=True)]
    return EditRequest(
        source=photo,
        prompts=tuple(prompts),
        source_conditioning=encode(clip, photo),
        conditionings=tuple(encode(clip, prompt) for prompt in strong),
        empty=encode(clip, prompt_of(clip, "")),
        settings=settings,
    )


def read_texts(clip: Clip, source: str, edits: str, settings: EditSettings) -> tuple[Prompt, list[Prompt], list[Edit]]:
    """The source text, every line of ``edits``, and the edits over one step; raises as ``plan_request``, before a photo
    is inverted or a text is encoded."""
    check_text(edits)
    lines = lines_of(edits)
    if not source.strip() or not lines:
        raise InputError(f"the {'edit' if source.strip() else 'source'} text is empty; say what the picture shows")
    if len(lines) > MOST_EDITS:
        raise InputError(f"the edit text has {len(lines)} lines, each an edit; use at most {MOST_EDITS}")
    if not all(without_marks(line).strip() for line in lines):
        raise InputError("a line of the edit text has brackets alone; say what the picture should show")
    photo, *prompts = (prompt_of(clip, text) for text in [source, *lines])
    return photo, prompts, plan_edits(photo, prompts, 1, settings)


def lines_of(edits: str) -> list[str]:
    """The texts of several edits, one a line."""
    return [line.strip() for line in edits.splitlines() if line.strip()]


def explain_edits(request: EditRequest) -> str:
    """For each edit, which words take their attention from which words of the source. For people."""
    parts = []
    for prompt in request.prompts:
        alignment = align_tokens(request.source, prompt, request.settings.mode)
        parts.append(f"{without_marks(prompt.text)} ({alignment.mode})\n{explain(request.source, prompt, alignment)}")
    return "\n\n".join(parts)


def encode(clip: Clip, prompt: Prompt) -> Conditioning:
    """CONDITIONING of a prompt, each word as strong as its weight says."""
    tokens = clip.tokenize(prompt.text)
    weights = prompt.weight_of_token
    for name, chunks in tokens.items():
        ends = accumulate(map(len, chunks))
        tokens[name] = [
            [(token, weight) for (token, _), weight in zip(chunk, weights[end - len(chunk) : end], strict=True)]
            for chunk, end in zip(chunks, ends, strict=True)
        ]
    return clip.encode_from_tokens_scheduled(tokens)


def prompt_of(clip: Clip, text: str) -> Prompt:
    """Tokens and words of a text with their weights, in as many chunks of 77 as it takes.

    A word ends with the token that ends in ``</w>``; a textual-inversion embedding is one word, ``embedding:name``.
    Raises InputError for no CLIP or one of another family, for an embedding that ComfyUI does not find, and for what
    ``emphasis.parse`` refuses.
    """
    parse(text)
    check_part(clip, "CLIP")
    chunks_by_encoder = clip.tokenize(text, return_word_ids=True)
    family = families.of_encoders(chunks_by_encoder)
    # a family's encoders split a text alike
    name = family.encoders[0].comfy if family else next(iter(chunks_by_encoder))
    tokenizer, chunks = getattr(clip.tokenizer, f"clip_{name}", None), chunks_by_encoder[name]
    if tokenizer is None or (family is None and len(chunks_by_encoder) > 1):
        raise InputError(f"this CLIP does not belong to a {families.supported()} model; load one that does")
    names = EMBEDDING.findall(text)
    learned_groups = _learned(tokenizer, chunks)
    # an embedding for one of several encoders alone leaves the others a token short
    whole = all(
        _learned(getattr(clip.tokenizer, f"clip_{n}"), c) == learned_groups for n, c in chunks_by_encoder.items()
    )
    if len(names) != len(learned_groups) or not whole:
        raise InputError(
            f'not all of the embeddings in "{short(text)}" ({short(", ".join(names))}) are in models/embeddings and '
            "made for this model; check their names"
        )
    name_of = dict(zip(sorted(learned_groups), names, strict=True))
    found = [_chunk(tokenizer, chunk, name_of) for chunk in chunks]
    mark = family.encoders[0].words if family else CLIP_L.words
    return read_words(text, found, mark, tokenizer.tokenizer.decode)


def _chunk(tokenizer: Tokenizer, chunk: list[Token], name_of: dict[int, str]) -> Chunk:
    """A chunk of ComfyUI's: (token, weight, number of its word); ``name_of``: learned embeddings by that number."""
    start, *inner = chunk
    end = next((i for i, (token, *_) in enumerate(inner) if _is(token, tokenizer.end_token)), len(inner))
    tokens = [
        words.Token(token, tokenizer.inv_vocab[token], weight, group)
        if isinstance(token, int)
        else words.Token(-1, "", weight, group, f"embedding:{name_of[group].lower()}")
        for token, weight, group in inner[:end]
    ]
    return Chunk(int(start[0]), tokens, [int(token) for token, *_ in inner[end:]])


def _learned(tokenizer: Tokenizer, chunks: Chunks) -> set[int]:
    """Numbers of the words that are textual-inversion embeddings of the encoder's width; others it would leave out."""
    return {
        group
        for chunk in chunks
        for token, _, group in chunk
        if not isinstance(token, int) and token.shape[-1] == tokenizer.embedding_size
    }


def _is(token: object, identity: int) -> bool:
    return isinstance(token, int) and token == identity
