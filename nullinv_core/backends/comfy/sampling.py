"""Null embeddings in ComfyUI's own samplers: a guider, and a MODEL for any KSampler."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import comfy.patcher_extension
import comfy.samplers
import comfy.utils
from torch import Tensor

from ...context import Context
from ...drift import CLOSE, from_prediction
from ...editing import other_guidance
from ...errors import InputError
from ...files.store import Inversion
from ...photo.images import pixels_of
from ...photo.parts import is_part
from ...photo.rows import photos_of
from ...types import NullEmbeddings
from .checks import BOTH_BRANCHES, CACHE, GUIDANCE_HOOKS, check_model
from .conditioning import check_same_sizes, with_context, with_sizes
from .denoiser import ComfyDenoiser
from .notices import tell
from .other_packs import OWN_WRAPPER, Watch, holds, watched
from .other_packs import named as named_in
from .protocols import CalcCondBatch, Cond, Conditioning, Conds, Guider, Network, Options, OuterSample, Patcher
from .sigmas import first_other, nearest, sigma_of
from .truth import check_of

LEAST_STEP = 2.0
"""Ratio of two noise levels that counts as near, however fine an inversion's steps are: schedulers begin apart."""
SAME_LATENT = 1e-3
"""Relative distance of two latents that count as one."""
PARTS = "give detailers and upscalers the MODEL from before Apply Null-Text"


def embeddings_of(inversion: Inversion) -> NullEmbeddings:
    """An inversion's null embeddings; raises InputError where it holds none."""
    if inversion.null is None:
        raise InputError("these are not null embeddings; connect the output of Null-Text Optimize")
    return inversion.null


def embedding_at(inversion: Inversion, sigma: float) -> Context:
    """∅ of each image at the step whose noise level is nearest to ``sigma``, by its logarithm.

    Raises InputError for a level above the inversion's by more than its last step.
    """
    levels = _levels(inversion)
    if sigma > levels[-1] * max([LEAST_STEP, *(b / a for a, b in pairwise(levels[-2:]))]):
        raise InputError(
            f"the sampler begins at noise level {sigma:.3g}, and this inversion ends at {levels[-1]:.3g}; give the "
            "sampler the SIGMAS of DDIM Invert"
        )
    return embeddings_of(inversion).at(nearest(levels, sigma))


def null_text_guider(
    model: Patcher, positive: Conditioning, inversion: Inversion, guidance: float, negative: Conditioning | None = None
) -> comfy.samplers.CFGGuider:
    """Classifier-free guidance whose unconditional branch has ∅_t at each noise level. A guidance of 0 is theirs.

    ``negative``: what the embeddings were optimized with, where it carries more than text (a ControlNet). Where the
    model is told of sizes, they are those that the picture was inverted with.
    """
    first = embedding_at(inversion, _levels(inversion)[-1])
    extras = {} if first.pooled is None else {"pooled_output": first.pooled}
    null = [(first.text, {**(negative[0][1] if negative else {}), **extras})]
    guider = comfy.samplers.CFGGuider(apply_null_text(model, inversion))
    guider.set_conds(*(with_sizes(each, inversion.sizes) for each in (positive, null)))
    guider.set_cfg(guidance or embeddings_of(inversion).guidance)
    return guider


@dataclass(eq=False)
class _Run:
    """One run of a sampler. ``model``: the MODEL that it runs, with what nodes behind Apply Null-Text put on it.
    ``inversion``: of the photos that its rows are of. ``negative``: whether an entry is of the negative conditioning,
    by ComfyUI's id of it. ``served``: calls that got null text. ``checked``: whether the model was, against the
    trajectory. ``watch``: over what the network runs for. ``left_out``: whether it did not run for all."""

    model: Patcher
    inversion: Inversion
    negative: dict[object, bool]
    served: int = 0
    checked: bool = False
    watch: Watch | None = None
    left_out: bool = False

    def begin(self) -> None:
        """A call begins: what the network ran for before is not of it."""
        if self.watch:
            self.watch.seen = 0

    def end(self, rows: int) -> None:
        """A call of so many rows has ended."""
        self.left_out |= self.watch is not None and self.watch.missed(rows)

    def is_negative(self, entries: list[Cond] | None, place: int) -> bool:
        """Whether a list of a call is the negative one: a guider may pass it at any place, or alone."""
        return bool(entries and self.negative.get(entries[0].get("uuid"), place == 1))


def apply_null_text(model: Patcher, inversion: Inversion) -> Patcher:
    """A clone of the MODEL whose unconditional branch has ∅_t at each noise level, whatever the negative prompt.

    The user is told where a sampler does not give the photo back with it: another guidance or other noise levels than
    the inversion's, a model that predicts something else, nodes behind this one that change the guidance or leave the
    null text out. Raises InputError, when it is sampled, for a sampler that begins at another step than its latent,
    for noise levels of another kind of model, and where it is not known of which of several photos a row is.

    It stands in the MODEL's options, not among the patcher's wrappers: nodes that make a patcher of their own (as
    AnimateDiff's to unload it) copy those alone.
    """
    patched, kinds = model.clone(), comfy.patcher_extension.WrappersMP

    def outer(
        executor: OuterSample, noise: Tensor, latent: Tensor, sampler: object, sigmas: Tensor, *rest: Any, **named: Any
    ) -> Tensor:
        guider = executor.class_obj
        check_model(guider.model_patcher)
        ours = of_rows(inversion, patched, noise, latent, sigmas)
        _tell_before(guider, patched, ours, noise, latent, sigmas)
        entries = [(key, entry) for key, each in guider.conds.items() for entry in each if "uuid" in entry]
        run = _Run(guider.model_patcher, ours, {entry["uuid"]: key == "negative" for key, entry in entries})
        guider.model_options[OWN_WRAPPER] = run
        with watched(guider.model_patcher.model.diffusion_model, guider.model_options) as watch:
            # on several GPUs the network here runs for a part of the rows
            run.watch = None if guider.model_patcher.get_additional_models_with_key("multigpu") else watch
            samples = executor(noise, latent, sampler, sigmas, *rest, **named)
        _tell_after(guider, run)
        return samples

    def wrapper(
        executor: CalcCondBatch, network: Network, conds: Conds, x: Tensor, timestep: Tensor, options: Options
    ) -> list[Tensor]:
        run = options.get(OWN_WRAPPER, _Run(patched, inversion, {}))
        sigma, ours = float(timestep.max()), run.inversion
        null = embedding_at(ours, sigma).to(x.device)
        _check_texts(conds, x, ours, network)
        negative = [run.is_negative(entries, place) for place, entries in enumerate(conds)]
        _check_rows(null, len(x), any(negative))
        given = [
            [with_context(entry, null) for entry in entries] if entries and yes else entries
            for yes, entries in zip(negative, conds, strict=True)
        ]
        run.begin()
        found = executor(network, given, x, timestep, options)
        run.end(len(x) * sum(map(bool, conds)))
        run.served += any(negative)
        texts = [(place, entries[0]) for place, entries in enumerate(conds) if entries and not negative[place]]
        if texts and not run.checked:
            run.checked = True
            if x.shape == ours.trajectory.clean.shape and CACHE not in options.get("transformer_options", {}):
                (place, text), *_ = texts
                denoiser = ComfyDenoiser(network, text, text, options)
                check_model_predicts(run.model, ours, denoiser, x, sigma, found[place])
        return found

    wrappers = patched.model_options.setdefault("transformer_options", {}).setdefault("wrappers", {})
    for kind, function in ((kinds.OUTER_SAMPLE, outer), (kinds.CALC_COND_BATCH, wrapper)):
        wrappers.setdefault(kind, {})[OWN_WRAPPER] = [function]
    return patched


def of_rows(inversion: Inversion, model: Patcher, noise: Tensor, latent: Tensor, sigmas: Tensor) -> Inversion:
    """The inversion of the photos that a sampler's rows are of: those that it begins at or, where it adds noise, those
    without noise. As it is where all are there in their order, and where rows cannot be told apart."""
    batch = embeddings_of(inversion).embeddings.shape[1]
    if batch == 1:
        return inversion
    step = 0 if bool(noise.any()) else nearest(_levels(inversion), float(sigmas[0]))
    own = model.model.process_latent_out(_latents_at(inversion, step))
    rows = photos_of(latent.float().cpu(), own.float())
    # as many edits as photos are in the photos' order, whatever they look like
    if rows is None or (len(rows) == batch and not _same(latent, own[rows])):
        return inversion
    return inversion.of_photos(rows)


def _check_rows(null: Context, rows: int, used: bool) -> None:
    """Raise InputError where it is not known which null text belongs to which row of a call that is to use them."""
    if used and len(null) not in (1, rows) and not null.equals(null[:1].expand(len(null))):
        raise InputError(
            f"these null embeddings are of {len(null)} photos, and which of them are in the sampler's latent of {rows} "
            "cannot be told; sample all photos in their order, or invert and optimize each by itself"
        )


def _check_texts(conds: Conds, x: Tensor, inversion: Inversion, network: Network) -> None:
    """Raise InputError for a call with several texts of a kind, or one that tells other sizes than the photo's."""
    if len(conds) > 2:
        raise InputError("Apply Null-Text needs a guider with one positive and one negative text")
    if x.shape[-2:] == inversion.trajectory.clean.shape[-2:]:
        for entry in chain.from_iterable(entries or () for entries in conds):
            check_same_sizes(entry, inversion, "KSampler's", network)


def _tell_before(
    guider: Guider, patched: Patcher, inversion: Inversion, noise: Tensor, latent: Tensor, sigmas: Tensor
) -> None:
    """Tell the user what keeps a sampler from giving the photo back; raise InputError for a late start."""
    own = patched.model.process_latent_out(_latents_at(inversion, inversion.trajectory.schedule.steps))
    same = latent.shape == own.shape and _same(latent, own)
    if same and not bool(noise.any()):
        check_levels(inversion, sigmas)
    elif latent.shape[-2:] != own.shape[-2:]:
        size, photo = (_pixels(each) for each in (latent, own))
        tell(
            f"a picture of {size} is sampled with null text that was optimized for a whole photo of {photo}: it "
            f"does not suit a part of the photo or another size; {PARTS}"
        )
    elif not same and bool(noise.any()) and _is_part(latent, patched, inversion):
        tell(
            "what is sampled looks like a part of the photo that this null text was optimized for, or like another "
            f"picture: null text suits the whole photo alone; {PARTS}"
        )
    if text := other_guidance(embeddings_of(inversion), inversion.trajectory, _guidance(guider)):
        tell(text)
    if hooks := guidance_hooks(guider.model_options):
        tell(
            f"another node{named_in(guider.model_options)} changes this MODEL's guidance after Apply Null-Text "
            f"({', '.join(hooks)}), for which the embeddings were not optimized: the photo does not come back "
            "exactly"
        )


def _tell_after(guider: Guider, run: _Run) -> None:
    """Tell the user what kept a sampler from giving the photo back."""
    if run.left_out or CACHE in guider.model_options.get("transformer_options", {}):
        tell(
            f"another node on this MODEL{named_in(guider.model_options)} leaves out predictions, or parts of them, "
            "and the photo does not come back exactly"
        )
    if not run.served and not math.isclose(_guidance(guider), 1.0):
        tell(
            "the null text never reached the network: another node of this MODEL or this guider predicts the "
            "negative text its own way; connect Apply Null-Text behind that node, or leave the node out"
        )


def _guidance(guider: Guider) -> float:
    """A guider's guidance; other packs' may have several, or none."""
    return guider.cfg if isinstance(guider.cfg, int | float) else 1.0


def guidance_hooks(options: Options) -> list[str]:
    """What other nodes have put into model_options that changes guidance, by ComfyUI's names."""
    kind = comfy.patcher_extension.WrappersMP.PREDICT_NOISE
    wrapped = comfy.patcher_extension.get_all_wrappers(kind, options, is_model_options=True)
    there = [(name, options.get(name)) for name in (*GUIDANCE_HOOKS, BOTH_BRANCHES)] + [(kind, wrapped)]
    return [name for name, hook in there if holds(hook)]


def check_model_predicts(
    model: Patcher, inversion: Inversion, denoiser: ComfyDenoiser, x: Tensor, sigma: float, clean: Tensor
) -> None:
    """Tell the user where the MODEL does not predict the trajectory any more.

    ``x`` and ``clean``: sampler-space latents and what was predicted of them at ``sigma``. A call of the network
    decides where they are no part of the trajectory.
    """
    trajectory = inversion.trajectory.to(x.device)
    step = nearest(_levels(inversion), sigma)
    if from_prediction((x - clean) / sigma, trajectory, step) > CLOSE:
        check_of(model, inversion)(denoiser, trajectory)


def check_levels(inversion: Inversion, sigmas: Tensor) -> None:
    """Raise InputError where a sampler begins at another step than the inversion's noise, of which it was given the
    latent; tell the user where it takes other noise levels on its way."""
    levels, wanted = _levels(inversion), [float(s) for s in sigmas if s > 0]
    if wanted and nearest(levels, wanted[0]) < len(levels):
        raise InputError(
            f"the sampler begins at noise level {wanted[0]:.4g}, later than this noise, which is of {levels[-1]:.4g}: "
            "BasicScheduler leaves out the first level of ddim_uniform where that has more steps than asked for; give "
            "the sampler the sigmas of DDIM Invert"
        )
    if (other := first_other(levels, wanted)) is not None:
        tell(
            f"the sampler takes the noise level {other:.4g}, which the inversion did not have, and the photo drifts; "
            "take the scheduler and steps of DDIM Invert, or its sigmas"
        )


def _levels(inversion: Inversion) -> list[float]:
    """σ of the steps 1 … T."""
    return [sigma_of(alpha) for alpha in inversion.trajectory.schedule.alphas_cumprod[1:]]


def _latents_at(inversion: Inversion, step: int) -> Tensor:
    """z*_t of step t in 0 … T, in ComfyUI's sampler space."""
    trajectory = inversion.trajectory
    return trajectory.latents[step] * (1 + sigma_of(trajectory.schedule.alphas_cumprod[step]) ** 2) ** 0.5


def _pixels(latent: Tensor) -> str:
    """Size of a latent's picture, for people."""
    width, height = pixels_of(latent)
    return f"{width}×{height} pixels"


def _is_part(latent: Tensor, model: Patcher, inversion: Inversion) -> bool:
    """Whether noise is added to a picture that is a part of the photo, as large, or another one."""
    photo = model.model.process_latent_out(inversion.trajectory.clean)
    return is_part(latent.float().cpu(), comfy.utils.repeat_to_batch_size(photo.float().cpu(), len(latent)))


def _same(latent: Tensor, other: Tensor) -> bool:
    return bool((latent.cpu() - other).norm() < SAME_LATENT * other.norm())
