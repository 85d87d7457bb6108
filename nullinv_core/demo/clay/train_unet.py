"""Train the UNet of the clay world on cached latents, in cycles of the learning rate that see ever more pictures."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import one_hot
from transformers import CLIPTextModel, CLIPTokenizer

from ...fingerprint import digest_of
from ...schedule import scaled_linear_alphas
from ..muon import Muon, matrices_and_others
from ..train_text import WIDTH, token_ids
from ..train_unet import DROPOUT, EMA, OFFSET_NOISE, encode
from ..training_loop import Budget, run_steps, warmup_cosine
from ..training_state import finished_steps, load_module
from .dataset import SHARD, STAGES, Pictures, make_pictures, pictures_path, read_pictures
from .looks import COLOURS
from .objects import OBJECTS


@dataclass(frozen=True)
class Stage:
    """Steps, peak learning rate, how many pictures of each geometry to learn from.

    ``skew``: timesteps are 1000·u^skew of a uniform u, so less than 1 looks more often at noisy pictures, where it is
    decided what is drawn; ``pairs``: share of pictures with two toys; ``weight``: of the hints in the loss;
    ``encoder``: the stage of the autoencoder's training whose latents are learned.
    """

    steps: int
    peak_rate: float
    variations: int
    skew: float = 0.85
    pairs: float = 0.5
    weight: float = 1.0
    encoder: str = "autoencoder-fine"


CYCLES = {
    "unet": Stage(6_000, 2e-3, 4, encoder="autoencoder"),
    "unet-fine": Stage(6_000, 1.5e-3, 12),
    "unet-final": Stage(6_000, 1.2e-3, 12, skew=0.75, pairs=0.6, weight=0.5),
}
"""Each goes on from the averaged weights of the one before."""
BATCH = 32
GPU_BATCH = 128
"""On a GPU, which is as fast at four times as many."""
KINDS = len(OBJECTS)
HINTS = KINDS + len(COLOURS)
"""Channels that the UNet has in training only: where each kind of toy is, and each colour."""
BLOCKS = (128, 160, 224)


def new_unet(extra_channels: int = 0) -> UNet2DConditionModel:
    """A Stable Diffusion UNet in small: 16×16, 8×8 and 4×4 levels, attention at each in heads 32 wide."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4 + extra_channels,
        block_out_channels=BLOCKS,
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=WIDTH,
        attention_head_dim=tuple(width // 32 for width in BLOCKS),
    )


@dataclass(frozen=True)
class Encoded:
    """Training pictures as the UNet sees them.

    ``latents`` float16 (n, 4, 16, 16); ``masks`` uint8 (n, 2, 16, 16), where each toy is; ``names`` int64 (n, 2, 2),
    kind and colour of each toy, -1 where there is none; ``captions``.
    """

    latents: Tensor
    masks: Tensor
    names: Tensor
    captions: list[str]


def hints(masks: Tensor, names: Tensor) -> Tensor:
    """Where each kind and each colour is: float32 (n, HINTS, 16, 16) from ``Encoded.masks`` and ``names``.

    Asked for these next to the noise, the network has to find whole toys in a noisy picture, which the noise alone
    teaches slowly.
    """
    share = masks.float() / 255
    parts = [
        torch.einsum("nthw,ntk->nkhw", share, one_hot(names[..., i].clamp_min(0), size).float())
        for i, size in ((0, KINDS), (1, len(COLOURS)))
    ]
    return torch.cat(parts, 1)


def cached(work: Path, vae: AutoencoderTiny, variation: int, device: str, budget: Budget) -> list[Path] | None:
    """Files of one variation of every stage's picture, made where they are missing; None when the budget ran out."""
    maker = digest_of(vae.encoder.state_dict())[:8]
    files = []
    for index in range(STAGES // SHARD):
        pictures = pictures_path(work, index, variation)
        path = work / "latents" / f"{maker}-{pictures.name}"
        if not path.exists():
            if budget.spent():
                return None
            make_pictures(work, index, variation)
            _encode(read_pictures([pictures]), path, vae, device)
            print(f"encoded {path.name}", flush=True)
        files.append(path)
    return files


def _encode(pictures: Pictures, path: Path, vae: AutoencoderTiny, device: str) -> None:
    """Write latents of pictures and what else the UNet learns from, atomically."""
    with torch.no_grad(), torch.autocast(device, torch.bfloat16):
        parts = [
            vae.encoder((part.to(device).float() / 127.5 - 1).to(memory_format=torch.channels_last)).float().cpu()
            for part in pictures.images.split(25)
        ]
    tensors = {"latents": torch.cat(parts).half().contiguous(), "masks": pictures.masks, "names": pictures.names}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.stem}-{os.getpid()}.partial")
    save_file(tensors, unfinished, {"captions": json.dumps(pictures.captions)})
    os.replace(unfinished, path)


def read_encoded(paths: list[Path]) -> Encoded:
    """What several files hold."""
    parts, captions = [], []
    for path in paths:
        with safe_open(path, "pt") as file:
            parts.append({key: file.get_tensor(key) for key in ("latents", "masks", "names")})
            captions += json.loads(file.metadata()["captions"])
    return Encoded(**{key: torch.cat([p[key] for p in parts]) for key in parts[0]}, captions=captions)


def train(
    work: Path,
    encoder_of: Callable[[str], AutoencoderTiny | None],
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    device: str,
    budget: Budget,
    name: str = "unet-final",
) -> UNet2DConditionModel | None:
    """Train up to the end of cycle ``name``; return the averaged UNet with its hints, or None when the budget ran out.

    A cycle that is finished is read back without preparing its pictures. ``encoder_of``: the autoencoder by the name of
    a stage of its training.
    """
    torch.manual_seed(2)
    cycles, path = list(CYCLES), work / f"{name}.safetensors"
    number, cycle = cycles.index(name), CYCLES[name]
    unet = new_unet(HINTS)
    if finished_steps(path) >= cycle.steps:
        load_module(path, "average", unet)
        return unet
    if number:
        earlier = train(work, encoder_of, text_encoder, tokenizer, device, budget, cycles[number - 1])
        if earlier is None:
            return None
        unet = earlier
    vae = encoder_of(cycle.encoder)
    if vae is None:
        return None
    vae = vae.to(device, memory_format=torch.channels_last)
    files: list[Path] = []
    for variation in range(cycle.variations):
        found = cached(work, vae, variation, device, budget)
        if found is None:
            return None
        files += found
    data = read_encoded(files)
    contexts = encode(text_encoder.to(device), token_ids(tokenizer, [*data.captions, ""]), device).to(device)
    latents, masks, names = (part.to(device) for part in (data.latents, data.masks, data.names))
    alphas = torch.tensor(scaled_linear_alphas(), dtype=torch.float32, device=device)
    two = np.flatnonzero((data.names[:, 1, 0] >= 0).numpy())
    one = np.setdiff1d(np.arange(len(data.captions)), two)
    batch = BATCH if device == "cpu" else GPU_BATCH
    unet = unet.requires_grad_(True).to(device, memory_format=torch.channels_last)
    if device == "cpu":
        # on a CPU the fused attention's backward pass is slower than plain matrix products at these sizes
        unet.set_attn_processor(AttnProcessor())
    # compiling takes a CPU minutes and gains nothing on it
    network = unet if device == "cpu" else torch.compile(unet)
    average = copy.deepcopy(unet).requires_grad_(False)
    optimizer = Muon(*matrices_and_others(unet))

    def loss_of(step: int) -> Tensor:
        rng = np.random.default_rng([step, 11 + number])
        pairs = round(batch * cycle.pairs)
        picked = [rng.choice(two, pairs, replace=False), rng.choice(one, batch - pairs, replace=False)]
        rows = torch.from_numpy(np.concatenate(picked)).to(device)
        strata = (rng.permutation(batch) + rng.uniform(size=batch)) / batch
        timesteps = torch.from_numpy((strata**cycle.skew * len(alphas)).astype(np.int64)).to(device)
        texts = torch.where(torch.from_numpy(rng.uniform(size=batch) < DROPOUT).to(device), len(data.captions), rows)
        clean = latents[rows].float()
        noise = torch.from_numpy(rng.standard_normal(clean.shape, dtype=np.float32)).to(device)
        noise += OFFSET_NOISE * torch.from_numpy(rng.standard_normal((batch, 4, 1, 1), dtype=np.float32)).to(device)
        alpha = alphas[timesteps].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        with torch.autocast(device, torch.bfloat16):
            output = network(noisy.to(memory_format=torch.channels_last), timesteps, contexts[texts]).sample
        epsilon, layout = output.float().split([4, HINTS], 1)
        # halfway between predicting the noise (1) and the image (1 / snr): every timestep then has a like share
        denoising = ((epsilon - noise).square() * ((1 - alpha) / alpha).sqrt()).mean()
        return denoising + cycle.weight * (layout - hints(masks[rows], names[rows])).square().mean()

    def follow(step: int) -> None:
        decay = min(EMA, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(average.parameters()), [p.detach() for p in unet.parameters()], 1 - decay)

    rate = warmup_cosine(cycle.peak_rate, cycle.steps, warmup=100)
    state = {"unet": unet, "average": average}
    done = run_steps(path, state, optimizer, loss_of, cycle.steps, rate, budget, follow)
    return average if done else None


def without_hints(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """The UNet with the four output channels that Stable Diffusion has."""
    weights = unet.state_dict()
    plain = new_unet().to(unet.device)
    plain.load_state_dict({k: v[:4] if k.startswith("conv_out") else v for k, v in weights.items()})
    return plain.eval()
