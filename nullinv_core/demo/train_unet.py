"""Train the demo's UNet, its text encoder with it, on cached latents of training scenes."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTokenizer

from ..schedule import scaled_linear_alphas
from ..store import fingerprint
from .scenes import discs, render, sample_scene
from .train_text import WIDTH, token_ids
from .training_loop import Budget, run_steps, warmup_cosine


@dataclass(frozen=True)
class Pass:
    """One training pass. The text encoder learns along for ``text_steps``; then its contexts are computed once."""

    steps: int
    peak_rate: float
    first_scene: int
    scenes: int
    text_steps: int


PASSES = {"unet": Pass(9_000, 6e-4, first_scene=0, scenes=14_336, text_steps=400)}
SHARD = 2_048
BATCH = 32
OFFSET_NOISE = 0.1
"""Deviation of a constant added to each channel's noise. Without it the faint mean of the image that is left at the
noisiest timesteps tells the background's colour, and the network learns to trust it more than the words."""
DROPOUT = 0.1
"""Share of captions replaced by the empty prompt, for classifier-free guidance."""
FOCUS = 2.0
"""Extra loss weight where objects are: shapes are told apart in a seventh of the picture, backgrounds everywhere."""
PLACED = 0.1
"""Signal-to-noise ratio above which it shows where the objects are. Below it the extra weight would teach the network
to expect objects everywhere."""
EMA = 0.999


def new_unet() -> UNet2DConditionModel:
    """A Stable Diffusion UNet in small: a 16×16 and an 8×8 level, attention at both.

    Shapes are drawn at 16×16: half the channels there and a third level in their place drew far worse ones.
    """
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(128, 256),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
    )


def cached_latents(work: Path, vae: AutoencoderTiny, scenes: range, device: str, budget: Budget) -> torch.Tensor | None:
    """Latents of training scenes, float32 (scenes, 4, 16, 16); None when the budget ran out before."""
    shards = []
    maker = fingerprint(vae.state_dict())[:8]
    for first in scenes[::SHARD]:
        path = work / f"latents-{maker}-{first:06d}.safetensors"
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
    name: str = "unet",
) -> tuple[UNet2DConditionModel, CLIPTextModel] | None:
    """Train up to the end of pass ``name``; return the averaged UNet and the text encoder, or None without budget."""
    torch.manual_seed(2)
    stage, number = PASSES[name], list(PASSES).index(name)
    unet = new_unet().to(device)
    if number:
        before = train(work, vae, text_encoder, tokenizer, device, budget, list(PASSES)[number - 1])
        if before is None:
            return None
        unet = before[0].train().requires_grad_(True)
    scenes = range(stage.first_scene, stage.first_scene + stage.scenes)
    data = cached_latents(work, vae, scenes, device, budget)
    if data is None:
        return None
    captions = token_ids(tokenizer, [*(sample_scene(i).caption for i in scenes), ""])
    focused = torch.from_numpy(np.stack([discs(sample_scene(i), 16) for i in scenes]))[:, None]
    alphas = torch.tensor(scaled_linear_alphas(), dtype=torch.float32)
    modules = {"unet": unet.to(memory_format=torch.channels_last), "text": text_encoder.train()}
    # on a CPU the fused attention's backward pass is slower than plain matrix products at these sizes
    modules["unet"].set_attn_processor(AttnProcessor())
    compiled = torch.compile(modules["unet"])
    averages = {"unet_ema": copy.deepcopy(modules["unet"]).requires_grad_(False)}
    optimizer = torch.optim.AdamW(
        [
            {"params": list(modules["unet"].parameters()), "rate_scale": 1.0},
            {"params": list(modules["text"].parameters()), "rate_scale": 0.25},
        ],
        weight_decay=0.01,
        fused=True,
    )

    @cache
    def fixed() -> torch.Tensor:
        with torch.no_grad(), torch.autocast(device, torch.bfloat16):
            parts = [modules["text"](part.to(device)).last_hidden_state for part in captions.split(64)]
        return torch.cat(parts).bfloat16()

    def loss_of(step: int) -> torch.Tensor:
        rng = np.random.default_rng([step, 11 + number])
        rows = torch.from_numpy(rng.permutation(len(scenes))[:BATCH])
        strata = (rng.permutation(BATCH) + rng.uniform(size=BATCH)) / BATCH
        timesteps = torch.from_numpy((strata * len(alphas)).astype(np.int64))
        chosen = torch.where(torch.from_numpy(rng.uniform(size=BATCH) < DROPOUT), len(scenes), rows)
        clean = data[rows]
        noise = torch.from_numpy(rng.standard_normal(clean.shape, dtype=np.float32))
        noise += OFFSET_NOISE * torch.from_numpy(rng.standard_normal((BATCH, 4, 1, 1), dtype=np.float32))
        alpha = alphas[timesteps].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        with torch.autocast(device, torch.bfloat16):
            learns = step < stage.text_steps
            context = modules["text"](captions[chosen].to(device)).last_hidden_state if learns else fixed()[chosen]
            sample = noisy.to(device, memory_format=torch.channels_last)
            epsilon = compiled(sample, timesteps.to(device), context).sample
        snr = alpha / (1 - alpha)
        # halfway between predicting the noise (1) and the image (1 / snr): every timestep then has a like share
        weight = snr.rsqrt() * (1 + FOCUS * focused[rows] * (snr / PLACED).clamp(max=1))
        return ((epsilon.float() - noise.to(device)).square() * weight.to(device)).mean()

    def average(step: int) -> None:
        decay = min(EMA, (1 + step) / (10 + step))
        current = [p.detach() for p in modules["unet"].parameters()]
        torch._foreach_lerp_(list(averages["unet_ema"].parameters()), current, 1 - decay)

    rate = warmup_cosine(stage.peak_rate, stage.steps, warmup=300)
    state = {**modules, **averages}
    done = run_steps(work / f"{name}.safetensors", state, optimizer, loss_of, stage.steps, rate, budget, average)
    return (averages["unet_ema"].eval(), text_encoder.eval()) if done else None
