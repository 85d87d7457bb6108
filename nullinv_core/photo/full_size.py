"""An edit in the photo's own size: models work on small pictures, cameras make large ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from .images import GRID

Size = tuple[int, int]
"""(height, width)."""
Tell = Callable[[str], None]
OTHER_PHOTO = 0.2
"""Root of the mean square, of 1 from black to white, from which on two pictures are not of one photo."""
CLEARLY = 0.98
"""Another way of scaling must leave at most so much of the squared difference to count as the true one."""


@dataclass(frozen=True)
class Span:
    """Where on an axis of a photo, ``whole`` pixels long, the ``small`` pixels of an edit lie."""

    whole: int
    small: int
    start: float
    length: float

    @property
    def rim(self) -> float:
        """What lies beside it on either side at most, in pixels of the edit."""
        return max(self.start, self.whole - self.start - self.length) * self.small / self.length

    def shrinking(self) -> Tensor:
        """(small, whole): what makes the edit's pixels of the photo's."""
        return resampling(self.whole, self.start, self.length, self.small)

    def growing(self) -> Tensor:
        """(whole, small): what makes the photo's pixels of the edit's; as at its border around it."""
        scale = self.small / self.length
        return resampling(self.small, -self.start * scale, self.whole * scale, self.whole)

    def scaled(self, whole: int) -> Span:
        """The same in a photo that is ``whole`` pixels long."""
        scale = whole / self.whole
        return Span(whole, self.small, self.start * scale, self.length * scale)

    def inside(self) -> Tensor:
        """bool (whole,): pixels that the edit reaches, with a rim of up to a latent position, which nobody cropped."""
        places = torch.arange(self.whole) + 0.5
        beside = (places < self.start) | (places > self.start + self.length)
        return ~beside | torch.tensor(self.rim <= GRID)


Place = tuple[Span, Span]
"""Of rows, and of columns."""


def resampling(inputs: int, start: float, length: float, outputs: int) -> Tensor:
    """Weights (outputs, inputs) of cubic convolution (Keys 1981, a = -1/2) for ``outputs`` pixels that are spread from
    ``start`` over ``length`` of a row of ``inputs``: over wider surroundings where it shrinks, at the border's colour
    beyond it."""
    scale = length / outputs
    places = (start + (torch.arange(outputs, dtype=torch.float64) + 0.5) * scale - 0.5).clamp(0, inputs - 1)
    distance = (torch.arange(inputs) - places[:, None]).abs() / max(scale, 1.0)
    near, far = (1.5 * distance - 2.5) * distance**2 + 1, ((2.5 - 0.5 * distance) * distance - 4) * distance + 2
    weights = torch.where(distance <= 1, near, torch.where(distance < 2, far, 0))
    return (weights / weights.sum(1, keepdim=True)).float()


def resampled(pictures: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Pictures (B, H, W, C) by weights (h, H) and (w, W): (B, h, w, C)."""
    tall = torch.einsum("hH,bHWc->bhWc", rows.to(pictures), pictures)
    return torch.einsum("wW,bhWc->bhwc", columns.to(pictures), tall)


def centre(whole: Size, small: Size) -> Place:
    """The centre of a photo in the shape of an edit; raises InputError for a photo that is smaller."""
    if not _covers(whole, small):
        raise InputError(
            f"the photo, {whole[1]}×{whole[0]} pixels, is smaller than its edit, {small[1]}×{small[0]}; give the "
            "photo that was encoded"
        )
    scale = min(whole[0] / small[0], whole[1] / small[1])
    rows, columns = (Span(a, b, (a - b * scale) / 2, b * scale) for a, b in zip(whole, small, strict=True))
    return rows, columns


def places(whole: Size, small: Size) -> Iterator[Place]:
    """Ways in which a photo may have become so small: its centre; all of it, stretched; all of it scaled to sides that
    are no multiples of ``GRID``, of which an autoencoder then left out what exceeds them, as ComfyUI's does."""
    yield centre(whole, small)
    yield Span(whole[0], small[0], 0, whole[0]), Span(whole[1], small[1], 0, whole[1])
    for lost in range(GRID):
        for more in range(GRID):
            height, width = small[0] + lost, small[1] + more
            # as near to the photo's shape as whole pixels are
            if (lost or more) and abs(whole[1] * height / whole[0] - width) <= 1:
                yield _cropped(whole[0], small[0], lost), _cropped(whole[1], small[1], more)


def _cropped(whole: int, small: int, lost: int) -> Span:
    scale = whole / (small + lost)
    return Span(whole, small, lost // 2 * scale, small * scale)


def place_of(photo: Tensor, small: Tensor) -> Place:
    """Where in photos (B, H, W, 3) the pictures (B, h, w, 3) that were made of them lie.

    Raises InputError for photos that are smaller, and for pictures of another photo.
    """
    whole, size = (photo.shape[1], photo.shape[2]), (small.shape[1], small.shape[2])
    first, *others = places(whole, size)
    # twice the size tells all ways apart, and takes less time than a camera's picture
    sketched = min(2 * size[0], whole[0]), min(2 * size[1], whole[1])
    rows, columns = (resampling(a, 0, a, b) for a, b in zip(whole, sketched, strict=True))
    sketch, small = resampled(photo.to(small).float(), rows, columns), small.float()

    def error(place: Place) -> float:
        rows, columns = (span.scaled(side).shrinking() for span, side in zip(place, sketched, strict=True))
        return float((resampled(sketch, rows, columns) - small).square().mean())

    best, least = first, error(first)
    for place in others:
        if (found := error(place)) < CLEARLY * least:
            best, least = place, found
    if least > OTHER_PHOTO**2:
        raise InputError("the photo is not the one that was edited, or not its centre was; give the photo as it was")
    return best


def scaled_down(photo: Tensor, place: Place) -> Tensor:
    """What an edit was made of: float32 (B, h, w, 3) in 0…1 of photos (B, H, W, 3)."""
    rows, columns = (span.shrinking() for span in place)
    return resampled(photo.float(), rows, columns).clamp(0, 1)


def at_full_size(photo: Tensor, small: Tensor, edited: Tensor, share: Tensor, place: Place) -> tuple[Tensor, Tensor]:
    """Edits in the size of their photo, and the ``share`` of each pixel that is the edit's: what changed is enlarged,
    all else is the photo's own pixels.

    ``photo``: (B, H, W, 3) in 0…1. ``small``: (B, h, w, 3), the same ``scaled_down``. ``edited``: E edits of each,
    (B·E, h, w, 3); ``share``: (B·E, h, w) in 0…1. Returns float32 (B·E, H, W, 3) and (B·E, H, W) in 0…1; beyond what
    the edit reaches they are the photo, and 0.
    """
    edits = len(edited) // len(photo)
    rows, columns = (span.growing() for span in place)
    down, across = (span.inside().to(photo.device) for span in place)
    reached = (down[:, None] & across)[..., None]
    results, shares = [], []
    # one after the other: a camera's picture takes hundreds of megabytes
    for row, (picture, mask) in enumerate(zip(edited.float(), share.float(), strict=True)):
        whole, before = photo[row // edits].to(picture), small[row // edits].to(picture)
        of_edit = torch.cat([picture - before, before, mask[..., None]], -1)
        change, blurred, changes = (resampled(of_edit[None], rows, columns)[0] * reached).split([3, 3, 1], -1)
        changes = changes.clamp(0, 1)
        touched = (changes > 0) | (change != 0).any(-1, keepdim=True)
        results.append(torch.where(touched, (whole + change + changes * (blurred - whole)).clamp(0, 1), whole))
        shares.append(changes[..., 0])
    return torch.stack(results), torch.stack(shares)


def _covers(whole: Sequence[int], small: Sequence[int]) -> bool:
    """Whether no side of a picture is shorter than that of another."""
    return whole[0] >= small[0] and whole[1] >= small[1]


def check_full_size(full_size: bool, keep_pixels: bool) -> None:
    """Raise InputError where a result of the photo's own size is to have none of its pixels."""
    if full_size and not keep_pixels:
        raise InputError("full_size needs keep_pixels, as the photo's own pixels are what it keeps sharp; turn that on")


def larger(photo: Tensor, small: Tensor, tell: Tell) -> Tensor:
    """Photos (B, H, W, 3), or ``small`` where a side of them is shorter than its; the user is told of that."""
    if _covers(photo.shape[1:3], small.shape[1:3]):
        return photo
    tell(
        f"the photo, {photo.shape[2]}×{photo.shape[1]} pixels, is smaller than what was worked on: the result has "
        f"{small.shape[2]}×{small.shape[1]}"
    )
    return small
