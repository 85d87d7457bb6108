"""ComfyUI backend: the core runs as a sampler inside ComfyUI's own guider.

The guider loads and patches the model, registers hooks, runs wrappers and encodes what a CONDITIONING carries, as for
any KSampler; the core then calls back into ``calc_cond_batch``, so all of that takes part in every prediction.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import comfy.model_base
import comfy.model_management
import comfy.model_sampling
import comfy.patcher_extension
import comfy.sampler_helpers
import comfy.samplers
import latent_preview
import numpy as np
import torch
from torch import Tensor

from ..context import pack, unpack
from ..denoiser import AttentionControl
from ..errors import InputError
from ..schedule import NoiseLevel, Schedule
from ..types import Callback, Event
from .comfy_attention import controlled, differentiable
from .comfy_checkpoint import Checkpointing, allow_checkpointing, memory_needed, room_for
from .comfy_conditioning import Conditioning, check_hints, ordinary_conditioning, pooled_width, with_context
from .comfy_gradients import (
    check_streams_no_weights,
    check_whole,
    differentiating,
    forget_streams,
    in_less_memory,
    is_constant,
    make_ordinary,
    resident,
    with_constant_controls,
)
from .comfy_others import EVERYWHERE, OWN_WRAPPER, Watch, check_apart, holds, named, owner, watched
from .comfy_precision import in_safer_precision
from .comfy_sigmas import alphas_of, check_sigmas, sigma_of

GUIDANCE_HOOKS = (
    "sampler_cfg_function", "sampler_pre_cfg_function", "sampler_post_cfg_function", "sampler_calc_cond_batch_function",
)  # fmt: skip
"""Entries of model_options by which other nodes compute guidance their own way."""
BOTH_BRANCHES = "disable_cfg1_optimization"
"""Under this key nodes that mix the two branches of guidance ask for both, whatever the scale."""
CACHE = "easycache"
"""Under this key of the transformer options EasyCache and LazyCache keep earlier predictions."""


@dataclass(frozen=True, eq=False)
class ComfyDenoiser:
    """``Denoiser`` of a ComfyUI model that the guider has loaded.

    ``positive`` and ``negative``: the processed conditioning whose extras (ControlNet, sizes …) go with conditional
    and unconditional rows; their text and pooled vector are replaced by the context of each call.
    ``pooled_gradient``: whether the pooled vector of the context gets a gradient too. ``watch``: over what the network
    runs for.
    """

    model: Any
    positive: dict[str, Any]
    negative: dict[str, Any]
    options: dict[str, Any]
    watch: Watch | None = None
    pooled_gradient: bool = False

    def __call__(
        self,
        latents: Tensor,
        level: NoiseLevel,
        context: Tensor,
        attention: AttentionControl | None = None,
        nulls: int = 0,
    ) -> Tensor:
        comfy.model_management.throw_exception_if_processing_interrupted()
        sigma, texts = sigma_of(level.alpha), len(latents) - nulls
        if nulls and texts and nulls != texts:
            # ComfyUI predicts all conditionings of a call for the same latents
            null = self(latents[:nulls], level, context[:nulls], None, nulls)
            return torch.cat([null, self(latents[nulls:], level, context[nulls:], attention)])
        sampled = latents[: max(nulls, texts)] * math.sqrt(1 + sigma**2)
        sigmas = sampled.new_full((len(sampled),), sigma)
        # other packs tell conditional (0) and unconditional rows (1) apart by their place in this list
        conds = [
            [self._with(self.positive, context[nulls:])] if texts else None,
            [self._with(self.negative, context[:nulls])] if nulls else None,
        ]
        text, null = comfy.samplers.calc_cond_batch(
            self.model, conds, sampled, sigmas, self._options(attention, context)
        )
        if self.watch is not None:
            self.watch.check(len(latents))
        return torch.cat([(sampled - clean) / sigma for clean, wanted in ((null, nulls), (text, texts)) if wanted])

    def _with(self, entry: dict[str, Any], context: Tensor) -> dict[str, Any]:
        return with_context(entry, context, pooled_width(self.model), self.pooled_gradient)

    def context(self) -> Tensor:
        """The text that goes with conditional rows: (1, tokens, width)."""
        found, pooled = self.positive["model_conds"], pooled_width(self.model)
        vector = found["y"].cond[:1, :pooled].float() if pooled else None
        return pack(found["c_crossattn"].cond[:1].float(), vector)

    def _options(self, attention: AttentionControl | None, context: Tensor) -> dict[str, Any]:
        transformer = self.options.get("transformer_options", {})
        if torch.is_grad_enabled():
            transformer = differentiable(transformer)
        if attention is not None:
            tokens = unpack(context, pooled_width(self.model))[0].shape[1]
            transformer = controlled(transformer, self.model.diffusion_model, attention, tokens, named(self.options))
        return {**self.options, "transformer_options": transformer}


def schedule_of_sigmas(model: Any, sigmas: Tensor) -> Schedule:
    """The schedule of ComfyUI's SIGMAS, descending. Raises InputError where no photo can be inverted on them.

    Timesteps lie between those that the model was trained on where its noise levels do.
    """
    check_model(model)
    sampling = model.get_model_object("model_sampling")
    levels = [float(s) for s in sigmas.double().flip(0)]
    check_sigmas(levels, float(sampling.sigmas[0]), float(sampling.sigmas[-1]))
    trained = sampling.log_sigmas.double().cpu().numpy()
    timesteps = np.interp(np.log(levels[1:]), trained, np.arange(len(trained)))
    return Schedule(tuple(round(float(t), 4) for t in timesteps), alphas_of(levels))


def sigmas_of_schedule(schedule: Schedule) -> Tensor:
    """ComfyUI's SIGMAS of a schedule: float32 (T+1,), descending."""
    return torch.tensor([sigma_of(a) for a in reversed(schedule.alphas_cumprod)], dtype=torch.float32)


class _CoreSampler(comfy.samplers.Sampler):
    """What the guider runs in place of a sampler."""

    def __init__(self, job: Callable[[ComfyDenoiser, Tensor], Any], gradients: bool, cleanest: NoiseLevel) -> None:
        self.job = job
        self.gradients = gradients
        self.cleanest = cleanest
        self.result: Any = None

    def sample(
        self, model_wrap: Any, sigmas: Tensor, extra_args: dict[str, Any], callback: Any, noise: Tensor,
        latent_image: Tensor, denoise_mask: Any = None, disable_pbar: bool = False,
    ) -> Tensor:  # fmt: skip
        """ComfyUI's hook; the job's result is kept in ``result``."""
        model, conds, options = model_wrap.inner_model, model_wrap.conds, extra_args["model_options"]
        with watched(model.diffusion_model, options) as watch:
            denoiser = ComfyDenoiser(model, conds["positive"][0], conds["negative"][0], options, watch)
            text = denoiser.context().to(latent_image.device)
            check_apart(denoiser, latent_image[:1], self.cleanest, text, options)
            if not self.gradients:
                self.result = self.job(denoiser, latent_image)
                return latent_image
            check_whole(model)
            make_ordinary(model.diffusion_model)
            for extra in comfy.sampler_helpers.get_additional_models(conds, model.get_dtype())[0]:
                if is_constant(extra, conds):
                    continue
                check_streams_no_weights(extra)
                check_whole(extra.model)
                make_ordinary(extra.model)
            self.result = differentiating(lambda: self.job(denoiser, latent_image), options)
            return latent_image


def run(
    model: Any,
    positive: Conditioning,
    negative: Conditioning,
    latents: Tensor,
    schedule: Schedule,
    job: Callable[[ComfyDenoiser, Tensor], Any],
    gradients: bool = False,
    branches: int = 1,
    checkpointing: Checkpointing | None = None,
) -> Any:
    """Load ``model`` as ComfyUI would for sampling and return what ``job(denoiser, clean latents)`` returns.

    ``latents``: a LATENT's samples (B, 4, h, w). The job runs outside of inference mode, on the model's device, with
    latents in the model's scale; it samples ``branches`` of each picture at once. With ``gradients`` the weights are
    wholly loaded and may be differentiated through, with ``checkpointing`` as the device's memory asks for unless it
    is given. A job that float16 overflows in runs once more in float32. Raises InputError where memory does not suffice
    for gradients, even with gradient checkpointing.
    """
    with torch.inference_mode(False), torch.no_grad():
        patcher = resident(model) if gradients else model.clone()
        check_hooks(patcher)
        samples = latents.detach().clone()
        forget_streams()
        conds = ordinary_conditioning(positive), ordinary_conditioning(negative)
        check_hints(conds, len(samples) * branches)
        if gradients:
            with_constant_controls(conds)

        def attempt() -> Any:
            guider = comfy.samplers.CFGGuider(patcher)
            guider.set_conds(*conds)
            sampler = _CoreSampler(job, gradients, schedule.level(1))
            # of the noise, ComfyUI takes the size that it makes room for
            noise = samples.new_zeros(len(samples) * branches, *samples.shape[1:])
            guider.sample(noise, samples, sampler, sigmas_of_schedule(schedule), seed=0)
            return sampler.result

        if not gradients:
            return in_safer_precision(attempt, patcher)
        switch = checkpointing or Checkpointing()
        allow_checkpointing(patcher, switch)

        def whole() -> Any:
            # reckoned anew where float32 takes more
            if checkpointing is None and not room_for(patcher, samples.shape):
                switch.on = True
            needed = memory_needed(patcher, samples.shape, switch.on)
            comfy.model_management.load_models_gpu([patcher], memory_required=needed, force_full_load=True)
            return attempt()

        return in_less_memory(lambda: in_safer_precision(whole, patcher), switch)


def check_hooks(model: Any) -> None:
    """Raise InputError for a MODEL whose guidance is not the plain one that the embeddings are optimized for, or that
    does not run its network for every prediction on one device."""
    options, kinds = model.model_options, comfy.patcher_extension.WrappersMP
    if comfy.patcher_extension.get_wrappers_with_key(kinds.CALC_COND_BATCH, OWN_WRAPPER, options, True):
        raise InputError(
            "this MODEL is for KSamplers, with null embeddings in it; connect the one from before that node"
        )
    if CACHE in options.get("transformer_options", {}):
        raise InputError(
            "this MODEL leaves out predictions (EasyCache, LazyCache), and the photo would drift; " + EVERYWHERE
        )
    if model.get_additional_models_with_key("multigpu"):
        raise InputError("this MODEL is split over several GPUs; connect the one from before MultiGPU CFG Split")
    hooks = [
        *(options.get(name) for name in GUIDANCE_HOOKS),
        comfy.patcher_extension.get_all_wrappers(kinds.PREDICT_NOISE, options, is_model_options=True),
        model.get_all_wrappers(kinds.PREDICT_NOISE),
    ]
    # who asks for the unconditional prediction where plain guidance needs none, makes use of it
    if holds(hooks) or holds(options.get(BOTH_BRANCHES)):
        raise InputError(
            f"another node{named(hooks) or named(options)} changes this MODEL's guidance, for which null text cannot "
            f"be optimized; {EVERYWHERE}"
        )


def check_model(model: Any) -> None:
    """Raise InputError for a MODEL that null-text inversion does not apply to."""
    sampling, network = model.get_model_object("model_sampling"), model.model.diffusion_model
    kind = type(model.model).__name__
    discrete = isinstance(sampling, comfy.model_sampling.ModelSamplingDiscrete)
    if not discrete and "model_sampling" in model.object_patches:
        raise InputError(
            f"another node ({owner(type(sampling))}) gave this MODEL the noise levels of rectified flow models, EDM or "
            f"others that null-text inversion does not know; {EVERYWHERE}"
        )
    if hasattr(network, "input_blocks") and not discrete and not isinstance(sampling, comfy.model_sampling.CONST):
        raise InputError(
            f"this {kind} model was trained on continuous noise levels (EDM, as Playground 2.5 and CosXL), which "
            "null-text inversion does not know; load a plain Stable Diffusion 1.x, 2.x or SDXL checkpoint"
        )
    if not discrete or not hasattr(network, "input_blocks"):
        raise InputError(
            f"null-text inversion needs a Stable Diffusion 1.x, 2.x or SDXL model, not {kind}; "
            "rectified flow models (SD3, Flux and others) have no null text to optimize: use their own inpainting or "
            "instruction models"
        )
    config = model.model.model_config.unet_config
    if config.get("in_channels", 4) != 4:
        raise InputError(
            f"this {kind} model reads more than the picture's latents (inpainting, instruct-pix2pix); load the plain "
            "text-to-image model of its family"
        )
    if config.get("adm_in_channels") is not None and not isinstance(model.model, comfy.model_base.SDXL):
        raise InputError(
            f"null-text inversion does not know {kind} models (SDXL's refiner, unCLIP); load a plain Stable Diffusion "
            "1.x, 2.x or SDXL base checkpoint"
        )


def progress(model: Any, **units: int) -> Callback:
    """A callback that feeds ComfyUI's progress bar and live preview. ``units``: of the bar, by phase, in order."""
    total = max(1, sum(units.values()))
    first = dict(zip(units, accumulate(units.values(), initial=0), strict=False))
    show = latent_preview.prepare_callback(model, total)

    def callback(event: Event) -> None:
        each = units[event.phase] // event.total
        done = first[event.phase] + (event.step - 1) * each + min(event.iteration or each, each) - 1
        show(done, event.preview, None, total)

    return callback
