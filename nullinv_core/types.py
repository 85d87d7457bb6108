"""What travels between the stages: immutable dataclasses of tensors with what is needed to use them again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from .context import Context
from .errors import InputError
from .schedule import Schedule, check_guidance

Phase = Literal["invert", "optimize", "pin", "sample"]


@dataclass(frozen=True)
class Event:
    """What a callback gets after every network call that brought the work forward.

    ``step`` counts 1 … ``total`` in the order of work. ``iteration`` and ``loss`` (B values) are set while
    optimizing. ``preview``: the clean latents (B, C, h, w) that the current state implies; of an
    edit (B·E, C, h, w).
    """

    phase: Phase
    step: int
    total: int
    preview: Tensor
    iteration: int | None = None
    loss: tuple[float, ...] | None = None


Callback = Callable[[Event], None]
"""Progress, preview and cancel in one: raise any exception to stop; it reaches the caller unchanged."""


def ignore(event: Event) -> None:
    """The callback that does nothing."""


@dataclass(frozen=True, repr=False)
class Trajectory:
    """The pivot z*_0 … z*_T of each image.

    ``latents``: (T+1, B, C, h, w), index 0 clean, variance preserving. ``context``: of the B source prompts that the
    trajectory was made with.
    """

    latents: Tensor
    context: Context
    schedule: Schedule

    def __post_init__(self) -> None:
        if self.latents.ndim != 5 or len(self.latents) != self.schedule.steps + 1:
            raise InputError(
                f"a trajectory of {self.schedule.steps} steps has shape ({self.schedule.steps + 1}, B, C, h, w), "
                f"not {tuple(self.latents.shape)}"
            )
        if self.context.text.ndim != 3 or len(self.context) != self.batch:
            raise InputError(
                f"a trajectory of {self.batch} images needs a context ({self.batch}, tokens, width), "
                f"not {tuple(self.context.shape)}"
            )

    def check_context(self, context: Context, what: str) -> None:
        """Raise InputError unless a context fits: of a single text, of one image or of each."""
        whole, leading = self.context.shape, context.shape[:-2]
        if not context.fits(self.context) or leading not in ((), (1,), (self.batch,)):
            raise InputError(
                f"a {what} {tuple(context.shape)} does not fit this trajectory, whose context (B, tokens, width) is "
                f"{tuple(whole)}"
            )

    @property
    def batch(self) -> int:
        """Number of images B."""
        return self.latents.shape[1]

    @property
    def clean(self) -> Tensor:
        """z*_0: (B, C, h, w)."""
        return self.latents[0]

    @property
    def noisiest(self) -> Tensor:
        """z*_T: (B, C, h, w)."""
        return self.latents[-1]

    def to(self, device: torch.device | str) -> Trajectory:
        """The same on another device."""
        return replace(self, latents=self.latents.to(device), context=self.context.to(device))

    def __repr__(self) -> str:
        _, batch, channels, height, width = self.latents.shape
        return (
            f"Trajectory({self.schedule.steps} steps, {batch} image{'s' * (batch > 1)}, "
            f"latents {channels}×{height}×{width})"
        )


@dataclass(frozen=True, repr=False)
class Pin:
    """What edits need whose source branch is read from the trajectory (it is pinned) instead of sampled.

    ``null``: of one text or of B, the context that guides the edits in place of ∅_t. ``guidance``: (T, B, C, h, w), the
    photo's own (see ``guidance_of_photo``), whose share is left out of the edits'; None where nothing is left out.
    """

    null: Context
    guidance: Tensor | None = None

    def to(self, device: torch.device | str) -> Pin:
        """The same on another device."""
        return Pin(self.null.to(device), None if self.guidance is None else self.guidance.to(device))


@dataclass(frozen=True, repr=False)
class NullEmbeddings:
    """∅_1 … ∅_T of each image, for one schedule and guidance scale.

    ``embeddings``: float32, of T·B texts (T, B, tokens, width), index 0 belongs to step 1. ``losses`` and
    ``iterations``: (T, B), the loss of ∅_t, or the last that was seen (0 where none was), and how many optimizer steps
    were taken; step 1 first. ``pin``: how edits do without ∅_t; None where ∅_t guides all branches, as the paper has
    it.
    """

    embeddings: Context
    schedule: Schedule
    guidance: float
    losses: Tensor
    iterations: Tensor
    pin: Pin | None = None

    def __post_init__(self) -> None:
        if self.embeddings.text.ndim != 4:
            raise InputError(f"null embeddings have shape (T, B, tokens, width), not {tuple(self.embeddings.shape)}")
        if len(self.embeddings) != self.schedule.steps:
            raise InputError(f"{len(self.embeddings)} null embeddings do not fit {self.schedule.steps} steps")
        check_guidance(self.guidance)
        for name in ("losses", "iterations"):
            if getattr(self, name).shape != self.embeddings.shape[:2]:
                raise InputError(f"{name} of null embeddings must be (T, B) = {tuple(self.embeddings.shape[:2])}")
        if self.pin is None:
            return
        if not self.pin.null.fits(self.embeddings) or self.pin.null.shape != self.embeddings.shape[1:]:
            wanted, found = tuple(self.embeddings.shape[1:]), tuple(self.pin.null.shape)
            raise InputError(f"the null context of edits must be (B, tokens, width) = {wanted}, not {found}")
        if self.pin.guidance is not None and self.pin.guidance.shape[:2] != self.embeddings.shape[:2]:
            wanted, found = tuple(self.embeddings.shape[:2]), tuple(self.pin.guidance.shape)
            raise InputError(f"the photo's own guidance must begin with (T, B) = {wanted}, not be {found}")

    @property
    def steps(self) -> int:
        """T."""
        return len(self.embeddings)

    @property
    def pinned(self) -> bool:
        """Whether edits read their source branch from the trajectory."""
        return self.pin is not None

    def at(self, step: int) -> Context:
        """∅_t of step 1 … T, of B images."""
        return self.embeddings[step - 1]

    def to(self, device: torch.device | str) -> NullEmbeddings:
        """The same on another device."""
        pin = None if self.pin is None else self.pin.to(device)
        return replace(self, embeddings=self.embeddings.to(device), pin=pin)

    def __repr__(self) -> str:
        steps, batch, tokens, width = self.embeddings.shape
        loss = f"final loss {self.losses[0].max().item():.2e}" if bool(self.losses.any()) else "nothing optimized"
        return (
            f"NullEmbeddings({steps} steps, {batch} image{'s' * (batch > 1)}, {tokens}×{width}, "
            f"guidance {self.guidance:g}, {loss})"
        )
