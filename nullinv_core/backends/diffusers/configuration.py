"""Configurations of a diffusers folder, written from a family's row: a single checkpoint file holds weights alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...families import Family
from ..clip_vocabulary import clip_merges, write_tokenizer_files
from ..model_config import TOKENIZERS
from ..model_folder import INDEX, settings_file

UNET = {
    "layers_per_block": 2, "norm_num_groups": 32, "attention_head_dim": 8,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}  # fmt: skip
"""What most families share."""


def write_configuration(folder: Path, family: Family, scheduler: dict[str, Any]) -> None:
    """Write a diffusers folder without weights that says how to build a family. ``scheduler``: entries of its own."""
    levels = 4
    classes = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "scheduler": "DDIMScheduler"}
    configs: dict[str, dict[str, Any]] = {
        "unet": {
            "in_channels": family.channels, "out_channels": family.channels, "sample_size": family.side, **UNET,
            **family.unet,
        },
        "vae": {
            "layers_per_block": 2, "latent_channels": family.channels, "scaling_factor": family.scale, **family.vae,
            "down_block_types": ["DownEncoderBlock2D"] * levels, "up_block_types": ["UpDecoderBlock2D"] * levels,
        },
        "scheduler": {
            "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False,
            "set_alpha_to_one": False, "steps_offset": 1, **scheduler,
        },
    }  # fmt: skip
    for encoder in family.encoders:
        classes[encoder.part] = encoder.kind
        configs[encoder.part] = {
            "bos_token_id": 49406, "eos_token_id": 49407, "vocab_size": 49408,
            "max_position_embeddings": encoder.tokens, "projection_dim": encoder.build["hidden_size"], **encoder.build,
        }  # fmt: skip
        classes[encoder.tokenizer] = TOKENIZERS[0]
        write_tokenizer_files(folder / encoder.tokenizer, clip_merges(), encoder.fill)
    write_settings(folder, family, classes, configs)


def write_settings(folder: Path, family: Family, classes: dict[str, str], configs: dict[str, dict[str, Any]]) -> None:
    """Write the index and the configurations of a diffusers folder: the class of each part, the entries of each that
    has some."""
    index: dict[str, Any] = {"_class_name": family.pipeline}
    if family.pooled:
        index["force_zeros_for_empty_prompt"] = False
    encoders = {encoder.kind for encoder in family.encoders}
    for part, name in classes.items():
        index[part] = ["transformers" if name in encoders or name in TOKENIZERS else "diffusers", name]
        if part in configs:
            (folder / part).mkdir(parents=True, exist_ok=True)
            own = {"architectures": [name], "model_type": "clip_text_model"} if name in encoders else {}
            text = json.dumps({"_class_name": name, **own, **configs[part]})
            (folder / part / settings_file(part)).write_text(text, encoding="utf-8")
    (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")
