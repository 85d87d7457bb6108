"""Scores by other people's networks, for who has their weights: CLIP similarity, DINO structure distance, LPIPS.

As in PIE-Bench's table (Ju et al. 2023, arXiv 2310.01506). Nothing is downloaded: folders are those of
transformers, and LPIPS looks for its backbone where torchvision keeps what it once fetched.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import cosine_similarity, interpolate, normalize

from nullinv_core import InputError
from nullinv_core.photo.images import to_pil

from .edit_cases import EditTask

Measure = Callable[[np.ndarray, EditTask], float | None]
"""A figure of an edited picture (H, W, 3) in 0…1; None where there is nothing to measure."""
BACKBONE = "squeezenet1_1-b8a52dc0.pth"
"""Weights under LPIPS, as torchvision names them."""
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and deviation of colours that DINO was trained with."""
SIDE = 224
"""Pixels at which DINO looks."""


def clip_measures(folder: Path, device: str = "cpu") -> dict[str, Measure]:
    """100 times the cosine of CLIP's embeddings of picture and edit prompt: of the whole, and of what may change."""
    from transformers import CLIPModel, CLIPProcessor

    model, processor = _network(CLIPModel, folder).to(device), _from_folder(CLIPProcessor, folder)
    return {
        "CLIP": lambda picture, task: _clip(model, processor, to_pil(picture), task.edit_prompt),
        "CLIP, edited part": lambda picture, task: _clip(
            model, processor, to_pil(picture * task.changes[..., None]), task.edit_prompt
        ),
    }


def _clip(model: Any, processor: Any, picture: Image.Image, prompt: str) -> float:
    inputs = processor(text=[prompt], images=[picture], return_tensors="pt", padding=True, truncation=True)
    with torch.inference_mode():
        found = model(**inputs.to(model.device))
    return 100 * float(cosine_similarity(found.image_embeds, found.text_embeds)[0])


def structure_measure(folder: Path, device: str = "cpu") -> dict[str, Measure]:
    """1000 times the distance of edit and photo in how alike the last layer's keys of DINO's ViT are among each other.

    Tumanyan et al. 2022, "Splicing ViT features", section 3.1: mean square over the matrices of cosines.
    """
    from transformers import ViTModel

    model = _network(ViTModel, folder, add_pooling_layer=False).to(device)
    keys = [module for name, module in model.named_modules() if name.endswith((".k_proj", ".key"))][-1]
    return {"structure": partial(_structure, model, keys)}


def _structure(model: Any, keys: torch.nn.Module, picture: np.ndarray, task: EditTask) -> float:
    found: list[Tensor] = []
    handle = keys.register_forward_hook(lambda module, inputs, output: found.append(output))
    mean, deviation = (torch.tensor(values)[:, None, None] for values in IMAGENET)
    both = torch.from_numpy(np.stack([picture, task.source]).astype(np.float32)).movedim(-1, 1)
    both = interpolate(both, (SIDE, SIDE), mode="bilinear", antialias=True)
    try:
        with torch.inference_mode():
            model(((both - mean) / deviation).to(model.device))
    finally:
        handle.remove()
    unit = normalize(found[0].float(), dim=-1)
    edited, source = unit @ unit.mT
    return 1000 * float((edited - source).square().mean())


def lpips_measure(device: str = "cpu") -> dict[str, Measure]:
    """1000 times LPIPS (Zhang et al. 2018, SqueezeNet) between edit and photo where nothing may change."""
    backbone = Path(torch.hub.get_dir()) / "checkpoints" / BACKBONE
    if find_spec("torchvision") is None or not backbone.is_file():
        raise InputError(f'--lpips needs torchvision and its weights in "{backbone}"; get them there, or leave it out')
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    network = LearnedPerceptualImagePatchSimilarity(net_type="squeeze", normalize=True).to(device)

    def measure(picture: np.ndarray, task: EditTask) -> float | None:
        kept = ~task.changes[..., None]
        if not kept.any():
            return None
        a, b = (
            torch.from_numpy((x * kept).astype(np.float32)).movedim(-1, 0)[None].to(device)
            for x in (picture, task.source)
        )
        with torch.inference_mode():
            return 1000 * float(network(a, b))

    return {"LPIPS, kept": measure}


def _network(kind: Any, folder: Path, **options: Any) -> Any:
    model, found = _from_folder(kind, folder, output_loading_info=True, **options)
    if found["missing_keys"] or found["mismatched_keys"]:
        raise InputError(
            f'"{folder}" lacks weights of a {kind.__name__} ({", ".join(sorted(found["missing_keys"])[:3])})'
        )
    return model.eval()


def _from_folder(kind: Any, folder: Path, **options: Any) -> Any:
    try:
        return kind.from_pretrained(str(folder), local_files_only=True, **options)
    except (OSError, ValueError) as error:
        raise InputError(f'"{folder}" is no folder that {kind.__name__} can be read from ({error})') from error
