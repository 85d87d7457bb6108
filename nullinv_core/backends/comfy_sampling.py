"""Null embeddings in ComfyUI's own samplers: a guider, and a MODEL for any KSampler."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import chain
from typing import Any

import comfy.patcher_extension
import comfy.samplers
from torch import Tensor

from ..context import unpack
from ..errors import InputError
from ..store import Inversion
from .comfy import OWN_WRAPPER, sigma_of
from .comfy_conditioning import Conditioning, check_same_sizes, pooled_width, with_context, with_sizes


def embedding_at(inversion: Inversion, sigma: float) -> Tensor:
    """∅ of the step whose noise level is nearest to ``sigma`` (by its logarithm): (B, tokens, width)."""
    null, schedule = inversion.null, inversion.trajectory.schedule
    if null is None:
        raise InputError("these are not null embeddings; connect the output of Null-Text Optimize")
    distances = [abs(math.log(sigma_of(a)) - math.log(max(sigma, 1e-6))) for a in schedule.alphas_cumprod[1:]]
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
