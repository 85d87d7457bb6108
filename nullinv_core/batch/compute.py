"""What a worker does: it loads the model once, and makes of a group's pictures their edits, bytes for bytes.

A worker touches no file but the model's: pictures come to it as they stand on the disk, and what is to be written goes
back. So it may run anywhere.
"""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from ..backends.diffusers import DiffusersModel, load_model
from ..backends.diffusers.device import pick_device
from ..context import Context
from ..denoiser import no_gradients
from ..errors import InputError, NonFiniteError, printable, short
from ..files.fingerprint import sha256_of
from ..files.store import inversion_bytes
from ..model import is_out_of_memory
from ..null_text.presets import PRESETS
from ..null_text.recipe import Recipe
from ..photo.images import fitted_size, load_image, png, read_picture, to_pil
from ..photo.picture_file import decoding, opened, orientation
from ..pipeline import apply_each, encode, prepare_latents
from ..prompt_to_prompt.edit import plan_edits
from ..settings import EditSettings
from .jobs import Job
from .plan import Group, Size

IMAGE_WIDTH, IMAGE_HEIGHT = 256, 257
"""TIFF's tags of the stored size."""
TURNED = (5, 6, 7, 8)
"""Orientations that swap width and height."""
SIZES = (1, 2, 4, 8, 16, 32)
"""Numbers of pictures at once that are tried."""
WORTH = 0.95
"""A larger number must take at most this share of the time of the best before it, for each picture."""
SPARE = 2.5
"""Times the memory of a number that must be free before twice as many are tried."""
ONE_IS_TOO_MUCH = "there is not enough memory for one picture; take a smaller --size, fewer edits or --dtype float16"
BROKEN = "CUDA error"
"""In what PyTorch says where nothing can be computed in this process any more."""
Picture = bytes | str
"""The content of a picture's file; or a sentence that says why there is none."""


@dataclass(frozen=True)
class Options:
    """What a batch does with every picture. ``size``: shorter side in pixels, 0 is the model's own. ``threads``: of a
    worker on a CPU, where they decide the last bits."""

    model: str
    device: str = ""
    dtype: str = "float32"
    config: str = ""
    steps: int = 50
    guidance: float = 7.5
    preset: str = "fast"
    inner_steps: int | None = None
    size: int = 0
    square: bool = False
    keep_pixels: bool = True
    inversions: bool = False
    threads: int = 1

    @property
    def recipe(self) -> Recipe:
        """The preset, with what was chosen of it."""
        recipe = PRESETS[self.preset]
        if recipe.optimization is None or self.inner_steps is None:
            return recipe
        return replace(recipe, optimization=replace(recipe.optimization, inner_steps=self.inner_steps))


@dataclass(frozen=True)
class Outcome:
    """What became of a job: the content of its files, named from the output folder, or the sentence why there is none.

    ``seconds``: its share of the group's time. ``notes``: what the user is told beside it, of the whole group.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    sentence: str = ""
    seconds: float = 0.0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class About:
    """What a worker says of its model: what tells it from others, the precision, the device, and how pictures must be
    scaled for it."""

    fingerprint: str
    precision: str
    device: str
    side: int
    grid: int

    def fitted(self, size: Size) -> Size:
        """(width, height) that a picture is worked on in; raises InputError where one is too long for it."""
        return fitted_size(*size, self.side, self.grid) if self.grid else (self.side, self.side)


def files_of(job: Job, inversions: bool) -> list[str]:
    """Names of the files that a job writes: edits in folders by their number, so that no two jobs share a name."""
    edits = [f"edited{'' if n == 0 else f'-{n + 1}'}/{job.name}.png" for n in range(len(job.edits))]
    return edits + [f"inversions/{job.name}.safetensors"] * inversions


def size_on_disk(path: Path) -> Size:
    """(width, height) of an upright picture by its header; raises InputError where it has none that is read."""
    name = "the picture"
    with decoding(name), opened(path, name) as picture:
        width, height = picture.size
        if isinstance(picture, TiffImageFile):
            # some versions of Pillow turn its size at once, some do not
            width, height = picture.tag_v2[IMAGE_WIDTH], picture.tag_v2[IMAGE_HEIGHT]
        return (height, width) if orientation(picture) in TURNED else (width, height)


class Worker:
    """A loaded model that computes groups, one after the other."""

    def __init__(self, options: Options) -> None:
        device = pick_device(options.device)
        if device == "cpu":
            torch.set_num_threads(options.threads)
        self.options = options
        self._told: list[str] = []
        config = Path(options.config) if options.config else None
        model = load_model(options.model, device, getattr(torch, options.dtype), config)
        self.model: DiffusersModel = replace(model, warn=self._told.append)

    def about(self) -> About:
        """What the planner must know."""
        return self._about

    @cached_property
    def _about(self) -> About:
        model, options = self.model, self.options
        model.schedule(options.steps)
        side = model.check_size(options.size or model.native_size)
        grid = 0 if options.square else model.factor
        # the UNet in numbers, and the weights of all parts
        identity = f"{sha256_of(model.fingerprint)} {model.fingerprint.digest}"
        return About(identity, model.precision, model.device.type, side, grid)

    def best_batch(self, size: Size, edits: int, most: int) -> int:
        """How many pictures of a size are best computed at once: by the time that one network call takes for each,
        and by the memory where the device says how much is free. ``most``: no more are asked for."""
        best, fastest = 1, float("inf")
        for count in (n for n in SIZES if n == 1 or n <= most):
            try:
                seconds, room = self._probe(size, edits, count)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if count == 1:
                    raise InputError(ONE_IS_TOO_MUCH) from error
                break
            if seconds / count > WORTH * fastest:
                break
            best, fastest = count, seconds / count
            if not room:
                break
        return best

    def _probe(self, size: Size, edits: int, count: int) -> tuple[float, bool]:
        """Seconds of what a step of so many pictures costs, and whether twice as many have room."""
        model, gradients = self.model, self.options.recipe.optimizes(self.options.guidance)
        width, height = (side // model.factor for side in size)
        rows, cuda = count * (1 + 2 * max(edits, 1)), model.device.type == "cuda"
        channels = model.denoiser.unet.config.in_channels
        latents = torch.zeros(rows, channels, height, width, device=model.device)
        (empty,) = model.contexts([model.prompt("")])
        context = empty.to(model.device).expand(rows)
        level = model.schedule(self.options.steps).level(1)
        if cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        before, seconds = torch.cuda.memory_allocated() if cuda else 0, float("inf")
        for _ in range(3):
            started = time.perf_counter()
            with no_gradients():
                model.denoiser(latents, level, context)
            if gradients:
                with torch.enable_grad():
                    given = context[:count]
                    moved = Context(given.text.clone().requires_grad_(True), given.pooled)
                    model.denoiser(latents[:count], level, moved).square().sum().backward()
            if cuda:
                torch.cuda.synchronize()
            seconds = min(seconds, time.perf_counter() - started)
        if not cuda:
            return seconds, True
        taken = torch.cuda.max_memory_allocated() - before
        torch.cuda.empty_cache()
        return seconds, torch.cuda.mem_get_info()[0] > SPARE * taken

    def compute(self, group: Group, pictures: Sequence[Picture]) -> list[Outcome]:
        """What becomes of each job of a group. A job that fails does not change what becomes of the others: a white
        picture without a text takes its place, whatever is wrong with it."""
        started = time.perf_counter()
        photos = [self._tried(job, one, group.size) for job, one in zip(group.jobs, pictures, strict=True)]
        try:
            found = self._together(group, photos)
        except (InputError, NonFiniteError, RuntimeError) as error:
            found = self._each_to_blame(group, photos, error)
        # where float16 has overflowed, the next group begins in it again: what came before decides nothing
        if self.model.precision != self.options.dtype:
            self.model.denoiser.unet.to(getattr(torch, self.options.dtype))
        seconds, notes = (time.perf_counter() - started) / len(group.jobs), tuple(dict.fromkeys(self._told))
        self._told.clear()
        return [replace(one, seconds=seconds, notes=notes) for one in found]

    def _photo(self, job: Job, picture: Picture, size: Size | None) -> Tensor:
        """A job's picture, (1, H, W, 3), after all that can be checked of the job by itself."""
        if isinstance(picture, str):
            raise InputError(picture)
        model, options = self.model, self.options
        upright = read_picture(io.BytesIO(picture))
        fitted = self._about.fitted(upright.size)
        if size is not None and size != fitted:
            raise InputError(
                f"the picture is another now: {fitted[0]}×{fitted[1]} pixels, not {size[0]}×{size[1]}; put the old one "
                'back, or give the new one another "name"'
            )
        source = model.prompt(job.prompt)
        if job.edits:
            plan_edits(source, [model.prompt(text) for text in job.edits], options.steps, job.settings)
        return load_image(upright, fitted)

    def _tried(self, job: Job, picture: Picture, size: Size | None) -> Tensor | str:
        try:
            return self._photo(job, picture, size)
        except InputError as error:
            return str(error)

    def _together(self, group: Group, photos: Sequence[Tensor | str]) -> list[Outcome]:
        """The group computed at once, blanks in the place of what failed."""
        there = [photo for photo in photos if isinstance(photo, Tensor)]
        if not there:
            return [Outcome(sentence=str(photo)) for photo in photos]
        model, options = self.model, self.options
        jobs = [
            job if isinstance(photo, Tensor) else Job(job.name, "", "", ("",) * len(job.edits), EditSettings())
            for job, photo in zip(group.jobs, photos, strict=True)
        ]
        white = torch.ones_like(there[0])
        whole = torch.cat([photo if isinstance(photo, Tensor) else white for photo in photos])
        prompts = [job.prompt for job in jobs]
        latents, _ = encode(model, whole, prompts, options.steps)
        inversion, _ = prepare_latents(model, latents, prompts, options.steps, options.recipe, options.guidance)
        pictures: list[Tensor] = []
        if jobs[0].edits:
            found = apply_each(
                model, inversion, [job.edits for job in jobs], [job.settings for job in jobs],
                photo=whole if options.keep_pixels else None,
            )  # fmt: skip
            pictures = list(found.pictures.split(len(jobs[0].edits)))
        outcomes = []
        for place, (job, photo) in enumerate(zip(group.jobs, photos, strict=True)):
            if isinstance(photo, str):
                outcomes.append(Outcome(sentence=photo))
                continue
            content = [png(to_pil(picture)) for picture in (pictures[place] if job.edits else ())]
            content += [inversion_bytes(inversion.of_photo(place))] if options.inversions else []
            outcomes.append(Outcome(dict(zip(files_of(job, options.inversions), content, strict=True))))
        return outcomes

    def _each_to_blame(self, group: Group, photos: Sequence[Tensor | str], error: Exception) -> list[Outcome]:
        """The group once more without the jobs that fail by themselves, each tried in its own place."""
        if isinstance(error, RuntimeError) and BROKEN in str(error):
            raise error
        if len(group.jobs) == 1 or (isinstance(error, RuntimeError) and is_out_of_memory(error)):
            sentence = _sentence(error, len(group.jobs))
            return [Outcome(sentence=photo if isinstance(photo, str) else sentence) for photo in photos]
        tried = list(photos)
        for place, photo in enumerate(photos):
            if isinstance(photo, Tensor):
                alone: list[Tensor | str] = ["" for _ in photos]
                alone[place] = photo
                try:
                    self._together(group, alone)
                except (InputError, NonFiniteError, RuntimeError) as own:
                    tried[place] = _sentence(own)
        try:
            return self._together(group, tried)
        except (InputError, NonFiniteError, RuntimeError) as left:
            return [Outcome(sentence=photo if isinstance(photo, str) else _sentence(left)) for photo in tried]


def _sentence(error: Exception, pictures: int = 2) -> str:
    if isinstance(error, RuntimeError) and is_out_of_memory(error):
        if pictures == 1:
            return ONE_IS_TOO_MUCH
        return "there is not enough memory for so many pictures at once; take a smaller --batch and another --out"
    return printable(short(str(error), 300))
