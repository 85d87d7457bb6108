"""Inversions of other programs: the latents and the list of ∅ of the authors' notebook, and the ∅ that diffusers'
community pipeline ``pipeline_null_text_inversion`` keeps.

Both hold tensors without names, which they pickle. Here these have the names of the variables, in a safetensors file:
``ddim_latents`` (T+1, 1, C, h, w), the clean one first; ``uncond_embeddings`` (T, 1, K, W), the noisiest step's first;
``inverted_latent`` (1, C, h, w), the noisiest.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..context import Context
from ..errors import InputError, short
from ..schedule import Schedule
from ..types import NullEmbeddings, Trajectory
from .atomic_write import whole_file
from .inversion_file import AXES, FLOATS, LARGEST_HEADER, noted, read_tensors
from .ordinary import open_ordinary
from .store import Inversion, write_tensors

FORMATS = ("notebook", "diffusers")
"""What ``--to`` takes."""
LATENTS, EMBEDDINGS, NOISIEST = "ddim_latents", "uncond_embeddings", "inverted_latent"
HEADER = "nullinv-export"
SUFFIX = ".safetensors"
PICKLES = (b"PK\x03\x04", b"\x80")
"""What pickled files begin with, in torch's archive and plain."""
CONVERT = (
    "import torch, safetensors.torch as s; x = torch.load({name!r}, 'cpu', weights_only=True); "
    "x = x if torch.is_tensor(x) else torch.stack(list(x)); "
    "s.save_file(dict(uncond_embeddings=x.contiguous()), {new!r})"
)


@dataclass(frozen=True)
class Exchanged:
    """What a file of another program holds. ``embeddings``: float (T, 1, K, W), step 1 first. ``latents``:
    (T+1, 1, C, h, w), the clean one first; None where it has ∅ alone. ``guidance``: as the file says, unchecked."""

    embeddings: Tensor
    latents: Tensor | None
    prompt: str = ""
    guidance: float | None = None


def export(path: Path, inversion: Inversion, to: str) -> None:
    """Write one photo's inversion for another program. Raises InputError where that could not use it."""
    if inversion.null is None:
        raise InputError("this inversion holds no null embeddings; invert the image again")
    if inversion.trajectory.batch != 1:
        raise InputError(f"this inversion holds {inversion.trajectory.batch} photos; export files of one photo each")
    if inversion.sizes:
        raise InputError("this inversion is of SDXL, which that program does not know")
    latents = inversion.trajectory.latents
    tensors = {LATENTS: latents, EMBEDDINGS: inversion.null.embeddings.text.flip(0)}
    if to == "diffusers":
        tensors[NOISIEST] = latents[-1].clone()
    about = {"prompt": inversion.prompts[0], "guidance": inversion.null.guidance}
    with whole_file(path) as place:
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        write_tensors(place, contiguous, {HEADER: json.dumps(about, sort_keys=True)})


def command_line(arguments: Sequence[str], windows: bool) -> str:
    """A command as people type it: cmd.exe and PowerShell know double quotes alone."""
    return subprocess.list2cmdline(arguments) if windows else shlex.join(arguments)


def read_exchanged(path: Path) -> Exchanged:
    """What another program, or ``export``, wrote.

    Raises InputError for a pickle, with the command that converts it, and for what is wrong with the file.
    """
    if _is_pickle(path):
        # never the file itself
        new = str(path.with_name(f"{path.stem}{'-converted' * (path.suffix == SUFFIX)}{SUFFIX}"))
        command = command_line(["python", "-I", "-c", CONVERT.format(name=str(path), new=new)], os.name == "nt")
        raise InputError(
            f'"{path}" is a pickle, which can run code and is not read; convert it by itself, and import the new file: '
            f"{command}"
        )
    tensors, header = read_tensors(path, "exported", "export it again")
    found, latents = tensors.get(EMBEDDINGS), tensors.get(LATENTS)
    if found is None:
        raise InputError(f'"{path}" has no {EMBEDDINGS}; it has {short(", ".join(sorted(tensors)) or "nothing")}')
    found = found[:, None] if found.ndim == 3 else found
    _check(path, EMBEDDINGS, found, "T 1 K W")
    if latents is not None:
        _check(path, LATENTS, latents, "T+1 1 C h w")
        if len(latents) != len(found) + 1:
            raise InputError(f'"{path}" has {len(latents)} {LATENTS} and {len(found)} {EMBEDDINGS}, not one fewer')
    prompt, guidance = _about(header)
    return Exchanged(found.flip(0), latents, prompt, guidance)


def imported(found: Exchanged, trajectory: Trajectory, prompt: str, guidance: float, **rest: Any) -> Inversion:
    """An inversion with the ∅ of another program. ``rest``: fields of ``Inversion`` that tell its model.

    Raises InputError where they do not fit the trajectory.
    """
    embeddings = found.embeddings.float()
    wanted = (trajectory.schedule.steps, *trajectory.context.shape)
    if embeddings.shape != wanted:
        raise InputError(
            f"the embeddings are {tuple(embeddings.shape)}, this model needs {wanted}; name another --model"
        )
    none = torch.zeros(embeddings.shape[:2])
    null = NullEmbeddings(Context(embeddings), trajectory.schedule, guidance, none, none.long())
    return Inversion(trajectory, null, (prompt,), **rest)


def trajectory_of(found: Exchanged, context: Context, schedule: Schedule, channels: int) -> Trajectory:
    """The trajectory that a file holds; raises InputError for another model's."""
    latents = found.latents
    if latents is None or latents.shape[2] != channels:
        raise InputError(
            f"the latents have {0 if latents is None else latents.shape[2]} channels, this model's {channels}"
        )
    return Trajectory(latents, context, schedule)


def _is_pickle(path: Path) -> bool:
    try:
        with open_ordinary(path) as file:
            head = file.read(9)
            # the length of safetensors' header may begin so, too; a brace follows it
            return head.startswith(PICKLES) and head[8:] != b"{"
    except OSError as error:
        raise InputError(f'"{path}" cannot be read ({error.strerror})') from error


def _check(path: Path, name: str, tensor: Tensor, axes: str) -> None:
    letters = axes.split()
    most = [1 if one == "1" else AXES[one[0]] + one.endswith("+1") for one in letters]
    fits = tensor.ndim == len(letters) and all(1 <= n <= m for n, m in zip(tensor.shape, most, strict=True))
    if not fits or tensor.dtype not in FLOATS or not bool(torch.isfinite(tensor).all()):
        raise InputError(
            f'{name} of "{path}" is {str(tensor.dtype).removeprefix("torch.")} {tuple(tensor.shape)}; it must hold '
            f"finite floats ({', '.join(letters)})"
        )


def _about(header: bytes) -> tuple[str, float | None]:
    """Prompt and guidance that ``export`` wrote, where they are of their kind; in no range yet."""
    try:
        about = noted(header[:LARGEST_HEADER], HEADER)
    except (ValueError, RecursionError):
        return "", None
    prompt, guidance = about.get("prompt"), about.get("guidance")
    known = isinstance(guidance, int | float) and not isinstance(guidance, bool)
    return prompt if isinstance(prompt, str) else "", guidance if known else None
