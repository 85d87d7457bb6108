"""Training pictures: geometry rendered once and kept in shards, colours and places put on it anew in milliseconds.

``python -m nullinv_core.demo.clay.dataset --work FOLDER --stages 4000`` renders what is missing; run it again to go on.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ..training_loop import Budget
from .captions import Reading, Wording, caption_of, reading_of, sample_wording
from .geometry import FINE, Buffers, View, geometry
from .looks import compose
from .scenes import Thing, sample_look, sample_stage

SHARD = 50
"""Stages in a file."""
STAGES = 4_000
MIRROR = {"left": "right", "right": "left", "": ""}


@dataclass(frozen=True)
class Example:
    """A training picture, float32 (3, 128, 128) in 0…1, what its caption says, in which words; ``masks``: where each
    of at most two toys is, float32 (2, 16, 16) in 0…1, in the caption's order."""

    image: Tensor
    reading: Reading
    wording: Wording
    masks: Tensor

    @property
    def caption(self) -> str:
        """The picture's caption."""
        return caption_of(self.reading, self.wording)


def stage(number: int) -> tuple[tuple[Thing, ...], View]:
    """The toys and the camera of a training stage."""
    return sample_stage(np.random.default_rng([number, 3]))


def shard_path(work: Path, index: int) -> Path:
    """Where a shard is kept; the name changes with what is staged."""
    staged = repr([stage(n) for n in range(index * SHARD, (index + 1) * SHARD)])
    return work / "stages" / f"{index:04d}-{hashlib.sha256(staged.encode()).hexdigest()[:8]}.npz"


def render_shard(work: Path, index: int, device: str = "cpu") -> None:
    """Render a shard that is not there yet; written atomically."""
    path = shard_path(work, index)
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    stages = [stage(n) for n in range(index * SHARD, (index + 1) * SHARD)]
    buffers = [geometry(tuple(t.placed for t in things), view, device).stacked().cpu() for things, view in stages]
    partial = path.with_name(f"{path.stem}-{os.getpid()}.partial")
    with partial.open("wb") as file:
        np.savez_compressed(file, buffers=torch.stack(buffers).numpy())
    os.replace(partial, path)


def read_shard(work: Path, index: int) -> Tensor:
    """Buffers of a shard's stages: uint8 (50, 8, 256, 256)."""
    with np.load(shard_path(work, index), allow_pickle=False) as file:
        return torch.from_numpy(file["buffers"])


def shards_there(work: Path, most: int) -> Iterator[int]:
    """Numbers of the shards, of the first ``most``, that are rendered."""
    return (index for index in range(most) if shard_path(work, index).exists())


def example(stacked: Tensor, number: int, variation: int) -> Example:
    """One of the many pictures of a stage, the same for the same numbers; every second one is mirrored."""
    rng = np.random.default_rng([number, variation, 4])
    things, view = stage(number)
    scene = sample_look(rng, things, view, "train")
    image = compose(Buffers.of(stacked), scene.view, scene.look).permute(2, 0, 1)
    reading, masks = reading_of(scene), toy_masks(stacked[0])
    if rng.uniform() < 0.5:
        image, masks, reading = image.flip(2), _in_order(masks.flip(2), len(things)), mirrored(reading)
    return Example(image.contiguous(), reading, sample_wording(rng), masks)


def mirrored(reading: Reading) -> Reading:
    """What a mirror image's caption says."""
    return replace(reading, things=tuple(replace(t, facing=MIRROR[t.facing]) for t in reversed(reading.things)))


def toy_masks(label: Tensor, side: int = 16) -> Tensor:
    """Share of each cell that each of two toys covers: float32 (2, side, side)."""
    owner = torch.div(label.int() + 31, 32, rounding_mode="floor")
    masks = torch.stack([owner == 1, owner == 2]).float()
    return avg_pool2d(masks[None], FINE // side)[0]


def _in_order(masks: Tensor, count: int) -> Tensor:
    return masks.flip(0) if count == 2 else masks


def main() -> None:
    """Command line of the rendering."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("demo-training"), help="folder of the resumable state")
    parser.add_argument("--stages", type=int, default=STAGES)
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so long; run again to go on")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    budget = Budget(options.minutes)
    for index in range(options.stages // SHARD):
        if budget.spent():
            break
        render_shard(options.work, index, options.device)
        print(f"stages {(index + 1) * SHARD}/{options.stages}", flush=True)


if __name__ == "__main__":
    main()
