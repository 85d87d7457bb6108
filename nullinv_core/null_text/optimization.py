"""Null-text optimization (Mokady et al. 2022, section 3.3, algorithm 1)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..denoiser import Denoiser, check_finite, no_gradients
from ..errors import InputError, NoGradientError
from ..schedule import NoiseLevel, Schedule, check_guidance, ddim_step, guide, predicted_clean
from ..types import Callback, Event, NullEmbeddings, Trajectory, ignore

LOSS_SCALE = 2.0**12
"""Gradients of the mean loss are near 1e-8 and vanish in float16. A power of two changes no bit elsewhere."""

NO_GRADIENT = "the network passes no gradient to its context; turn off custom attention kernels"


@dataclass(frozen=True)
class NullTextSettings:
    """Constants of the optimization; the defaults are the authors' (preset ``paper``).

    ``guidance`` w. ``inner_steps`` N: Adam steps per timestep at most, at least one is always taken.
    ``learning_rate`` at the noisiest step; it falls linearly with the timesteps, by a hundredth of it at each.
    ``early_stop`` and ``early_stop_growth``: a timestep ends once its loss is below early_stop + growth·i, i = 0 at
    the noisiest step.

    What the authors do not have: ``start``: ∅_T starts from the empty prompt's encoding ("null") or from the source
    prompt's ("source"), where guided sampling is already close to the pivot. ``test_first``: the loss is looked at
    before the first Adam step, which is left out where it is small enough. ``budget``: Adam steps over the whole
    trajectory at most, 0 for no limit; timesteps near the image come last and go without when it is spent.
    """

    guidance: float = 7.5
    inner_steps: int = 10
    learning_rate: float = 1e-2
    early_stop: float = 1e-5
    early_stop_growth: float = 2e-5
    start: Literal["null", "source"] = "null"
    test_first: bool = False
    budget: int = 0

    def __post_init__(self) -> None:
        check_guidance(self.guidance)
        if self.inner_steps < 1:
            raise InputError(f"inner steps must be at least 1, not {self.inner_steps}")
        if self.start not in ("null", "source"):
            raise InputError(f'start must be "null" or "source", not "{self.start}"')
        if self.budget < 0 or (self.budget and not self.test_first):
            raise InputError("a budget is a number of optimizer steps from 1, and needs test_first")
        if not 0 < self.learning_rate < math.inf:
            raise InputError(f"the learning rate must be positive, not {self.learning_rate}")

    def rate(self, index: int, steps: int) -> float:
        """Learning rate of the ``index``-th timestep from the noisiest; stays positive beyond 100 steps."""
        return self.learning_rate * (1 - index / max(100, steps))

    def threshold(self, index: int) -> float:
        """Loss under which the ``index``-th timestep from the noisiest ends early."""
        return self.early_stop + self.early_stop_growth * index


PAPER = NullTextSettings()
FAST = NullTextSettings(start="source", test_first=True, budget=16)
"""At most 3·50 network samples for 50 steps, where the authors' constants take some 1,350."""


def optimize_null_text(
    denoiser: Denoiser,
    trajectory: Trajectory,
    null_context: Tensor,
    settings: NullTextSettings = PAPER,
    callback: Callback = ignore,
    only_text_differs: bool = True,
) -> tuple[NullEmbeddings, Tensor]:
    """Return ∅_1 … ∅_T under which guided sampling retraces the trajectory, and the latents z_0 that it reaches.

    ``null_context``: the empty prompt's encoding, (tokens, width) or (B, tokens, width). Every image of the batch
    has its own loss, stop and result. For t = T … 1: ∅_t starts from ∅_{t+1}, is moved by a fresh Adam until
    MSE(z_{t-1}, z*_{t-1}) is small, then z_{t-1} follows from the optimized ∅_t (eq. 5 and algorithm 1).
    ``only_text_differs``: nothing but the context tells conditional and unconditional rows apart. While ∅ still is the source
    prompt, ε under it is then known already.
    """
    schedule, batch = trajectory.schedule, trajectory.batch
    trajectory.check_context(null_context, "null context")
    with no_gradients():
        null = trajectory.context if settings.start == "source" else null_context
        null = null.detach().to(torch.promote_types(null.dtype, torch.float32)).clone()
        null = null.expand(batch, *null.shape[-2:])
        known = [only_text_differs and settings.start == "source" and settings.test_first] * batch
        left = torch.full((batch,), settings.budget or settings.inner_steps * schedule.steps)
        latents = trajectory.noisiest
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for index, step in enumerate(range(schedule.steps, 0, -1)):
            level = schedule.level(step)
            epsilon_text = check_finite(denoiser(latents, level, trajectory.context), level, step)

            def report(iteration: int, losses: Tensor, preview: Tensor, index: int = index) -> None:
                values = tuple(losses.tolist())
                callback(Event("optimize", index + 1, schedule.steps, preview, iteration, values))

            null, losses, iterations, epsilon_null = _optimize_step(
                denoiser, latents, trajectory.latents[step - 1], epsilon_text, null, known, left, schedule, step,
                settings, settings.rate(index, schedule.steps), settings.threshold(index), report,
            )  # fmt: skip
            left = left - iterations
            known = [k and not taken for k, taken in zip(known, iterations.tolist(), strict=True)]
            found.append((null, losses, iterations))
            if epsilon_null is None:
                epsilon_null = denoiser(latents, level, null, unconditional=batch)
            epsilon = guide(epsilon_null, epsilon_text, settings.guidance)
            latents = ddim_step(latents, check_finite(epsilon, level, step), schedule, step)
        embeddings, losses, iterations = (torch.stack(column[::-1]) for column in zip(*found, strict=True))
        return NullEmbeddings(embeddings, schedule, settings.guidance, losses, iterations), latents


def _optimize_step(
    denoiser: Denoiser,
    latents: Tensor,
    target: Tensor,
    epsilon_text: Tensor,
    null: Tensor,
    known: list[bool],
    left: Tensor,
    schedule: Schedule,
    step: int,
    settings: NullTextSettings,
    rate: float,
    threshold: float,
    report: Callable[[int, Tensor, Tensor], None],
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """∅_t (B, tokens, width), its losses (B,), iterations (B,), and ε under it where that is known already.

    Images that are done leave the batch. ``known``: of which images ε under ∅ is ``epsilon_text``. ``left``: (B,)
    iterations that an image's budget still allows.
    """
    level = schedule.level(step)
    rows = [row.clone().requires_grad_(True) for row in null]
    optimizer = torch.optim.Adam(rows, lr=rate)
    losses = torch.full((len(rows),), torch.inf, dtype=null.dtype)
    iterations = torch.zeros(len(rows), dtype=torch.int64)
    reached, preview = torch.zeros_like(latents), latents.clone()

    def loss_of(images: list[int], epsilon_null: Tensor) -> Tensor:
        epsilon = guide(epsilon_null, epsilon_text[images], settings.guidance)
        loss = (ddim_step(latents[images], epsilon, schedule, step) - target[images]).square().mean((1, 2, 3))
        losses[images] = loss.detach().to("cpu", losses.dtype)
        reached[images] = epsilon_null.detach()
        preview[images] = predicted_clean(latents[images], epsilon.detach(), level.alpha)
        return loss

    def unfinished(images: list[int]) -> list[int]:
        most = left.clamp(max=settings.inner_steps)
        return [i for i in images if losses[i] >= threshold and iterations[i] < most[i]]

    active = list(range(len(rows)))
    free = [i for i in active if known[i]]
    if free:
        loss_of(free, epsilon_text[free])
        report(1, losses, preview.clone())
        done = set(free) - set(unfinished(free))
        active = [i for i in active if i not in done]
    for iteration in range(1, settings.inner_steps + 1 + settings.test_first):
        if not active:
            break
        with torch.enable_grad():
            epsilon_null = denoiser(
                latents[active], level, torch.stack([rows[i] for i in active]), unconditional=len(active)
            )
            loss = loss_of(active, epsilon_null)
        if not loss.requires_grad:
            raise NoGradientError(NO_GRADIENT)
        seen = active
        if settings.test_first:
            report(iteration, losses, preview.clone())
            active = unfinished(active)
            if not active:
                break
        optimizer.zero_grad(set_to_none=True)
        with torch.enable_grad():
            wanted = loss[[seen.index(i) for i in active]] if settings.test_first else loss
            # of a network that cannot be differentiated there is no graph, which _unscale tells
            if wanted.requires_grad:
                (wanted.sum() * LOSS_SCALE).backward()
        for i in set(seen) - set(active):
            # Adam's momentum would move an image that is done even where its gradient is zero
            rows[i].grad = None
        _unscale([rows[i] for i in active], level, step)
        optimizer.step()
        iterations[active] += 1
        if not settings.test_first:
            report(iteration, losses, preview.clone())
            # the step just taken was worth its price, so the loss from before it decides (as the authors' code does)
            active = [i for i in active if losses[i] >= threshold]
    embeddings = torch.stack([row.detach() for row in rows])
    return embeddings, losses, iterations, reached if settings.test_first else None


def _unscale(rows: list[Tensor], level: NoiseLevel, step: int) -> None:
    """Divide the gradients by LOSS_SCALE; raise NonFiniteError where one is NaN or infinite."""
    for row in rows:
        if row.grad is None:
            raise NoGradientError(NO_GRADIENT)
        check_finite(row.grad, level, step)
        row.grad /= LOSS_SCALE
