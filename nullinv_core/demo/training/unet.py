"""Train the UNet of the clay world on latents of its pictures."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from ...backends.clip_vocabulary import LENGTH
from ...schedule import scaled_linear_alphas
from ..looks import COLOURS
from ..objects import OBJECTS
from . import autoencoder
from .dataset import Pictures
from .muon import Muon, matrices_and_others
from .pool import CAPACITY, Files, Pool, feed
from .state import finished_steps, load_module
from .steps import Clock, run
from .text import WIDTH, token_ids

STEPS = 40_000
BATCH = 128
RATE = 2e-3
DROPOUT = 0.1
"""Share of pictures that are learned without their caption, for guidance."""
OFFSET_NOISE = 0.1
"""Noise that is the same all over a picture, so that light and dark pictures are learned too."""
SKEW = 0.8
"""Timesteps are 1000·u^SKEW of a uniform u: less than 1 looks more often at noisy pictures, where it is decided what is
drawn."""
PAIRS = 0.55
"""Share of pictures with two toys."""
EMA, EMA_EVERY = 0.999, 10
"""Decay of the averaged weights a step, and steps between two updates of them."""
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


def hints(masks: Tensor, names: Tensor) -> Tensor:
    """Where each kind and each colour is: float32 (n, HINTS, 16, 16) from ``Pictures.masks`` and ``names``.

    Asked for these next to the noise, the network has to find whole toys in a noisy picture, which the noise alone
    teaches slowly.
    """
    share = masks.float() / 255
    parts = [
        torch.einsum("nthw,ntk->nkhw", share, (names[..., i, None] == torch.arange(size, device=names.device)).float())
        for i, size in ((0, KINDS), (1, len(COLOURS)))
    ]
    return torch.cat(parts, 1)


def loss_of(
    unet: torch.nn.Module, clean: Tensor, contexts: Tensor, layout: Tensor, alphas: Tensor, hint_weight: Tensor
) -> Tensor:
    """The loss on latents float32 (n, 4, 16, 16): error of the noise, and of the hints."""
    size, device = len(clean), clean.device
    # steps of the golden ratio spread evenly over the timesteps, those of any part of the rows too
    strata = (torch.arange(size, device=device) * 0.6180339887 + torch.rand(1, device=device)) % 1
    timesteps = (strata**SKEW * len(alphas)).long().clamp_max(len(alphas) - 1)
    noise = torch.randn_like(clean) + OFFSET_NOISE * torch.randn(size, 4, 1, 1, device=device)
    alpha = alphas[timesteps].view(-1, 1, 1, 1)
    noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
    with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
        output = unet(noisy.to(memory_format=torch.channels_last), timesteps, contexts).sample
    epsilon, found = output.float().split([4, HINTS], 1)
    # halfway between predicting the noise (1) and the image (1 / snr): every timestep then has a like share
    denoising = ((epsilon - noise).square() * ((1 - alpha) / alpha).sqrt()).mean()
    return denoising + hint_weight * (found - layout).square().mean()


def train(
    work: Path, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, device: str, deadline: float
) -> UNet2DConditionModel:
    """Train to the end, or up to the deadline (see ``Clock``); return the averaged UNet with its hints.

    Waits for the autoencoder to be finished and for the first pictures.
    """
    torch.manual_seed(2)
    unet, path = new_unet(HINTS), work / "unet.safetensors"
    if finished_steps(path) >= STEPS:
        load_module(path, "average", unet)
        return unet
    unet = unet.to(device, memory_format=torch.channels_last).train()
    if device == "cpu":
        # on a CPU the fused attention's backward pass is slower than plain matrix products at these sizes
        unet.set_attn_processor(AttnProcessor())
    average = copy.deepcopy(unet).requires_grad_(False)
    optimizer = Muon(*matrices_and_others(unet), capturable=device == "cuda")
    text_encoder = text_encoder.to(device)
    alphas = torch.tensor(scaled_linear_alphas(), dtype=torch.float32, device=device)
    pools = _pools(device)
    more = _fed(pools, work, text_encoder, tokenizer, device)
    empty = encode(text_encoder, token_ids(tokenizer, [""]).to(device))
    hint_weight = torch.ones((), device=device)
    sizes = (BATCH - round(BATCH * PAIRS), round(BATCH * PAIRS))

    def loss(_: int) -> Tensor:
        rows = [pool.draw(size) for pool, size in zip(pools, sizes, strict=True)]
        parts = {k: torch.cat([p.tensors[k][r] for p, r in zip(pools, rows, strict=True)]) for k in pools[0].tensors}
        dropped = torch.rand(BATCH, 1, 1, device=device) < DROPOUT
        contexts = torch.where(dropped, empty, parts["contexts"])
        layout = hints(parts["masks"], parts["names"])
        return loss_of(unet, parts["latents"].float(), contexts, layout, alphas, hint_weight)

    def before_step(step: int, progress: float) -> None:
        hint_weight.fill_(1 - 0.7 * progress)
        more()
        if step % EMA_EVERY == 0:
            decay = min(EMA, (1 + step) / (10 + step)) ** EMA_EVERY
            torch._foreach_lerp_(list(average.parameters()), [p.detach() for p in unet.parameters()], 1 - decay)

    state = {"unet": unet, "average": average}
    run(path, state, optimizer, loss, Clock(STEPS, RATE, deadline), before_step)
    return average


def _pools(device: str) -> tuple[Pool, Pool]:
    """Room for pictures of one toy and of two."""
    capacity = CAPACITY if device == "cuda" else CAPACITY // 6
    like = {
        "latents": ((4, 16, 16), torch.float16),
        "masks": ((2, 16, 16), torch.uint8),
        "names": ((2, 2), torch.int8),
        "contexts": ((LENGTH, WIDTH), torch.bfloat16),
    }
    return Pool(device, capacity // 2, **like), Pool(device, capacity, **like)


def _fed(
    pools: tuple[Pool, Pool], work: Path, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, device: str
) -> Callable[[], None]:
    """Fill the pools with what is rendered; return what adds more when it is called in a loop, see ``feed``."""
    vae = _finished_autoencoder(work).to(device, memory_format=torch.channels_last)

    def prepare(pictures: Pictures) -> dict[str, Tensor]:
        tokens = token_ids(tokenizer, pictures.captions)
        names = pictures.names.to(torch.int8)
        return {"images": pictures.images, "tokens": tokens, "masks": pictures.masks, "names": names}

    def add(rows: dict[str, Tensor]) -> None:
        rows = {name: part.to(device) for name, part in rows.items()}
        contexts, latents = encode(text_encoder, rows.pop("tokens")), _latents(vae, rows.pop("images"))
        rows |= {"contexts": contexts, "latents": latents}
        two = rows["names"][:, 1, 0] >= 0
        for pool, mask in zip(pools, (~two, two), strict=True):
            pool.add({name: part[mask] for name, part in rows.items()})

    return feed(Files(work), prepare, add, least=8)


def _finished_autoencoder(work: Path) -> AutoencoderTiny:
    """The autoencoder, when it is finished."""
    path = work / "autoencoder.safetensors"
    while finished_steps(path) < autoencoder.STEPS:
        time.sleep(0.5)
    vae = autoencoder.new_autoencoder()
    load_module(path, "model", vae)
    return vae.eval()


def _latents(vae: AutoencoderTiny, images: Tensor) -> Tensor:
    """Latents of uint8 pictures: float16 (n, 4, 16, 16)."""
    with torch.no_grad(), torch.autocast(images.device.type, torch.bfloat16):
        pixels = (images.float() / 127.5 - 1).to(memory_format=torch.channels_last)
        parts = [vae.encoder(part) for part in pixels.split(100)]
    return torch.cat(parts).half()


def encode(text_encoder: CLIPTextModel, ids: Tensor) -> Tensor:
    """Contexts of token ids (n, 77): bfloat16 (n, 77, WIDTH)."""
    with torch.no_grad(), torch.autocast(ids.device.type, torch.bfloat16):
        return torch.cat([text_encoder(part).last_hidden_state.bfloat16() for part in ids.split(256)])


def without_hints(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """The UNet with the four output channels that Stable Diffusion has."""
    weights = unet.state_dict()
    plain = new_unet().to(unet.device)
    plain.load_state_dict({k: v[:4] if k.startswith("conv_out") else v for k, v in weights.items()})
    return plain.eval()
