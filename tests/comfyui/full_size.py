"""Configurations of full-size Stable Diffusion 1.5, 2.1 and SDXL in diffusers' layout, without weights."""

import json

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTokenizer

UNETS = {
    "sd15": {"sample_size": 64, "cross_attention_dim": 768},
    "sd2": {
        "sample_size": 96, "cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
    },
    "sdxl": {
        "sample_size": 128, "cross_attention_dim": 2048, "attention_head_dim": (5, 10, 20),
        "use_linear_projection": True, "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10), "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}  # fmt: skip
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
CLIP_H = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16}
CLIP_G = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
TEXTS = {
    "sd15": [CLIP_L],
    "sd2": [{**CLIP_H, "hidden_act": "gelu"}],
    "sdxl": [CLIP_L, {**CLIP_G, "hidden_act": "gelu"}],
}
PREDICTIONS = {"sd15": "epsilon", "sd2": "v_prediction", "sdxl": "epsilon"}
SCALES = {"sd15": 0.18215, "sd2": 0.18215, "sdxl": 0.13025}


def write_configuration(kind, folder, tokenizer_folder):
    """Write a diffusers folder that says how to build a kind of model. ``tokenizer_folder``: CLIP's vocabulary."""
    xl = kind == "sdxl"
    parts = {"unet": ("diffusers", "UNet2DConditionModel"), "vae": ("diffusers", "AutoencoderKL"),
             "scheduler": ("diffusers", "DDIMScheduler")}  # fmt: skip
    with torch.device("meta"):
        UNet2DConditionModel(**UNETS[kind]).save_config(folder / "unet")
        AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, scaling_factor=SCALES[kind],
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, sample_size=512,
        ).save_config(folder / "vae")  # fmt: skip
    DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1, prediction_type=PREDICTIONS[kind],
    ).save_pretrained(folder / "scheduler")  # fmt: skip
    for number, config in enumerate(TEXTS[kind]):
        ending = "_2" * number
        tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder)
        if number or kind == "sd2":
            tokenizer.pad_token = "!"
        tokenizer.save_pretrained(folder / f"tokenizer{ending}")
        named = {"projection_dim": config["hidden_size"], "bos_token_id": 49406, "eos_token_id": 49407}
        CLIPTextConfig(**config, **named).save_pretrained(folder / f"text_encoder{ending}")
        parts[f"tokenizer{ending}"] = ("transformers", "CLIPTokenizer")
        parts[f"text_encoder{ending}"] = ("transformers", "CLIPTextModel" + "WithProjection" * number)
    index = {"_class_name": f"StableDiffusion{'XL' * xl}Pipeline", **parts}
    if xl:
        index["force_zeros_for_empty_prompt"] = False
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
