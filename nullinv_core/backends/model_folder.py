"""What a Stable Diffusion folder in diffusers' layout holds, as today's and earlier libraries write it.

Both backends read folders by this page, and neither needs the other's framework for it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ..errors import InputError

XL = "StableDiffusionXLPipeline"
KINDS = ("StableDiffusionPipeline", XL)
"""Pipelines that are read, by the name in their index."""
INDEX = "model_index.json"
NETWORKS = {
    "unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model",
    "text_encoder_2": "model",
}  # fmt: skip
"""Parts with weights, and how their files begin."""
CHOICES: dict[str, tuple[tuple[tuple[str, ...], ...], ...]] = {
    "scheduler": ((("scheduler_config.json",),),),
    **dict.fromkeys(NETWORKS, ((("config.json",),),)),
    **dict.fromkeys(
        ("tokenizer", "tokenizer_2"),
        (
            # transformers 5 writes the first of each, transformers 4 all of them
            (("tokenizer.json",), ("vocab.json", "merges.txt")),
            (("tokenizer_config.json",), ("special_tokens_map.json",)),
        ),
    ),
}
"""For each part, of each row one group of files must be there. Weights: see ``weight_files``."""
PIECE = re.compile(r"-(\d{5})-of-(\d{5})")
"""In the name of a file that holds a piece of a large part."""


def text_parts(kind: str) -> tuple[tuple[str, str], ...]:
    """Names of each text encoder's folder and of its tokenizer's."""
    both = (("text_encoder", "tokenizer"), ("text_encoder_2", "tokenizer_2"))
    return both if kind == XL else both[:1]


def parts_of(kind: str) -> tuple[str, ...]:
    """Folders that a pipeline of a kind must have."""
    return ("unet", "scheduler", *(part for pair in text_parts(kind) for part in pair), "vae")


def check_folder(folder: Path) -> str:
    """The kind of a whole model folder, one of ``KINDS``.

    Looks at names and small files alone. Raises InputError for another kind, a missing file, and weights that are no
    safetensors.
    """
    if not (folder / INDEX).is_file():
        raise InputError(f'"{folder}" is not a diffusers model folder: {INDEX} is missing')
    kind = read_config(folder / INDEX).get("_class_name")
    if kind not in KINDS:
        raise InputError(
            f'"{folder}" holds a {kind}; null-text inversion here needs a Stable Diffusion 1.x, 2.x or SDXL '
            f"text-to-image model ({' or '.join(KINDS)})"
        )
    for part in parts_of(kind):
        check_files(folder, part)
        if part in NETWORKS:
            _check_pieces(folder, part)
    return str(kind)


def check_files(folder: Path, part: str) -> None:
    """Raise InputError where a part of the folder lacks a file other than weights."""
    for groups in CHOICES[part]:
        if not any(all((folder / part / name).is_file() for name in names) for names in groups):
            wanted = ", nor ".join(" and ".join(names) for names in groups)
            raise InputError(
                f'the model in "{folder}" is not whole: its folder "{part}" has no {wanted}; get a complete copy of it'
            )


def weight_files(folder: Path, part: str) -> dict[str, list[Path]]:
    """Safetensors files of a part by the name of the copy that they are of: "", "fp16", "non_ema" …

    A copy may be in pieces, in order.
    """
    copies: dict[str, list[Path]] = {}
    start = NETWORKS[part]
    for file in sorted((folder / part).glob(f"{start}*.safetensors")):
        copies.setdefault(PIECE.sub("", file.stem).removeprefix(start).strip("."), []).append(file)
    return copies


def variant_of(folder: Path, part: str, half: bool) -> str:
    """Name of the copy of a part's weights to read: the whole ones, or with ``half`` those in half precision, else the
    ones that are there. A copy before averaging ("non_ema") comes last.

    Raises InputError where there are none.
    """
    names = weight_files(folder, part)
    if not names:
        raise InputError(
            f'the model in "{folder}" is not whole: its folder "{part}" has no .safetensors weights '
            "(other formats can run code and are not read); get a complete copy of it"
        )
    wanted = "fp16" if half else ""
    return min(names, key=lambda name: ("non_ema" in name, name != wanted, name))


def read_config(path: Path) -> dict[str, Any]:
    """A JSON file of a model folder. Raises InputError where it is missing or broken."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f'"{path.parent.name}/{path.name}" of the model folder is missing or broken') from error
    if not isinstance(config, dict):
        raise InputError(f'"{path.parent.name}/{path.name}" of the model folder is broken')
    return config


def _check_pieces(folder: Path, part: str) -> None:
    """Raise InputError where a part has no weights, lacks a piece of them, or its index names another kind of file."""
    for file in weight_files(folder, part)[variant_of(folder, part, half=False)]:
        piece = PIECE.search(file.stem)
        for number in range(1, 1 + (int(piece[2]) if piece else 0)):
            other = file.with_name(PIECE.sub(f"-{number:05d}-of-{piece[2] if piece else ''}", file.name))
            if not other.is_file():
                raise InputError(
                    f'the model in "{folder}" is not whole: its folder "{part}" has no {other.name}; get a complete '
                    "copy of it"
                )
    for index in (folder / part).glob("*.safetensors.index*.json"):
        names = read_config(index).get("weight_map")
        if not isinstance(names, dict):
            raise InputError(f'"{index}" is broken; get a complete copy of the model')
        if not all(str(name).endswith(".safetensors") for name in names.values()):
            raise InputError(f'"{index}" names files that are not .safetensors; they can run code and are refused')
