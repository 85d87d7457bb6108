"""What a ComfyUI CONDITIONING carries: its text as the core's context, and all else that goes with its rows."""

from __future__ import annotations

from typing import Any

import comfy.conds
import comfy.model_base
import torch
from torch import Tensor

from ..context import pack, unpack
from ..errors import InputError
from .comfy_gradients import ordinary

Conditioning = list[tuple[Tensor, dict[str, Any]]]
REFUSED = {
    "area": "an area",
    "mask": "a mask",
    "start_percent": "a timestep range",
    "end_percent": "a timestep range",
    "gligen": "GLIGEN boxes",
    "concat_latent_image": "an inpainting image",
    "unclip_conditioning": "an unCLIP image",
}
"""What a CONDITIONING may not carry: the prompt must hold for the whole picture at every step."""
SIZES, SIZE_WIDTH = 6, 256
"""SDXL is told the picture's size as it was, its crop and its size as it is, each number in so many channels."""


def pooled_width(network: Any) -> int:
    """Width of the pooled text vector that a ComfyUI model reads beside the tokens: SDXL's, 0 of others."""
    if not isinstance(network, comfy.model_base.SDXL):
        return 0
    return int(network.model_config.unet_config["adm_in_channels"]) - SIZES * SIZE_WIDTH


def text_of(conditioning: Conditioning, what: str, batch: int = 1, pooled: int = 0) -> Tensor:
    """Context of a CONDITIONING for so many images, float32 (B, rows, width), on the CPU.

    ``pooled``: of the model (see ``pooled_width``). Raises InputError where it holds several prompts, is confined to a
    part of the picture or of the steps, or lacks the pooled vector.
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
    vector = extras.get("pooled_output") if pooled else None
    if pooled and (not isinstance(vector, Tensor) or vector.shape[-1] != pooled):
        raise InputError(f"the {what} conditioning is not of this SDXL model's CLIP; encode the text with that one")
    whole = pack(*(None if t is None else t.detach().to("cpu", torch.float32) for t in (text, vector)))  # type: ignore[arg-type]
    return whole.expand(batch, -1, -1).clone()


def with_context(entry: dict[str, Any], context: Tensor, pooled: int = 0, pooled_gradient: bool = False) -> Any:
    """A processed conditioning with another context. Its pooled vector is a constant unless ``pooled_gradient``."""
    text, vector = unpack(context, pooled)
    conds = {**entry["model_conds"], "c_crossattn": comfy.conds.CONDCrossAttn(text)}
    if vector is not None:
        # ComfyUI's vector is the pooled one followed by the sizes
        sizes = entry["model_conds"]["y"].cond[:, pooled:].to(vector).expand(len(vector), -1)
        conds["y"] = comfy.conds.CONDRegular(torch.cat([vector if pooled_gradient else vector.detach(), sizes], 1))
    return {**entry, "model_conds": conds}


def ordinary_conditioning(conditioning: Conditioning) -> list[list[Any]]:
    """A CONDITIONING of tensors that autograd may save."""
    return [[ordinary(text), {k: ordinary(v) for k, v in extras.items()}] for text, extras in conditioning]


def check_hints(conds: tuple[list[list[Any]], ...], rows: int) -> None:
    """Raise InputError for a ControlNet with a hint for each of several pictures: rows come and go while optimizing."""
    controls = [extras.get("control") for conditioning in conds for _, extras in conditioning]
    while controls:
        control = controls.pop()
        if control is None:
            continue
        hint = getattr(control, "cond_hint_original", None)
        if rows > 1 and isinstance(hint, Tensor) and len(hint) > 1:
            raise InputError(
                f"the ControlNet holds {len(hint)} hint pictures; give it one, or invert one picture at a time"
            )
        controls.append(getattr(control, "previous_controlnet", None))
