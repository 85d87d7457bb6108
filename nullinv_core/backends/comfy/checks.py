"""Which MODELs null-text inversion applies to, and what is said of all others."""

from __future__ import annotations

import comfy.model_sampling
import comfy.patcher_extension

from ... import families
from ...errors import InputError
from ...families import AttentionLayout, NoisePath
from .conditioning import family_of
from .other_packs import EVERYWHERE, OWN_WRAPPER, holds, named, owner
from .protocols import Patcher

GUIDANCE_HOOKS = (
    "sampler_cfg_function", "sampler_pre_cfg_function", "sampler_post_cfg_function", "sampler_calc_cond_batch_function",
)  # fmt: skip
"""Entries of model_options by which other nodes compute guidance their own way."""
BOTH_BRANCHES = "disable_cfg1_optimization"
"""Under this key nodes that mix the two branches of guidance ask for both, whatever the scale."""
CACHE = "easycache"
"""Under this key of the transformer options EasyCache and LazyCache keep earlier predictions."""
NOISE_PATHS: dict[NoisePath, type] = {"variance preserving": comfy.model_sampling.ModelSamplingDiscrete}
"""The base of ComfyUI's noise levels for each way that noise comes into latents."""
LAYOUTS: dict[AttentionLayout, str] = {"cross": "input_blocks"}
"""What only networks of each attention layout have."""


def check_hooks(model: Patcher) -> None:
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


def check_part(part: object, name: str) -> None:
    """Raise InputError where there is no such part, as in a checkpoint of a network alone."""
    if part is None:
        raise InputError(f"this checkpoint has no {name}; load one and connect it")


def check_model(model: Patcher) -> None:
    """Raise InputError for a MODEL that null-text inversion does not apply to."""
    sampling, network = model.get_model_object("model_sampling"), model.model.diffusion_model
    kind, family = type(model.model).__name__, family_of(model.model)
    knows_noise = isinstance(sampling, NOISE_PATHS[family.noise])
    has_layout = hasattr(network, LAYOUTS[family.attention])
    if not knows_noise and "model_sampling" in model.object_patches:
        raise InputError(
            f"another node ({owner(type(sampling))}) gave this MODEL the noise levels of rectified flow models, EDM or "
            f"others that null-text inversion cannot use; {EVERYWHERE}"
        )
    if has_layout and not knows_noise and not isinstance(sampling, comfy.model_sampling.CONST):
        raise families.unknown_noise(f"this {kind} model")
    if not knows_noise or not has_layout:
        raise families.rectified_flow(kind)
    config = model.model.model_config.unet_config
    if config.get("in_channels", family.channels) != family.channels:
        raise families.more_channels(f"this {kind} model", config["in_channels"])
    if config.get("adm_in_channels") is not None and not family.pooled:
        raise families.other_inputs(kind)
