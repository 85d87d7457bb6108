"""Attention control while edits are sampled: a batch of images with edits each, one step at a time.

Branches of an image are (source, edit 1, …, edit E). Only conditional rows are edited.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from ..denoiser import AttentionControl, Layer
from ..errors import InputError
from .attention_edit import AttentionEdit, FeatureEdit, InputEdit, Plans, ProbabilityEdit
from .attention_edits import planned_edits
from .edit import Edit
from .local_blend import uses_blend
from .maps import AttentionMaps

Kind = TypeVar("Kind", bound=AttentionEdit)


@dataclass(frozen=True)
class EditBatch:
    """Edits of B images, E each, and what they do to attention, in the order in which it is done."""

    edits: Plans
    attention: tuple[AttentionEdit, ...]

    @property
    def branches(self) -> int:
        """1 + E."""
        return 1 + len(self.edits[0])

    @property
    def steps(self) -> int:
        """For how many steps they were planned."""
        return len(self.edits[0][0].self_window)

    def to(self, device: torch.device | str) -> EditBatch:
        """The same on another device."""
        return replace(self, attention=tuple(edit.to(device) for edit in self.attention))


def batch_edits(edits: Sequence[Sequence[Edit]], more: Sequence[AttentionEdit] = ()) -> EditBatch:
    """Stack edits (outer: images, inner: edits of an image); every image needs equally many, at least one.

    ``more``: attention edits of your own, which act after those that were planned.
    """
    counts = {len(row) for row in edits}
    if len(counts) != 1 or counts == {0}:
        raise InputError(f"every image needs the same number of edits, at least one; got {sorted(counts)}")
    lengths = {(e.source.length, len(e.self_window)) for row in edits for e in row}
    if len(lengths) != 1:
        raise InputError(f"edits of one batch need the same number of tokens and of steps; got {sorted(lengths)}")
    plans = tuple(tuple(row) for row in edits)
    return EditBatch(plans, (*planned_edits(plans), *more))


def needs_source(edits: EditBatch, index: int) -> bool:
    """Whether some edit looks at the source's attention in a step: through an open window, or for its local blend."""
    looks = any(edit.steps[index] for edit in edits.attention)
    return looks or any(uses_blend(edit, index) for row in edits.edits for edit in row)


@dataclass(frozen=True)
class StepControl(AttentionControl):
    """The attention control of one sampling step; ``index`` counts from 0 at the noisiest step.

    ``size``: (h, w) of the latents.
    """

    edits: EditBatch
    index: int
    maps: AttentionMaps
    rows: slice
    size: tuple[int, int]

    def rewrites(self, layer: Layer) -> bool:
        """Inside the window of an edit that wants the layer's queries, keys or values."""
        return bool(self._wanted(InputEdit, layer))

    def rewrite(self, query: Tensor, key: Tensor, value: Tensor, layer: Layer) -> tuple[Tensor, Tensor, Tensor]:
        """Edited queries, keys and values; what no edit changed is the tensor that was given."""
        given = query, key, value
        split = first = self._split(query), self._split(key), self._split(value)
        for edit in self._wanted(InputEdit, layer):
            split = edit.rewrite(*split, edit.at(self.index, layer, self.size))
        query, key, value = (
            old if new is came else new.flatten(0, 1) for old, came, new in zip(given, first, split, strict=True)
        )
        return query, key, value

    def weighs(self, layer: Layer) -> bool:
        """Where a word's window is open, or the layer's maps are read."""
        return self.maps.reads(layer) or bool(self._wanted(ProbabilityEdit, layer))

    def weigh(self, probabilities: Tensor, layer: Layer) -> Tensor:
        """Edited attention; also added to the maps, after the edit."""
        split = self._split(probabilities)
        source, unedited = split[:, :1], split[:, 1:]
        edited = unedited
        for edit in self._wanted(ProbabilityEdit, layer):
            edited = edit.rewrite(source, unedited, edited, edit.at(self.index, layer, self.size))
        both = split if edited is unedited else torch.cat([source, edited], 1)
        if self.maps.reads(layer):
            self.maps.add(both)
        return both.flatten(0, 1)

    @property
    def edits_features(self) -> bool:
        """Whether the window of an edit of features is open."""
        return any(isinstance(edit, FeatureEdit) for edit in self._open)

    def shares(self, layer: Layer) -> bool:
        """Inside the window of an edit that wants the layer's features."""
        return bool(self._wanted(FeatureEdit, layer))

    def share(self, features: Tensor, layer: Layer) -> Tensor:
        """Edited features."""
        split = self._split(features)
        for edit in self._wanted(FeatureEdit, layer):
            split = edit.rewrite(split, edit.at(self.index, layer, self.size))
        return split.flatten(0, 1)

    @cached_property
    def _open(self) -> list[AttentionEdit]:
        return [edit for edit in self.edits.attention if edit.steps[self.index]]

    def _wanted(self, kind: type[Kind], layer: Layer) -> list[Kind]:
        return [edit for edit in self._open if isinstance(edit, kind) and edit.wants(layer, self.size)]

    def _split(self, rows: Tensor) -> Tensor:
        return rows.unflatten(0, (-1, self.edits.branches))
