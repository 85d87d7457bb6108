"""A diffusers folder as ComfyUI's own MODEL, CLIP and VAE, at any width; nothing of diffusers is needed."""

from __future__ import annotations

from enum import Enum
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

from ....errors import InputError
from ...model_config import depths_of, per_level
from ...model_folder import ModelFolder, read_folder
from ..protocols import Clip, Patcher, Vae
from .clip import load_clip
from .weights import check_whole, read_weights, told

LEVELS_OF_VAE, LAYERS_OF_VAE, GROUPS = 4, 2, 32
"""What ComfyUI builds whatever a folder says; ``GROUPS``: of every group norm."""
MODEL_TYPES = {"epsilon": comfy.model_base.ModelType.EPS, "v_prediction": comfy.model_base.ModelType.V_PREDICTION}
BETAS = {"scaled_linear": "linear", "linear": "sqrt_linear"}
"""diffusers' names of beta schedules and ComfyUI's."""


class _Multiple(float):
    """How many times as wide a level is as the first; ComfyUI multiplies it with that width and wants an int."""

    def __mul__(self, width: float) -> int:
        return round(float(self) * width)

    __rmul__ = __mul__


def load_folder(path: Path) -> tuple[Patcher, Clip, Vae]:
    """Return (MODEL, CLIP, VAE) of a folder in diffusers' layout, of any family that is known.

    Raises InputError where a part is missing, broken or of another kind.
    """
    folder = read_folder(path)
    unet, vae = unet_config(folder), None if folder.classes["vae"] == "AutoencoderTiny" else vae_config(folder)
    with told(path, "UNet"):
        model = _load_unet(folder, unet)
    with told(path, "text encoder"):
        clip = load_clip(folder)
    with told(path, "VAE"):
        return model, clip, _load_vae(path, vae)


def unet_config(folder: ModelFolder) -> dict[str, Any]:
    """ComfyUI's UNet settings for those of diffusers; raises InputError for builds that ComfyUI does not have."""
    config = folder.configs["unet"]
    channels = config["block_out_channels"]
    levels = len(channels)
    blocks = per_level(config["layers_per_block"], levels)
    attended = [kind.startswith("CrossAttn") for kind in config["down_block_types"]]
    down, up = depths_of(config)
    heads = per_level(config["attention_head_dim"], levels)
    # diffusers calls the number of heads attention_head_dim: one number for all levels, or one for each
    width = {"num_heads": heads[0], "num_head_channels": -1}
    if len({*heads}) > 1:
        width = {"num_heads": -1, "num_head_channels": channels[0] // heads[0]}
        if any(channels[0] * heads[i] != channels[i] * heads[0] for i in range(levels) if attended[i]):
            raise _unknown(folder, "UNet", f"heads of other widths on each level ({heads} for {channels})")
    if config["norm_num_groups"] != GROUPS:
        raise _unknown(folder, "UNet", f"groups of {config['norm_num_groups']}")
    if folder.family.sizes and config["addition_time_embed_dim"] != folder.family.size_width:
        raise _unknown(folder, "UNet", f"an addition_time_embed_dim of {config['addition_time_embed_dim']}")
    middle = {"UNetMidBlock2DCrossAttn": down[-1][0], "UNetMidBlock2D": -1, None: -2}[config["mid_block_type"]]
    return {
        "image_size": 32,
        "use_spatial_transformer": True,
        "legacy": False,
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "model_channels": channels[0],
        "channel_mult": [_Multiple(c / channels[0]) for c in channels],
        "num_res_blocks": blocks,
        "transformer_depth": [d * yes for yes, layers in zip(attended, down, strict=True) for d in layers],
        # ComfyUI reads these from their end
        "transformer_depth_output": [
            d * yes for yes, layers in zip(attended, reversed(up), strict=True) for d in reversed(layers)
        ],
        "transformer_depth_middle": middle,
        "context_dim": config["cross_attention_dim"],
        "use_linear_in_transformer": config["use_linear_projection"],
        "adm_in_channels": config["projection_class_embeddings_input_dim"],
        "use_temporal_attention": False,
        **({"num_classes": "sequential"} if config["addition_embed_type"] else {}),
        **width,
    }


def _unknown(folder: ModelFolder, part: str, what: str) -> InputError:
    return InputError(f'the {part} of "{folder.path.name}" has {what}, which ComfyUI cannot build; use another model')


def _load_unet(folder: ModelFolder, settings: dict[str, Any]) -> Patcher:
    base: Any = getattr(comfy.supported_models, folder.family.comfy[1])
    scale = float(folder.configs["vae"]["scaling_factor"])
    prediction, sampling = _sampling_of(folder)

    class Family(base):
        """The family at this folder's width, schedule and latent scale."""

        unet_extra_config: dict[str, Any] = {}  # noqa: RUF012 (ComfyUI's own convention)
        sampling_settings = sampling

        def model_type(self, state_dict: object, prefix: str = "") -> Enum:
            return prediction

    family = Family(settings)
    family.latent_format.scale_factor = scale
    family.latent_format.latent_channels = folder.family.channels
    stored = read_weights(folder.path, "unet")
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
    check_whole(folder.path, "UNet", model.diffusion_model.state_dict(), weights)
    model.load_model_weights(weights, "")
    return comfy.model_patcher.ModelPatcher(model, load_device=load_device, offload_device=offload_device)


def _sampling_of(folder: ModelFolder) -> tuple[Enum, dict[str, Any]]:
    """What a folder's UNet predicts, and ComfyUI's settings of its noise levels."""
    scheduler = folder.configs["scheduler"]
    prediction, betas = scheduler["prediction_type"], scheduler["beta_schedule"]
    if scheduler["trained_betas"] is not None or betas not in BETAS:
        raise _unknown(folder, "scheduler", f"noise levels of its own ({betas})")
    return MODEL_TYPES[prediction], {
        "beta_schedule": BETAS[betas],
        "linear_start": scheduler["beta_start"],
        "linear_end": scheduler["beta_end"],
        "timesteps": scheduler["num_train_timesteps"],
        "zsnr": scheduler["rescale_betas_zero_snr"],
    }


def _load_vae(path: Path, settings: dict[str, Any] | None) -> Vae:
    weights = read_weights(path, "vae")
    if settings is None:
        weights = {_taesd_name(name): tensor for name, tensor in weights.items()}
        weights |= {"vae_scale": torch.tensor(1.0), "vae_shift": torch.tensor(0.0)}
    else:
        weights = comfy.diffusers_convert.convert_vae_state_dict(weights)
    vae = comfy.sd.VAE(sd=weights, config=settings)
    check_whole(path, "VAE", vae.first_stage_model.state_dict(), weights)
    return vae


def vae_config(folder: ModelFolder) -> dict[str, Any]:
    """ComfyUI's autoencoder settings for those of diffusers; raises InputError for another build than SD's."""
    config = folder.configs["vae"]
    channels, layers, groups = (config[n] for n in ("block_out_channels", "layers_per_block", "norm_num_groups"))
    if len(channels) != LEVELS_OF_VAE or layers != LAYERS_OF_VAE or any(c % channels[0] for c in channels):
        raise InputError(
            f'the VAE of "{folder.path.name}" has {len(channels)} levels of {layers} layers; ComfyUI knows Stable '
            f"Diffusion's {LEVELS_OF_VAE} of {LAYERS_OF_VAE}"
        )
    if groups != GROUPS:
        raise _unknown(folder, "VAE", f"groups of {groups}")
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
