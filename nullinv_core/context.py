"""Contexts that carry a pooled text vector beside the tokens, as SDXL reads one (Podell et al. 2023, section 2.2).

What a network is told about the text is one tensor (B, rows, width) to the core, which inverts, optimizes, mixes and
stores it. Backends of models with a pooled vector put it into the last rows and take it out again.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from .errors import InputError


def pooled_rows(pooled: int, width: int) -> int:
    """Rows of a context of that width which hold a pooled vector of ``pooled`` numbers; 0 of none."""
    return -(-pooled // width)


def pack(text: Tensor, pooled: Tensor | None) -> Tensor:
    """(B, tokens + rows, width) of token encodings (B, tokens, width) and a pooled vector (B, pooled), padded with 0.

    Without a pooled vector the text itself.
    """
    if pooled is None:
        return text
    width = text.shape[-1]
    rows = pooled_rows(pooled.shape[-1], width)
    filled = pad(pooled, (0, rows * width - pooled.shape[-1])).unflatten(-1, (rows, width))
    return torch.cat([text, filled.to(text)], -2)


def unpack(context: Tensor, pooled: int) -> tuple[Tensor, Tensor | None]:
    """The token encodings (B, tokens, width) and the pooled vector (B, ``pooled``) of a context; None where it is 0."""
    if not pooled:
        return context, None
    tokens = context.shape[-2] - pooled_rows(pooled, context.shape[-1])
    return context[..., :tokens, :], context[..., tokens:, :].flatten(-2)[..., :pooled]


def lengthened(context: Tensor, tokens: int, pooled: int) -> Tensor:
    """The context (…, rows, width) with its token encodings repeated up to ``tokens``, which changes no attention.

    Raises InputError where that is no multiple of their number.
    """
    text, vector = unpack(context, pooled)
    if text.shape[-2] == tokens:
        return context
    if tokens % text.shape[-2]:
        raise InputError(f"a text takes {text.shape[-2]} tokens, the source {tokens}; shorten it")
    return pack(torch.cat([text] * (tokens // text.shape[-2]), -2), vector)
