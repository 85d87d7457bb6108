"""Training pictures: geometry rendered once and kept in shards, colours and places put on it anew in milliseconds.

``python -m nullinv_core.demo.training.dataset --work FOLDER`` makes what is missing; run it again to go on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ..captions import Reading, Wording, caption_of, reading_of, sample_wording
from ..geometry import FINE, Buffers, View, geometry
from ..looks import COLOURS, MATERIALS, STYLES, Look, compose
from ..objects import OBJECTS
from ..places import PLACES
from ..scenes import Thing, sample_look, sample_stage

SHARD = 50
"""Stages in a file."""
SHAPING = tuple(Path(__file__).parents[1] / name for name in ("objects.py", "shapes.py", "geometry.py"))
"""What geometry depends on."""
STAGES = 4_000
JUDGED = 100
"""Variations from here on are the judge's: it may see what is held out from the model."""
MIRROR = {"left": "right", "right": "left", "": ""}


@dataclass(frozen=True)
class Pictures:
    """Many training pictures: ``images`` uint8 (n, 3, 128, 128), ``label`` uint8 (n, 128, 128), ``masks`` uint8
    (n, 2, 16, 16), ``names`` int64 (n, 2, 2): kind and colour of each toy, -1 where there is none; ``captions``."""

    images: Tensor
    label: Tensor
    masks: Tensor
    names: Tensor
    captions: list[str]


@dataclass(frozen=True)
class Example:
    """A training picture, float32 (3, 128, 128) in 0…1, what its caption says, in which words.

    ``masks``: where each of at most two toys is, float32 (2, 16, 16) in 0…1, in the caption's order; ``label``: see
    ``Buffers``, uint8 (128, 128).
    """

    image: Tensor
    reading: Reading
    wording: Wording
    masks: Tensor
    label: Tensor

    @property
    def caption(self) -> str:
        """The picture's caption."""
        return caption_of(self.reading, self.wording)


def stage(number: int) -> tuple[tuple[Thing, ...], View]:
    """The toys and the camera of a training stage."""
    return sample_stage(np.random.default_rng([number, 3]))


@cache
def _shard_name(index: int) -> str:
    """A shard's name, which changes with what is staged and with the shapes of all toys."""
    staged = repr([stage(n) for n in range(index * SHARD, (index + 1) * SHARD)])
    return f"{index:04d}-{hashlib.sha256((staged + shapes_digest()).encode()).hexdigest()[:8]}"


@cache
def shapes_digest() -> str:
    """Changes with the code that shapes toys; what it renders differs in a bit from processor to processor."""
    digest = hashlib.sha256()
    for source in SHAPING:
        digest.update(source.read_bytes())
    return digest.hexdigest()[:8]


def shard_path(work: Path, index: int) -> Path:
    """Where a shard is kept."""
    return work / "stages" / f"{_shard_name(index)}.npz"


def render_shard(work: Path, index: int, device: str = "cpu") -> None:
    """Render a shard that is not there yet; written atomically."""
    path = shard_path(work, index)
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    stages = [stage(n) for n in range(index * SHARD, (index + 1) * SHARD)]
    buffers = [geometry(tuple(t.placed for t in things), view, device).stacked().cpu() for things, view in stages]
    unfinished = path.with_name(f"{path.stem}-{os.getpid()}.partial")
    with unfinished.open("wb") as file:
        np.savez_compressed(file, buffers=torch.stack(buffers).numpy())
    os.replace(unfinished, path)


def read_shard(work: Path, index: int) -> Tensor:
    """Buffers of a shard's stages: uint8 (50, 8, 256, 256)."""
    with np.load(shard_path(work, index), allow_pickle=False) as file:
        return torch.from_numpy(file["buffers"])


def example(stacked: Tensor, number: int, variation: int) -> Example:
    """One of the many pictures of a stage, the same for the same numbers; every second one is mirrored."""
    rng = np.random.default_rng([number, variation, 4])
    things, view = stage(number)
    scene = sample_look(rng, things, view, "train" if variation < JUDGED else "all")
    image = compose(Buffers.of(stacked), scene.view, scene.look).permute(2, 0, 1)
    reading, masks, label = reading_of(scene), toy_masks(stacked[0]), stacked[0, ::2, ::2]
    if rng.uniform() < 0.5:
        image, label, reading = image.flip(2), label.flip(1), mirrored(reading)
        masks = _in_order(masks.flip(2), len(things))
    return Example(image.contiguous(), reading, sample_wording(rng), masks, label.contiguous())


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


@lru_cache(maxsize=1)
def looks_digest() -> str:
    """Changes with how places, styles, materials and colours look, and with what is said of them."""
    steps = torch.arange(FINE)
    label = (1 + 32 * (steps[None] // 128) + (steps[:, None] // 8) % 15) * (steps[:, None] % 64 > 20)
    ramp = ((steps[None] + 3 * steps[:, None]) % 256).to(torch.uint8)
    normal = torch.stack([ramp, ramp.T, 255 - ramp])
    buffers = Buffers(label.to(torch.uint8), ramp, ramp.T.contiguous(), ramp.flip(0), normal, ramp.flip(1))
    digest = hashlib.sha256()
    colours = list(COLOURS)
    for number, (place, style) in enumerate(product(PLACES, STYLES)):
        pair = (colours[number % 12], colours[(number + 5) % 12])
        materials = (MATERIALS[number % 4], MATERIALS[(number // 4) % 4])
        picture = compose(buffers, View(), Look(pair, materials, place, (0.3, 0.6, 10.0, 0.2), style))
        digest.update((picture * 255).to(torch.uint8).numpy().tobytes())
    for number in range(30):
        things, view = stage(number)
        rng = np.random.default_rng([number, 0, 4])
        digest.update(caption_of(reading_of(sample_look(rng, things, view, "train")), sample_wording(rng)).encode())
    return digest.hexdigest()[:8]


def pictures_path(work: Path, index: int, variation: int) -> Path:
    """Where one variation of a shard's pictures is kept."""
    return work / "pictures" / f"{looks_digest()}-{variation:02d}-{_shard_name(index)}.safetensors"


def make_pictures(work: Path, index: int, variation: int) -> None:
    """Compose one variation of a shard's pictures if it is not there yet; written atomically."""
    path = pictures_path(work, index, variation)
    if path.exists():
        return
    render_shard(work, index)
    examples = [example(b, index * SHARD + i, variation) for i, b in enumerate(read_shard(work, index))]
    kinds, colours = list(OBJECTS), list(COLOURS)
    names = torch.full((len(examples), 2, 2), -1)
    for row, e in enumerate(examples):
        for number, thing in enumerate(e.reading.things):
            names[row, number] = torch.tensor([kinds.index(thing.kind), colours.index(thing.colour)])
    tensors = {
        "images": (torch.stack([e.image for e in examples]) * 255 + 0.5).to(torch.uint8),
        "label": torch.stack([e.label for e in examples]),
        "masks": (torch.stack([e.masks for e in examples]) * 255 + 0.5).to(torch.uint8),
        "names": names,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.stem}-{os.getpid()}.partial")
    save_file(tensors, unfinished, {"captions": json.dumps([e.caption for e in examples])})
    os.replace(unfinished, path)


def read_pictures(paths: Sequence[Path]) -> Pictures:
    """The pictures of several files."""
    parts, captions = [], []
    for path in paths:
        with safe_open(path, "pt") as file:
            parts.append({key: file.get_tensor(key) for key in ("images", "label", "masks", "names")})
            captions += json.loads(file.metadata()["captions"])
    return Pictures(**{key: torch.cat([p[key] for p in parts]) for key in parts[0]}, captions=captions)


def _make(work: Path, variations: int, judged: int, index: int) -> int:
    torch.set_num_threads(1)
    for variation in (*range(variations), *range(JUDGED, JUDGED + judged)):
        make_pictures(work, index, variation)
    render_shard(work, index)
    return index


def main() -> None:
    """Command line of the rendering."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("demo-training"), help="folder of the resumable state")
    parser.add_argument("--stages", type=int, default=STAGES)
    parser.add_argument("--variations", type=int, default=0, help="so many pictures of each stage are composed, too")
    parser.add_argument("--judged", type=int, default=0, help="and so many for the judge")
    parser.add_argument("--workers", type=int, default=1, help="processes side by side")
    options = parser.parse_args()
    work = partial(_make, options.work, options.variations, options.judged)
    indices = range(options.stages // SHARD)
    if options.workers == 1:
        for index in indices:
            print(f"stages {(work(index) + 1) * SHARD}/{options.stages}", flush=True)
        return
    with get_context("spawn").Pool(options.workers) as pool:
        for done, _ in enumerate(pool.imap_unordered(work, indices), 1):
            print(f"stages {done * SHARD}/{options.stages}", flush=True)


if __name__ == "__main__":
    main()
