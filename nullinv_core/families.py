"""The families of models that are known here, one row each; what is said of all others stands below the rows.

A row is all that a backend asks about a family. Words for parts and classes are diffusers' and, where ComfyUI has its
own, ComfyUI's. Nothing here builds or loads anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from .errors import InputError

NoisePath = Literal["variance preserving"]
"""How noise comes into latents: z = √ᾱ z0 + √(1-ᾱ) ε, at noise levels that the network was trained on."""
AttentionLayout = Literal["cross"]
"""Where text meets picture: in cross-attention of its own, in a UNet whose levels halve the sides of the latents."""
FIRST_TOKEN, END_OF_TEXT = "!", "<|endoftext|>"
SIZES = ("width", "height", "crop_w", "crop_h", "target_width", "target_height")
"""What a network may be told of the picture: its size as it was, its crop, and its size as it is."""


@dataclass(frozen=True)
class WordMark:
    """What in a token's text says where words end, or with ``starts`` where they begin."""

    text: str
    starts: bool = False


@dataclass(frozen=True)
class TextEncoder:
    """A text encoder of a family.

    ``part`` and ``tokenizer``: their folders in a diffusers folder. ``kind``: the class. ``comfy``: ComfyUI's name.
    ``build``: configuration of the family's own. ``fill``: what fills texts up. ``layer``: which hidden states are
    read, the last ones by a final norm. ``pooled``: whether its projected pooled vector is read too.
    """

    comfy: str
    build: Mapping[str, Any]
    fill: str = END_OF_TEXT
    part: str = "text_encoder"
    tokenizer: str = "tokenizer"
    kind: str = "CLIPTextModel"
    words: WordMark = WordMark("</w>")
    tokens: int = 77
    layer: Literal[-1, -2] = -1
    pooled: bool = False


@dataclass(frozen=True)
class Family:
    """A family of models.

    ``name``: for people. ``pipeline``: diffusers' class. ``comfy``: ComfyUI's class of its networks, in ``model_base``,
    and of its configuration, in ``supported_models``. ``encoders``: the first one's tokens are the words of a prompt.
    ``sizes``: what the network is told of the picture, ``size_width`` channels each. ``side``: of the latents that it
    was trained at. ``unet``, ``vae``: how they differ from the most common build. ``scale``: of its latents.
    ``v_prediction``: how a single file says that it predicts v, by a "mark" or by how a "bias" spreads. ``preview``:
    what ComfyUI shows of its latents, RGB in -1…1 for each channel, and ``preview_bias`` added.
    """

    name: str
    pipeline: str
    comfy: tuple[str, str]
    encoders: tuple[TextEncoder, ...]
    side: int
    unet: Mapping[str, Any]
    vae: Mapping[str, Any] = field(default_factory=lambda: {"block_out_channels": (128, 256, 512, 512)})
    channels: int = 4
    scale: float = 0.18215
    predictions: tuple[str, ...] = ("epsilon", "v_prediction")
    noise: NoisePath = "variance preserving"
    attention: AttentionLayout = "cross"
    sizes: tuple[str, ...] = ()
    size_width: int = 256
    v_prediction: Literal["", "mark", "bias"] = ""
    preview: Sequence[tuple[float, float, float]] = (
        (0.3512, 0.2297, 0.3227), (0.3250, 0.4974, 0.2350), (-0.2829, 0.1762, 0.2721), (-0.2120, -0.2616, -0.7177),
    )  # fmt: skip
    preview_bias: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def pooled(self) -> bool:
        """Whether a pooled text vector goes with the tokens."""
        return any(encoder.pooled for encoder in self.encoders)


CLIP_L = TextEncoder(
    "l", {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
)
CLIP_H = TextEncoder(
    "h",
    {
        "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16,
        "hidden_act": "gelu",
    },
    FIRST_TOKEN,
)  # fmt: skip
CLIP_G = TextEncoder(
    "g",
    {
        "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
        "hidden_act": "gelu",
    },
    FIRST_TOKEN, "text_encoder_2", "tokenizer_2", "CLIPTextModelWithProjection", layer=-2, pooled=True,
)  # fmt: skip
SD, SDXL = "StableDiffusionPipeline", "StableDiffusionXLPipeline"
V2_UNET = {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True}
FAMILIES: dict[str, Family] = {
    "v1": Family(
        "Stable Diffusion 1.x", SD, ("BaseModel", "SD15"), (CLIP_L,), 64, {"cross_attention_dim": 768},
    ),
    "v2": Family("2.x", SD, ("BaseModel", "SD20"), (CLIP_H,), 64, V2_UNET, v_prediction="bias"),
    "v2, v prediction": Family("2.x", SD, ("BaseModel", "SD20"), (CLIP_H,), 96, V2_UNET),
    "xl_base": Family(
        "SDXL", SDXL, ("SDXL", "SDXL"), (replace(CLIP_L, layer=-2), CLIP_G), 128,
        {
            "cross_attention_dim": 2048, "attention_head_dim": (5, 10, 20),
            "use_linear_projection": True, "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 10), "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
        },
        scale=0.13025, sizes=SIZES, v_prediction="mark",
        preview=(
            (0.3651, 0.4232, 0.4341), (-0.2533, -0.0042, 0.1068),
            (0.1076, 0.1111, -0.0362), (-0.3165, -0.2492, -0.2188),
        ),
        preview_bias=(0.1084, -0.0175, -0.0011),
    ),
}  # fmt: skip
"""By diffusers' name for their single files; 2.x also by what it predicts, which decides the size it was trained at."""


def pooled_width(width: int) -> int:
    """Numbers of the pooled vector that goes with tokens of this width in a model of full size; 0 where none does."""
    for family in FAMILIES.values():
        built = [(encoder.build.get("hidden_size", 0), encoder.pooled) for encoder in family.encoders]
        if family.pooled and sum(size for size, _ in built) == width:
            return int(next(size for size, pooled in built if pooled))
    return 0


def pipelines() -> tuple[str, ...]:
    """The classes of pipelines that are known, by diffusers' names."""
    return tuple(dict.fromkeys(family.pipeline for family in FAMILIES.values()))


def of_pipeline(kind: str) -> Family:
    """The family of a diffusers pipeline; of several that are built alike the first one."""
    return next(family for family in FAMILIES.values() if family.pipeline == kind)


def with_pooled(pooled: bool) -> Family:
    """The family whose texts have a pooled vector, or have none; of several the first one."""
    return next(family for family in FAMILIES.values() if family.pooled == pooled)


def of_comfy(names: Iterable[str]) -> Family | None:
    """The family of a ComfyUI network by the names of its class and of those that it is made of, nearest first."""
    found = (family for name in names for family in FAMILIES.values() if family.comfy[0] == name)
    return next(found, None)


def of_encoders(names: Iterable[str]) -> Family | None:
    """The family whose text encoders have these names in ComfyUI."""
    wanted = set(names)
    return next((f for f in FAMILIES.values() if {encoder.comfy for encoder in f.encoders} == wanted), None)


def supported() -> str:
    """The names of all families, for people: "A, B or C"."""
    *names, last = dict.fromkeys(family.name for family in FAMILIES.values())
    return f"{', '.join(names)} or {last}"


def unknown_noise(who: str) -> InputError:
    """The error for a model that was trained on continuous noise levels. ``who``: begins the sentence."""
    return InputError(
        f"{who} was trained on continuous noise levels (EDM noise levels, as Playground 2.5 and CosXL), which "
        f"null-text inversion cannot use; take a plain {supported()} model"
    )


def rectified_flow(who: str) -> InputError:
    """The error for a model that no family here is like. ``who``: its kind."""
    return InputError(
        f"null-text inversion needs a {supported()} model, not {who}; rectified flow models (SD3, Flux and others) "
        "have no null text to optimize: use their own inpainting or instruction models"
    )


def more_channels(who: str, found: int) -> InputError:
    """The error for a model that reads ``found`` channels, more than the latents. ``who``: begins the sentence."""
    return InputError(
        f"{who} has {found} input channels and reads more than the picture's latents (inpainting, depth, "
        "instruct-pix2pix); use the plain text-to-image model of its family"
    )


def other_inputs(who: str) -> InputError:
    """The error for a model that is told of something else than its family. ``who``: its kind."""
    return InputError(
        f"null-text inversion does not know {who} models (SDXL's refiner, unCLIP); use a plain {supported()} base model"
    )
