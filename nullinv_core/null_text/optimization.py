"""Null-text optimization (Mokady et al. 2022, section 3.3, algorithm 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..context import Context, stack
from ..denoiser import Denoiser, check_finite, no_gradients
from ..errors import NoGradientError
from ..schedule import ddim_step, guide
from ..types import Callback, NullEmbeddings, Trajectory, ignore
from .batch import Books, Timestep, books_of
from .settings import PAPER, NullTextSettings

LOSS_SCALE = 2.0**12
"""Gradients of the mean loss are near 1e-8 and vanish in float16. A power of two changes no bit elsewhere."""

NO_GRADIENT = "the network passes no gradient to its context; turn off custom attention kernels"


def optimize_null_text(
    denoiser: Denoiser,
    trajectory: Trajectory,
    null_context: Context,
    settings: NullTextSettings = PAPER,
    callback: Callback = ignore,
    only_text_differs: bool = True,
) -> tuple[NullEmbeddings, Tensor]:
    """Return ∅_1 … ∅_T under which guided sampling retraces the trajectory, and the latents z_0 that it reaches.

    ``null_context``: of the empty prompt, once or for each of B images. Every image of the batch has its own loss, stop
    and result. What moves is ∅'s text; its pooled vector stays, unless the settings say so. For t = T … 1: ∅_t starts
    from ∅_{t+1}, is moved by a fresh Adam until MSE(z_{t-1}, z*_{t-1}) is small, then z_{t-1} follows from the
    optimized ∅_t (eq. 5 and algorithm 1). With ``keep_best`` the loss of ∅_t is never above that of ∅_{t+1} at t, nor
    of the source prompt where it costs nothing. ``only_text_differs``: conditional and unconditional predictions differ
    by their text alone. Then ε under ∅ needs no prediction of its own while ∅ is the source prompt. At a guidance of 1
    ∅ takes no part: it stays as it starts, and nothing is predicted under it.
    """
    schedule, w = trajectory.schedule, settings.guidance
    trajectory.check_context(null_context, "null context")
    with no_gradients():
        books = books_of(trajectory, settings, callback, only_text_differs)
        null, latents = _first_null(trajectory, null_context, settings), trajectory.noisiest
        for step in range(schedule.steps, 0, -1):
            level = schedule.level(step)
            epsilon_text = check_finite(denoiser(latents, level, trajectory.context), level, step)
            here = Timestep(latents, trajectory.latents[step - 1], epsilon_text, schedule, step, w)
            rows = [_free(null[image], settings) for image in range(trajectory.batch)]
            rate = settings.rate(here.index, schedule.steps)
            adam = torch.optim.Adam(
                [{"params": _moving(row), "lr": books.units.rate(i, rate)} for i, row in enumerate(rows)]
            )
            books.open(here, null)
            while images := books.active:
                with torch.enable_grad():
                    context = stack([rows[i] for i in images])
                    epsilon_null = denoiser(latents[images], level, context, unconditional=len(images))
                    loss = here.loss(images, epsilon_null)
                moving = books.looked(context, epsilon_null, loss)
                _adam_step(adam, {i: rows[i] for i in images}, loss, moving, books)
            null, epsilon_null = books.close(stack(rows).map(torch.detach), denoiser)
            epsilon = guide(epsilon_null, epsilon_text, w)
            latents = ddim_step(latents, check_finite(epsilon, level, step), schedule, step)
        return books.embeddings(), latents


def _first_null(trajectory: Trajectory, null_context: Context, settings: NullTextSettings) -> Context:
    """∅ of every image before the first step, float32 or better."""
    null = trajectory.context if settings.start == "source" else null_context
    exact = torch.promote_types(null.text.dtype, torch.float32)
    return null.map(lambda tensor: tensor.detach().to(exact).clone()).expand(trajectory.batch)


def _free(null: Context, settings: NullTextSettings) -> Context:
    """A copy of one image's ∅ whose text may move, and its pooled vector where the settings say so."""
    copy = null.map(torch.clone)
    for tensor in copy.tensors if settings.optimize_pooled else [copy.text]:
        tensor.requires_grad_(True)
    return copy


def _moving(null: Context) -> list[Tensor]:
    """What of ∅ may move."""
    return [tensor for tensor in null.tensors if tensor.requires_grad]


def _adam_step(adam: torch.optim.Adam, rows: dict[int, Context], loss: Tensor, moving: list[int], books: Books) -> None:
    """Move ∅ of some of the images whose ``loss`` was just computed; ``rows``: their ∅ by image.

    Raises NoGradientError where the network passes no gradient, NonFiniteError where one is NaN or infinite.
    """
    if not loss.requires_grad:
        raise NoGradientError(NO_GRADIENT)
    if not moving:
        return
    places = {image: place for place, image in enumerate(rows)}
    gains = loss.new_tensor([books.units.gain(image) for image in moving])
    adam.zero_grad(set_to_none=True)
    with torch.enable_grad():
        ((loss[[places[i] for i in moving]] * gains).sum() * LOSS_SCALE).backward()
    for image, tensor in ((image, tensor) for image, row in rows.items() for tensor in _moving(row)):
        if image not in moving:
            # Adam's momentum would move an image that is done even where its gradient is zero
            tensor.grad = None
            continue
        if tensor.grad is None:
            raise NoGradientError(NO_GRADIENT)
        check_finite(tensor.grad, books.here.level, books.here.step)
        tensor.grad /= LOSS_SCALE
    adam.step()
