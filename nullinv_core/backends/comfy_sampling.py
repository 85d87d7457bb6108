"""Null embeddings in ComfyUI's own samplers: a guider, and a MODEL for any KSampler."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import chain, pairwise
from typing import Any

import comfy.patcher_extension
import comfy.samplers
from torch import Tensor

from ..context import unpack
from ..errors import InputError
from ..store import Inversion
from .comfy import OWN_WRAPPER
from .comfy_conditioning import Conditioning, check_same_sizes, pooled_width, with_context, with_sizes
from .comfy_sigmas import sigma_of

LEAST_STEP = 2.0
"""Ratio of two noise levels that counts as near, however fine an inversion's steps are: schedulers begin apart."""


def embedding_at(inversion: Inversion, sigma: float) -> Tensor:
    """∅ of the step whose noise level is nearest to ``sigma`` (by its logarithm): (B, tokens, width).

    Raises InputError for a level above the inversion's by more than its last step.
    """
    null, schedule = inversion.null, inversion.trajectory.schedule
    if null is None:
        raise InputError("these are not null embeddings; connect the output of Null-Text Optimize")
    levels = [sigma_of(a) for a in schedule.alphas_cumprod[1:]]
    if sigma > levels[-1] * max([LEAST_STEP, *(b / a for a, b in pairwise(levels[-2:]))]):
        raise InputError(
            f"the sampler begins at noise level {sigma:.3g}, and this inversion ends at {levels[-1]:.3g}; give the "
            "sampler the SIGMAS of DDIM Invert"
        )
    distances = [abs(math.log(level) - math.log(max(sigma, 1e-6))) for level in levels]
    return null.at(1 + distances.index(min(distances)))


class NullTextGuider(comfy.samplers.CFGGuider):
    """Classifier-free guidance whose unconditional branch has ∅_t at each noise level."""

    def __init__(
        self, model: Any, positive: Conditioning, inversion: Inversion, guidance: float,
        negative: Conditioning | None = None,
    ) -> None:  # fmt: skip
        """``negative``: what the embeddings were optimized with, where it carries more than text (a ControlNet).

        SDXL is told the sizes that the picture was inverted with.
        """
        super().__init__(model)
        self.inversion = inversion
        steps = inversion.trajectory.schedule.steps
        first = embedding_at(inversion, sigma_of(inversion.trajectory.schedule.level(steps).alpha))
        text, vector = unpack(first, pooled_width(model.model))
        extras = {} if vector is None else {"pooled_output": vector}
        null = [(text, {**(negative[0][1] if negative else {}), **extras})]
        self.set_conds(*(with_sizes(each, inversion.sizes) for each in (positive, null)))
        self.set_cfg(guidance)

    def predict_noise(
        self, x: Tensor, timestep: Tensor, model_options: dict[str, Any] | None = None, seed: Any = None
    ) -> Any:
        """ComfyUI's hook: the guided prediction for sampler-space ``x``."""
        null, pooled = embedding_at(self.inversion, float(timestep.max())).to(x.device), pooled_width(self.inner_model)
        return comfy.samplers.sampling_function(
            self.inner_model, x, timestep, [with_context(entry, null, pooled) for entry in self.conds["negative"]],
            self.conds["positive"], self.cfg, model_options=model_options or {}, seed=seed,
        )  # fmt: skip


def apply_null_text(model: Any, inversion: Inversion) -> Any:
    """A clone of the MODEL whose unconditional branch has ∅_t at each noise level, whatever the negative prompt."""
    patched = model.clone()

    def wrapper(
        executor: Callable[..., Any], network: Any, conds: list[Any], x: Tensor, timestep: Tensor, options: Any
    ) -> Any:
        null = embedding_at(inversion, float(timestep.max())).to(x.device)
        text, *rest = conds
        if len(rest) > 1:
            raise InputError("Apply Null-Text needs a guider with one positive and one negative text")
        if x.shape[-2:] == inversion.trajectory.clean.shape[-2:]:
            for entry in chain.from_iterable(entries or () for entries in conds):
                check_same_sizes(entry, inversion, "KSampler's")
        pooled = pooled_width(network)
        nulls = [[with_context(entry, null, pooled) for entry in negative or ()] or None for negative in rest]
        return executor(network, [text, *nulls], x, timestep, options)

    patched.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.CALC_COND_BATCH, OWN_WRAPPER, wrapper)
    return patched
