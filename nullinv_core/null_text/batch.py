"""The books of null-text optimization: which images of a batch still move, their losses, iterations and budgets."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..context import Context, stack
from ..denoiser import Denoiser, check_finite
from ..schedule import NoiseLevel, Schedule, ddim_step, guide, predicted_clean
from ..types import Callback, Event, NullEmbeddings, Trajectory
from .settings import NullTextSettings
from .units import Units, plain_units, units_of


@dataclass(frozen=True)
class Timestep:
    """Guided sampling from z_t of every image towards its pivot z*_{t-1}.

    ``latents`` z_t, ``pivot`` z*_{t-1} and ``epsilon_text`` ε(z_t, C): (B, C, h, w). ``step``: t in 1 … T.
    """

    latents: Tensor
    pivot: Tensor
    epsilon_text: Tensor
    schedule: Schedule
    step: int
    guidance: float

    @property
    def index(self) -> int:
        """How many timesteps came before; 0 at the noisiest."""
        return self.schedule.steps - self.step

    @property
    def level(self) -> NoiseLevel:
        """The noise level of z_t."""
        return self.schedule.level(self.step)

    def guided(self, images: list[int], epsilon_null: Tensor) -> Tensor:
        """ε of some images under guidance (eq. 1); ``epsilon_null``: theirs, without text."""
        return guide(epsilon_null, self.epsilon_text[images], self.guidance)

    def loss(self, images: list[int], epsilon_null: Tensor) -> Tensor:
        """MSE(z_{t-1}, z*_{t-1}) of some images (eq. 5): (images,)."""
        reached = ddim_step(self.latents[images], self.guided(images, epsilon_null), self.schedule, self.step)
        return (reached - self.pivot[images]).square().mean((1, 2, 3))


@dataclass
class Best:
    """The best of each image at a timestep: its loss (B,), ∅, ε under it (B, C, h, w), and whether that ∅ is the source
    prompt."""

    losses: Tensor
    null: list[Context]
    epsilon_null: Tensor
    is_source: list[bool]

    def offer(
        self, images: list[int], null: Context, epsilon_null: Tensor, loss: Tensor, is_source: bool = False
    ) -> None:
        """Take what is better than what is there; the first of equals stays."""
        found_losses = loss.to("cpu", self.losses.dtype)
        for place, (image, found) in enumerate(zip(images, found_losses, strict=True)):
            if found < self.losses[image]:
                self.losses[image] = found
                self.null[image], self.epsilon_null[image] = null[place], epsilon_null[place]
                self.is_source[image] = is_source


@dataclass
class Books:
    """What is known of each image at the timestep at hand, and what was found at those before.

    ``source``: the context of the source prompts; ε under it is that of the text and need not be predicted. ``free``:
    whether that is so. ``at_source``: for which images ∅ is the source prompt. ``left``: (B,) iterations that an
    image's budget still allows.
    """

    settings: NullTextSettings
    units: Units
    callback: Callback
    source: Context
    free: bool
    at_source: list[bool]
    left: Tensor
    found: list[tuple[Context, Tensor, Tensor]] = field(default_factory=list)

    @property
    def idle(self) -> bool:
        """Whether ∅ takes no part, so that nothing can be won by it, and ε under it need not be predicted."""
        return self.settings.guidance == 1

    def open(self, here: Timestep, null: Context) -> None:
        """Turn to another timestep, at which ∅ starts from ``null``; images that need no iteration there are done
        without a prediction."""
        self.here, batch = here, len(null)
        self.active = list(range(batch))
        self.losses = torch.full((batch,), torch.inf, dtype=null.text.dtype)
        self.iterations = torch.zeros(batch, dtype=torch.int64)
        self.looks = 0
        self.epsilon_null, self.preview = torch.zeros_like(here.latents), here.latents.clone()
        self.best = Best(
            self.losses.clone(), [null[i] for i in self.active], self.epsilon_null.clone(), [False] * batch
        )
        if self.idle:
            self._note(self.active, null, here.epsilon_text, here.loss(self.active, here.epsilon_text))
            self.active = []
            self._tell(1)
            return
        if not self.free:
            return
        if self.settings.keep_best:
            loss = here.loss(self.active, here.epsilon_text)
            self.best.offer(self.active, self.source, here.epsilon_text, loss, is_source=True)
        first = [i for i in self.active if self.at_source[i]]
        if first:
            self._note(first, null[first], here.epsilon_text[first], here.loss(first, here.epsilon_text[first]))
            done = set(first) - set(self._unfinished(first))
            self.active = [i for i in self.active if i not in done]
            self._tell(1)

    def looked(self, null: Context, epsilon_null: Tensor, loss: Tensor) -> list[int]:
        """Note ∅ of the ``active`` images, ε without text and the loss; return those that an Adam step moves now.

        Images that stop are no longer ``active``: with ``test_first`` before that step, else after it, for the step
        was worth its price, and the loss from before it decides (as in the authors' code).
        """
        seen = self.active
        self._note(seen, null.map(torch.detach), epsilon_null.detach(), loss.detach())
        self.looks += 1
        self._tell(self.looks)
        moving = self._unfinished(seen) if self.settings.test_first else seen
        self.iterations[moving] += 1
        self.active = moving if self.settings.test_first else self._unfinished(seen)
        return moving

    def close(self, null: Context, denoiser: Denoiser) -> tuple[Context, Tensor]:
        """∅ of the timestep for each image: ``null``, the last, or the best; and ε (B, C, h, w) under it."""
        images, epsilon_null, losses = list(range(len(null))), self.epsilon_null, self.losses
        unseen = not self.settings.test_first and not self.idle
        if unseen:
            epsilon_null = denoiser(self.here.latents, self.here.level, null, unconditional=len(null))
        if self.settings.keep_best:
            if unseen:
                self._note(images, null, epsilon_null, self.here.loss(images, epsilon_null))
            null, epsilon_null, losses = stack(self.best.null), self.best.epsilon_null, self.best.losses
            self.at_source = self.best.is_source
        else:
            moved = self.iterations.tolist()
            self.at_source = [there and not taken for there, taken in zip(self.at_source, moved, strict=True)]
        self.found.append((null, losses, self.iterations))
        self.left = self.left - self.iterations
        return null, epsilon_null

    def embeddings(self) -> NullEmbeddings:
        """All that was found, step 1 first."""
        nulls, losses, iterations = zip(*self.found[::-1], strict=True)
        schedule, guidance = self.here.schedule, self.settings.guidance
        return NullEmbeddings(stack(nulls), schedule, guidance, torch.stack(losses), torch.stack(iterations))

    def _note(self, images: list[int], null: Context, epsilon_null: Tensor, loss: Tensor) -> None:
        losses = loss.to("cpu", self.losses.dtype)
        if self.settings.keep_best:
            self.best.offer(images, null, epsilon_null, check_finite(losses, self.here.level, self.here.step))
        self.losses[images] = losses
        self.epsilon_null[images] = epsilon_null
        guided = self.here.guided(images, epsilon_null)
        self.preview[images] = predicted_clean(self.here.latents[images], guided, self.here.level.alpha)

    def _unfinished(self, images: list[int]) -> list[int]:
        small, most = self.settings.threshold(self.here.index), self.left.clamp(max=self.settings.inner_steps)
        return [i for i in images if self.losses[i] >= self.units.threshold(i, small) and self.iterations[i] < most[i]]

    def _tell(self, iteration: int) -> None:
        here, losses = self.here, tuple(self.losses.tolist())
        self.callback(Event("optimize", here.index + 1, here.schedule.steps, self.preview.clone(), iteration, losses))


def books_of(trajectory: Trajectory, settings: NullTextSettings, callback: Callback, only_text_differs: bool) -> Books:
    """Books for a trajectory, before the first timestep."""
    batch = trajectory.batch
    units = units_of(trajectory) if settings.relative else plain_units(batch)
    free = only_text_differs and settings.start == "source" and settings.test_first
    left = torch.full((batch,), settings.most_iterations(trajectory.schedule.steps))
    return Books(settings, units, callback, trajectory.context, free, [free] * batch, left)
