"""Text encoders of a diffusers pipeline: as many as the family has, with or without a pooled vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from ...context import Context
from ...denoiser import no_gradients
from ...errors import InputError, short
from ...families import Family
from ...prompt_to_prompt.emphasis import emphasized, parse
from ...prompt_to_prompt.prompt import Prompt, check_tokens
from ..words import Chunk, Token, read_words


@dataclass(frozen=True, eq=False, repr=False)
class TextEncoder:
    """A family's text encoders with their tokenizers. Words are the first tokenizer's; all split a text alike."""

    family: Family
    tokenizers: tuple[Any, ...]
    encoders: tuple[Any, ...]

    @property
    def pooled(self) -> int:
        """Width of the pooled vectors, 0 where there are none."""
        return int(self.encoders[-1].config.projection_dim) if self.family.pooled else 0

    @property
    def length(self) -> int:
        """Tokens that the encoders read, special ones included (77)."""
        # some tokenizers name a larger number, or none
        return min(int(encoder.config.max_position_embeddings) for encoder in self.encoders)

    def prompt(self, text: str) -> Prompt:
        """Tokens and words of a text and their weights, written ``(word:1.5)``.

        Raises InputError where it is longer than the encoder reads, and for what ``emphasis.parse`` refuses.
        """
        tokenizer, length = self.tokenizers[0], self.length
        ids, weights = _ids(tokenizer, text, length)
        if len(ids) > length:
            raise InputError(
                f'the prompt "{short(text, 41)}" takes {len(ids) - 2} tokens, but the model reads {length - 2}; '
                "shorten it"
            )
        end = ids.index(tokenizer.eos_token_id, 1)
        pieces = tokenizer.convert_ids_to_tokens(ids[1:end])
        tokens = [Token(*one) for one in zip(ids[1:end], pieces, weights[1:end], strict=True)]
        mark = self.family.encoders[0].words
        return read_words(text, [Chunk(ids[0], tokens, ids[end:])], mark, tokenizer.decode)

    def encode(self, prompts: Sequence[Prompt]) -> Context:
        """Contexts, float32, each word as strong as its weight says.

        Raises InputError for tokens that an encoder does not have.

        Each encoder gives the layer that its family reads, side by side; SDXL's last one also its projected pooled
        vector (Podell et al. 2023, section 2.2).
        """
        with no_gradients():
            text, pooled = self._encodings(prompts)
            weights = torch.tensor([p.weight_of_token for p in prompts], device=text.device)
            if bool((weights != 1).any()):
                text = emphasized(text, self._encodings([self.prompt("")])[0], weights)
            return Context(text, pooled)

    def _encodings(self, prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor | None]:
        """Encodings of the tokens, float32 (B, tokens, width), and pooled vectors, whatever the weights."""
        device = self.encoders[0].device
        ids = [torch.tensor([p.token_ids for p in prompts], device=device)]
        for tokenizer in self.tokenizers[1:]:
            ids.append(torch.tensor([_ids(tokenizer, p.text, self.length)[0] for p in prompts], device=device))
        for encoder, tokens in zip(self.encoders, ids, strict=True):
            check_tokens(int(tokens.max()), int(encoder.config.vocab_size))
        rows = self.family.encoders
        found = [e(i, output_hidden_states=True) for e, i in zip(self.encoders, ids, strict=True)]
        layers = [
            one.last_hidden_state if row.layer == -1 else one.hidden_states[row.layer]
            for row, one in zip(rows, found, strict=True)
        ]
        pooled = [one.text_embeds.float() for row, one in zip(rows, found, strict=True) if row.pooled]
        return torch.cat(layers, -1).float(), pooled[-1] if pooled else None


def _ids(tokenizer: Any, text: str, length: int) -> tuple[list[int], list[float]]:
    """Token ids of a text, padded, and their weights; pieces of different weight are split apart, as in ComfyUI."""
    pieces = parse(text)
    # all at once: a call for each takes ten times as long
    inner = tokenizer([piece for piece, _ in pieces], add_special_tokens=False).input_ids if pieces else []
    ids = [tokenizer.bos_token_id, *chain.from_iterable(inner), tokenizer.eos_token_id]
    weights = [1.0, *(weight for (_, weight), tokens in zip(pieces, inner, strict=True) for _ in tokens)]
    ids += [tokenizer.pad_token_id] * (length - len(ids))
    return ids, weights + [1.0] * (len(ids) - len(weights))
