"""How the networks of Stable Diffusion 1.x, 2.x and SDXL are built, in diffusers' words: a single checkpoint file holds
their weights alone."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .clip_vocabulary import clip_merges, write_tokenizer_files
from .model_config import ENCODERS, TOKENIZERS
from .model_folder import INDEX, KINDS, SETTINGS, XL, text_parts

CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
CLIP_H = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16,
    "hidden_act": "gelu",
}  # fmt: skip
CLIP_G = {
    "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
    "hidden_act": "gelu",
}  # fmt: skip
UNET = {
    "in_channels": 4, "out_channels": 4, "layers_per_block": 2, "norm_num_groups": 32, "attention_head_dim": 8,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}  # fmt: skip
"""What most families share."""
FIRST_TOKEN, END_OF_TEXT = "!", "<|endoftext|>"
"""What texts are filled up with to 77 tokens."""


@dataclass(frozen=True)
class Family:
    """A family of models: its pipeline, its UNet where it differs from ``UNET``, its text encoders, what fills up the
    text of each, and the scale of its latents."""

    pipeline: str
    unet: dict[str, Any]
    texts: tuple[dict[str, Any], ...]
    fill: tuple[str, ...]
    scale: float = 0.18215
    vae: dict[str, Any] = field(default_factory=lambda: {"block_out_channels": (128, 256, 512, 512)})


V2_UNET = {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True}
FAMILIES = {
    "v1": Family(KINDS[0], {"sample_size": 64, "cross_attention_dim": 768}, (CLIP_L,), (END_OF_TEXT,)),
    "v2": Family(KINDS[0], {"sample_size": 64, **V2_UNET}, (CLIP_H,), (FIRST_TOKEN,)),
    "v2, v prediction": Family(KINDS[0], {"sample_size": 96, **V2_UNET}, (CLIP_H,), (FIRST_TOKEN,)),
    "xl_base": Family(
        XL,
        {
            "sample_size": 128, "cross_attention_dim": 2048, "attention_head_dim": (5, 10, 20),
            "use_linear_projection": True, "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 10), "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
        },
        (CLIP_L, CLIP_G), (END_OF_TEXT, FIRST_TOKEN), 0.13025,
    ),
}  # fmt: skip
"""By diffusers' name for their single files; 2.x also by what it predicts, which decides the size it was trained at."""


def write_configuration(folder: Path, family: Family, scheduler: dict[str, Any]) -> None:
    """Write a diffusers folder without weights that says how to build a family. ``scheduler``: entries of its own."""
    levels = 4
    classes = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "scheduler": "DDIMScheduler"}
    configs: dict[str, dict[str, Any]] = {
        "unet": {**UNET, **family.unet},
        "vae": {
            "layers_per_block": 2, "latent_channels": 4, "scaling_factor": family.scale, **family.vae,
            "down_block_types": ["DownEncoderBlock2D"] * levels, "up_block_types": ["UpDecoderBlock2D"] * levels,
        },
        "scheduler": {
            "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False,
            "set_alpha_to_one": False, "steps_offset": 1, **scheduler,
        },
    }  # fmt: skip
    for (encoder, tokenizer), text, fill in zip(text_parts(family.pipeline), family.texts, family.fill, strict=True):
        classes[encoder] = ENCODERS[encoder]
        configs[encoder] = {
            "bos_token_id": 49406, "eos_token_id": 49407,
            "vocab_size": 49408, "max_position_embeddings": 77, "projection_dim": text["hidden_size"], **text,
        }  # fmt: skip
        classes[tokenizer] = TOKENIZERS[0]
        write_tokenizer_files(folder / tokenizer, clip_merges(), fill)
    write_settings(folder, family.pipeline, classes, configs)


def write_settings(folder: Path, kind: str, classes: dict[str, str], configs: dict[str, dict[str, Any]]) -> None:
    """Write the index and the configurations of a diffusers folder: the class of each part, the entries of each that
    has some."""
    index: dict[str, Any] = {"_class_name": kind, **({"force_zeros_for_empty_prompt": False} if kind == XL else {})}
    for part, name in classes.items():
        clip = name in ENCODERS.values()
        index[part] = ["transformers" if clip or name in TOKENIZERS else "diffusers", name]
        if part in configs:
            (folder / part).mkdir(parents=True, exist_ok=True)
            own = {"architectures": [name], "model_type": "clip_text_model"} if clip else {}
            text = json.dumps({"_class_name": name, **own, **configs[part]})
            (folder / part / SETTINGS[part]).write_text(text, encoding="utf-8")
    (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")
