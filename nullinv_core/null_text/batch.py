"""The books of null-text optimization: which images of a batch still move, their losses, iterations and budgets."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..schedule import NoiseLevel, Schedule, ddim_step, guide, predicted_clean
from ..types import Callback, Event, NullEmbeddings
from .settings import NullTextSettings


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
class Books:
    """What is known of each image at the timestep at hand, and what was found at those before.

    ``left``: (B,) iterations that an image's budget still allows. ``at_source``: for which images ∅ still is the source
    prompt, under which ε is that of the text and need not be predicted.
    """

    settings: NullTextSettings
    callback: Callback
    left: Tensor
    at_source: list[bool]
    found: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)

    def open(self, here: Timestep, dtype: torch.dtype) -> None:
        """Turn to another timestep; images that need no iteration there are done without a prediction.

        ``dtype``: of the losses.
        """
        self.here, batch = here, len(here.latents)
        self.active = list(range(batch))
        self.losses = torch.full((batch,), torch.inf, dtype=dtype)
        self.iterations = torch.zeros(batch, dtype=torch.int64)
        self.looks = 0
        self.epsilon_null, self.preview = torch.zeros_like(here.latents), here.latents.clone()
        free = [i for i in self.active if self.at_source[i]]
        if free:
            self._note(free, here.epsilon_text[free], here.loss(free, here.epsilon_text[free]))
            done = set(free) - set(self._unfinished(free))
            self.active = [i for i in self.active if i not in done]
            self._tell(1)

    def looked(self, epsilon_null: Tensor, loss: Tensor) -> list[int]:
        """Note ε without text and the loss of the ``active`` images; return those that an Adam step moves now.

        Images that stop are no longer ``active``: with ``test_first`` before that step, else after it, for the step
        was worth its price, and the loss from before it decides (as in the authors' code).
        """
        seen = self.active
        self._note(seen, epsilon_null.detach(), loss.detach())
        self.looks += 1
        self._tell(self.looks)
        if self.settings.test_first:
            moving = self.active = self._unfinished(seen)
            self.iterations[moving] += 1
        else:
            moving = seen
            self.iterations[moving] += 1
            self.active = self._unfinished(seen)
        return moving

    def close(self, null: Tensor, denoiser: Denoiser) -> Tensor:
        """Note the timestep's ∅ (B, tokens, width); return ε (B, C, h, w) under it, predicted where it is not known."""
        self.found.append((null, self.losses, self.iterations))
        self.left = self.left - self.iterations
        moved = self.iterations.tolist()
        self.at_source = [there and not taken for there, taken in zip(self.at_source, moved, strict=True)]
        if self.settings.test_first:
            return self.epsilon_null
        return denoiser(self.here.latents, self.here.level, null, unconditional=len(null))

    def embeddings(self) -> NullEmbeddings:
        """All that was found, step 1 first."""
        embeddings, losses, iterations = (torch.stack(column[::-1]) for column in zip(*self.found, strict=True))
        return NullEmbeddings(embeddings, self.here.schedule, self.settings.guidance, losses, iterations)

    def _note(self, images: list[int], epsilon_null: Tensor, loss: Tensor) -> None:
        self.losses[images] = loss.to("cpu", self.losses.dtype)
        self.epsilon_null[images] = epsilon_null
        guided = self.here.guided(images, epsilon_null)
        self.preview[images] = predicted_clean(self.here.latents[images], guided, self.here.level.alpha)

    def _unfinished(self, images: list[int]) -> list[int]:
        threshold, most = self.settings.threshold(self.here.index), self.left.clamp(max=self.settings.inner_steps)
        return [i for i in images if self.losses[i] >= threshold and self.iterations[i] < most[i]]

    def _tell(self, iteration: int) -> None:
        here, losses = self.here, tuple(self.losses.tolist())
        self.callback(Event("optimize", here.index + 1, here.schedule.steps, self.preview.clone(), iteration, losses))


def books_of(batch: int, steps: int, settings: NullTextSettings, callback: Callback, only_text_differs: bool) -> Books:
    """Books for a batch of so many images, before the first timestep."""
    at_source = only_text_differs and settings.start == "source" and settings.test_first
    left = torch.full((batch,), settings.most_iterations(steps))
    return Books(settings, callback, left, [at_source] * batch)
