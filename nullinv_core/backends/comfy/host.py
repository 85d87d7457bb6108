"""ComfyUI backend: the core runs as a sampler inside ComfyUI's own guider.

The guider loads and patches the model, registers hooks, runs wrappers and encodes what a CONDITIONING carries, as for
any KSampler; the core then calls back into ``calc_cond_batch``, so all of that takes part in every prediction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Generic

import comfy.model_management
import comfy.sampler_helpers
import comfy.samplers
import latent_preview
import torch
from torch import Tensor

from ...model import Checkpointing, Result, in_less_memory, in_safer_precision
from ...schedule import NoiseLevel, Schedule
from ...types import Callback, Event
from .checks import check_hooks
from .conditioning import check_hints, ordinary_conditioning
from .denoiser import ComfyDenoiser
from .gradients.checkpointing import allow_checkpointing, memory_needed, room_for
from .gradients.weights import (
    check_streams_no_weights,
    check_whole,
    differentiating,
    forget_streams,
    is_constant,
    make_ordinary,
    memory_of_host,
    resident,
    with_constant_controls,
)
from .other_packs import check_apart, watched
from .precision import Precision
from .protocols import Conditioning, GuidedNetwork, Options, Patcher
from .schedule import sigmas_of_schedule


@dataclass(frozen=True, eq=False)
class Guided:
    """A MODEL and the CONDITIONINGs that go with its conditional and unconditional rows."""

    model: Patcher
    positive: Conditioning
    negative: Conditioning


class _CoreSampler(comfy.samplers.Sampler, Generic[Result]):
    """What the guider runs in place of a sampler."""

    def __init__(self, job: Callable[[ComfyDenoiser, Tensor], Result], gradients: bool, cleanest: NoiseLevel) -> None:
        self.job = job
        self.gradients = gradients
        self.cleanest = cleanest
        self.result: list[Result] = []

    def sample(
        self,
        model_wrap: GuidedNetwork,
        sigmas: Tensor,
        extra_args: dict[str, Options],
        callback: object,
        noise: Tensor,
        latent_image: Tensor,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        """ComfyUI's hook; what the job returns is kept in ``result``."""
        model, conds, options = model_wrap.inner_model, model_wrap.conds, extra_args["model_options"]
        with watched(model.diffusion_model, options) as watch:
            denoiser = ComfyDenoiser(model, conds["positive"][0], conds["negative"][0], options, watch)
            text = denoiser.context().to(latent_image.device)
            check_apart(denoiser, latent_image[:1], self.cleanest, text, options)
            if not self.gradients:
                self.result.append(self.job(denoiser, latent_image))
                return latent_image
            check_whole(model)
            make_ordinary(model.diffusion_model)
            for extra in comfy.sampler_helpers.get_additional_models(conds, model.get_dtype())[0]:
                if is_constant(extra, conds):
                    continue
                check_streams_no_weights(extra)
                check_whole(extra.model)
                make_ordinary(extra.model)
            self.result.append(differentiating(lambda: self.job(denoiser, latent_image), options))
            return latent_image


def run(
    guided: Guided,
    latents: Tensor,
    schedule: Schedule,
    job: Callable[[ComfyDenoiser, Tensor], Result],
    gradients: bool = False,
    branches: int = 1,
    checkpointing: Checkpointing | None = None,
) -> Result:
    """Load a MODEL as ComfyUI would for sampling and return what ``job(denoiser, clean latents)`` returns.

    ``latents``: a LATENT's samples (B, C, h, w). The job runs outside of inference mode, on the model's device, with
    latents in the model's scale; it samples ``branches`` of each picture at once. With ``gradients`` the weights are
    wholly loaded and may be differentiated through, with ``checkpointing`` as the device's memory asks for unless it
    is given. A job that float16 overflows in runs once more in float32. Raises InputError where memory does not suffice
    for gradients, even with gradient checkpointing.
    """
    with torch.inference_mode(False), torch.no_grad():
        patcher = resident(guided.model) if gradients else guided.model.clone()
        check_hooks(patcher)
        samples = latents.detach().clone()
        forget_streams()
        conds = ordinary_conditioning(guided.positive), ordinary_conditioning(guided.negative)
        check_hints(conds, len(samples) * branches)
        if gradients:
            with_constant_controls(conds)

        def attempt() -> Result:
            guider = comfy.samplers.CFGGuider(patcher)
            guider.set_conds(*conds)
            sampler = _CoreSampler(job, gradients, schedule.level(1))
            # of the noise, ComfyUI takes the size that it makes room for
            noise = samples.new_zeros(len(samples) * branches, *samples.shape[1:])
            guider.sample(noise, samples, sampler, sigmas_of_schedule(schedule), seed=0)
            return sampler.result[-1]

        if not gradients:
            return in_safer_precision(attempt, Precision(patcher))
        switch = checkpointing or Checkpointing()
        allow_checkpointing(patcher, switch)

        def whole() -> Result:
            # counted again where float32 takes more
            if checkpointing is None and not room_for(patcher, samples.shape):
                switch.on = True
            needed = memory_needed(patcher, samples.shape, switch.on)
            comfy.model_management.load_models_gpu([patcher], memory_required=needed, force_full_load=True)
            return attempt()

        return in_less_memory(lambda: in_safer_precision(whole, Precision(patcher)), switch, memory_of_host())


def progress(model: Patcher, **units: int) -> Callback:
    """A callback that feeds ComfyUI's progress bar and live preview. ``units``: of the bar, by phase, in order."""
    total = max(1, sum(units.values()))
    first = dict(zip(units, accumulate(units.values(), initial=0), strict=False))
    show = latent_preview.prepare_callback(model, total)

    def callback(event: Event) -> None:
        each = units[event.phase] // event.total
        done = first[event.phase] + (event.step - 1) * each + min(event.iteration or each, each) - 1
        show(done, event.preview, None, total)

    return callback
