"""Train the judge of the clay world on renderings, of held-out combinations too, made a little worse in many ways."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

from ..training_loop import Budget, run_steps, warmup_cosine
from ..training_state import finished_steps, load_module
from .captions import read_caption
from .dataset import JUDGED, SHARD, STAGES, make_pictures, pictures_path, read_pictures
from .judge import Judge, loss_of

STEPS = 5_000
BATCH = 64
VARIATIONS = 4
SHIFT = 4
"""Pictures are moved by at most so many pixels."""


def worsened(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Pictures (n, 3, 128, 128) in 0…1 moved, brightened, blurred and with noise, each by chance."""
    moves = rng.integers(0, 2 * SHIFT + 1, (len(images), 2))
    padded = pad(images, (SHIFT,) * 4, mode="replicate")
    result = torch.stack([p[:, y : y + 128, x : x + 128] for p, (y, x) in zip(padded, moves.tolist(), strict=True)])
    bright = torch.from_numpy(rng.uniform(0.9, 1.1, (len(images), 1, 1, 1))).float()
    blur = torch.from_numpy(rng.choice([0.0, 0.5, 1.0], (len(images), 1, 1, 1), p=[0.4, 0.3, 0.3])).float()
    soft = avg_pool2d(pad(result, (1,) * 4, mode="replicate"), 3, 1)
    coarse = interpolate(avg_pool2d(soft, 2), scale_factor=2, mode="bilinear", align_corners=False)
    noise = torch.from_numpy(rng.standard_normal(images.shape, dtype=np.float32)) * float(rng.uniform(0, 0.04))
    return (result.lerp(coarse, blur.to(result)) * bright.to(result) + noise.to(result)).clamp(0, 1)


def train(work: Path, device: str, budget: Budget) -> Judge | None:
    """Train up to the last step; return the judge, or None when the budget ran out before."""
    torch.manual_seed(3)
    judge, path = Judge(), work / "judge.safetensors"
    if finished_steps(path) >= STEPS:
        load_module(path, "model", judge)
        return judge.eval()
    files = []
    for index in range(STAGES // SHARD):
        for variation in range(JUDGED, JUDGED + VARIATIONS):
            if budget.spent():
                return None
            make_pictures(work, index, variation)
            files.append(pictures_path(work, index, variation))
    pictures = read_pictures(files)
    readings = [read_caption(text) for text in pictures.captions]
    judge = judge.train().to(device)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=2e-3, weight_decay=0.02)

    def loss(step: int) -> Tensor:
        rng = np.random.default_rng([step, 13])
        rows = rng.choice(len(readings), BATCH, replace=False)
        images = worsened(pictures.images[torch.from_numpy(rows)].to(device).float() / 255, rng)
        with torch.autocast(device, torch.bfloat16):
            logits = judge(images.to(memory_format=torch.channels_last))
        return loss_of(logits, [readings[row] for row in rows])

    done = run_steps(path, {"model": judge}, optimizer, loss, STEPS, warmup_cosine(2e-3, STEPS, 100), budget)
    return judge.eval() if done else None
