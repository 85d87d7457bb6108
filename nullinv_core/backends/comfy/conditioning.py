"""What a ComfyUI CONDITIONING carries: its text as the core's context, and all else that goes with its rows."""

from __future__ import annotations

import comfy.conds
import torch
from torch import Tensor

from ... import families
from ...context import Context
from ...errors import InputError
from ...families import Family
from ...files.store import Inversion
from ...photo.images import GRID
from .gradients.weights import ordinary
from .protocols import Cond, Conditioning, Extras, Network

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
WHOLE = {"start_percent": 0.0, "end_percent": 1.0}
"""Values at which they limit nothing; some packs' encoders set them always."""


def family_of(network: Network) -> Family:
    """The family of a ComfyUI network; raises InputError where none that is known is like it."""
    family = families.of_comfy(kind.__name__ for kind in type(network).__mro__)
    if family is None:
        raise families.rectified_flow(type(network).__name__)
    return family


def pooled_width(network: Network) -> int:
    """Width of the pooled text vector that a ComfyUI network reads beside the tokens, or 0."""
    family = family_of(network)
    if not family.pooled:
        return 0
    return int(network.model_config.unet_config["adm_in_channels"]) - len(family.sizes) * family.size_width


def text_of(conditioning: Conditioning, what: str, batch: int = 1, network: Network | None = None) -> Context:
    """Context of a CONDITIONING for so many images, float32, on the CPU.

    ``network``: ComfyUI's, which may read a pooled vector too. Raises InputError where it holds several prompts, is
    confined to a part of the picture or of the steps, or lacks the pooled vector.
    """
    if len(conditioning) != 1:
        raise InputError(
            f"the {what} conditioning holds {len(conditioning)} prompts (Conditioning Combine?); use a single one"
        )
    text, extras = conditioning[0]
    for key, name in REFUSED.items():
        value = extras.get(key)
        if value is not None and not (isinstance(value, int | float) and value == WHOLE.get(key)):
            raise InputError(
                f"the {what} conditioning is limited by {name}; use one for the whole picture and all steps"
            )
    tokens = _for_each(text, what, batch)
    if network is None or not (pooled := pooled_width(network)):
        return Context(tokens)
    vector = extras.get("pooled_output")
    if not isinstance(vector, Tensor) or vector.shape[-1] != pooled:
        name = family_of(network).name
        raise InputError(f"the {what} conditioning is not of this {name} model's CLIP; encode the text with that one")
    return Context(tokens, _for_each(vector, what, batch))


def _for_each(tensor: Tensor, what: str, batch: int) -> Tensor:
    """A part of a CONDITIONING for so many images, float32 on the CPU."""
    if len(tensor) not in (1, batch):
        raise InputError(f"the {what} conditioning is for {len(tensor)} pictures, the latents hold {batch}")
    return tensor.detach().to("cpu", torch.float32).expand(batch, *tensor.shape[1:]).clone()


def sizes_of(extras: Extras, latents: Tensor) -> tuple[int, ...]:
    """What a network is told of the picture (``families.SIZES``): by CLIPTextEncodeSDXL, else as ComfyUI does it.

    ``extras``: of a CONDITIONING.
    """
    width, height = (extras.get(k, GRID * n) for k, n in (("width", latents.shape[-1]), ("height", latents.shape[-2])))
    told = {"width": width, "height": height, "crop_w": 0, "crop_h": 0, "target_width": width, "target_height": height}
    return tuple(int(extras.get(key, value)) for key, value in told.items())


def check_same_sizes(extras: Extras, inversion: Inversion, what: str, network: Network) -> None:
    """Raise InputError where a conditioning tells a network other sizes than the picture was inverted with."""
    if inversion.sizes and (found := sizes_of(extras, inversion.trajectory.clean)) != inversion.sizes:
        raise InputError(
            f"the {what} text tells {family_of(network).name} the sizes {found}, but the picture was inverted with "
            f"{inversion.sizes}; encode both with the same node and sizes"
        )


def with_sizes(conditioning: Conditioning, sizes: tuple[int, ...]) -> Conditioning:
    """A CONDITIONING that tells these sizes; none (of a family that is told nothing) leave it as it is."""
    return [(text, {**extras, **dict(zip(families.SIZES, sizes, strict=False))}) for text, extras in conditioning]


def with_context(entry: Cond, context: Context) -> Cond:
    """A processed conditioning with another context."""
    conds, pooled = {**entry["model_conds"], "c_crossattn": comfy.conds.CONDCrossAttn(context.text)}, context.pooled
    if pooled is not None:
        # ComfyUI's vector is the pooled one followed by the sizes
        sizes = entry["model_conds"]["y"].cond[:1, pooled.shape[-1] :].to(pooled).expand(len(pooled), -1)
        conds["y"] = comfy.conds.CONDRegular(torch.cat([pooled, sizes], 1))
    return {**entry, "model_conds": conds}


def ordinary_conditioning(conditioning: Conditioning) -> Conditioning:
    """A CONDITIONING of tensors that autograd may save."""
    return [(ordinary(text), {k: ordinary(v) for k, v in extras.items()}) for text, extras in conditioning]


def check_hints(conds: tuple[Conditioning, ...], rows: int) -> None:
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
