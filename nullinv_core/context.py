"""What a network is told of a text: the encodings of its tokens, and a pooled vector beside them where a family reads
one (SDXL: Podell et al. 2023, section 2.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .errors import InputError

SAME_TEXT, ANY_PRECISION = 0.01, 0.05
"""How far apart two encodings of one text may be, as ``same_text`` measures it: by one encoder, and by one in any
precision. With the demo model bfloat16 is 0.008, a weight of 1.3 on a word 0.04, another word 0.1 and more, a full stop
0.13."""


@dataclass(frozen=True, eq=False)
class Context:
    """Encodings of one text, or of many along any leading axes (pictures, edits, steps).

    ``text``: (…, tokens, width). ``pooled``: (…, P), one vector for the whole text; None for families without.
    """

    text: Tensor
    pooled: Tensor | None = None

    def __post_init__(self) -> None:
        if self.pooled is not None and self.pooled.shape[:-1] != self.text.shape[:-2]:
            raise InputError(
                f"encodings (…, tokens, width) = {tuple(self.text.shape)} and pooled vectors (…, P) = "
                f"{tuple(self.pooled.shape)} are not of as many texts"
            )

    @property
    def tensors(self) -> list[Tensor]:
        """All that there is, the tokens first."""
        return [self.text] if self.pooled is None else [self.text, self.pooled]

    @property
    def shape(self) -> torch.Size:
        """Of the tokens' encodings."""
        return self.text.shape

    @property
    def tokens(self) -> int:
        """How many tokens a text takes."""
        return self.text.shape[-2]

    def map(self, change: Callable[[Tensor], Tensor]) -> Context:
        """The same with every tensor changed."""
        return Context(*map(change, self.tensors))

    def to(self, like: Any) -> Context:
        """The same on another device or in another type; ``like``: another context, or what ``Tensor.to`` takes."""
        wanted = like.text if isinstance(like, Context) else like
        return self.map(lambda tensor: tensor.to(wanted))

    def expand(self, *leading: int) -> Context:
        """One text for each, along these leading axes."""
        pooled = None if self.pooled is None else self.pooled.expand(*leading, self.pooled.shape[-1])
        return Context(self.text.expand(*leading, *self.text.shape[-2:]), pooled)

    def where(self, chosen: Tensor, other: Context) -> Context:
        """Of many texts those that are ``chosen``, bool (B,), and the others of another context."""
        each = (tensor.where(chosen.view(-1, *(1,) * (tensor.ndim - 1)), there)
                for tensor, there in zip(self.tensors, other.tensors, strict=True))  # fmt: skip
        return Context(*each)

    def lengthened(self, tokens: int) -> Context:
        """The same texts, repeated up to so many tokens, which changes no attention.

        Raises InputError where that is no multiple of their number.
        """
        if tokens == self.tokens:
            return self
        if tokens % self.tokens:
            raise InputError(f"a text takes {self.tokens} tokens, the source {tokens}; shorten it")
        return Context(torch.cat([self.text] * (tokens // self.tokens), -2), self.pooled)

    def fits(self, other: Context) -> bool:
        """Whether both are of one kind: as many tokens of the same width, and pooled vectors of the same width."""
        return _own_shapes(self) == _own_shapes(other)

    def equals(self, other: Context) -> bool:
        """Whether both are the same, to the bit."""
        return self.fits(other) and all(map(torch.equal, self.tensors, other.tensors))

    def __len__(self) -> int:
        return len(self.text)

    def __getitem__(self, index: Any) -> Context:
        """What ``index`` picks along the leading axes."""
        return self.map(lambda tensor: tensor[index])


def cat(contexts: Sequence[Context], dim: int = 0) -> Context:
    """Several contexts as one, along a leading axis."""
    return _joined(torch.cat, contexts, dim)


def stack(contexts: Sequence[Context], dim: int = 0) -> Context:
    """Several contexts as one, along a new leading axis."""
    return _joined(torch.stack, contexts, dim)


def distance(one: Context, other: Context) -> Tensor:
    """‖one - other‖ over all numbers of two contexts that fit each other."""
    return norm(Context(*(a - b for a, b in zip(one.tensors, other.tensors, strict=True))))


def same_text(one: Context, other: Context, within: float = SAME_TEXT) -> bool:
    """Whether both may be of one text: the root mean square over tokens of ‖a - b‖ / ‖b‖ is not above ``within``.

    Each token counts alike, as some encoders' first is far larger than the others.
    """
    if one.shape != other.shape or not one.fits(other):
        return False
    pairs = zip(one.tensors, other.tensors, strict=True)
    shares = [(a - b).norm(dim=-1) / b.norm(dim=-1).clamp_min(torch.finfo(b.dtype).tiny) for a, b in pairs]
    return bool(torch.cat([share.flatten() for share in shares]).square().mean().sqrt() <= within)


def norm(context: Context) -> Tensor:
    """‖context‖ over all of its numbers."""
    return torch.cat([tensor.flatten() for tensor in context.tensors]).norm()


def _joined(join: Callable[..., Tensor], contexts: Sequence[Context], dim: int) -> Context:
    return Context(*(join(tensors, dim) for tensors in zip(*(one.tensors for one in contexts), strict=True)))


def _own_shapes(context: Context) -> list[torch.Size]:
    """The shapes of a single text's tensors."""
    return [context.text.shape[-2:], *(tensor.shape[-1:] for tensor in context.tensors[1:])]
