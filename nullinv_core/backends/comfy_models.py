"""A diffusers folder as ComfyUI's own MODEL, CLIP and VAE, at any width; nothing of diffusers is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.diffusers_convert
import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import comfy.utils
import torch

from ..errors import InputError
from .comfy_clip import load_clip
from .comfy_conditioning import SIZE_WIDTH
from .comfy_folder import check_whole, read_weights
from .model_folder import KINDS, XL, check_folder, read_config, text_parts

LEVELS_OF_VAE, LAYERS_OF_VAE = 4, 2
MODEL_TYPES = {"epsilon": comfy.model_base.ModelType.EPS, "v_prediction": comfy.model_base.ModelType.V_PREDICTION}
FAMILIES = dict(zip(KINDS, (comfy.supported_models.SD15, comfy.supported_models.SDXL), strict=True))
BETAS = {"scaled_linear": "linear", "linear": "sqrt_linear"}
"""diffusers' names of beta schedules and ComfyUI's."""


class _Multiple(float):
    """How many times as wide a level is as the first; ComfyUI multiplies it with that width and wants an int."""

    def __mul__(self, width: float) -> int:
        return round(float(self) * width)

    __rmul__ = __mul__


def load_folder(folder: Path) -> tuple[Any, Any, Any]:
    """Return (MODEL, CLIP, VAE) of a Stable Diffusion 1.x, 2.x or SDXL folder in diffusers' layout.

    Raises InputError where a part is missing, broken or of another kind.
    """
    kind = check_folder(folder)
    vae_config = read_config(folder / "vae" / "config.json")
    return (
        _load_unet(folder, FAMILIES[kind], float(vae_config.get("scaling_factor", 0.18215))),
        load_clip(folder, text_parts(kind)),
        _load_vae(folder, vae_config),
    )


def unet_config(config: dict[str, Any]) -> dict[str, Any]:
    """ComfyUI's UNet settings for those of diffusers."""
    channels = config["block_out_channels"]
    levels = len(channels)
    per_level = config["layers_per_block"]
    blocks = [per_level] * levels if isinstance(per_level, int) else list(per_level)
    depth = config.get("transformer_layers_per_block", 1)
    depths = [depth] * levels if isinstance(depth, int) else list(depth)
    down = [d if "CrossAttn" in kind else 0 for d, kind in zip(depths, config["down_block_types"], strict=True)]
    heads = config["attention_head_dim"]
    # diffusers calls the number of heads attention_head_dim: one number for all levels, or one for each
    width = {"num_heads": heads, "num_head_channels": -1}
    if not isinstance(heads, int):
        width = {"num_heads": -1, "num_head_channels": channels[0] // heads[0]}
    return {
        "image_size": 32,
        "use_spatial_transformer": True,
        "legacy": False,
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "model_channels": channels[0],
        "channel_mult": [_Multiple(c / channels[0]) for c in channels],
        "num_res_blocks": blocks,
        "transformer_depth": [d for d, n in zip(down, blocks, strict=True) for _ in range(n)],
        "transformer_depth_output": [d for d, n in zip(down, blocks, strict=True) for _ in range(n + 1)],
        "transformer_depth_middle": depths[-1],
        "context_dim": config["cross_attention_dim"],
        "use_linear_in_transformer": bool(config.get("use_linear_projection")),
        "adm_in_channels": config.get("projection_class_embeddings_input_dim"),
        "use_temporal_attention": False,
        **({"num_classes": "sequential"} if config.get("addition_embed_type") else {}),
        **width,
    }


def _load_unet(folder: Path, base: Any, scale: float) -> Any:
    config = read_config(folder / "unet" / "config.json")
    scheduler = read_config(folder / "scheduler" / "scheduler_config.json")
    added = (config.get("addition_embed_type"), config.get("addition_time_embed_dim"))
    plain = ("text_time", SIZE_WIDTH) if base is FAMILIES[XL] else (None, None)
    if config.get("in_channels") != 4 or added != plain:
        raise InputError(f'"{folder.name}" is not a plain text-to-image UNet of Stable Diffusion 1.x, 2.x or SDXL')
    prediction, sampling = _sampling_of(folder, scheduler)

    class Family(base):
        """The family at this folder's width, schedule and latent scale."""

        unet_extra_config: dict[str, Any] = {}  # noqa: RUF012 (ComfyUI's own convention)
        sampling_settings = sampling

        def model_type(self, state_dict: Any, prefix: str = "") -> Any:
            return prediction

    family = Family(unet_config(config))
    family.latent_format.scale_factor = scale
    stored = read_weights(folder, "unet")
    names = comfy.utils.unet_to_diffusers(family.unet_config)
    weights = {names[k]: v for k, v in stored.items() if k in names}
    load_device = comfy.model_management.get_torch_device()
    dtype = comfy.model_management.unet_dtype(
        model_params=comfy.utils.calculate_parameters(weights),
        supported_dtypes=family.supported_inference_dtypes,
        weight_dtype=comfy.utils.weight_dtype(weights),
    )
    cast = comfy.model_management.unet_manual_cast(dtype, load_device, family.supported_inference_dtypes)
    family.set_inference_dtype(dtype, cast)
    offload_device = comfy.model_management.unet_offload_device()
    model = family.get_model(weights, "", device=offload_device)
    check_whole(folder, "UNet", set(model.diffusion_model.state_dict()) - set(weights))
    model.load_model_weights(weights, "")
    return comfy.model_patcher.ModelPatcher(model, load_device=load_device, offload_device=offload_device)


def _sampling_of(folder: Path, scheduler: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """What a folder's UNet predicts, and ComfyUI's settings of its noise levels."""
    if not {"beta_start", "beta_end"} <= set(scheduler):
        raise InputError(
            f'the scheduler of "{folder.name}" has no betas ({scheduler.get("_class_name")}; EDM noise levels, as '
            "Playground 2.5 has?); load a plain Stable Diffusion 1.x, 2.x or SDXL folder"
        )
    prediction, betas = scheduler.get("prediction_type", "epsilon"), scheduler.get("beta_schedule", "linear")
    if scheduler.get("trained_betas") is not None:
        betas = "its own"
    if prediction not in MODEL_TYPES or betas not in BETAS:
        raise InputError(f'"{folder.name}" predicts {prediction} on {betas} betas, which is not supported')
    return MODEL_TYPES[prediction], {
        "beta_schedule": BETAS[betas],
        "linear_start": scheduler["beta_start"],
        "linear_end": scheduler["beta_end"],
        "timesteps": scheduler.get("num_train_timesteps", 1000),
        "zsnr": bool(scheduler.get("rescale_betas_zero_snr")),
    }


def _load_vae(folder: Path, config: dict[str, Any]) -> Any:
    weights, settings = read_weights(folder, "vae"), None
    if config.get("_class_name") == "AutoencoderTiny":
        weights = {_taesd_name(name): tensor for name, tensor in weights.items()}
        weights |= {"vae_scale": torch.tensor(1.0), "vae_shift": torch.tensor(0.0)}
    else:
        weights, settings = comfy.diffusers_convert.convert_vae_state_dict(weights), vae_config(folder, config)
    vae = comfy.sd.VAE(sd=weights, config=settings)
    check_whole(folder, "VAE", set(vae.first_stage_model.state_dict()) - set(weights))
    return vae


def vae_config(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """ComfyUI's autoencoder settings for those of diffusers; raises InputError for another build than SD's."""
    channels, layers = config["block_out_channels"], config.get("layers_per_block", 2)
    if len(channels) != LEVELS_OF_VAE or layers != LAYERS_OF_VAE or any(c % channels[0] for c in channels):
        raise InputError(
            f'the VAE of "{folder.name}" has {len(channels)} levels of {layers} layers; ComfyUI knows Stable '
            f"Diffusion's {LEVELS_OF_VAE} of {LAYERS_OF_VAE}"
        )
    settings = {
        "double_z": True, "z_channels": config["latent_channels"], "resolution": 256, "in_channels": 3, "out_ch": 3,
        "ch": channels[0], "ch_mult": [c // channels[0] for c in channels], "num_res_blocks": layers,
        "attn_resolutions": [], "dropout": 0.0,
    }  # fmt: skip
    return {"params": {"ddconfig": settings, "embed_dim": config["latent_channels"]}}


def _taesd_name(name: str) -> str:
    """ComfyUI's name of an AutoencoderTiny weight; its decoder counts a clamp as the first layer."""
    side, _, index, rest = name.split(".", 3)
    return f"taesd_{side}.{int(index) + (side == 'decoder')}.{rest}"
