"""Train the judge of the clay world on renderings, of held-out combinations too, made a little worse in many ways."""

from __future__ import annotations

import copy
import math
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

from ..captions import read_caption
from ..judge import HEADS, Judge, classes, loss_of
from .dataset import JUDGED, Pictures
from .pool import Files, Pool, feed
from .state import finished_steps, load_module
from .steps import Clock, run

STEPS = 30_000
BATCH = 128
RATE = 2e-3
PICTURES = 40_000
SECOND_STEPS, SECOND_BATCH, SECOND_RATE = 1_500, 96, 6e-4
KIND_WEIGHT = 3.0
"""In the second cycle, which the kinds of toys that look alike need."""
EMA = 0.99
"""Decay of the second cycle's averaged weights a step."""
SHIFT = 4
"""Pictures are moved by at most so many pixels."""


def worsened(images: Tensor) -> Tensor:
    """Pictures (n, 3, 128, 128) in 0…1 moved, brightened, blurred and with noise, each by chance."""
    size, device = len(images), images.device
    padded = pad(images, (SHIFT,) * 4, mode="replicate")
    x, y = ((torch.rand(size, 1, device=device) * (2 * SHIFT + 1)).long() for _ in range(2))
    steps = torch.arange(128, device=device)
    rows, columns = (y + steps)[:, None, :, None], (x + steps)[:, None, None, :]
    index = (torch.arange(size, device=device)[:, None, None, None], torch.arange(3, device=device)[:, None, None])
    result = padded[index[0], index[1], rows, columns]
    bright = 0.9 + 0.2 * torch.rand(size, 1, 1, 1, device=device)
    blur = ((torch.rand(size, 1, 1, 1, device=device) * 10).floor() / 6 - 0.5).clamp(0, 1)
    soft = avg_pool2d(pad(result, (1,) * 4, mode="replicate"), 3, 1)
    coarse = interpolate(avg_pool2d(soft, 2), scale_factor=2, mode="bilinear", align_corners=False)
    noise = 0.04 * torch.rand(size, 1, 1, 1, device=device) * torch.randn_like(images)
    return (result.lerp(coarse, blur) * bright + noise).clamp(0, 1)


def train(work: Path, device: str, deadline: float) -> Judge:
    """Train to the end, or up to the deadline (see ``Clock``); return the averaged judge of the second cycle."""
    torch.manual_seed(3)
    judge, first, second = Judge(), work / "judge.safetensors", work / "judge-second.safetensors"
    if finished_steps(second) >= SECOND_STEPS:
        load_module(second, "average", judge)
        return judge.eval()
    judge = judge.train().to(device)
    pool = Pool(device, PICTURES, images=((3, 128, 128), torch.uint8), wanted=((len(HEADS),), torch.int16))

    def prepare(pictures: Pictures) -> dict[str, Tensor]:
        wanted = [classes(read_caption(text)) for text in pictures.captions]
        return {"images": pictures.images, "wanted": torch.tensor([[w[name] for name in HEADS] for w in wanted])}

    def loss(batch: int, kinds: float) -> Tensor:
        rows = pool.draw(batch)
        images = worsened(pool.tensors["images"][rows].float() / 255)
        with torch.autocast(device, torch.bfloat16, cache_enabled=False):
            logits = judge(images.to(memory_format=torch.channels_last))
        return loss_of(logits, pool.tensors["wanted"][rows].long(), kinds)

    more = feed(Files(work, range(JUDGED, 2 * JUDGED)), prepare, pool.add, least=1)
    begin = Clock(STEPS, RATE, first_cycle(deadline))
    run(first, {"model": judge}, _optimizer(judge), lambda _: loss(BATCH, 1.0), begin, more)
    average = copy.deepcopy(judge).requires_grad_(False)

    def follow(step: int, progress: float) -> None:
        more(step, progress)
        _average(average, judge, min(EMA, step / (step + 10)))

    clock = Clock(SECOND_STEPS, SECOND_RATE, deadline)
    state: dict[str, torch.nn.Module] = {"model": judge, "average": average}
    run(second, state, _optimizer(judge), lambda _: loss(SECOND_BATCH, KIND_WEIGHT), clock, follow)
    return average.eval()


def first_cycle(deadline: float) -> float:
    """When the first cycle ends: a tenth of the time is the second's; without a deadline, never."""
    return deadline if math.isinf(deadline) else deadline - 0.1 * (deadline - time.time())


def _optimizer(judge: Judge) -> torch.optim.Optimizer:
    on_gpu = next(judge.parameters()).is_cuda
    return torch.optim.AdamW(judge.parameters(), weight_decay=0.02, fused=True, capturable=on_gpu)


def _average(average: Judge, judge: Judge, decay: float) -> None:
    """Weights and statistics of ``average`` go on towards those of ``judge``."""
    for mean, new in zip(average.state_dict().values(), judge.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(new, 1 - decay)
        else:
            mean.copy_(new)
