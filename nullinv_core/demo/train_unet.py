"""Train the demo's UNet, its text encoder with it, on cached latents of training scenes."""

from __future__ import annotations

import copy
import os
from functools import cache
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTokenizer

from ..schedule import scaled_linear_alphas
from .scenes import render, sample_scene
from .train_text import WIDTH, token_ids
from .training_loop import Budget, run_steps, warmup_cosine

SCENES = 12_288
SHARD = 2_048
STEPS = 4_400
BATCH = 32
PEAK_RATE = 8e-4
TEXT_STEPS = 800
"""The text encoder learns along for so many steps; then it is fixed, and its contexts are computed once."""
OFFSET_NOISE = 0.1
"""Deviation of a constant added to each channel's noise. Without it the faint mean of the image that is left at the
noisiest timesteps tells the background's colour, and the network learns to trust it more than the words."""
DROPOUT = 0.1
"""Share of captions replaced by the empty prompt, for classifier-free guidance."""
SNR_CAP = 5.0
"""Cap of the loss weight by signal-to-noise ratio (Hang et al. 2023, arXiv 2303.09556)."""
EMA = 0.999


def new_unet() -> UNet2DConditionModel:
    """A Stable Diffusion UNet in small: 16×16, 8×8 and 4×4 levels, attention at each."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(64, 128, 256),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
    )


def cached_latents(work: Path, vae: AutoencoderTiny, device: str, budget: Budget) -> torch.Tensor | None:
    """Latents of the training scenes, float32 (SCENES, 4, 16, 16); None when the budget ran out before."""
    shards = []
    for first in range(0, SCENES, SHARD):
        path = work / f"latents-{first:06d}.safetensors"
        if not path.exists():
            if budget.spent():
                return None
            images = [torch.from_numpy(render(sample_scene(i))) for i in range(first, first + SHARD)]
            latents = torch.cat([_encode(vae, torch.stack(images[i : i + 16]), device) for i in range(0, SHARD, 16)])
            save_file({"latents": latents.half().contiguous()}, path.with_suffix(".partial"))
            os.replace(path.with_suffix(".partial"), path)
            print(f"cached latents of {first + SHARD} scenes", flush=True)
        shards.append(load_file(path)["latents"])
    return torch.cat(shards).float()


def _encode(vae: AutoencoderTiny, images: torch.Tensor, device: str) -> torch.Tensor:
    pixels = (images.permute(0, 3, 1, 2) * 2 - 1).to(device, memory_format=torch.channels_last)
    with torch.no_grad(), torch.autocast(device, torch.bfloat16):
        return vae.encode(pixels).latents.float().cpu()


def train(
    work: Path,
    vae: AutoencoderTiny,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    device: str,
    budget: Budget,
) -> tuple[UNet2DConditionModel, CLIPTextModel] | None:
    """Train up to the last step; return the averaged UNet and text encoder, or None when the budget ran out."""
    data = cached_latents(work, vae, device, budget)
    if data is None:
        return None
    captions = token_ids(tokenizer, [*(sample_scene(i).caption for i in range(SCENES)), ""])
    alphas = torch.tensor(scaled_linear_alphas(), dtype=torch.float32)
    torch.manual_seed(2)
    modules = {"unet": new_unet().to(device, memory_format=torch.channels_last), "text": text_encoder.train()}
    # on a CPU the fused attention's backward pass is slower than plain matrix products at these sizes
    modules["unet"].set_attn_processor(AttnProcessor())
    averages = {"unet_ema": copy.deepcopy(modules["unet"]).requires_grad_(False)}
    optimizer = torch.optim.AdamW(
        [
            {"params": list(modules["unet"].parameters()), "rate_scale": 1.0},
            {"params": list(modules["text"].parameters()), "rate_scale": 0.25},
        ],
        weight_decay=0.01,
    )

    @cache
    def fixed() -> torch.Tensor:
        with torch.no_grad(), torch.autocast(device, torch.bfloat16):
            parts = [modules["text"](part.to(device)).last_hidden_state for part in captions.split(64)]
        return torch.cat(parts).bfloat16()

    def loss_of(step: int) -> torch.Tensor:
        rng = np.random.default_rng([step, 11])
        rows = torch.from_numpy(rng.permutation(SCENES)[:BATCH])
        strata = (rng.permutation(BATCH) + rng.uniform(size=BATCH)) / BATCH
        timesteps = torch.from_numpy((strata * len(alphas)).astype(np.int64))
        chosen = torch.where(torch.from_numpy(rng.uniform(size=BATCH) < DROPOUT), SCENES, rows)
        clean = data[rows]
        noise = torch.from_numpy(rng.standard_normal(clean.shape, dtype=np.float32))
        noise += OFFSET_NOISE * torch.from_numpy(rng.standard_normal((BATCH, 4, 1, 1), dtype=np.float32))
        alpha = alphas[timesteps].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        with torch.autocast(device, torch.bfloat16):
            learns = step < TEXT_STEPS
            context = modules["text"](captions[chosen].to(device)).last_hidden_state if learns else fixed()[chosen]
            sample = noisy.to(device, memory_format=torch.channels_last)
            epsilon = modules["unet"](sample, timesteps.to(device), context).sample
        snr = alpha / (1 - alpha)
        weight = (snr.clamp(max=SNR_CAP) / snr).to(device)
        return ((epsilon.float() - noise.to(device)).square() * weight).mean()

    def average(step: int) -> None:
        decay = min(EMA, (1 + step) / (10 + step))
        current = [p.detach() for p in modules["unet"].parameters()]
        torch._foreach_lerp_(list(averages["unet_ema"].parameters()), current, 1 - decay)

    rate = warmup_cosine(PEAK_RATE, STEPS, warmup=300)
    state = {**modules, **averages}
    done = run_steps(work / "unet.safetensors", state, optimizer, loss_of, STEPS, rate, budget, average)
    return (averages["unet_ema"].eval(), text_encoder.eval()) if done else None
