"""The fingerprint of a ComfyUI MODEL."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from ...files.fingerprint import Fingerprint, digest_of, fingerprint
from .other_packs import weights_of
from .protocols import Patcher, Sampling
from .sigmas import alphas_of
from .truth import patch_names


def fingerprint_of(model: Patcher) -> Fingerprint:
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


def prediction_of(sampling: Sampling) -> str:
    """What a network predicts, by the core's name for it; ComfyUI's where the core has none."""
    # the class is made of how noise levels are spaced and of what is predicted
    spacing = ("ModelSampling", "Module", "object")
    kind = next((name for name in _kinds(sampling) if not name.startswith(spacing)), "")
    return {"EPS": "epsilon", "V_PREDICTION": "v_prediction"}.get(kind, kind)


def _kinds(sampling: Sampling) -> list[str]:
    return [kind.__name__ for kind in type(sampling).__mro__]


def trained_alphas(sampling: Sampling) -> tuple[float, ...]:
    """ᾱ of every noise level that a network was trained on."""
    return alphas_of(sampling.sigmas.cpu().double().tolist())


def _patches_of(model: Patcher) -> dict[str, str]:
    """What is patched on a MODEL's weights and how strongly: LoRAs, merges."""
    contents: dict[str, Tensor] = {}
    strengths = set()
    for key, patches in model.patches.items():
        for number, (strength, patch, own, *place) in enumerate(patches):
            if (strength, own) != (0, 1):
                strengths.add((strength, own))
                contents |= {f"{key} {number} {place[:1]} {i}": one for i, one in enumerate(_tensors(patch))}
    return {"LoRA": digest_of(contents), "LoRA strength": str(sorted(strengths))} if contents else {}


def _tensors(patch: object) -> Iterator[Tensor]:
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
