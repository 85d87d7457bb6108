"""Figures by other people's networks, for who has their weights: CLIP similarity, DINO structure distance, LPIPS.

As in PIE-Bench's table (Ju et al. 2023, arXiv 2310.01506). Nothing is downloaded: folders are those of transformers,
and LPIPS takes a file, or looks for its backbone where torchvision keeps what it once fetched.
"""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import cosine_similarity, interpolate, normalize

from ..errors import InputError, short
from ..photo.images import to_pil
from .pixels import Asked, Measure
from .rules import DEFAULT, Rule

BACKBONE = "squeezenet1_1-b8a52dc0.pth"
"""Weights under LPIPS, as torchvision names the file."""
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and deviation of colours that DINO was trained with."""
DINO_SIDE = 224
"""Pixels at which DINO looks."""


def clip_measures(folder: Path, device: str = "cpu", rule: Rule = DEFAULT) -> dict[str, Measure]:
    """100 times the cosine of CLIP's embeddings of picture and edit prompt: of the whole, and of what may change."""
    from transformers import CLIPModel, CLIPProcessor

    model, processor = _network(CLIPModel, folder).to(device), _from_folder(CLIPProcessor, folder)

    def edited_part(picture: np.ndarray, asked: Asked) -> float | None:
        if not rule.border and not asked.changes[1:-1, 1:-1].any():
            return None
        return _clip(model, processor, rule, to_pil(picture * asked.changes[..., None]), asked.edit_prompt)

    return {
        "CLIP": lambda picture, asked: _clip(model, processor, rule, to_pil(picture), asked.edit_prompt),
        "CLIP, edited part": edited_part,
    }


def _clip(model: Any, processor: Any, rule: Rule, picture: Image.Image, prompt: str) -> float:
    # transformers scales otherwise where torchvision is installed; what has the size already it leaves alone
    scale = processor.image_processor.size["shortest_edge"] / min(picture.size)
    scaled = picture.resize((int(scale * picture.width), int(scale * picture.height)), Image.Resampling.BICUBIC)
    inputs = processor(text=[prompt], images=[scaled], return_tensors="pt", padding=True, truncation=True)
    with torch.inference_mode():
        found = model(**inputs.to(model.device))
    similarity = 100 * float(cosine_similarity(found.image_embeds, found.text_embeds)[0])
    return max(0.0, similarity) if rule.floor else similarity


def structure_measure(folder: Path, device: str = "cpu", rule: Rule = DEFAULT) -> dict[str, Measure]:
    """1000 times the distance of edit and photo in how alike the last layer's keys of DINO's ViT are among each other.

    Tumanyan et al. 2022, "Splicing ViT features", section 3.1: mean square over the matrices of cosines.
    """
    from transformers import ViTModel

    model = _network(ViTModel, folder, add_pooling_layer=False).to(device)
    keys = [module for name, module in model.named_modules() if name.endswith((".k_proj", ".key"))][-1]
    return {"structure": partial(_structure, model, keys, rule)}


def _structure(model: Any, keys: torch.nn.Module, rule: Rule, picture: np.ndarray, asked: Asked) -> float:
    found: list[Tensor] = []
    handle = keys.register_forward_hook(lambda module, inputs, output: found.append(output))
    mean, deviation = (torch.tensor(values)[:, None, None] for values in IMAGENET)
    both = torch.from_numpy(np.stack([picture, asked.source]).astype(np.float32)).movedim(-1, 1)
    both = interpolate(both, (DINO_SIDE, DINO_SIDE), mode="bilinear", antialias=rule.smooth)
    white = 255 if rule.bytes_to_dino else 1
    try:
        with torch.inference_mode():
            model(((white * both - mean) / deviation).to(model.device))
    finally:
        handle.remove()
    unit = normalize(found[0].float(), dim=-1)
    edited, source = unit @ unit.mT
    return 1000 * float((edited - source).square().mean())


def lpips_measure(weights: Path | None = None, device: str = "cpu", rule: Rule = DEFAULT) -> dict[str, Measure]:
    """1000 times LPIPS (Zhang et al. 2018, SqueezeNet) between edit and photo where nothing may change.

    ``weights``: a .safetensors file of torchvision's squeezenet1_1; None: where torchvision keeps it.
    """
    network = _lpips(weights).to(device)

    def measure(picture: np.ndarray, asked: Asked) -> float | None:
        kept = ~asked.changes
        if not kept.any():
            return None
        shown = [np.where(kept[..., None], x, 0 if rule.black else asked.source) for x in (picture, asked.source)]
        a, b = (torch.from_numpy(x.astype(np.float32)).movedim(-1, 0)[None].to(device) for x in shown)
        with torch.inference_mode():
            distance = 1000 * float(network(a, b, normalize=True))
        # it is a mean over places, and those that may change are equal
        return distance if rule.black else distance / float(kept.mean())

    return {"LPIPS, kept": measure}


def _lpips(weights: Path | None) -> Any:
    place = weights or Path(torch.hub.get_dir()) / "checkpoints" / BACKBONE
    if find_spec("torchvision") is None or not place.is_file():
        raise InputError(f'--lpips needs torchvision and the weights "{place}"; get them there, or leave it out')
    # torchmetrics' own class takes no weights by path
    from torchmetrics.functional.image.lpips import _NoTrainLpips

    try:
        stored = load_file(place) if weights else torch.load(place, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, UnpicklingError, RuntimeError) as error:
        raise InputError(
            f'"{place}" cannot be read ({short(str(error))}); --lpips takes a .safetensors file of squeezenet1_1'
        ) from error
    network = _NoTrainLpips(net="squeeze", pnet_rand=True)
    layers = {f"features.{name}": layer for part in network.net.slices for name, layer in part.named_children()}
    for name, layer in layers.items():
        own = {key.removeprefix(f"{name}."): value for key, value in stored.items() if key.startswith(f"{name}.")}
        try:
            layer.load_state_dict(own)
        except RuntimeError as error:
            raise InputError(
                f'"{place}" does not fit squeezenet1_1 ({name}); name its file from torchvision'
            ) from error
    return network


def _network(kind: Any, folder: Path, **options: Any) -> Any:
    # a pickle would be read otherwise
    model, found = _from_folder(kind, folder, output_loading_info=True, use_safetensors=True, **options)
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
