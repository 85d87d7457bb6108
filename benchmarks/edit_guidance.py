"""Guidance of others, as denoisers whose ε(∅) and ε(C) the usual guidance w·ε(C) + (1-w)·ε(∅) turns into theirs.

For batches in which each of the pictures has a source and an edit branch, all of them guided.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from nullinv_core import Trajectory
from nullinv_core.context import Context
from nullinv_core.denoiser import AttentionControl, Denoiser
from nullinv_core.prompt_to_prompt.control import StepControl
from nullinv_core.prompt_to_prompt.local_blend import blend_mask, uses_blend
from nullinv_core.schedule import NoiseLevel, epsilon_between

QUANTILE, CLOSE_TO_CLEAN = 0.7, 400
"""Of ``Proximal``: the share of guidance that is left out, and the timestep from which on the photo is kept."""


@dataclass(frozen=True)
class Proximal:
    """Proximal guidance (Han et al. 2023, arXiv 2306.05414, eq. 7 and algorithm 1), as its authors' code has it.

    Guidance ε(C) - ε(∅) is made smaller by its own quantile, and what is below that is left out. Near the clean end,
    what is still guided by less than the quantile, and not beside more, follows the photo's trajectory: inversion
    guidance, eq. 10.
    """

    denoiser: Denoiser
    trajectory: Trajectory

    def __call__(
        self, latents: Tensor, level: NoiseLevel, context: Context, attention: AttentionControl | None = None,
        unconditional: int = 0,
    ) -> Tensor:  # fmt: skip
        """See ``Denoiser``."""
        predicted = self.denoiser(latents, level, context, attention, unconditional)
        if not unconditional:
            if not isinstance(attention, StepControl):
                # asked for the photo's attention alone
                return predicted
            # a guidance of 1 leaves ∅ out; here it is the source prompt and takes part at any
            source = self.trajectory.context.map(lambda each: each.repeat_interleave(2, 0))
            predicted = torch.cat([self.denoiser(latents, level, source, unconditional=len(latents)), predicted])
        null, text = predicted.chunk(2)
        # of both branches of a picture together, as the authors have it
        guidance = (text - null).unflatten(0, (-1, 2))
        quantiles = [one.quantile(QUANTILE) for one in guidance.abs().flatten(1)]
        threshold = torch.stack(quantiles)[:, None, None, None, None]
        guidance = guidance - guidance.clamp(-threshold, threshold)
        guided, guidance = (guidance.abs() > threshold).flatten(0, 1), guidance.flatten(0, 1)
        if level.timestep < CLOSE_TO_CLEAN:
            step = self.trajectory.schedule.timesteps.index(level.timestep) + 1
            following = self.trajectory.latents[step - 1].repeat_interleave(2, 0)
            back = epsilon_between(latents[: len(null)], following, self.trajectory.schedule, step)
            beside = max_pool2d(guided.to(null), 3, stride=1, padding=1) > 0
            null, guidance = torch.where(beside, null, back), torch.where(beside, guidance, 0)
        return torch.cat([null, null + guidance]) if unconditional else null + guidance


@dataclass(frozen=True)
class Blended:
    """Blended guidance (Pan et al. 2023, arXiv 2309.04907, section 3.3): guided where the words that change are.

    Elsewhere w is 1, as in the inversion. Where these words are is what local blend goes by; without such words
    everything is guided.
    """

    denoiser: Denoiser

    def __call__(
        self, latents: Tensor, level: NoiseLevel, context: Context, attention: AttentionControl | None = None,
        unconditional: int = 0,
    ) -> Tensor:  # fmt: skip
        """See ``Denoiser``."""
        predicted = self.denoiser(latents, level, context, attention, unconditional)
        if not unconditional or not isinstance(attention, StepControl) or attention.maps.total is None:
            return predicted
        null, text = (half.unflatten(0, (-1, 2)).clone() for half in predicted.chunk(2))
        mean, size = attention.maps.mean(), (latents.shape[-2], latents.shape[-1])
        for b, (edit,) in enumerate(attention.edits.edits):
            if uses_blend(edit):
                inside = blend_mask(mean[b], edit, size, bool(edit.exclude_window[attention.index]))
                null[b, 1] = torch.where(inside, null[b, 1], text[b, 1])
        return torch.cat([null.flatten(0, 1), text.flatten(0, 1)])
