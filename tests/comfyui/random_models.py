"""Write checkpoints with seeded random weights, in ComfyUI's single-file formats.

``random_models.py KIND FILE``, run by ComfyUI's Python through launch.py. KIND: sd15, sd2 (v-prediction), sdxl of full
size; shallow, a UNet of few blocks that ComfyUI takes for Stable Diffusion 1.5's, with its text encoder and no
autoencoder; controlnet, controlnet-shallow, for those. The weights are drawn so that every layer keeps its scale and
the text matters: cross-attention speaks louder than in a fresh network, which is nearly blind to its prompt.
"""

import json
import math
import sys
import zlib
from pathlib import Path

import torch

ARGUMENTS, sys.argv = sys.argv[1:], [sys.argv[0], "--cpu"]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.cldm.cldm  # noqa: E402
import comfy.clip_model  # noqa: E402
import comfy.ldm.models.autoencoder  # noqa: E402
import comfy.ldm.modules.diffusionmodules.openaimodel  # noqa: E402
import comfy.ops  # noqa: E402
import comfy.supported_models  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

COMMON = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "use_spatial_transformer": True,
    "legacy": False,
}  # fmt: skip
FOUR_LEVELS = {
    "num_res_blocks": [2, 2, 2, 2], "channel_mult": [1, 2, 4, 4], "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_middle": 1,
}  # fmt: skip
UNETS = {
    "sd15": {**FOUR_LEVELS, "context_dim": 768, "num_heads": 8, "use_linear_in_transformer": False},
    "sd2": {**FOUR_LEVELS, "context_dim": 1024, "num_heads": -1, "num_head_channels": 64,
            "use_linear_in_transformer": True},
    "sdxl": {"num_res_blocks": [2, 2, 2], "channel_mult": [1, 2, 4], "transformer_depth": [0, 0, 2, 2, 10, 10],
             "transformer_depth_middle": 10, "context_dim": 2048, "num_heads": -1, "num_head_channels": 64,
             "use_linear_in_transformer": True, "num_classes": "sequential", "adm_in_channels": 2816},
    "shallow": {"num_res_blocks": [1, 1], "channel_mult": [1, 1], "transformer_depth": [1, 1],
                "transformer_depth_middle": 1, "context_dim": 768, "num_heads": 8, "use_linear_in_transformer": False},
}  # fmt: skip
FOUR_LEVELS_UP = [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0]
OUTPUT_DEPTHS = {
    "shallow": [1, 1, 1, 1],
    "sd15": FOUR_LEVELS_UP,
    "sd2": FOUR_LEVELS_UP,
    "sdxl": [0, 0, 0, 2, 2, 2, 10, 10, 10],
}
AUTOENCODER = {
    "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
    "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
}  # fmt: skip
TEXT_FILES = {"l": "sd1_clip_config.json", "h": "text_encoders/sd2_clip_config.json", "g": "clip_config_bigg.json"}
LOUD = {"attn2.to_v": 3.0, "attn2.to_out": 3.0, "zero_convs": 0.3, "middle_block_out": 0.3}
"""Gain of layers, where it is not 1."""


def drawn(name, like):
    """Weights of a layer: bfloat16, the same for the same name."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    noise = torch.randn(like.shape, generator=generator)
    if like.ndim >= 2:
        gain = next((g for part, g in LOUD.items() if part in name), 1.0)
        fan_in = 1 if "embedding" in name else math.prod(like.shape[1:])
        scale = 0.05 if "embedding" in name else gain / math.sqrt(fan_in)
        return (noise * scale).bfloat16()
    offset = 1.0 if name.endswith("weight") else 0.0
    return (offset + 0.1 * noise).bfloat16()


def weights(prefix, module):
    """Drawn weights under the names of a module that has none itself."""
    return {prefix + k: drawn(prefix + k, v) for k, v in module.state_dict().items() if v.is_floating_point()}


def text_encoder(name):
    """A text encoder without weights, by ComfyUI's letter for it."""
    config = json.loads((Path(comfy.__path__[0]) / TEXT_FILES[name]).read_text())
    return comfy.clip_model.CLIPTextModel(config, torch.float16, "meta", comfy.ops.disable_weight_init)


def checkpoint(kind):
    """UNet, text encoder and autoencoder under a checkpoint's names."""
    operations = comfy.ops.disable_weight_init
    with torch.device("meta"):
        unet = comfy.ldm.modules.diffusionmodules.openaimodel.UNetModel(
            **COMMON, **UNETS[kind], transformer_depth_output=list(OUTPUT_DEPTHS[kind]), dtype=torch.float16,
            device="meta", operations=operations,
        )  # fmt: skip
        vae = comfy.ldm.models.autoencoder.AutoencoderKL(embed_dim=4, ddconfig=AUTOENCODER)
    result = weights("model.diffusion_model.", unet)
    if kind == "shallow":
        return result | weights("cond_stage_model.transformer.", text_encoder("l"))
    result |= weights("first_stage_model.", vae)
    if kind == "sd15":
        return result | weights("cond_stage_model.transformer.", text_encoder("l"))
    if kind == "sdxl":
        text = weights("clip_l.transformer.", text_encoder("l")) | weights("clip_g.transformer.", text_encoder("g"))
        named = comfy.supported_models.SDXL.process_clip_state_dict_for_saving(None, text)
        return result | {k: v.contiguous() for k, v in named.items()}
    # ComfyUI takes a 2.x model for v-prediction by the spread of this bias
    telling = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
    result[telling] = result[telling] * 3
    text = weights("clip_h.transformer.", text_encoder("h"))
    named = comfy.supported_models.SD20.process_clip_state_dict_for_saving(None, text)
    return result | {k: v.contiguous() for k, v in named.items()}


def controlnet(kind):
    """A ControlNet under its own names; its network is like that of sd15 or shallow."""
    with torch.device("meta"):
        network = comfy.cldm.cldm.ControlNet(
            **{k: v for k, v in COMMON.items() if k != "out_channels"}, **UNETS[kind], hint_channels=3,
            dtype=torch.float16, device="meta", operations=comfy.ops.disable_weight_init,
        )  # fmt: skip
    return weights("control_model.", network)


kind, path = ARGUMENTS
control, _, shallow = kind.partition("-")
save_file(controlnet(shallow or "sd15") if control == "controlnet" else checkpoint(kind), path)
print(f"wrote {path}")
