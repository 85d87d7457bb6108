"""An inversion as one safetensors file: saved atomically, every field checked when it is loaded."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save, save_file
from torch import Tensor

from ..errors import InputError
from ..schedule import Schedule
from ..types import NullEmbeddings, Pin, Trajectory
from . import inversion_file
from .atomic_write import whole_file
from .fingerprint import Fingerprint, from_json, to_json
from .inversion_file import FEWER, FORMAT, HEADER, VERSION
from .packing import check_packed, packed, unpacked

CONTEXTS = ("context", "null_embeddings", "edit_null")
"""Fields that hold a ``Context`` (see ``packing``)."""


@dataclass(frozen=True, repr=False)
class Inversion:
    """An inverted batch of images and what is needed to use it again.

    ``prompts``: the source prompt of each image. ``null``: None where nothing was optimized. ``fingerprint``: of the
    model that made it. ``model``: how the user named that model; may be empty. ``precision``: of
    the network that made it, which is best used again. ``region``: bool (B, h, w), where edits may change the
    picture; None: everywhere. ``sizes``: what ComfyUI told SDXL of the picture (``inversion_file.SIZES``), else empty.
    Files of ``fast`` from before there was a photo's own guidance are edited without it.
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

    def of_photo(self, image: int) -> Inversion:
        """One of its photos alone."""
        return self.of_photos([image])

    def of_photos(self, images: list[int]) -> Inversion:
        """Some of its photos, in this order; one may be there several times."""
        trajectory, null = self.trajectory, self.null
        if null is not None:
            pin = null.pin and Pin(
                null.pin.null[images], None if null.pin.guidance is None else null.pin.guidance[:, images]
            )
            null = replace(
                null, embeddings=null.embeddings[:, images], losses=null.losses[:, images],
                iterations=null.iterations[:, images], pin=pin,
            )  # fmt: skip
        return replace(
            self,
            trajectory=replace(trajectory, latents=trajectory.latents[:, images], context=trajectory.context[images]),
            null=null,
            prompts=tuple(self.prompts[image] for image in images),
            region=None if self.region is None else self.region[images],
        )

    def __repr__(self) -> str:
        return f"Inversion({self.trajectory!r}, {self.null or 'no null embeddings'!s})"


def save_inversion(path: Path | str, inversion: Inversion) -> None:
    """Write an inversion to ``path``, which then is either the old file or the whole new one.

    Raises InputError where the folder does not exist or cannot be written, and for what could not be read again.
    """
    with whole_file(Path(path)) as place:
        write_inversion(place, inversion)


def write_inversion(path: Path, inversion: Inversion) -> None:
    """Write an inversion to a place of ``atomic_write``. Raises OSError where the disk does not take it."""
    write_tensors(path, *_content(inversion))


def write_tensors(path: Path, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
    """Write safetensors to a place of ``atomic_write``. Raises OSError where the disk does not take it."""
    try:
        save_file(tensors, path, header)
    except SafetensorError as error:
        raise OSError(str(error)) from error


def inversion_bytes(inversion: Inversion) -> bytes:
    """What ``save_inversion`` writes; raises InputError as it does."""
    return bytes(save(*_content(inversion)))


def _content(inversion: Inversion) -> tuple[dict[str, Tensor], dict[str, str]]:
    check_packed(inversion.trajectory.context, bool(inversion.sizes))
    tensors, metadata = _tensors_of(inversion), _metadata_of(inversion)
    inversion_file.check_tensors(tensors)
    inversion_file.check_metadata(metadata, inversion.null is not None)
    if sum(tensor.nbytes for tensor in tensors.values()) > inversion_file.LARGEST:
        raise InputError(
            f"the inversion is larger than {inversion_file.LARGEST / 2**30:g} GB and could not be read again; {FEWER}"
        )
    # one entry alone: several would be written in an order that changes from run to run
    header = {HEADER: json.dumps(metadata, sort_keys=True)}
    if len(json.dumps(header)) > inversion_file.LARGEST_HEADER // 2:
        raise InputError(f"the texts of the pictures are too long for one file; shorten them, or {FEWER}")
    return {k: v.detach().cpu().contiguous() for k, v in tensors.items()}, header


def _tensors_of(inversion: Inversion) -> dict[str, Tensor]:
    trajectory, null = inversion.trajectory, inversion.null
    tensors = {
        "trajectory": trajectory.latents,
        "context": packed(trajectory.context),
        "timesteps": torch.tensor(trajectory.schedule.timesteps, dtype=torch.float64),
        "alphas_cumprod": torch.tensor(trajectory.schedule.alphas_cumprod, dtype=torch.float64),
    }
    if null is not None:
        tensors |= {"null_embeddings": packed(null.embeddings), "losses": null.losses, "iterations": null.iterations}
        if null.pin is not None:
            tensors["edit_null"] = packed(null.pin.null)
            if null.pin.guidance is not None:
                tensors["photo_guidance"] = null.pin.guidance
    if inversion.region is not None:
        tensors["region"] = inversion.region
    return tensors


def _metadata_of(inversion: Inversion) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "prompts": list(inversion.prompts),
        "fingerprint": to_json(inversion.fingerprint),
        "model": inversion.model,
        "precision": inversion.precision,
        **({"sizes": list(inversion.sizes)} if inversion.sizes else {}),
        **({} if inversion.null is None else {"guidance": float(inversion.null.guidance)}),
    }


def load_inversion(path: Path | str) -> Inversion:
    """Read what ``save_inversion`` wrote, bit for bit. Raises InputError that says what is wrong with the file."""
    path = Path(path)
    tensors, metadata = inversion_file.read(path)
    try:
        return _assemble(tensors, metadata)
    except InputError as error:
        raise InputError(f'"{path}" is damaged: {error}; invert the image again') from error


def _assemble(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> Inversion:
    schedule = Schedule(tuple(tensors["timesteps"].tolist()), tuple(tensors["alphas_cumprod"].tolist()))
    names = [name for name in CONTEXTS if name in tensors]
    read = unpacked([tensors[name] for name in names], bool(metadata.get("sizes")))
    contexts, null = dict(zip(names, read, strict=True)), None
    if "null_embeddings" in tensors:
        pin = Pin(contexts["edit_null"], tensors.get("photo_guidance")) if "edit_null" in tensors else None
        null = NullEmbeddings(
            contexts["null_embeddings"], schedule, float(metadata["guidance"]), tensors["losses"],
            tensors["iterations"], pin,
        )  # fmt: skip
    return Inversion(
        trajectory=Trajectory(tensors["trajectory"], contexts["context"], schedule),
        null=null,
        prompts=tuple(metadata["prompts"]),
        fingerprint=from_json(metadata.get("fingerprint")),
        model=metadata["model"],
        precision=metadata["precision"],
        region=tensors["region"].bool() if "region" in tensors else None,
        sizes=tuple(metadata.get("sizes", [])),
    )
