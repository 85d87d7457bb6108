"""An inversion as one safetensors file: saved atomically, every field checked when it is loaded."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import InputError
from .files import whole_file
from .fingerprint import Fingerprint, from_json, to_json
from .schedule import Schedule
from .types import NullEmbeddings, Pin, Trajectory

FORMAT = "nullinv-inversion"
VERSION = 2
READABLE = (1, 2)
"""Version 1 held another fingerprint."""
HEADER = "inversion"
"""The metadata entry, JSON, that holds all that is no tensor."""
FIELDS = {
    "trajectory", "context", "timesteps", "alphas_cumprod", "region", "null_embeddings", "losses", "iterations",
    "edit_null", "photo_guidance",
}  # fmt: skip
PRECISIONS = ("float32", "bfloat16", "float16")
LARGEST = 8 * 2**30
"""Most bytes of a file, saved or read: several times what fifty steps of eight SDXL pictures take."""
FEWER = "invert fewer pictures at once"
SIZES = 6
"""Numbers that SDXL is told: the picture's width and height as it was, its crop, its width and height as it is."""
LARGEST_SIZE = 2**16
"""Most pixels of one of these."""
REQUIRED = {"trajectory", "context", "timesteps", "alphas_cumprod"}


@dataclass(frozen=True, repr=False)
class Inversion:
    """An inverted batch of images and what is needed to use it again.

    ``prompts``: the source prompt of each image. ``null``: None where nothing was optimized. ``fingerprint``: of the
    model that made it. ``model``: how the user named that model; may be empty. ``precision``: of
    the network that made it, which is best used again. ``region``: bool (B, h, w), where edits may change the
    picture; None: everywhere. ``sizes``: what ComfyUI told SDXL of the picture (see ``SIZES``), else empty. Files of
    ``fast`` from before there was a photo's own guidance are edited without it.
    """

    trajectory: Trajectory
    null: NullEmbeddings | None
    prompts: tuple[str, ...]
    fingerprint: Fingerprint
    model: str = ""
    precision: str = "float32"
    region: Tensor | None = None
    sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.prompts) != self.trajectory.batch:
            raise InputError(f"{self.trajectory.batch} images need as many prompts, not {len(self.prompts)}")
        expected = (self.trajectory.batch, *self.trajectory.clean.shape[-2:])
        if self.region is not None and self.region.shape != expected:
            raise InputError(f"the region of the trajectory is {expected}, not {tuple(self.region.shape)}")

    def __repr__(self) -> str:
        return f"Inversion({self.trajectory!r}, {self.null or 'no null embeddings'!s})"


def save_inversion(path: Path | str, inversion: Inversion) -> None:
    """Write an inversion to ``path``, which then is either the old file or the whole new one.

    Raises InputError where the folder does not exist or cannot be written.
    """
    path = Path(path)
    trajectory, null = inversion.trajectory, inversion.null
    tensors = {
        "trajectory": trajectory.latents,
        "context": trajectory.context,
        "timesteps": torch.tensor(trajectory.schedule.timesteps, dtype=torch.float64),
        "alphas_cumprod": torch.tensor(trajectory.schedule.alphas_cumprod, dtype=torch.float64),
    }
    metadata: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "prompts": list(inversion.prompts),
        "fingerprint": to_json(inversion.fingerprint),
        "model": inversion.model,
        "precision": inversion.precision,
    }
    if inversion.sizes:
        metadata["sizes"] = list(inversion.sizes)
    if null is not None:
        tensors |= {"null_embeddings": null.embeddings, "losses": null.losses, "iterations": null.iterations}
        metadata["guidance"] = float(null.guidance)
        if null.pin is not None:
            tensors["edit_null"] = null.pin.null
            if null.pin.guidance is not None:
                tensors["photo_guidance"] = null.pin.guidance
    if inversion.region is not None:
        tensors["region"] = inversion.region
    if sum(tensor.nbytes for tensor in tensors.values()) > LARGEST:
        raise InputError(f"the inversion is larger than {LARGEST / 2**30:g} GB, which is not read again; {FEWER}")
    # one entry alone: several would be written in an order that changes from run to run
    header = {HEADER: json.dumps(metadata, sort_keys=True)}
    with whole_file(path) as partial:
        try:
            save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, partial, header)
        except SafetensorError as error:
            raise OSError(str(error)) from error


def load_inversion(path: Path | str) -> Inversion:
    """Read what ``save_inversion`` wrote, bit for bit. Raises InputError that says what is wrong with the file."""
    path = Path(path)
    if not os.path.isfile(path):
        raise InputError(f'there is no inversion file "{path}"')
    if os.path.getsize(path) > LARGEST:
        raise InputError(f'"{path}" is larger than {LARGEST / 2**30:g} GB; {FEWER}')
    try:
        with safe_open(path, "pt") as file:
            metadata = _checked_metadata(path, file.metadata() or {})
            names = set(file.keys())
            whole = ("null_embeddings" in names) == ("guidance" in metadata) and all(
                needed in names or name not in names
                for name, needed in (("edit_null", "null_embeddings"), ("photo_guidance", "edit_null"))
            )
            if not REQUIRED <= names <= FIELDS or not whole:
                raise InputError(f'"{path}" lacks fields of an inversion or has others; invert the image again')
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise InputError(f'"{path}" is not a whole safetensors file ({error}); invert the image again') from error
    try:
        return _assemble(tensors, metadata)
    except (InputError, ValueError, KeyError, TypeError) as error:
        raise InputError(f'"{path}" is damaged: {error}; invert the image again') from error


def _checked_metadata(path: Path, header: dict[str, str]) -> dict[str, Any]:
    try:
        metadata = json.loads(header.get(HEADER, "{}"))
    except ValueError as error:
        raise InputError(f'"{path}" has a damaged header; invert the image again') from error
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise InputError(f'"{path}" is a safetensors file but not an inversion')
    if metadata.get("version") not in READABLE:
        raise InputError(
            f'"{path}" has format version {metadata.get("version")}, this program reads version {VERSION}; '
            "invert the image again"
        )
    return metadata


def _assemble(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> Inversion:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() != (name not in ("iterations", "region")):
            raise InputError(f"{name} has the type {tensor.dtype}")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{name} holds NaN or infinity")
    schedule = Schedule(tuple(tensors["timesteps"].tolist()), tuple(tensors["alphas_cumprod"].tolist()))
    trajectory = Trajectory(tensors["trajectory"], tensors["context"], schedule)
    null = None
    if "null_embeddings" in tensors:
        pin = Pin(tensors["edit_null"], tensors.get("photo_guidance")) if "edit_null" in tensors else None
        null = NullEmbeddings(
            tensors["null_embeddings"], schedule, float(metadata["guidance"]), tensors["losses"], tensors["iterations"],
            pin,
        )  # fmt: skip
        expected = (schedule.steps, *trajectory.context.shape)
        if null.embeddings.shape != expected:
            raise InputError(f"its null embeddings are {tuple(null.embeddings.shape)}, not {expected}")
        path = trajectory.latents[1:].shape
        if pin is not None and pin.guidance is not None and pin.guidance.shape != path:
            raise InputError(f"the photo's own guidance is {tuple(pin.guidance.shape)}, not {tuple(path)}")
    prompts, identity, model = metadata["prompts"], from_json(metadata["fingerprint"]), metadata["model"]
    if not isinstance(prompts, list) or not all(isinstance(text, str) for text in (*prompts, model)):
        raise InputError("its prompts or model are not texts")
    if metadata["precision"] not in PRECISIONS:
        raise InputError(f"its precision is {metadata['precision']!r}")
    region = tensors["region"].bool() if "region" in tensors else None
    sizes = metadata.get("sizes", [])
    whole = isinstance(sizes, list) and len(sizes) in (0, SIZES)
    if not whole or any(type(n) is not int or abs(n) > LARGEST_SIZE for n in sizes):
        raise InputError("its sizes are not six numbers of pixels")
    return Inversion(trajectory, null, tuple(prompts), identity, model, metadata["precision"], region, tuple(sizes))
