"""How an inversion file keeps a pooled vector: in rows of its own behind those of the tokens, filled up with 0.

The file does not say how long the vector is. Models of full size tell it by the width of their tokens; files that tell
sizes have one too, in one row, and what is 0 at its end in all texts of the file is filling.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from .. import families
from ..context import Context
from ..errors import InputError


def packed(context: Context) -> Tensor:
    """(…, tokens + rows, width), as a file keeps it; without a pooled vector the text itself."""
    if context.pooled is None:
        return context.text
    width, length = context.text.shape[-1], context.pooled.shape[-1]
    rows = -(-length // width)
    filled = pad(context.pooled, (0, rows * width - length)).unflatten(-1, (rows, width))
    return torch.cat([context.text, filled.to(context.text)], -2)


def check_packed(context: Context, told_sizes: bool) -> None:
    """Raise InputError for a context that could not be read again. ``told_sizes``: whether its file tells sizes."""
    has = families.pooled_width(context.text.shape[-1]) > 0 or told_sizes
    if has != (context.pooled is not None):
        raise InputError("an inversion with a pooled text vector needs sizes, and one without must have none")


def unpacked(packs: Sequence[Tensor], told_sizes: bool) -> list[Context]:
    """What ``packed`` made all of these of; they are of one file, which tells sizes or not."""
    width = packs[0].shape[-1]
    length = families.pooled_width(width)
    if not length and told_sizes:
        used = torch.stack([pack[..., -1, :].reshape(-1, width).any(0) for pack in packs]).any(0)
        length = 1 + int(used.nonzero().max()) if bool(used.any()) else width
    if not length:
        return [Context(pack) for pack in packs]
    rows = -(-length // width)
    if any(pack.shape[-2] <= rows for pack in packs):
        raise InputError("its context has no tokens beside the pooled vector")
    return [Context(pack[..., :-rows, :], pack[..., -rows:, :].flatten(-2)[..., :length]) for pack in packs]
