"""ComfyUI backend: the core runs as a sampler inside ComfyUI's own guider.

The guider loads and patches the model, registers hooks, runs wrappers and encodes what a CONDITIONING carries, as for
any KSampler; the core then calls back into ``calc_cond_batch``, so all of that takes part in every prediction.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import comfy.conds
import comfy.model_management
import comfy.model_sampling
import comfy.sampler_helpers
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from torch import Tensor

from ..denoiser import AttentionControl
from ..errors import InputError
from ..schedule import NoiseLevel, Schedule
from ..types import Callback, Event
from .comfy_attention import controlled, differentiable
from .comfy_checkpoint import Checkpointing, allow_checkpointing, checkpointing_for, memory_needed

Conditioning = list[tuple[Tensor, dict[str, Any]]]
REFUSED = {
    "area": "an area",
    "mask": "a mask",
    "start_percent": "a timestep range",
    "end_percent": "a timestep range",
    "gligen": "GLIGEN boxes",
    "concat_latent_image": "an inpainting image",
}
"""What a CONDITIONING may not carry: the prompt must hold for the whole picture at every step."""


@dataclass(frozen=True, eq=False)
class ComfyDenoiser:
    """``Denoiser`` of a ComfyUI model that the guider has loaded.

    ``positive`` and ``negative``: the processed conditioning whose extras (ControlNet, pooled output …) go with
    conditional and unconditional rows; their text is replaced by the context of each call. ``checkpointing``: of a
    model that is differentiated through.
    """

    model: Any
    positive: dict[str, Any]
    negative: dict[str, Any]
    options: dict[str, Any]
    checkpointing: Checkpointing | None = None

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
            [with_context(self.positive, context[nulls:])] if texts else None,
            [with_context(self.negative, context[:nulls])] if nulls else None,
        ]
        text, null = comfy.samplers.calc_cond_batch(self.model, conds, sampled, sigmas, self._options(attention))
        return torch.cat([(sampled - clean) / sigma for clean, wanted in ((null, nulls), (text, texts)) if wanted])

    def _options(self, attention: AttentionControl | None) -> dict[str, Any]:
        transformer = self.options.get("transformer_options", {})
        if torch.is_grad_enabled():
            transformer = differentiable(transformer)
        if attention is not None:
            transformer = controlled(transformer, self.model.diffusion_model, attention)
        return {**self.options, "transformer_options": transformer}


def sigma_of(alpha: float) -> float:
    """ComfyUI's noise level σ of ᾱ: σ² = (1-ᾱ)/ᾱ."""
    return math.sqrt((1 - alpha) / alpha)


def schedule_of_sigmas(model: Any, sigmas: Tensor) -> Schedule:
    """The schedule of ComfyUI's SIGMAS, descending. Raises InputError where they do not fall."""
    levels = [float(s) for s in sigmas.double().flip(0)]
    if len(levels) < 2 or any(b <= a for a, b in pairwise(levels)):
        raise InputError("SIGMAS must fall from step to step, at least two of them")
    sampling = model.get_model_object("model_sampling")
    timesteps = sampling.timestep(torch.tensor(levels[1:], dtype=torch.float32))
    return Schedule(tuple(float(t) for t in timesteps), tuple(1 / (1 + s * s) for s in levels))


def sigmas_of_schedule(schedule: Schedule) -> Tensor:
    """ComfyUI's SIGMAS of a schedule: float32 (T+1,), descending."""
    return torch.tensor([sigma_of(a) for a in reversed(schedule.alphas_cumprod)], dtype=torch.float32)


class _CoreSampler(comfy.samplers.Sampler):
    """What the guider runs in place of a sampler."""

    def __init__(self, job: Callable[[ComfyDenoiser, Tensor], Any], checkpointing: Checkpointing | None) -> None:
        self.job = job
        self.checkpointing = checkpointing
        self.result: Any = None

    def sample(
        self, model_wrap: Any, sigmas: Tensor, extra_args: dict[str, Any], callback: Any, noise: Tensor,
        latent_image: Tensor, denoise_mask: Any = None, disable_pbar: bool = False,
    ) -> Tensor:  # fmt: skip
        """ComfyUI's hook; the job's result is kept in ``result``."""
        model, conds = model_wrap.inner_model, model_wrap.conds
        denoiser = ComfyDenoiser(
            model, conds["positive"][0], conds["negative"][0], extra_args["model_options"], self.checkpointing
        )
        if self.checkpointing is None:
            self.result = self.job(denoiser, latent_image)
            return latent_image
        _make_ordinary(model.diffusion_model)
        for extra in comfy.sampler_helpers.get_additional_models(conds, model.get_dtype())[0]:
            _make_ordinary(extra.model)
        while True:
            try:
                self.result = self.job(denoiser, latent_image)
                return latent_image
            except torch.cuda.OutOfMemoryError as error:
                if self.checkpointing.on:
                    raise InputError(
                        "there is not enough memory to optimize this picture; use a smaller one, fewer pictures at "
                        "once, or start ComfyUI with --reserve-vram or --lowvram"
                    ) from error
            # outside of the handler, which keeps the failed run's tensors alive
            logging.warning("null-text inversion ran out of memory; once more with gradient checkpointing")
            comfy.model_management.soft_empty_cache()
            self.checkpointing.on = True


def run(
    model: Any,
    positive: Conditioning,
    negative: Conditioning,
    latents: Tensor,
    schedule: Schedule,
    job: Callable[[ComfyDenoiser, Tensor], Any],
    gradients: bool = False,
) -> Any:
    """Load ``model`` as ComfyUI would for sampling and return what ``job(denoiser, clean latents)`` returns.

    ``latents``: a LATENT's samples (B, 4, h, w). The job runs outside of inference mode, on the model's device, with
    latents in the model's scale. With ``gradients`` the weights are wholly loaded and may be differentiated through.
    Raises InputError where memory does not suffice, even with gradient checkpointing.
    """
    with torch.inference_mode(False), torch.no_grad():
        patcher = _resident(model) if gradients else model.clone()
        samples = latents.detach().clone()
        checkpointing = checkpointing_for(patcher, samples.shape) if gradients else None
        if checkpointing:
            allow_checkpointing(patcher, checkpointing)
            needed = memory_needed(patcher, samples.shape, checkpointing.on)
            comfy.model_management.load_models_gpu([patcher], memory_required=needed, force_full_load=True)
        guider = comfy.samplers.CFGGuider(patcher)
        guider.set_conds(_ordinary_conditioning(positive), _ordinary_conditioning(negative))
        sampler = _CoreSampler(job, checkpointing)
        guider.sample(torch.zeros_like(samples), samples, sampler, sigmas_of_schedule(schedule))
        return sampler.result


def _resident(model: Any) -> Any:
    """A clone of the MODEL whose weights can be differentiated through, wholly loaded.

    Dynamic offloading streams weights into buffers that autograd must not keep, so it is left for a plain clone.
    """
    if hasattr(model, "is_dynamic") and model.is_dynamic():
        return model.clone(disable_dynamic=True)
    return model.clone()


def _make_ordinary(network: torch.nn.Module) -> None:
    """Replace weights that were loaded in inference mode by equal ones that autograd may save, one at a time."""
    for name, parameter in list(network.named_parameters()):
        if parameter.is_inference():
            comfy.utils.set_attr_param(network, name, parameter.detach().clone())


def _ordinary(value: Any) -> Any:
    """A tensor outside of inference mode; all else as it is."""
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


def _ordinary_conditioning(conditioning: Conditioning) -> list[list[Any]]:
    return [[_ordinary(text), {k: _ordinary(v) for k, v in extras.items()}] for text, extras in conditioning]


def with_context(entry: dict[str, Any], context: Tensor) -> dict[str, Any]:
    """A processed conditioning with another text."""
    return {**entry, "model_conds": {**entry["model_conds"], "c_crossattn": comfy.conds.CONDCrossAttn(context)}}


def text_of(conditioning: Conditioning, what: str, batch: int = 1) -> Tensor:
    """Context of a CONDITIONING for so many images, float32 (B, tokens, width).

    Raises InputError where it holds several prompts or is confined to a part of the picture or of the steps.
    """
    if len(conditioning) != 1:
        raise InputError(
            f"the {what} conditioning holds {len(conditioning)} prompts (Conditioning Combine?); use a single one"
        )
    text, extras = conditioning[0]
    for key, name in REFUSED.items():
        if extras.get(key) is not None:
            raise InputError(
                f"the {what} conditioning is limited by {name}; use one for the whole picture and all steps"
            )
    if len(text) not in (1, batch):
        raise InputError(f"the {what} conditioning is for {len(text)} pictures, the latents hold {batch}")
    return _ordinary(text).float().expand(batch, -1, -1).clone()


def check_model(model: Any) -> None:
    """Raise InputError for a MODEL that null-text inversion does not apply to."""
    sampling = model.get_model_object("model_sampling")
    if not isinstance(sampling, comfy.model_sampling.ModelSamplingDiscrete) or not hasattr(
        model.model.diffusion_model, "input_blocks"
    ):
        raise InputError(
            f"null-text inversion needs a Stable Diffusion 1.x or 2.x model, not {type(model.model).__name__}; "
            "rectified flow models (SD3, Flux and others) have no null text to optimize: use their own inpainting or "
            "instruction models"
        )


def progress(model: Any, steps: int, inner_steps: int = 1) -> Callback:
    """A callback that feeds ComfyUI's progress bar and live preview."""
    show = latent_preview.prepare_callback(model, steps * inner_steps)

    def callback(event: Event) -> None:
        done = (event.step - 1) * inner_steps + (event.iteration or inner_steps) - 1
        show(done, event.preview, None, steps * inner_steps)

    return callback
