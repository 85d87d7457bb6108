"""Guided DDIM sampling from the end of a trajectory: reconstruction, and editing with Prompt-to-Prompt."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .denoiser import Denoiser, check_finite, no_gradients
from .drift import CLOSE, Check, from_prediction
from .errors import InputError
from .prompt_to_prompt.attention import AttentionMaps, EditBatch, StepControl, map_grid, needs_source
from .prompt_to_prompt.fresh_noise import edit_start
from .prompt_to_prompt.local_blend import blend_mask, uses_blend
from .schedule import check_guidance, ddim_step, guide, predicted_clean, steps_of
from .shared_guidance import without_shared
from .types import Callback, Event, NullEmbeddings, Pin, Trajectory, ignore


@dataclass(frozen=True, repr=False)
class EditResult:
    """Edited latents and what explains them.

    ``latents``: (B, E, C, h, w), clean. ``source``: (B, C, h, w), what the source branch reached. ``mask``: bool
    (B, E, h, w), where the last local blend let the edit through. ``maps``: mean cross-attention of source and edit
    branches, float32 (B, 1+E, grid h, grid w, tokens); None where the model has no layer of the grid that is read.
    """

    latents: Tensor
    source: Tensor
    mask: Tensor
    maps: Tensor | None

    def __repr__(self) -> str:
        batch, edits, channels, height, width = self.latents.shape
        return f"EditResult({batch}×{edits} edits, latents {channels}×{height}×{width})"


def _null_rows(null: NullEmbeddings | Pin | Tensor, trajectory: Trajectory, step: int) -> Tensor:
    """∅ of a step for each image: (B, tokens, width)."""
    rows = null.at(step) if isinstance(null, NullEmbeddings) else null.null if isinstance(null, Pin) else null
    return rows.expand(trajectory.batch, *rows.shape[-2:])


def _check_null(null: NullEmbeddings | Pin | Tensor, trajectory: Trajectory, guidance: float) -> None:
    check_guidance(guidance)
    plain = null.null if isinstance(null, Pin) else null
    if isinstance(plain, Tensor):
        trajectory.check_context(plain, "null context")
    if isinstance(null, Pin) and null.guidance is not None and null.guidance.shape != trajectory.latents[1:].shape:
        raise InputError(
            f"the photo's own guidance {tuple(null.guidance.shape)} does not belong to a trajectory of "
            f"{trajectory.schedule.steps} steps and {trajectory.batch} images"
        )
    if not isinstance(null, NullEmbeddings):
        return
    if null.schedule != trajectory.schedule or null.embeddings.shape[1] not in (1, trajectory.batch):
        raise InputError(
            f"null embeddings for {null.steps} steps and {null.embeddings.shape[1]} images do not belong to a "
            f"trajectory of {trajectory.schedule.steps} steps and {trajectory.batch} images, or to its noise levels"
        )


def check_source_guidance(null: NullEmbeddings | Pin | Tensor, source_guidance: float | None) -> None:
    """Raise InputError for a guidance of the source branch where that branch is read from the trajectory."""
    if source_guidance is None:
        return
    check_guidance(source_guidance)
    if isinstance(null, Pin) or (isinstance(null, NullEmbeddings) and null.pinned):
        raise InputError(
            "the source branch is read from the trajectory, so it has no guidance of its own; leave that out, or take "
            "null embeddings of the preset paper"
        )


def other_guidance(null: NullEmbeddings, trajectory: Trajectory, guidance: float) -> str:
    """In words what comes of sampling the photo at a guidance; an empty text where it retraces its trajectory.

    It does at the guidance that the embeddings were optimized for, and at any where they are the source prompt itself.
    At 1 they take no part.
    """
    context = trajectory.context.to(null.embeddings)
    if guidance in (1, null.guidance) or torch.equal(null.embeddings, context.expand_as(null.embeddings)):
        return ""
    return (
        f"the null embeddings were optimized for a guidance of {null.guidance:g}, and {guidance:g} does not give the "
        f"photo back; take {null.guidance:g}, or optimize for {guidance:g}"
    )


def reconstruct(
    denoiser: Denoiser,
    trajectory: Trajectory,
    null: NullEmbeddings | Tensor,
    guidance: float,
    context: Tensor | None = None,
    callback: Callback = ignore,
) -> Tensor:
    """Clean latents (B, C, h, w) that guided DDIM reaches from z*_T.

    With optimized embeddings and their guidance it retraces the trajectory; with a plain null context
    (tokens, width) it is the DDIM baseline. ``context``: another prompt's, without attention control (B, tokens,
    width). Costs 2T samples an image.
    """
    _check_null(null, trajectory, guidance)
    schedule = trajectory.schedule
    text = trajectory.context if context is None else context
    if text.shape != trajectory.context.shape:
        raise InputError(f"the context must be {tuple(trajectory.context.shape)}, not {tuple(text.shape)}")
    with no_gradients():
        latents = trajectory.noisiest
        for step in range(schedule.steps, 0, -1):
            level = schedule.level(step)
            contexts = torch.cat([_null_rows(null, trajectory, step).to(text), text])
            predicted = denoiser(latents.repeat(2, 1, 1, 1), level, contexts, unconditional=len(text))
            epsilon_null, epsilon_text = check_finite(predicted, level, step).chunk(2)
            epsilon = guide(epsilon_null, epsilon_text, guidance)
            clean = predicted_clean(latents, epsilon, level.alpha)
            latents = ddim_step(latents, epsilon, schedule, step)
            callback(Event("sample", schedule.steps - step + 1, schedule.steps, clean))
        return latents


def edit(
    denoiser: Denoiser,
    trajectory: Trajectory,
    null: NullEmbeddings | Pin | Tensor,
    contexts: Tensor,
    edits: EditBatch,
    guidance: float,
    callback: Callback = ignore,
    source_guidance: float | None = None,
    limit: Tensor | None = None,
    steps: int | None = None,
    check: Check | None = None,
) -> EditResult:
    """Sample source and edits of every image in one batch, with attention control and local blend.

    ``contexts``: the edit prompts' (B, E, tokens, width). ``null``: ∅_t of the inversion, which serves all branches
    of its image, or a plain null context (tokens, width). ``source_guidance``: of the source branch, by default that
    of the edits. ``limit``: bool (B, h, w); outside of it edits stay the source. ``steps``: how many of the T steps to
    take; with fewer the latents keep the noise of the step that would be next. Costs 2·(1+E)·T samples an image, and
    those of ``edit_start``. ``check``: is told where the photo's branch cannot retrace the trajectory, because the
    model predicts something else now or the embeddings are for another guidance. The edit goes on; its own
    predictions of the source in the first half decide, and one or two calls where they do not (see ``drift``).

    With a ``Pin``, or embeddings that have one, the source branch is the trajectory itself, not sampled but read
    (direct inversion, Ju et al. 2023), so the source's attention is exact and holds for any guidance. Costs 1+2E a
    step, 2E where no edit looks at the source's attention any more, and ``maps`` end with the last step that did. Where
    the pin has the photo's own guidance, the edits go without what theirs shares with it (see ``without_shared``).
    """
    _check_null(null, trajectory, guidance)
    _check_edits(trajectory, contexts, edits, limit)
    check_source_guidance(null, source_guidance)
    own_guidance = guidance if source_guidance is None else source_guidance
    optimized = null if isinstance(null, NullEmbeddings) and null.pin is None else None
    if check and optimized and (drifts := other_guidance(optimized, trajectory, own_guidance)):
        check.warn(drifts)
    if isinstance(null, NullEmbeddings) and null.pin is not None:
        null = null.pin
        _check_null(null, trajectory, guidance)
    pin = null if isinstance(null, Pin) else None
    schedule, batch, branches = trajectory.schedule, trajectory.batch, edits.branches
    taken = schedule.steps if steps is None else steps
    if not 1 <= taken <= schedule.steps:
        raise InputError(f"an edit takes between 1 and {schedule.steps} steps, not {taken}")
    edits = edits.to(trajectory.clean.device)
    with no_gradients():
        text = torch.cat([trajectory.context[:, None], contexts], 1).flatten(0, 1)
        size = (trajectory.clean.shape[-2], trajectory.clean.shape[-1])
        maps = AttentionMaps(map_grid(*size))
        mask = torch.ones(batch, branches - 1, *size, dtype=torch.bool, device=text.device)
        scale = torch.full((batch, branches, 1, 1, 1), guidance, device=text.device, dtype=trajectory.clean.dtype)
        scale[:, 0] = own_guidance
        latents = edit_start(denoiser, trajectory, edits).flatten(0, 1)
        every = torch.arange(len(latents), device=latents.device)
        of_edits = every.unflatten(0, (batch, branches))[:, 1:].flatten()
        pending = check
        if pending and pin and not needs_source(edits, 0):
            pending(denoiser, trajectory)
            pending = None
        for index, step in enumerate(range(schedule.steps, schedule.steps - taken, -1)):
            level = schedule.level(step)
            rows = _null_rows(null, trajectory, step).to(text).repeat_interleave(branches, 0)
            # a pinned source is not guided, and not sampled at all once no edit looks at it any more
            guided = of_edits if pin else every
            sampled = of_edits if pin and not needs_source(edits, index) else every
            first, last = len(guided), len(sampled)
            control = StepControl(edits, index, maps, slice(first, first + last), size) if sampled is every else None
            predicted = denoiser(
                torch.cat([latents[guided], latents[sampled]]), level, torch.cat([rows[guided], text[sampled]]),
                control, first,
            )  # fmt: skip
            epsilon_null, epsilon_text = check_finite(predicted, level, step).split([first, last])
            early = sampled is every and 2 * step > schedule.steps
            if pending and early and from_prediction(epsilon_text[::branches], trajectory, step) > CLOSE:
                pending(denoiser, trajectory)
                pending = None
            epsilon = torch.zeros_like(latents)
            epsilon[sampled] = epsilon_text
            if pin and pin.guidance is not None:
                photo = pin.guidance[step - 1].to(epsilon).repeat_interleave(branches - 1, 0)
                epsilon[guided] += (guidance - 1) * without_shared(epsilon[guided] - epsilon_null, photo)
            else:
                epsilon[guided] = guide(epsilon_null, epsilon[guided], scale.flatten(0, 1)[guided])
            clean = predicted_clean(latents, epsilon, level.alpha)
            latents = ddim_step(latents, epsilon, schedule, step)
            if pin:
                latents[::branches] = trajectory.latents[step - 1]
            latents = _blend(latents, maps, edits, index, schedule.steps, mask)
            if limit is not None:
                latents = _keep_outside(latents, limit.to(latents.device), branches)
            edited = clean.unflatten(0, (batch, branches))[:, 1:].flatten(0, 1)
            callback(Event("sample", index + 1, taken, edited))
        if limit is not None:
            mask &= limit.to(mask.device)[:, None]
        reached = latents.unflatten(0, (batch, branches))
        return EditResult(reached[:, 1:], reached[:, 0], mask, None if maps.total is None else maps.mean())


def _check_edits(trajectory: Trajectory, contexts: Tensor, edits: EditBatch, limit: Tensor | None) -> None:
    batch, count, steps = trajectory.batch, edits.branches - 1, trajectory.schedule.steps
    wanted = (batch, count, *trajectory.context.shape[1:])
    if contexts.shape != wanted or len(edits.edits) != batch:
        raise InputError(
            f"{batch} images with {count} edits each need contexts (B, E, tokens, width) = {wanted}, "
            f"not {tuple(contexts.shape)}"
        )
    if edits.self_window.shape[2] != steps:
        raise InputError(f"the edits were planned for {edits.self_window.shape[2]} steps, not {steps}")
    if limit is not None and limit.shape != (batch, *trajectory.clean.shape[-2:]):
        raise InputError(f"a limit for {batch} images is ({batch}, h, w), not {tuple(limit.shape)}")


def _keep_outside(latents: Tensor, limit: Tensor, branches: int) -> Tensor:
    """Latents whose edits are the source outside of ``limit`` (B, h, w)."""
    split = latents.unflatten(0, (-1, branches))
    return torch.where(limit[:, None, None], split, split[:, :1]).flatten(0, 1)


def _blend(latents: Tensor, maps: AttentionMaps, edits: EditBatch, index: int, steps: int, mask: Tensor) -> Tensor:
    """Latents with the source put back outside each edit's mask; writes the masks of this step into ``mask``."""
    due = [
        (b, e, one)
        for b, row in enumerate(edits.edits)
        for e, one in enumerate(row)
        if uses_blend(one) and index >= steps_of(one.settings.blend_start, steps)
    ]
    if not due:
        return latents
    split, mean = latents.unflatten(0, (-1, edits.branches)).clone(), maps.mean()
    for b, e, one in due:
        inside = blend_mask(mean[b, [0, 1 + e]], one, (latents.shape[-2], latents.shape[-1]))
        mask[b, e] = inside[0]
        split[b, 1 + e] = torch.where(inside, split[b, 1 + e], split[b, 0])
    return split.flatten(0, 1)
