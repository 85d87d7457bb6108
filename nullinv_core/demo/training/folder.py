"""The demo model as a folder in diffusers' layout, fp16 safetensors."""

from __future__ import annotations

from pathlib import Path

from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTokenizer


def scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule, with the clean end at ᾱ_0 and timesteps offset by one as the authors use."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
    )


def write_model(
    out: Path, vae: AutoencoderTiny, unet: UNet2DConditionModel, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer
) -> None:
    """Write a diffusers folder in fp16 safetensors; ``tokenizer`` must be fresh, see below."""
    for module in (vae, unet, text_encoder):
        module.half()
    pipeline = StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(out, safe_serialization=True)
    _name_as_stable_diffusion(out / "text_encoder" / "model.safetensors")


def _name_as_stable_diffusion(path: Path) -> None:
    """Give the text encoder's weights the prefix ``text_model.`` that every reader of Stable Diffusion knows."""
    weights = {f"text_model.{k.removeprefix('text_model.')}": v for k, v in load_file(path).items()}
    save_file(weights, path, {"format": "pt"})
