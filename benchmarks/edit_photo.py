"""Pictures that are edited together, one edit each, and what the methods have made of them so far."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar
from zlib import crc32

import torch
from torch import Tensor

from nullinv_core import NullEmbeddings, Schedule, Trajectory, invert, plan_edit
from nullinv_core.backends.diffusers import DiffusersModel
from nullinv_core.context import Context
from nullinv_core.denoiser import Counted
from nullinv_core.null_text.embedding import embed, of_source
from nullinv_core.null_text.presets import PRESETS
from nullinv_core.prompt_to_prompt.control import EditBatch, batch_edits
from nullinv_core.prompt_to_prompt.edit import Edit
from nullinv_core.prompt_to_prompt.emphasis import literal

from .edit_cases import EditTask

STEPS = 50
Made = TypeVar("Made")
Cost = tuple[int, int]
"""Samples through the network, forwards and backwards."""


@dataclass(frozen=True, eq=False)
class Photo:
    """B encoded pictures with the contexts of their prompts; ``empty``: of the empty text, once. ``edited``: for
    Prompt-to-Prompt, which gives words their weights by attention; ``asked``: the same with these weights in it.

    ``denoiser`` counts what runs through the network. ``made``: what several methods need, made once (see ``once``).
    """

    model: DiffusersModel
    tasks: tuple[EditTask, ...]
    latents: Tensor
    source: Context
    edited: Context
    asked: Context
    empty: Context
    schedule: Schedule
    plans: tuple[Edit, ...]
    denoiser: Counted
    made: dict[Hashable, Any] = field(default_factory=dict)
    costs: dict[Hashable, Cost] = field(default_factory=dict)
    used: set[Hashable] = field(default_factory=set)

    @property
    def batch(self) -> EditBatch:
        """Each picture's edit, as the sampler takes them."""
        return batch_edits([[plan] for plan in self.plans])

    def once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What ``make`` returns, made at the first call with this key; its own cost is noted."""
        self.used.add(key)
        if key not in self.made:
            before = self._spent()
            self.made[key] = make()
            # less that of what was made within
            self.costs[key] = _less(self._spent(), before)
        found: Made = self.made[key]
        return found

    def cost_of(self, work: Callable[[], Made]) -> tuple[Made, Cost]:
        """What ``work`` returns, and what it would have cost alone: with all that it uses and that was made before."""
        self.used.clear()
        before = self._spent()
        result = work()
        own = _less(self._spent(), before)
        return result, _sum([own, *(self.costs[key] for key in self.used)])

    def _spent(self) -> Cost:
        return _less((self.denoiser.forwards, self.denoiser.backwards), _sum(self.costs.values()))

    def trajectory(self, method: str, empty: bool = False) -> Trajectory:
        """The photos' trajectory, made once, under their own prompts or the empty one."""
        text = self.empty.expand(len(self.source)) if empty else self.source
        return self.once(
            (method, empty), lambda: invert(self.denoiser, self.latents, text, self.schedule, method=method)
        )

    def null(self, preset: str, guidance: float) -> NullEmbeddings:
        """Their null embeddings for a guidance, made once; a pinned source holds for any.

        Where nothing is optimized, as at a guidance of 1, the network is not asked.
        """
        recipe = PRESETS[preset]
        trajectory = self.trajectory(recipe.inversion)
        if not (recipe.pinned or recipe.optimizes(guidance)):
            return of_source(trajectory, guidance)
        key = (preset, 0.0 if recipe.pinned else guidance)
        return self.once(key, lambda: embed(self.denoiser, trajectory, self.empty[0], recipe, guidance)[0])

    def noise(self, number: int = 0) -> Tensor:
        """Unit noise (B, C, h, w), another for each number; the same on each device, alone and in a batch."""
        rows = []
        for task in self.tasks:
            generator = torch.Generator().manual_seed(crc32(f"{task.name}{number or ''}".encode()))
            rows.append(torch.randn(self.latents.shape[1:], generator=generator))
        return torch.stack(rows).to(self.latents)


def _less(a: Cost, b: Cost) -> Cost:
    return a[0] - b[0], a[1] - b[1]


def _sum(costs: Any) -> Cost:
    found = list(costs)
    return sum(cost[0] for cost in found), sum(cost[1] for cost in found)


def photo_of(model: DiffusersModel, tasks: Sequence[EditTask]) -> Photo:
    """Tasks' pictures, of one size, ready for the methods."""
    # the authors' texts know no weights: a bracket is a bracket
    before, after = (
        [model.prompt(literal(text)) for text in texts]
        for texts in ([task.source_prompt for task in tasks], [task.edit_prompt for task in tasks])
    )
    source, edited = model.encode_prompts(before), model.encode_prompts(after)
    empty = model.encode_prompts([model.prompt("")])
    latents = model.encode_image(torch.stack([torch.from_numpy(task.source) for task in tasks]))
    plans = tuple(plan_edit(a, b, STEPS, task.settings) for a, b, task in zip(before, after, tasks, strict=True))
    # where no attention is replaced, a word's weight is in its encoding
    plain = [replace(plan.settings, cross_replace=0.0, word_windows={}) for plan in plans]
    asked = [plan_edit(a, b, STEPS, own).prompt for a, b, own in zip(before, after, plain, strict=True)]
    return Photo(
        model, tuple(tasks), latents, source, edited, model.encode_prompts(asked), empty,
        model.schedule(STEPS), plans, Counted(model.denoiser),
    )  # fmt: skip


def fresh(photo: Photo) -> Photo:
    """The same photos with nothing made of them."""
    return replace(photo, denoiser=Counted(photo.model.denoiser), made={}, costs={}, used=set())
