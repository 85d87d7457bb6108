"""What the core asks of a host framework: one function that predicts ε, and a way into its layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from .context import Context
from .errors import NonFiniteError
from .schedule import NoiseLevel

Part = Literal["self", "cross", "features"]
Stage = Literal["down", "middle", "up"]


@dataclass(frozen=True)
class Layer:
    """A layer of a UNet: attention among its positions or to the text, or the features that a residual block adds.

    ``positions``: of its grid. ``block``: which block with attention of its stage, ``index``: which layer of that kind
    in the block, both from 0 in the order in which they run.
    """

    part: Part
    positions: int
    stage: Stage = "down"
    block: int = 0
    index: int = 0


class AttentionControl:
    """Edits a network while it runs; as the methods stand here, they change nothing. A subclass writes what it needs.

    ``rows``: the samples of the network's batch that are controlled; all others must stay untouched.
    """

    rows: slice

    def rewrites(self, layer: Layer) -> bool:
        """Whether a layer attends with other queries, keys or values now."""
        return False

    def rewrite(self, query: Tensor, key: Tensor, value: Tensor, layer: Layer) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value to use instead of those of the controlled rows, (rows, heads, positions or tokens,
        width) each; the very tensor that was given where nothing changes."""
        return query, key, value

    def weighs(self, layer: Layer) -> bool:
        """Whether a layer's attention is read or edited now."""
        return False

    def weigh(self, probabilities: Tensor, layer: Layer) -> Tensor:
        """Probabilities to use instead of those of the controlled rows, (rows, heads, positions, positions or
        tokens)."""
        return probabilities

    @property
    def edits_features(self) -> bool:
        """Whether any features are edited now."""
        return False

    def shares(self, layer: Layer) -> bool:
        """Whether a layer's features are edited now."""
        return False

    def share(self, features: Tensor, layer: Layer) -> Tensor:
        """Features to use instead of those of the controlled rows, (rows, C, h, w)."""
        return features


class Denoiser(Protocol):
    """A text-conditioned noise predictor. Differentiable with respect to ``context``."""

    def __call__(
        self,
        latents: Tensor,
        level: NoiseLevel,
        context: Context,
        attention: AttentionControl | None = None,
        unconditional: int = 0,
    ) -> Tensor:
        """ε for latents (B, C, h, w) at a noise level under contexts of B texts; same shape and dtype as
        the latents, whatever precision the network runs in. The first ``unconditional`` rows have no text. Where they
        are half of the rows, they are of the same latents as the other half."""
        ...


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float, control: AttentionControl, layer: Layer) -> Tensor:
    """Attention of the controlled rows of a layer with the probabilities that ``control`` wants.

    Query, key, value: (rows, heads, positions or tokens, width). Probabilities are float32 or better.
    """
    exact = torch.promote_types(query.dtype, torch.float32)
    scores = query.to(exact) @ key.to(exact).transpose(-1, -2) * scale
    return control.weigh(scores.softmax(-1), layer).to(value.dtype) @ value


@dataclass
class Counted:
    """A denoiser that counts samples (not calls): ``forwards`` evaluated, ``backwards`` differentiated."""

    denoiser: Denoiser
    forwards: int = 0
    backwards: int = 0

    def __call__(
        self,
        latents: Tensor,
        level: NoiseLevel,
        context: Context,
        attention: AttentionControl | None = None,
        unconditional: int = 0,
    ) -> Tensor:
        epsilon = self.denoiser(latents, level, context, attention, unconditional)
        self.forwards += len(latents)
        if epsilon.requires_grad:
            epsilon.register_hook(self._count)
        return epsilon

    def _count(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


def check_finite(epsilon: Tensor, level: NoiseLevel, step: int) -> Tensor:
    """Return ``epsilon``; raise NonFiniteError where it holds NaN or infinity."""
    if not bool(torch.isfinite(epsilon).all()):
        raise NonFiniteError(
            f"the network produced NaN or infinity at step {step} (timestep {level.timestep:g}); in float16 try "
            "float32 or bfloat16, in these look for NaN in the model's file"
        )
    return epsilon


def broken_weight(weights: Mapping[str, Tensor]) -> str | None:
    """Name of the first weight that holds NaN or infinity, or None."""
    numbers = ((name, w) for name, w in weights.items() if w.is_floating_point())
    return next((name for name, w in numbers if not bool(w.to(torch.float32).isfinite().all())), None)


def broken_model(name: str, dtype: torch.dtype) -> NonFiniteError:
    """The error of a model with a ``broken_weight`` of that name, which computes in ``dtype``."""
    way = "load it in float32" if dtype == torch.float16 else "get another copy of the model's file"
    return NonFiniteError(f"the model's weights hold NaN or infinity ({name}); {way}")


@contextmanager
def no_gradients() -> Iterator[None]:
    """Evaluate without a graph, yet with ordinary tensors that may enter one later."""
    with torch.inference_mode(False), torch.no_grad():
        yield
