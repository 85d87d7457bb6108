"""What the ComfyUI nodes do, one function each: the core's stages on a MODEL, CONDITIONING and LATENT."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ...context import Context, same_text
from ...denoiser import Denoiser
from ...editing import RANDOM, check_sampling
from ...errors import InputError
from ...families import Family
from ...files.fingerprint import difference
from ...files.store import Inversion
from ...inversion.invert import invert
from ...null_text.recipe import Recipe
from ...null_text.settings import PAPER
from ...photo.images import GRID, pixels_of
from ...pipeline import Sampling, embedded, of_edits, sample
from ...prompt_to_prompt.maps import WordMaps
from ...schedule import Schedule
from ...types import NullEmbeddings, Trajectory
from .checks import check_model
from .conditioning import check_same_sizes, text_of, with_sizes
from .host import progress
from .model import ComfyModel
from .notices import tell
from .protocols import Conditioning, Latent, Patcher
from .sigmas import sigma_of
from .text import EditRequest

SMALL = 0.5
"""Share of the pixels that a model was trained at, below which its pictures suffer."""
OTHER_SHAPE = 1.1
"""By how much a mask may be wider than its picture, or narrower: an autoencoder crops pictures by some pixels."""


def invert_latent(
    model: Patcher, positive: Conditioning, latent: Latent, schedule: Schedule, method: str
) -> tuple[Inversion, Latent]:
    """The pivot trajectory of a LATENT, and its noisiest end as a LATENT for a sampler that adds no noise.

    The LATENT's noise mask becomes the region that edits may change.
    """
    check_model(model)
    here = ComfyModel(model, positive, positive)
    samples = plain_samples(latent, here.family)
    mask = latent.get("noise_mask")
    region = None if mask is None else _latent_mask(mask, samples)
    # before the run, in which LoRAs that hang on the text are in the weights
    identity, callback = here.fingerprint, progress(model, invert=schedule.steps)
    context = text_of(positive, "source", len(samples), model.model)

    def job(denoiser: Denoiser, clean: Tensor) -> Trajectory:
        return invert(denoiser, clean, context.to(clean.device), schedule, callback, method).to("cpu")

    trajectory = here.run(job, here.latents(samples), schedule)
    prompts = ("",) * trajectory.batch
    inversion = Inversion(
        trajectory, None, prompts, identity, precision=here.precision, region=region, sizes=here.sizes_of(samples)
    )
    # ComfyUI's sampler space is the variance-preserving latents times √(1+σ²)
    noisiest = inversion.trajectory.noisiest * (1 + sigma_of(schedule.alphas_cumprod[-1]) ** 2) ** 0.5
    return inversion, {"samples": here.samples(noisiest)}


def optimize(
    model: Patcher,
    positive: Conditioning,
    negative: Conditioning,
    inversion: Inversion,
    recipe: Recipe,
    guidance: float,
) -> tuple[Inversion, Latent]:
    """The inversion with null embeddings, and the reconstruction that they reach."""
    here = ComfyModel(model, positive, negative)
    here.check_made(inversion)
    trajectory, network = inversion.trajectory, model.model
    context = text_of(positive, "source", trajectory.batch, network)
    check_same_text(context, trajectory.context)
    empty = text_of(negative, "negative", trajectory.batch, network)
    check_same_sizes(positive[0][1], inversion, "source", network)
    check_same_sizes(negative[0][1], inversion, "negative", network)
    steps = trajectory.schedule.steps
    callback = progress(model, **{phase: length * steps for phase, length in recipe.lengths.items()})
    null, reached = embedded(here, inversion, empty, recipe, guidance, callback)
    return replace(inversion, null=null), {"samples": here.samples(reached)}


def sample_edit(
    model: Patcher,
    inversion: Inversion,
    null: Inversion | None,
    request: EditRequest,
    sampling: Sampling,
    positive: Conditioning | None = None,
    negative: Conditioning | None = None,
) -> tuple[Latent, Latent, Tensor, WordMaps]:
    """Edit every image of an inversion: edited latents, the source branch, blend masks and word maps.

    Rows are images, each with all its edits. Without null embeddings an empty text guides. ``sampling``: a guidance of
    0 is that of the null embeddings, or the paper's; its limit is a MASK (1 or B, H, W), where edits may change the
    picture; with fewer steps the latents keep their noise, for a sampler that goes on. ``positive`` and ``negative``:
    what the trajectory and its null embeddings were made with, where that carries more than text (a ControlNet).
    """
    embeddings = None if null is None else null_of(null, inversion)
    if embeddings is not None:
        check_sampling(embeddings, sampling)
    guidance = sampling.guidance or (PAPER if embeddings is None else embeddings).guidance
    extras = positive[0][1] if positive else {}
    # ComfyUI's older node gives its control to the negative by itself
    half_controlled = negative is None and "control" in extras and not extras.get("control_apply_to_uncond")
    positive = positive or with_sizes(request.source_conditioning, inversion.sizes)
    negative = negative or with_sizes(request.empty, inversion.sizes)
    here = ComfyModel(model, positive, negative)
    here.check_made(inversion)
    trajectory, network = inversion.trajectory, model.model
    batch, steps = trajectory.batch, trajectory.schedule.steps
    sampling.of(trajectory.schedule)
    check_same_text(text_of(request.source_conditioning, "source", batch, network), trajectory.context)
    plans = request.plans(steps)
    contexts = of_edits([text_of(c, "edit", batch, network) for c in request.conditionings], plans)
    guides = text_of(request.empty, "empty", 1, network)[0] if embeddings is None else embeddings
    limit = None if sampling.limit is None else _latent_mask(sampling.limit, trajectory.clean)
    check_same_text(text_of(positive, "source", batch, network), trajectory.context)
    text_of(negative, "negative", batch, network)
    check_same_sizes(positive[0][1], inversion, "source", network)
    check_same_sizes(negative[0][1], inversion, "negative", network)
    if embeddings is None:
        _tell_of_drift(sampling, guidance)
    if half_controlled and guidance != 1:
        tell(
            "the source has a ControlNet and negative is open, so only the source text is guided by it; connect the "
            "negative of the same ControlNet node"
        )
    callback = progress(model, sample=sampling.steps or steps)
    own = replace(sampling, guidance=guidance, limit=limit)
    result = sample(here, inversion, guides, [plans] * batch, contexts, own, callback)
    left = sigma_of(trajectory.schedule.alphas_cumprod[steps - sampling.steps]) if sampling.steps else 0.0
    edited, reached = (
        here.samples(z.cpu() * (1 + left**2) ** 0.5) for z in (result.latents.flatten(0, 1), result.source)
    )
    prompts = (plans[0].source, *(plan.prompt for plan in plans))
    maps = WordMaps(None if result.maps is None else result.maps.cpu(), prompts)
    return {"samples": edited}, {"samples": reached}, result.mask.flatten(0, 1).float().cpu(), maps


def _tell_of_drift(sampling: Sampling, guidance: float) -> None:
    """Tell the user that without null embeddings the photo does not come back, where it is sampled with guidance."""
    of_photo = sampling.source_guidance or guidance
    if sampling.path != RANDOM and of_photo != 1:
        tell(
            f"no null embeddings are connected: cfg {of_photo:g} is used for the photo, which drifts; connect those of "
            "Null-Text Optimize, which may be muted or bypassed"
        )


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
        or not (torch.equal(one.latents, other.latents) and one.context.equals(other.context))
    ):
        raise InputError("these null embeddings belong to another trajectory; connect the ones optimized for it")
    return null.null


def check_same_text(context: Context, other: Context) -> None:
    """Raise InputError where a source conditioning is not the one that the trajectory was made with, or another encoder
    made it."""
    if same_text(context, other):
        return
    # what the token that begins a text comes to is the encoder's alone: it looks at no other
    if not same_text(Context(context.text[:, :1]), Context(other.text[:, :1])):
        raise InputError(
            "the source text was encoded differently than for the inversion: by another CLIP, with a LoRA on it, "
            "CLIP Set Last Layer or another node's encoder; connect one CLIP to CLIP Text Encode and to P2P Edit"
        )
    raise InputError(
        "the source text is not the one that the picture was inverted with; feed one text to CLIP Text Encode and "
        "to P2P Edit, with no node that joins or mixes conditionings between them"
    )


def _latent_mask(mask: Tensor, latents: Tensor) -> Tensor:
    """A MASK at the size and for the number of latents (B, C, h, w): bool (B, h, w), where it covers at all.

    Raises InputError for another number of pictures, and where nothing may change. The user is told of a mask of
    another shape than the picture.
    """
    # other packs' masks may have an axis less or more
    mask = mask.reshape(-1, *mask.shape[-2:])
    if len(mask) not in (1, len(latents)):
        raise InputError(f"the mask is for {len(mask)} pictures, the trajectory holds {len(latents)}")
    whole = mask.detach().to("cpu", torch.float32)[:, None]
    scaled = torch.nn.functional.adaptive_max_pool2d(whole, latents.shape[-2:])[:, 0] > 0.5
    if not bool(scaled.any()):
        # Load Image gives such a mask for a picture that nobody painted on
        raise InputError(
            "the mask is nowhere more than half white, so nothing may change; paint on the picture where the edit may "
            "change it, or connect no mask"
        )
    (height, width), (rows, columns) = mask.shape[-2:], latents.shape[-2:]
    if not 1 / OTHER_SHAPE < width * rows / (height * columns) < OTHER_SHAPE:
        tell(
            f"the mask, {width}×{height} pixels, is stretched to the shape of the picture; scale and crop it as the "
            "photo is"
        )
    return scaled.expand(len(latents), -1, -1)


def plain_samples(latent: Latent, family: Family) -> Tensor:
    """A LATENT's samples (B, C, h, w); raises InputError where another family's VAE made them. The user is told of a
    picture that is small for a family of one size."""
    samples = latent["samples"]
    if not isinstance(samples, Tensor) or samples.ndim != 4 or samples.shape[1] != family.channels:
        raise InputError(
            f"the latent was not made for a {family.name} model; encode the photo with the model's own VAE"
        )
    width, height = pixels_of(samples)
    if family.sizes and height * width < SMALL * (GRID * family.side) ** 2:
        whole = GRID * family.side
        tell(
            f"{width}×{height} pixels are few for {family.name}, which was trained at {whole}×{whole}; the edit may "
            f"look poor, so take a size of {whole} where memory allows it"
        )
    return samples
