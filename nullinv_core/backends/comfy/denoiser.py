"""Predictions of a ComfyUI model that the guider has loaded, as the core asks for them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import comfy.model_management
import comfy.samplers
import torch
from torch import Tensor

from ...context import Context
from ...denoiser import AttentionControl
from ...errors import InputError
from ...schedule import NoiseLevel
from .attention import controlled, differentiable
from .conditioning import pooled_width, with_context
from .other_packs import Watch, named
from .protocols import Cond, Network, Options
from .sigmas import sigma_of


@dataclass(frozen=True, eq=False)
class ComfyDenoiser:
    """``Denoiser`` of a ComfyUI model that the guider has loaded.

    ``positive`` and ``negative``: the processed conditioning whose extras (ControlNet, sizes …) go with conditional
    and unconditional rows; their text and pooled vector are replaced by the context of each call. ``watch``: over what
    the network runs for.
    """

    model: Network
    positive: Cond
    negative: Cond
    options: Options
    watch: Watch | None = None

    def __call__(
        self,
        latents: Tensor,
        level: NoiseLevel,
        context: Context,
        attention: AttentionControl | None = None,
        unconditional: int = 0,
    ) -> Tensor:
        comfy.model_management.throw_exception_if_processing_interrupted()
        sigma, texts = sigma_of(level.alpha), len(latents) - unconditional
        if unconditional and texts and unconditional != texts:
            # ComfyUI predicts all conditionings of a call for the same latents
            null = self(latents[:unconditional], level, context[:unconditional], None, unconditional)
            return torch.cat([null, self(latents[unconditional:], level, context[unconditional:], attention)])
        sampled = latents[: max(unconditional, texts)] * math.sqrt(1 + sigma**2)
        sigmas = sampled.new_full((len(sampled),), sigma)
        # other packs tell conditional (0) and unconditional rows (1) apart by their place in this list
        conds = [
            [with_context(self.positive, context[unconditional:])] if texts else None,
            [with_context(self.negative, context[:unconditional])] if unconditional else None,
        ]
        text, null = comfy.samplers.calc_cond_batch(
            self.model, conds, sampled, sigmas, self._options(attention, context)
        )
        if self.watch is not None:
            self.watch.check(len(latents))
        return torch.cat(
            [(sampled - clean) / sigma for clean, wanted in ((null, unconditional), (text, texts)) if wanted]
        )

    def context(self) -> Context:
        """Of the text that goes with conditional rows."""
        found, pooled = self.positive["model_conds"], pooled_width(self.model)
        vector = found["y"].cond[:1, :pooled].float() if pooled else None
        return Context(found["c_crossattn"].cond[:1].float(), vector)

    def _options(self, attention: AttentionControl | None, context: Context) -> Options:
        transformer = self.options.get("transformer_options", {})
        if torch.is_grad_enabled():
            transformer = differentiable(transformer)
        if attention is not None:
            if attention.edits_features:
                raise InputError("edits of features, as Plug-and-Play has them, need the diffusers backend")
            network, others = self.model.diffusion_model, named(self.options)
            transformer = controlled(transformer, network, attention, context.tokens, others)
        return {**self.options, "transformer_options": transformer}
