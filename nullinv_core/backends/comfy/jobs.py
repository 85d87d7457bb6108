"""What the ComfyUI nodes do, one function each: the core's stages on a MODEL, CONDITIONING and LATENT."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import comfy.samplers
import torch
from torch import Tensor

from ...context import lengthened, unpack
from ...editing import EditResult, Sampling, check_source_guidance, edit
from ...errors import InputError
from ...families import Family
from ...files.fingerprint import Fingerprint, difference, digest_of, fingerprint
from ...files.store import Inversion
from ...inversion.invert import invert
from ...null_text.embedding import embed
from ...null_text.recipe import Recipe
from ...null_text.settings import PAPER
from ...prompt_to_prompt.control import batch_edits
from ...prompt_to_prompt.maps import WordMaps
from ...schedule import Schedule, check_levels
from ...types import NullEmbeddings
from .conditioning import Conditioning, check_same_sizes, family_of, pooled_width, sizes_of, text_of, with_sizes
from .host import ComfyDenoiser, check_model, progress, run, schedule_of_sigmas
from .notices import tell
from .other_packs import holds, weights_of
from .sigmas import alphas_of, sigma_of
from .text import EditRequest
from .truth import check_of, patch_names

Latent = dict[str, Any]
"""ComfyUI's LATENT."""
MOST_STEPS = 1000
"""One more than DDIM Invert takes."""
SAME_TEXT = 0.01
"""How far apart two encodings of one text may be, in units of either."""


def schedule_of(model: Any, scheduler: str, steps: int) -> Schedule:
    """The schedule of one of ComfyUI's schedulers."""
    sampling = model.get_model_object("model_sampling")
    return schedule_of_sigmas(model, comfy.samplers.calculate_sigmas(sampling, scheduler, steps))


def fingerprint_of(model: Any) -> Fingerprint:
    """Fingerprint of a MODEL: its own weights, whatever is loaded now, every patch on them, and how it samples."""
    weights = weights_of(model.model.diffusion_model)
    sampling = model.get_model_object("model_sampling")
    for name in weights:
        stored = model.backup.get(f"diffusion_model.{name}")
        weights[name] = weights[name] if stored is None else stored.weight
    patches = {
        f"patch {key} {number} {strength} {place}": tensor
        for key, each in model.patches.items()
        for number, (strength, patch, *_) in enumerate(each)
        for place, tensor in enumerate(_tensors(patch))
    }
    old = digest_of({**weights, **patches, "noise levels": sampling.sigmas}, " ".join(_kinds(sampling)))
    own = fingerprint(weights.values(), prediction_of(sampling), trained_alphas(sampling), _patches_of(model))
    return replace(own, digest=old, patches=patch_names(model))


def prediction_of(sampling: Any) -> str:
    """What a network predicts, by the core's name for it; ComfyUI's where the core has none."""
    # the class is made of how noise levels are spaced and of what is predicted
    spacing = ("ModelSampling", "Module", "object")
    kind = next((name for name in _kinds(sampling) if not name.startswith(spacing)), "")
    return {"EPS": "epsilon", "V_PREDICTION": "v_prediction"}.get(kind, kind)


def _kinds(sampling: Any) -> list[str]:
    return [kind.__name__ for kind in type(sampling).__mro__]


def trained_alphas(sampling: Any) -> tuple[float, ...]:
    """ᾱ of every noise level that a network was trained on."""
    return alphas_of(sampling.sigmas.double().tolist())


def _patches_of(model: Any) -> dict[str, str]:
    """What is patched on a MODEL's weights and how strongly: LoRAs, merges."""
    contents: dict[str, Tensor] = {}
    strengths = set()
    for key, patches in model.patches.items():
        for number, (strength, patch, own, *place) in enumerate(patches):
            if (strength, own) != (0, 1):
                strengths.add((strength, own))
                contents |= {f"{key} {number} {place[:1]} {i}": one for i, one in enumerate(_tensors(patch))}
    return {"LoRA": digest_of(contents), "LoRA strength": str(sorted(strengths))} if contents else {}


def _tensors(patch: Any) -> Iterator[Tensor]:
    """Every tensor and number of a weight patch, however it is wrapped."""
    if isinstance(patch, Tensor):
        yield patch
    elif isinstance(patch, int | float):
        yield torch.tensor([float(patch)])
    elif isinstance(patch, list | tuple):
        for part in patch:
            yield from _tensors(part)
    elif hasattr(patch, "weights"):
        yield from _tensors(patch.weights)


def schedule_of_node(model: Any, scheduler: str, steps: int) -> Schedule:
    """The schedule of DDIM Invert. The user is told where ComfyUI's nodes do not agree on it."""
    sampling = model.get_model_object("model_sampling")
    schedule = schedule_of(model, scheduler, steps)

    def agree(count: int) -> bool:
        return len(comfy.samplers.calculate_sigmas(sampling, scheduler, count)) == count + 1

    if schedule.steps > steps:
        close = [next(filter(agree, counts), None) for counts in (range(steps, 0, -1), range(steps, MOST_STEPS))]
        tell(
            f"{scheduler} makes {schedule.steps} steps of {steps}. A KSampler does the same; BasicScheduler leaves the "
            "first out, so give samplers that take SIGMAS those of this node; all agree at "
            f"{' or '.join(map(str, filter(None, close)))} steps"
        )
    return schedule


def invert_latent(
    model: Any, positive: Conditioning, latent: Latent, schedule: Schedule, method: str
) -> tuple[Inversion, Latent]:
    """The pivot trajectory of a LATENT, and its noisiest end as a LATENT for a sampler that adds no noise.

    The LATENT's noise mask becomes the region that edits may change.
    """
    check_model(model)
    samples = _plain_samples(latent, family_of(model.model))
    mask = latent.get("noise_mask")
    region = None if mask is None else _latent_mask(mask.reshape(-1, *mask.shape[-2:]), samples)
    # before the run, in which LoRAs that hang on the text are in the weights
    identity, network = fingerprint_of(model), model.model
    context = text_of(positive, "source", len(samples), network)
    sizes = sizes_of(positive[0][1], samples) if family_of(network).sizes else ()

    def job(denoiser: ComfyDenoiser, clean: Tensor) -> Inversion:
        callback = progress(model, invert=schedule.steps)
        trajectory = invert(denoiser, clean, context.to(clean.device), schedule, callback, method).to("cpu")
        return Inversion(trajectory, None, ("",) * trajectory.batch, identity, region=region, sizes=sizes)

    inversion: Inversion = run(model, positive, positive, samples, schedule, job)
    # ComfyUI's sampler space is the variance-preserving latents times √(1+σ²)
    noisiest = inversion.trajectory.noisiest * (1 + sigma_of(schedule.alphas_cumprod[-1]) ** 2) ** 0.5
    return inversion, {"samples": model.model.process_latent_out(noisiest)}


def optimize(
    model: Any,
    positive: Conditioning,
    negative: Conditioning,
    inversion: Inversion,
    recipe: Recipe,
    guidance: float,
    pooled_gradient: bool = False,
) -> tuple[Inversion, Latent]:
    """The inversion with null embeddings, and the reconstruction that they reach.

    ``pooled_gradient``: the pooled vector of the empty text is optimized with its tokens.
    """
    check_made_with(model, inversion)
    trajectory, network, pooled = inversion.trajectory, model.model, pooled_width(model.model)
    context = text_of(positive, "source", trajectory.batch, network)
    check_same_text(context, trajectory.context)
    tokens = unpack(context, pooled)[0].shape[1]
    empty = lengthened(text_of(negative, "negative", trajectory.batch, network), tokens, pooled)
    check_same_sizes(positive[0][1], inversion, "source", network)
    check_same_sizes(negative[0][1], inversion, "negative", network)
    steps, settings = trajectory.schedule.steps, recipe.optimization
    text_alone, check = only_text_differs(model, positive, negative), check_of(model, inversion)

    def job(denoiser: ComfyDenoiser, clean: Tensor) -> tuple[Inversion, Tensor]:
        device = clean.device
        callback = progress(model, **{phase: length * steps for phase, length in recipe.lengths.items()})
        if settings is not None:
            check(denoiser, trajectory.to(device))
        denoiser = replace(denoiser, pooled_gradient=pooled_gradient)
        null, reached = embed(denoiser, trajectory.to(device), empty.to(device), recipe, guidance, callback, text_alone)
        return replace(inversion, null=null.to("cpu")), reached.cpu()

    samples = model.model.process_latent_out(trajectory.clean)
    done, reached = run(model, positive, negative, samples, trajectory.schedule, job, gradients=settings is not None)
    return done, {"samples": model.model.process_latent_out(reached)}


def sample_edit(
    model: Any,
    inversion: Inversion,
    null: Inversion | None,
    request: EditRequest,
    guidance: float,
    source_guidance: float | None = None,
    mask: Tensor | None = None,
    end_step: int | None = None,
    positive: Conditioning | None = None,
    negative: Conditioning | None = None,
) -> tuple[Latent, Latent, Tensor, WordMaps]:
    """Edit every image of an inversion: edited latents, the source branch, blend masks and word maps.

    Rows are images, each with all its edits. Without null embeddings an empty text guides. ``guidance``: 0 is that of
    the null embeddings, or the paper's. ``mask``: ComfyUI's MASK
    (1 or B, H, W), where edits may change the picture. With an ``end_step`` the latents keep their noise, for a
    sampler that goes on from that step. ``positive`` and ``negative``: what the trajectory and its null embeddings were
    made with, where that carries more than text (a ControlNet).
    """
    embeddings = None if null is None else null_of(null, inversion)
    if embeddings is not None:
        check_source_guidance(embeddings, source_guidance)
    guidance = guidance or (PAPER if embeddings is None else embeddings).guidance
    check_made_with(model, inversion)
    trajectory, network, pooled = inversion.trajectory, model.model, pooled_width(model.model)
    batch, steps = trajectory.batch, trajectory.schedule.steps
    check_same_text(text_of(request.source_conditioning, "source", batch, network), trajectory.context)
    plans = request.plans(steps)
    # texts of unequal length are repeated up to one, as ComfyUI does for its own samplers
    tokens = plans[0].source.length
    edited_texts = [text_of(c, "edit", batch, network) for c in request.conditionings]
    contexts = torch.stack([lengthened(text, tokens, pooled) for text in edited_texts], 1)
    guides: NullEmbeddings | Tensor
    if embeddings is None:
        guides = lengthened(text_of(request.empty, "empty", 1, network), tokens, pooled)[0]
    else:
        guides = _lengthened(embeddings, tokens, pooled)
    trajectory = replace(trajectory, context=lengthened(trajectory.context, tokens, pooled))

    limit = inversion.region
    if mask is not None:
        wanted = _latent_mask(mask, trajectory.clean)
        limit = wanted if limit is None else wanted & limit

    check = check_of(model, inversion)

    def job(denoiser: ComfyDenoiser, clean: Tensor) -> EditResult:
        device = clean.device
        return edit(
            denoiser, trajectory.to(device), guides.to(device), contexts.to(device), batch_edits([plans] * batch),
            Sampling(guidance, source_guidance, limit, end_step, check), progress(model, sample=end_step or steps),
        )  # fmt: skip

    samples = model.model.process_latent_out(trajectory.clean)
    positive = positive or with_sizes(request.source_conditioning, inversion.sizes)
    negative = negative or with_sizes(request.empty, inversion.sizes)
    check_same_text(text_of(positive, "source", batch, network), inversion.trajectory.context)
    text_of(negative, "negative", batch, network)
    check_same_sizes(positive[0][1], inversion, "source", network)
    check_same_sizes(negative[0][1], inversion, "negative", network)
    result: EditResult = run(
        model, positive, negative, samples, trajectory.schedule, job, branches=1 + len(request.prompts)
    )
    left = sigma_of(trajectory.schedule.alphas_cumprod[steps - end_step]) if end_step else 0.0
    edited, reached = (
        model.model.process_latent_out(z.cpu() * (1 + left**2) ** 0.5)
        for z in (result.latents.flatten(0, 1), result.source)
    )
    prompts = (plans[0].source, *(plan.prompt for plan in plans))
    maps = WordMaps(None if result.maps is None else result.maps.cpu(), prompts)
    return {"samples": edited}, {"samples": reached}, result.mask.flatten(0, 1).float().cpu(), maps


def only_text_differs(model: Any, positive: Conditioning, negative: Conditioning) -> bool:
    """Whether nothing but the text tells conditional and unconditional predictions apart, as a ControlNet or a patch of
    the MODEL may."""
    plain = all(set(extras) <= {"pooled_output"} for entry in (positive, negative) for _, extras in entry)
    return plain and not holds(model.model_options)


def check_made_with(model: Any, inversion: Inversion) -> None:
    """Raise InputError unless this MODEL made the inversion."""
    check_model(model)
    if other := difference(inversion.fingerprint, fingerprint_of(model)):
        made_with = f' ("{inversion.model}")' if inversion.model else ""
        raise InputError(
            f"the trajectory was made with another MODEL{made_with}: {other}; connect that one, or invert again"
        )
    check_levels(inversion.trajectory.schedule, trained_alphas(model.get_model_object("model_sampling")))


def null_of(null: Inversion, inversion: Inversion) -> NullEmbeddings:
    """The null embeddings that were optimized for an inversion's trajectory; raises InputError for any others."""
    if null.null is None:
        raise InputError(
            "this inversion holds no null embeddings; run Null-Text Optimize, or leave null_embeddings unconnected"
        )
    one, other = null.trajectory, inversion.trajectory
    if (
        difference(null.fingerprint, inversion.fingerprint)
        or one.schedule != other.schedule
        or not (torch.equal(one.latents, other.latents) and torch.equal(one.context, other.context))
    ):
        raise InputError("these null embeddings belong to another trajectory; connect the ones optimized for it")
    return null.null


def check_same_text(context: Tensor, other: Tensor) -> None:
    """Raise InputError where a source conditioning is not the one that the trajectory was made with, or another encoder
    made it."""
    if _near(context, other):
        return
    # what the token that begins a text comes to is the encoder's alone: it looks at no other
    if not _near(context[:, :1], other[:, :1]):
        raise InputError(
            "the source text was encoded in another way than for the inversion: by another CLIP, with a LoRA on it, "
            "CLIP Set Last Layer or another node's encoder; connect one CLIP to CLIP Text Encode and to P2P Edit"
        )
    raise InputError(
        "the source text is not the one that the picture was inverted with; feed one text to CLIP Text Encode and "
        "to P2P Edit"
    )


def _near(context: Tensor, other: Tensor) -> bool:
    # an encoder in half precision gives the same text within a few thousandths, a changed word far more
    return context.shape == other.shape and bool((context - other).norm() <= SAME_TEXT * other.norm())


def _latent_mask(mask: Tensor, latents: Tensor) -> Tensor:
    """A MASK at the size and for the number of latents (B, C, h, w): bool (B, h, w), where it covers at all."""
    if len(mask) not in (1, len(latents)):
        raise InputError(f"the mask is for {len(mask)} pictures, the trajectory holds {len(latents)}")
    whole = mask.detach().to("cpu", torch.float32)[:, None]
    scaled = torch.nn.functional.adaptive_max_pool2d(whole, latents.shape[-2:])[:, 0]
    return (scaled > 0.5).expand(len(latents), -1, -1)


def _plain_samples(latent: Latent, family: Family) -> Tensor:
    samples = latent["samples"]
    if not isinstance(samples, Tensor) or samples.ndim != 4 or samples.shape[1] != family.channels:
        raise InputError(f"the latent is not that of a {family.name} picture; use VAE Encode with the model's VAE")
    return samples


def _lengthened(null: NullEmbeddings, tokens: int, pooled: int) -> NullEmbeddings:
    """Null embeddings that have been repeated up to so many tokens."""
    pin = null.pin and replace(null.pin, null=lengthened(null.pin.null, tokens, pooled))
    return replace(null, embeddings=lengthened(null.embeddings, tokens, pooled), pin=pin)
