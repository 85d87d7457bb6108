"""Train the demo model from nothing: ``python -m nullinv_core.demo.train``. Resumable; the same command goes on.

Stages: tokenizer, autoencoder (in three passes), text encoder, UNet (in five). Each keeps its state in the work folder
as safetensors; the finished model is written as a diffusers folder in fp16.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from . import train_autoencoder, train_text, train_unet
from .tokenizer import write_tokenizer
from .training_loop import Budget

MODEL = Path(__file__).parent / "model"


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


def train(work: Path, out: Path, device: str, budget: Budget) -> bool:
    """Run the stages that are left; return whether the model is finished and written to ``out``."""
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = write_tokenizer(work / "tokenizer")
    vae = train_autoencoder.train(work, device, budget)
    text = train_text.train(work, tokenizer, device, budget) if vae else None
    if vae is None or text is None:
        return False
    unet = train_unet.train(work, vae, text, tokenizer, device, budget)
    if unet is None:
        return False
    write_model(out, vae, train_unet.without_hints(unet), text)
    return True


def write_model(out: Path, vae: AutoencoderTiny, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
    """Write a diffusers folder in fp16 safetensors."""
    # one that was used would be saved with the padding of its last call
    tokenizer = write_tokenizer(out / "tokenizer")
    for module in (vae, unet, text_encoder):
        module.half()
    pipeline = StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(out, safe_serialization=True)
    _name_as_stable_diffusion(out / "text_encoder" / "model.safetensors")
    write_tokenizer(out / "tokenizer")


def _name_as_stable_diffusion(path: Path) -> None:
    """Give the text encoder's weights the prefix ``text_model.`` that every reader of Stable Diffusion knows."""
    weights = {f"text_model.{k.removeprefix('text_model.')}": v for k, v in load_file(path).items()}
    save_file(weights, path, {"format": "pt"})


def main() -> None:
    """Command line of the training."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("demo-training"), help="folder of the resumable state")
    parser.add_argument("--out", type=Path, default=MODEL, help="where the finished model goes")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so long; run again to go on")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    options = parser.parse_args()
    # gradients of a bfloat16 network are often denormal, which costs a CPU many times the work of zeros
    torch.set_flush_denormal(True)
    done = train(options.work, options.out, options.device, Budget(options.minutes))
    print(f"finished: {options.out}" if done else "stopped by --minutes; run the same command to go on")


if __name__ == "__main__":
    main()
