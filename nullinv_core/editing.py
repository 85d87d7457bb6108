"""Guided DDIM sampling from the end of a trajectory: reconstruction, and editing with Prompt-to-Prompt."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from .context import Context, cat
from .denoiser import Denoiser, check_finite, no_gradients
from .drift import CLOSE, Check, from_prediction
from .errors import InputError, short
from .prompt_to_prompt.control import EditBatch, StepControl, needs_source
from .prompt_to_prompt.fresh_noise import edit_start
from .prompt_to_prompt.grids import map_grid
from .prompt_to_prompt.local_blend import blend_mask
from .prompt_to_prompt.maps import AttentionMaps
from .random_path import random_path, step_beside
from .schedule import Schedule, check_guidance, ddim_step, guide, predicted_clean, steps_of
from .settings import PATH, SKIPPED, EditPath
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


def _null_rows(null: NullEmbeddings | Pin | Context, trajectory: Trajectory, step: int) -> Context:
    """∅ of a step for each image, in the precision of its text."""
    rows = null.at(step) if isinstance(null, NullEmbeddings) else null.null if isinstance(null, Pin) else null
    return rows.expand(trajectory.batch).to(trajectory.context)


def _check_null(null: NullEmbeddings | Pin | Context, trajectory: Trajectory, guidance: float) -> None:
    check_guidance(guidance)
    plain = null.null if isinstance(null, Pin) else null
    if isinstance(plain, Context):
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


def other_guidance(null: NullEmbeddings, trajectory: Trajectory, guidance: float) -> str:
    """In words what comes of sampling the photo at a guidance; an empty text where it retraces its trajectory.

    It does at the guidance that the embeddings were optimized for, and at any where they are the source prompt itself.
    At 1 they take no part.
    """
    every = trajectory.schedule.steps, trajectory.batch
    source = trajectory.context.to(null.embeddings).expand(*every)
    if guidance in (1, null.guidance) or source.equals(null.embeddings.expand(*every)):
        return ""
    return (
        f"the null embeddings were optimized for a guidance of {null.guidance:g}, and {guidance:g} does not give the "
        f"photo back; take {null.guidance:g}, or optimize for {guidance:g}"
    )


def reconstruct(
    denoiser: Denoiser,
    trajectory: Trajectory,
    null: NullEmbeddings | Context,
    guidance: float,
    context: Context | None = None,
    callback: Callback = ignore,
) -> Tensor:
    """Clean latents (B, C, h, w) that guided DDIM reaches from z*_T.

    With optimized embeddings and their guidance it retraces the trajectory; with a plain null context of one text it is
    the DDIM baseline. ``context``: of B other prompts, without attention control. Costs 2T samples an image, T at a
    guidance of 1, where ∅ takes no part.
    """
    _check_null(null, trajectory, guidance)
    schedule = trajectory.schedule
    text = trajectory.context if context is None else context
    if text.shape != trajectory.context.shape or not text.fits(trajectory.context):
        raise InputError(f"the context must be {tuple(trajectory.context.shape)}, not {tuple(text.shape)}")
    with no_gradients():
        latents = trajectory.noisiest
        for step in range(schedule.steps, 0, -1):
            level = schedule.level(step)
            if guidance == 1:
                epsilon = check_finite(denoiser(latents, level, text), level, step)
            else:
                contexts = cat([_null_rows(null, trajectory, step), text])
                predicted = denoiser(latents.repeat(2, 1, 1, 1), level, contexts, unconditional=len(text))
                epsilon_null, epsilon_text = check_finite(predicted, level, step).chunk(2)
                epsilon = guide(epsilon_null, epsilon_text, guidance)
            clean = predicted_clean(latents, epsilon, level.alpha)
            latents = ddim_step(latents, epsilon, schedule, step)
            callback(Event("sample", schedule.steps - step + 1, schedule.steps, clean))
        return latents


RANDOM: EditPath = "random"
"""The path beside random noise of the photo."""


@dataclass(frozen=True)
class Sampling:
    """How edits are sampled.

    ``guidance`` w. ``source_guidance``: of the source branch, by default that of the edits. ``limit``: bool (B, h, w);
    outside of it edits stay the source. ``steps``: how many of the T steps to take; with fewer the latents keep the
    noise of the step that would be next. ``path``: what edits are sampled beside, the photo's trajectory or its
    ``random_path``, whose noise the variant of each image's first edit draws. ``skipped``: the share of the noisiest
    steps in which edits still are the photo; not with fresh noise. ``maps``: attention is read at every step, though no
    edit may need it. ``check``: is told where the photo's branch cannot
    retrace the trajectory, because the model predicts something else now or the embeddings are for another guidance.
    The edit goes on; its own predictions of the source in the first half decide, and one or two calls where they do not
    (see ``drift``).
    """

    guidance: float
    source_guidance: float | None = None
    limit: Tensor | None = None
    steps: int | None = None
    path: EditPath = PATH.default
    skipped: float = 0.0
    maps: bool = False
    check: Check | None = None

    def of(self, schedule: Schedule) -> int:
        """How many steps of a schedule are taken; raises InputError for more than there are, or none of the edit's."""
        taken = schedule.steps if self.steps is None else self.steps
        if not 1 <= taken <= schedule.steps:
            raise InputError(f"an edit takes between 1 and {schedule.steps} steps, not {taken}; set another end_step")
        if (waiting := steps_of(self.skipped, schedule.steps)) >= taken:
            raise InputError(
                f"skipped leaves out the first {waiting} steps, and the edit ends after {taken}; lower skipped or take "
                "more steps"
            )
        return taken

    @property
    def of_source(self) -> float:
        """Guidance of the source branch."""
        return self.guidance if self.source_guidance is None else self.source_guidance


def check_sampling(null: NullEmbeddings | Pin | Context, sampling: Sampling) -> None:
    """Raise InputError for numbers out of range, a path that null embeddings do not lead along, and a guidance of the
    source branch where that branch is read from its path."""
    check_guidance(sampling.guidance)
    PATH.check(sampling.path)
    SKIPPED.check(sampling.skipped)
    random, pinned = sampling.path == RANDOM, isinstance(null, Pin)
    if isinstance(null, NullEmbeddings):
        pinned = null.pinned
        if random and not pinned:
            raise InputError(
                "these null embeddings lead along the photo's trajectory, which the path random does not take; take "
                "those of the presets fast or direct"
            )
    if sampling.source_guidance is None:
        return
    check_guidance(sampling.source_guidance)
    if pinned or random:
        raise InputError(
            "the source branch is read from its path, so it has no guidance of its own; leave that out, or take "
            "the path trajectory with null embeddings of the preset paper"
        )


def check_weights(edits: EditBatch, first: int, last: int) -> None:
    """Raise InputError for a word whose weight acts in none of the steps from ``first`` to before ``last``."""
    for plan in chain(*edits.edits):
        acts = (plan.cross_window | plan.focus_window)[first:last].any(0)
        idle = ((plan.equalizer != 1) & ~acts).nonzero().flatten().tolist()
        if idle:
            word = plan.prompt.words[plan.prompt.word_of_token[idle[0]]]
            raise InputError(
                f'the weight of "{short(word)}" acts in no step, as cross_replace ends within those that skipped '
                "leaves out, or begins after end_step; set cross_replace to 0, or leave the weight out"
            )


def edit(
    denoiser: Denoiser,
    trajectory: Trajectory,
    null: NullEmbeddings | Pin | Context,
    contexts: Context,
    edits: EditBatch,
    sampling: Sampling | float,
    callback: Callback = ignore,
) -> EditResult:
    """Sample source and edits of every image in one batch, with attention control and local blend.

    ``contexts``: of the edit prompts, (B, E) texts. ``null``: ∅_t of the inversion, which serves all branches of its
    image, or a plain null context of one text. ``sampling``: a number is a guidance. Costs 2·(1+E)·T samples
    an image, (1+E)·T where no branch has a guidance other than 1, and those of ``edit_start``.

    With a ``Pin``, or embeddings that have one, the source branch is the trajectory itself, not sampled but read
    (direct inversion, Ju et al. 2023), so the source's attention is exact and holds for any guidance. Costs 1+2E a
    step, 2E where no edit looks at the source's attention any more, and ``maps`` end with the last step that did; E
    less at a guidance of 1. Where the pin has the photo's own guidance, the edits go without what theirs shares with it
    (see ``without_shared``).

    Beside the ``random_path`` the source branch is that path, sampled at every step, also under ∅, and what the edits'
    guidance shares with its own is always left out: 2·(1+E) a step, 1+E at a guidance of 1. It needs a pin or a plain
    context.
    """
    sampling = sampling if isinstance(sampling, Sampling) else Sampling(sampling)
    pin = _checked(trajectory, null, contexts, edits, sampling)
    schedule, limit, taken = trajectory.schedule, sampling.limit, sampling.of(trajectory.schedule)
    check_weights(edits, steps_of(sampling.skipped, schedule.steps), taken)
    edits = edits.to(trajectory.clean.device)
    if sampling.path == RANDOM:
        trajectory = random_path(trajectory, [row[0].settings.variant for row in edits.edits])
    with no_gradients():
        branches = _Branches(denoiser, trajectory, pin or null, contexts, edits, sampling)
        mask = torch.ones(
            trajectory.batch, edits.branches - 1, *branches.size, dtype=torch.bool, device=contexts.text.device
        )
        latents = edit_start(denoiser, trajectory, edits).flatten(0, 1)
        for index, step in enumerate(range(schedule.steps, schedule.steps - taken, -1)):
            latents, clean = branches.step(latents, index, step)
            if not branches.waits(index):
                latents = _blend(latents, branches.maps, edits, index, mask)
            if limit is not None:
                latents = _keep_outside(latents, limit.to(latents.device), edits.branches)
            edited = clean.unflatten(0, (-1, edits.branches))[:, 1:].flatten(0, 1)
            callback(Event("sample", index + 1, taken, edited))
        if limit is not None:
            mask &= limit.to(mask.device)[:, None]
        reached = latents.unflatten(0, (-1, edits.branches))
        maps = None if branches.maps.total is None else branches.maps.mean()
        return EditResult(reached[:, 1:], reached[:, 0], mask, maps)


class _Branches:
    """Source and edits of every image, sampled in one batch: rows are images, each with its branches."""

    def __init__(
        self,
        denoiser: Denoiser,
        trajectory: Trajectory,
        null: NullEmbeddings | Pin | Context,
        contexts: Context,
        edits: EditBatch,
        sampling: Sampling,
    ) -> None:
        self.denoiser, self.trajectory, self.null, self.edits = denoiser, trajectory, null, edits
        self.guidance, self.pin = sampling.guidance, null if isinstance(null, Pin) else None
        clean, batch, branches = trajectory.clean, trajectory.batch, edits.branches
        self.text = cat([trajectory.context[:, None], contexts], 1).map(lambda each: each.flatten(0, 1))
        self.size = (clean.shape[-2], clean.shape[-1])
        self.maps = AttentionMaps(map_grid(*self.size))
        scale = clean.new_full((batch, branches, 1, 1, 1), sampling.guidance)
        scale[:, 0] = sampling.of_source
        self.scale = scale.flatten(0, 1)
        # at a guidance of 1 ∅ takes no part
        self.unguided = sampling.guidance == 1 and (self.pin is not None or sampling.of_source == 1)
        self.every = torch.arange(batch * branches, device=clean.device)
        self.of_edits = self.every.unflatten(0, (batch, branches))[:, 1:].flatten()
        self.random, self.read = sampling.path == RANDOM, sampling.maps
        self.skipped = steps_of(sampling.skipped, trajectory.schedule.steps)
        # beside random noise nothing has to be retraced
        self.pending = None if self.random else sampling.check
        if self.skipped or (self.pin and not needs_source(edits, 0)):
            self._ask()

    def step(self, latents: Tensor, index: int, step: int) -> tuple[Tensor, Tensor]:
        """Every branch after a step, and the clean latents that it implied."""
        schedule, branches = self.trajectory.schedule, self.edits.branches
        following = self.trajectory.latents[step - 1]
        if self.waits(index):
            return following.repeat_interleave(branches, 0), self.trajectory.clean.repeat_interleave(branches, 0)
        epsilon = self.guided(latents, index, step)
        clean = predicted_clean(latents, epsilon, schedule.level(step).alpha)
        if self.random:
            each = (latents.unflatten(0, (-1, branches)), epsilon.unflatten(0, (-1, branches)))
            found = step_beside(*each, following, schedule, step).flatten(0, 1)
        else:
            found = ddim_step(latents, epsilon, schedule, step)
            if self.pin:
                found[::branches] = following
        return found, clean

    def waits(self, index: int) -> bool:
        """Whether every branch still is the photo after a step."""
        return index < self.skipped

    def guided(self, latents: Tensor, index: int, step: int) -> Tensor:
        """Guided ε of every branch (eq. 1); that of a pinned source is not guided."""
        level, pin, branches = self.trajectory.schedule.level(step), self.pin, self.edits.branches
        guided, sampled = self._rows(index)
        first, last = len(guided), len(sampled)
        null = _null_rows(self.null, self.trajectory, step).map(lambda each: each.repeat_interleave(branches, 0))
        predicted = self.denoiser(
            torch.cat([latents[guided], latents[sampled]]),
            level,
            cat([null[guided], self.text[sampled]]),
            self._control(index, slice(first, first + last)) if sampled is self.every else None,
            first,
        )
        epsilon_null, epsilon_text = check_finite(predicted, level, step).split([first, last])
        if sampled is self.every:
            self._compare(epsilon_text[::branches], step)
        if not pin:
            return guide(epsilon_null, epsilon_text, self.scale) if first else epsilon_text
        epsilon = torch.zeros_like(latents)
        epsilon[sampled] = epsilon_text
        if first:
            epsilon[self.of_edits] += (self.guidance - 1) * self._asked(pin, epsilon[guided] - epsilon_null, step)
        return epsilon

    def _rows(self, index: int) -> tuple[Tensor, Tensor]:
        """Rows that are sampled under ∅, and those under their own text.

        A pinned source is not guided, and not sampled at all once nothing looks at it any more.
        """
        guided = self.every if self.random or not self.pin else self.of_edits
        looked_at = self.random or self.read or not self.pin or needs_source(self.edits, index)
        return guided[:0] if self.unguided else guided, self.every if looked_at else self.of_edits

    def _asked(self, pin: Pin, guidance: Tensor, step: int) -> Tensor:
        """Guidance of the edits without what it shares with the photo's own, as far as that is left out.

        ``guidance``: of the rows that were sampled under ∅.
        """
        if self.random:
            of_images = guidance.unflatten(0, (-1, self.edits.branches))
            return without_shared(of_images[:, 1:], of_images[:, :1]).flatten(0, 1)
        if pin.guidance is None:
            return guidance
        photo = pin.guidance[step - 1].to(guidance).repeat_interleave(self.edits.branches - 1, 0)
        return without_shared(guidance, photo)

    def _control(self, index: int, rows: slice) -> StepControl:
        return StepControl(self.edits, index, self.maps, rows, self.size)

    def _compare(self, epsilon_source: Tensor, step: int) -> None:
        """Ask the check where the source's prediction, in the first half, is not the inversion's."""
        early = 2 * step > self.trajectory.schedule.steps
        if self.pending and early and from_prediction(epsilon_source, self.trajectory, step) > CLOSE:
            self._ask()

    def _ask(self) -> None:
        if self.pending:
            self.pending(self.denoiser, self.trajectory)
        self.pending = None


def _checked(
    trajectory: Trajectory,
    null: NullEmbeddings | Pin | Context,
    contexts: Context,
    edits: EditBatch,
    sampling: Sampling,
) -> Pin | None:
    """The pin of an edit, if it has one; raises InputError for what does not fit together."""
    guidance, check = sampling.guidance, sampling.check
    _check_null(null, trajectory, guidance)
    _check_edits(trajectory, contexts, edits, sampling.limit)
    check_sampling(null, sampling)
    if sampling.skipped and any(edit.settings.fresh_noise for row in edits.edits for edit in row):
        raise InputError(
            "an edit with fresh noise begins at the noisiest step, so no steps can be left out; set fresh_noise or "
            "skipped to 0"
        )
    if isinstance(null, Pin):
        return null
    if not isinstance(null, NullEmbeddings):
        return Pin(null) if sampling.path == RANDOM else None
    if null.pin is not None:
        _check_null(null.pin, trajectory, guidance)
    elif check and (drifts := other_guidance(null, trajectory, sampling.of_source)):
        check.warn(drifts)
    return null.pin


def _check_edits(trajectory: Trajectory, contexts: Context, edits: EditBatch, limit: Tensor | None) -> None:
    batch, count, steps = trajectory.batch, edits.branches - 1, trajectory.schedule.steps
    wanted = (batch, count, *trajectory.context.shape[1:])
    if contexts.shape != wanted or not contexts.fits(trajectory.context) or len(edits.edits) != batch:
        raise InputError(
            f"{batch} images with {count} edits each need contexts (B, E, tokens, width) = {wanted}, "
            f"not {tuple(contexts.shape)}"
        )
    if edits.steps != steps:
        raise InputError(f"the edits were planned for {edits.steps} steps, not {steps}")
    if limit is not None and limit.shape != (batch, *trajectory.clean.shape[-2:]):
        raise InputError(f"a limit for {batch} images is ({batch}, h, w), not {tuple(limit.shape)}")


def _keep_outside(latents: Tensor, limit: Tensor, branches: int) -> Tensor:
    """Latents whose edits are the source outside of ``limit`` (B, h, w)."""
    split = latents.unflatten(0, (-1, branches))
    return torch.where(limit[:, None, None], split, split[:, :1]).flatten(0, 1)


def _blend(latents: Tensor, maps: AttentionMaps, edits: EditBatch, index: int, mask: Tensor) -> Tensor:
    """Latents with the source put back outside each edit's mask; writes the masks of this step into ``mask``."""
    due = [(b, e, plan) for b, row in enumerate(edits.edits) for e, plan in enumerate(row) if plan.blend_window[index]]
    if not due:
        return latents
    split, mean = latents.unflatten(0, (-1, edits.branches)).clone(), maps.mean()
    for b, e, plan in due:
        excluding = bool(plan.exclude_window[index])
        inside = blend_mask(mean[b, [0, 1 + e]], plan, (latents.shape[-2], latents.shape[-1]), excluding)
        mask[b, e] = inside[0]
        split[b, 1 + e] = torch.where(inside, split[b, 1 + e], split[b, 0])
    return split.flatten(0, 1)
