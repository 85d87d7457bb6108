"""What the ComfyUI nodes do, one function each: the core's stages on a MODEL, CONDITIONING and LATENT."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import comfy.samplers
import torch
from torch import Tensor

from ..editing import EditResult, edit
from ..errors import InputError
from ..inversion import invert
from ..null_text import NullTextSettings, optimize_null_text
from ..prompt_to_prompt.attention import batch_edits
from ..prompt_to_prompt.edit import EditSettings, plan_edits
from ..prompt_to_prompt.prompt import Prompt
from ..schedule import Schedule
from ..store import Inversion, fingerprint
from .comfy import (
    ComfyDenoiser,
    Conditioning,
    check_model,
    progress,
    run,
    schedule_of_sigmas,
    sigma_of,
    text_of,
)

Latent = dict[str, Any]
"""ComfyUI's LATENT."""


@dataclass(frozen=True, repr=False)
class EditRequest:
    """What P2P Edit hands to the sampler: prompts, their encodings and the settings of one or several edits."""

    source: Prompt
    prompts: tuple[Prompt, ...]
    source_conditioning: Conditioning
    conditionings: tuple[Conditioning, ...]
    settings: EditSettings

    def __repr__(self) -> str:
        return f"EditRequest({self.source.text!r} -> {', '.join(repr(p.text) for p in self.prompts)})"


def schedule_of(model: Any, scheduler: str, steps: int) -> Schedule:
    """The schedule of one of ComfyUI's schedulers."""
    sampling = model.get_model_object("model_sampling")
    return schedule_of_sigmas(model, comfy.samplers.calculate_sigmas(sampling, scheduler, steps))


def fingerprint_of(model: Any) -> str:
    """Fingerprint of a MODEL: its own weights, whatever is loaded now, and every patch (LoRA) on them."""
    weights = dict(model.model.diffusion_model.state_dict())
    for name in weights:
        stored = model.backup.get(f"diffusion_model.{name}")
        weights[name] = weights[name] if stored is None else stored.weight
    for key, patches in model.patches.items():
        for number, (strength, patch, *_) in enumerate(patches):
            for place, tensor in enumerate(_tensors(patch)):
                weights[f"patch {key} {number} {strength} {place}"] = tensor
    return fingerprint(weights, model.model.model_type.name)


def _tensors(patch: Any) -> Iterator[Tensor]:
    """Every tensor of a weight patch, however it is wrapped."""
    if isinstance(patch, Tensor):
        yield patch
    elif isinstance(patch, list | tuple):
        for part in patch:
            yield from _tensors(part)
    elif hasattr(patch, "weights"):
        yield from _tensors(patch.weights)


def invert_latent(model: Any, positive: Conditioning, latent: Latent, schedule: Schedule) -> tuple[Inversion, Latent]:
    """The pivot trajectory of a LATENT, and its noisiest end as a LATENT for a sampler that adds no noise."""
    check_model(model)
    samples = _plain_samples(latent)

    def job(denoiser: ComfyDenoiser, clean: Tensor) -> Inversion:
        context = text_of(positive, "source", len(clean)).to(clean.device)
        trajectory = invert(denoiser, clean, context, schedule, progress(model, schedule.steps))
        return Inversion(trajectory.to("cpu"), None, ("",) * trajectory.batch, fingerprint_of(model))

    inversion: Inversion = run(model, positive, positive, samples, schedule, job)
    # ComfyUI's sampler space is the variance-preserving latents times √(1+σ²)
    noisiest = inversion.trajectory.noisiest * (1 + sigma_of(schedule.alphas_cumprod[-1]) ** 2) ** 0.5
    return inversion, {"samples": model.model.process_latent_out(noisiest)}


def optimize(
    model: Any, positive: Conditioning, negative: Conditioning, inversion: Inversion, settings: NullTextSettings
) -> tuple[Inversion, Latent]:
    """The inversion with null embeddings, and the reconstruction that they reach."""
    check_made_with(model, inversion)
    trajectory = inversion.trajectory
    context = text_of(positive, "source", trajectory.batch)
    check_same_text(context, trajectory.context)
    empty = _as_long_as(text_of(negative, "negative", trajectory.batch), context)
    steps = trajectory.schedule.steps

    def job(denoiser: ComfyDenoiser, clean: Tensor) -> tuple[Inversion, Tensor]:
        device = clean.device
        callback = progress(model, steps, settings.inner_steps)
        null, reached = optimize_null_text(denoiser, trajectory.to(device), empty.to(device), settings, callback)
        return replace(inversion, null=null.to("cpu")), reached.cpu()

    samples = model.model.process_latent_out(trajectory.clean)
    done, reached = run(model, positive, negative, samples, trajectory.schedule, job)
    return done, {"samples": model.model.process_latent_out(reached)}


def sample_edit(
    model: Any, inversion: Inversion, null: Inversion | None, request: EditRequest, guidance: float
) -> EditResult:
    """Edit every image of an inversion; without null embeddings the prompt's own null context guides (DDIM)."""
    check_made_with(model, inversion)
    trajectory = inversion.trajectory
    if len(request.prompts) < 1:
        raise InputError("there is no edit prompt")
    check_same_text(text_of(request.source_conditioning, "source", trajectory.batch), trajectory.context)
    plans = plan_edits(request.source, request.prompts, trajectory.schedule.steps, request.settings)
    contexts = torch.stack([text_of(c, "edit", trajectory.batch) for c in request.conditionings], 1)

    def job(denoiser: ComfyDenoiser, clean: Tensor) -> EditResult:
        device = clean.device
        embeddings = (null or inversion).null
        if embeddings is None:
            raise InputError("the edit needs null embeddings; put Null-Text Optimize before it")
        callback = progress(model, trajectory.schedule.steps)
        return edit(
            denoiser, trajectory.to(device), embeddings.to(device), contexts.to(device),
            batch_edits([plans] * trajectory.batch), guidance, callback,
        )  # fmt: skip

    samples = model.model.process_latent_out(trajectory.clean)
    result: EditResult = run(
        model, request.source_conditioning, request.source_conditioning, samples, trajectory.schedule, job
    )
    return result


def check_made_with(model: Any, inversion: Inversion) -> None:
    """Raise InputError unless this MODEL made the inversion."""
    check_model(model)
    if inversion.fingerprint != fingerprint_of(model):
        raise InputError(
            "the trajectory was made with another MODEL (or other LoRAs on it); connect that one, or invert again"
        )


def check_same_text(context: Tensor, other: Tensor) -> None:
    """Raise InputError where a source conditioning is not the one that the trajectory was made with."""
    if context.shape != other.shape or not torch.allclose(context, other, rtol=1e-3, atol=1e-3):
        raise InputError(
            "the source text is not the one that the picture was inverted with; feed one text to CLIP Text Encode and "
            "to P2P Edit"
        )


def _plain_samples(latent: Latent) -> Tensor:
    samples = latent["samples"]
    if not isinstance(samples, Tensor) or samples.ndim != 4 or samples.shape[1] != 4:
        raise InputError("the latent is not that of a Stable Diffusion 1.x or 2.x picture; use VAE Encode with its VAE")
    return samples


def _as_long_as(context: Tensor, other: Tensor) -> Tensor:
    """A context repeated to another's token count, which changes no attention."""
    if other.shape[1] % context.shape[1]:
        raise InputError(
            f"the negative prompt takes {context.shape[1]} tokens, the source {other.shape[1]}; shorten it"
        )
    return context.repeat(1, other.shape[1] // context.shape[1], 1)
