"""Train the demo's UNet on cached latents and contexts of training scenes, in five cycles of the learning rate."""

from __future__ import annotations

import copy
import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTokenizer

from ..fingerprint import digest_of
from ..schedule import scaled_linear_alphas
from .muon import Muon, matrices_and_others
from .scenes import RADII, SIZE, TILT, Scene, discs, render, sample_scene
from .shapes import SHAPES
from .train_text import WIDTH, token_ids
from .training_loop import Budget, run_steps, warmup_cosine
from .training_state import finished_steps, load_module


@dataclass(frozen=True)
class Stage:
    """Steps, peak learning rate, how many scenes to learn from; ``focus``: extra loss weight where objects are, which
    are told apart in a seventh of the picture; ``skew``: timesteps are 1000·u^skew of a uniform u, so less than 1 looks
    more often at noisy pictures, where it is decided what is drawn; ``pairs``: share of scenes with two objects, None
    for as many as there are."""

    steps: int
    peak_rate: float
    scenes: int
    focus: float = 2.0
    skew: float = 1.0
    pairs: float | None = None


STAGES = {
    "unet": Stage(6_000, 2e-3, 14_336),
    "unet-fine": Stage(5_000, 1.2e-3, 28_672),
    "unet-final": Stage(7_000, 1.2e-3, 28_672, focus=4.0, skew=0.75),
    "unet-even": Stage(2_500, 1.2e-3, 28_672, focus=0.0, skew=0.75),
    "unet-pairs": Stage(1_600, 1.2e-3, 28_672, focus=0.0, skew=0.6, pairs=0.75),
}
"""Each goes on from the averaged weights of the one before. Extra weight on objects draws them well and soon, but lets
the network expect more of them than there are: a second copy beside the one that was asked for. The last two cycles
take that back, the very last with more of what is hard: two objects, and their places in noisy pictures."""
SHARD = 2_048
BATCH = 32
OFFSET_NOISE = 0.1
"""Deviation of a constant added to each channel's noise. Without it the faint mean of the image that is left at the
noisiest timesteps tells the background's colour, and the network learns to trust it more than the words."""
DROPOUT = 0.1
"""Share of captions replaced by the empty prompt, for classifier-free guidance."""
PLACED = 0.1
"""Signal-to-noise ratio above which it shows where the objects are. Below it the extra weight would teach the network
to expect objects everywhere."""
EMA = 0.999
HINTS = len(SHAPES) + 4
"""Channels that the UNet has in training only, see ``hints``."""
HINT_WEIGHT = 1.0


def new_unet(extra_channels: int = 0) -> UNet2DConditionModel:
    """A Stable Diffusion UNet in small: 16×16, 8×8 and 4×4 levels, attention at each in heads 32 wide.

    Shapes are drawn at 16×16, which wants channels there; the 4×4 level keeps stripes straight across the picture.
    """
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4 + extra_channels,
        block_out_channels=(96, 160, 224),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=WIDTH,
        attention_head_dim=(3, 5, 7),
    )


def hints(scene: Scene, side: int = 16) -> np.ndarray:
    """What the layout of a scene is, cell by cell: float32 (HINTS, side, side).

    For each shape where it is; and inside every object the way to its centre in radii (x, y), its size and its tilt.
    Asked for these next to the noise, the network has to find whole objects in a noisy picture, which the noise
    alone teaches slowly.
    """
    cell = SIZE / side
    y, x = (np.mgrid[0:side, 0:side] + 0.5) * cell
    result = np.zeros((HINTS, side, side), np.float32)
    for thing in scene.objects:
        inside = discs(replace(scene, objects=(thing,)), side)
        size = (thing.radius - RADII["medium"][0]) / 10
        place = [(thing.x - x) / thing.radius, (thing.y - y) / thing.radius, np.full_like(x, size)]
        result[list(SHAPES).index(thing.shape)] += inside
        result[len(SHAPES) :] += inside * np.stack([*place, np.full_like(x, thing.angle / TILT)])
    return result


def cached_latents(work: Path, vae: AutoencoderTiny, scenes: range, device: str, budget: Budget) -> torch.Tensor | None:
    """Latents of training scenes, float32 (scenes, 4, 16, 16); None when the budget ran out before."""
    shards = []
    maker = digest_of(vae.state_dict())[:8]
    for first in scenes[::SHARD]:
        drawn = hashlib.sha256(repr(sample_scene(first)).encode()).hexdigest()[:8]
        path = work / f"latents-{maker}-{drawn}-{first:06d}.safetensors"
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
    name: str = "unet-pairs",
) -> UNet2DConditionModel | None:
    """Train up to the end of stage ``name``; return the averaged UNet with its hints, or None when the budget ran out.

    A stage that is finished is read back without preparing its scenes.
    """
    torch.manual_seed(2)
    stages, path = list(STAGES), work / f"{name}.safetensors"
    number, stage = stages.index(name), STAGES[name]
    unet = new_unet(HINTS)
    if finished_steps(path) >= stage.steps:
        load_module(path, "average", unet)
        return unet
    if number:
        earlier = train(work, vae, text_encoder, tokenizer, device, budget, stages[number - 1])
        if earlier is None:
            return None
        unet = earlier
    data = cached_latents(work, vae, range(stage.scenes), device, budget)
    if data is None:
        return None
    scenes = [sample_scene(i) for i in range(stage.scenes)]
    contexts = encode(text_encoder, token_ids(tokenizer, [*(s.caption for s in scenes), ""]), device)
    focused = torch.from_numpy(np.stack([discs(s, 16) for s in scenes]))[:, None]
    alphas = torch.tensor(scaled_linear_alphas(), dtype=torch.float32)
    layouts = torch.from_numpy(np.stack([hints(s) for s in scenes])).half()
    counts = np.asarray([len(s.objects) for s in scenes])
    unet = unet.requires_grad_(True).to(device, memory_format=torch.channels_last)
    # on a CPU the fused attention's backward pass is slower than plain matrix products at these sizes
    unet.set_attn_processor(AttnProcessor())
    compiled = torch.compile(unet)
    average = copy.deepcopy(unet).requires_grad_(False)
    optimizer = Muon(*matrices_and_others(unet))

    def loss_of(step: int) -> torch.Tensor:
        rng = np.random.default_rng([step, 11 + number])
        rows = torch.from_numpy(batch_rows(rng, counts, stage.pairs))
        strata = (rng.permutation(BATCH) + rng.uniform(size=BATCH)) / BATCH
        timesteps = torch.from_numpy((strata**stage.skew * len(alphas)).astype(np.int64))
        texts = torch.where(torch.from_numpy(rng.uniform(size=BATCH) < DROPOUT), stage.scenes, rows)
        clean = data[rows]
        noise = torch.from_numpy(rng.standard_normal(clean.shape, dtype=np.float32))
        noise += OFFSET_NOISE * torch.from_numpy(rng.standard_normal((BATCH, 4, 1, 1), dtype=np.float32))
        alpha = alphas[timesteps].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        with torch.autocast(device, torch.bfloat16):
            sample = noisy.to(device, memory_format=torch.channels_last)
            epsilon, layout = compiled(sample, timesteps.to(device), contexts[texts].to(device)).sample.split(
                [4, HINTS], 1
            )
        snr = alpha / (1 - alpha)
        # halfway between predicting the noise (1) and the image (1 / snr): every timestep then has a like share
        weight = snr.rsqrt() * (1 + stage.focus * focused[rows] * (snr / PLACED).clamp(max=1))
        denoising = ((epsilon.float() - noise.to(device)).square() * weight.to(device)).mean()
        return denoising + HINT_WEIGHT * (layout.float() - layouts[rows].to(device)).square().mean()

    def follow(step: int) -> None:
        decay = min(EMA, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(average.parameters()), [p.detach() for p in unet.parameters()], 1 - decay)

    rate = warmup_cosine(stage.peak_rate, stage.steps, warmup=100)
    state = {"unet": unet, "average": average}
    done = run_steps(path, state, optimizer, loss_of, stage.steps, rate, budget, follow)
    return average if done else None


def batch_rows(rng: np.random.Generator, counts: np.ndarray, pairs: float | None) -> np.ndarray:
    """BATCH different scenes; a share ``pairs`` of them with two objects, see ``Stage``."""
    if pairs is None:
        return rng.permutation(len(counts))[:BATCH]
    two = round(BATCH * pairs)
    return np.concatenate([rng.permutation(np.flatnonzero(counts == n))[:k] for n, k in ((2, two), (1, BATCH - two))])


def without_hints(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """The UNet with the four output channels that Stable Diffusion has."""
    weights = unet.state_dict()
    plain = new_unet().to(unet.device)
    plain.load_state_dict({k: v[:4] if k.startswith("conv_out") else v for k, v in weights.items()})
    return plain.eval()


def encode(text_encoder: CLIPTextModel, ids: torch.Tensor, device: str) -> torch.Tensor:
    """Contexts of token ids (n, 77): bfloat16 (n, 77, width) on the CPU."""
    with torch.no_grad(), torch.autocast(device, torch.bfloat16):
        parts = [text_encoder(part.to(device)).last_hidden_state.bfloat16().cpu() for part in ids.split(64)]
    return torch.cat(parts)
