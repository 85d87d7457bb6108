"""What a Stable Diffusion folder in diffusers' layout holds, as today's and earlier libraries write it.

Both backends read folders by this page, and neither needs the other's framework for it. A folder is somebody else's:
ordinary files alone are read, up to a size, and by the names that stand here; no code of it is ever run.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import families
from ..errors import InputError, short
from ..families import Family
from ..files.ordinary import open_ordinary
from .model_config import check_together, checked, class_of

DEMO_MODEL = Path(__file__).parent.parent / "demo" / "model"
"""The small model that ships."""
INDEX = "model_index.json"
SCHEDULER = "scheduler_config.json"
TOKENIZER: tuple[tuple[tuple[str, ...], ...], ...] = (
    # transformers 5 writes the first of each, transformers 4 all of them
    (("tokenizer.json",), ("vocab.json", "merges.txt")),
    (("tokenizer_config.json",), ("special_tokens_map.json",)),
)
"""Of each row one group of files must be there. Weights: see ``weight_files``."""
PIECE = re.compile(r"-(\d{5})-of-(\d{5})")
"""In the name of a file that holds a piece of a large part."""
LARGEST_CONFIG, LARGEST_VOCABULARY = 2**20, 2**24
"""Most bytes of a configuration, and of a tokenizer's file; CLIP's largest has 3.6 MB."""


@dataclass(frozen=True)
class ModelFolder:
    """A model folder that was looked at: its ``family``; for each part with a configuration its class and the entries
    that build it, as ``model_config.checked`` gives them."""

    path: Path
    family: Family
    classes: dict[str, str]
    configs: dict[str, dict[str, Any]]

    @property
    def kind(self) -> str:
        """Its pipeline, by the name in its index."""
        return self.family.pipeline

    @property
    def networks(self) -> tuple[str, ...]:
        """Its parts with weights."""
        return networks_of(self.family)


def networks_of(family: Family) -> tuple[str, ...]:
    """Parts of a family with weights."""
    return (*(encoder.part for encoder in family.encoders), "unet", "vae")


def tokenizers_of(family: Family) -> tuple[str, ...]:
    """Parts of a family with a tokenizer."""
    return tuple(encoder.tokenizer for encoder in family.encoders)


def parts_of(family: Family) -> tuple[str, ...]:
    """Folders that a model of a family must have."""
    texts = (part for encoder in family.encoders for part in (encoder.part, encoder.tokenizer))
    return ("unet", "scheduler", *texts, "vae")


def settings_file(part: str) -> str:
    """Name of the configuration of a part that has one."""
    return SCHEDULER if part == "scheduler" else "config.json"


def read_folder(path: Path) -> ModelFolder:
    """What a whole model folder says of itself, checked.

    Looks at names and small files alone. Raises InputError for another kind, a missing file, weights that are no
    safetensors, and entries that no model of the kind has.
    """
    folder = read_settings(path)
    for part in parts_of(folder.family):
        check_files(path, part)
        if part in folder.networks:
            _check_pieces(path, part)
    return folder


def read_settings(path: Path) -> ModelFolder:
    """What the configurations of a folder say, checked, whether or not there are weights. Raises InputError."""
    if not (path / INDEX).is_file():
        raise InputError(f'"{path}" is not a diffusers model folder: {INDEX} is missing')
    index = read_config(path / INDEX)
    kind = index.get("_class_name")
    if kind not in families.pipelines():
        raise InputError(
            f'"{path}" holds a {short(str(kind))}; null-text inversion here needs a {families.supported()} '
            f"text-to-image model ({' or '.join(families.pipelines())})"
        )
    family = families.of_pipeline(kind)
    for part in parts_of(family):
        check_files(path, part)
    classes = {part: class_of(index, part, family, f'"{path / INDEX}"') for part in parts_of(family)}
    files = {part: path / part / settings_file(part) for part in ("scheduler", *networks_of(family))}
    raw = {part: read_config(file) for part, file in files.items()}
    configs = {part: checked(raw[part], classes[part], f'"{file}"') for part, file in files.items()}
    configs["unet"]["sample_size"] = _trained_at(raw["unet"], configs["unet"]["sample_size"])
    check_together(configs, family, lambda part: f'"{files[part]}"')
    return ModelFolder(path, family, classes, configs)


def _trained_at(raw: dict[str, Any], size: Any) -> Any:
    """Side of the latents that a UNet was trained at. Folders from before diffusers 0.9 say 32 where it was 64."""
    version = re.match(r"0\.(\d{1,3})\.", str(raw.get("_diffusers_version", "0.0."))[:9])
    early = "_diffusers_version" in raw and version is not None and int(version[1]) < 9
    return 64 if early and isinstance(size, int) and size < 64 else size


def check_files(folder: Path, part: str) -> None:
    """Raise InputError where a part of the folder lacks a file other than weights."""
    choices = TOKENIZER if part.startswith("tokenizer") else (((settings_file(part),),),)
    for groups in choices:
        if not any(all((folder / part / name).is_file() for name in names) for names in groups):
            wanted = ", nor ".join(" and ".join(names) for names in groups)
            raise InputError(
                f'the model in "{folder}" is not whole: its folder "{part}" has no {wanted}; get a complete copy of it'
            )


def weight_files(folder: Path, part: str) -> dict[str, list[Path]]:
    """Safetensors files of a part by the name of the copy that they are of: "", "fp16", "non_ema" …

    A copy may be in pieces, in order. Pieces are known by their names: no index is read, so none can name other files.
    """
    copies: dict[str, list[Path]] = {}
    start = "model" if part.startswith("text_encoder") else "diffusion_pytorch_model"
    for file in sorted((folder / part).glob(f"{start}*.safetensors")):
        # a link, as in Hugging Face's cache, counts as what it leads to; devices and pipes do not count
        if file.is_file():
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


def read_config(path: Path, most: int = LARGEST_CONFIG) -> dict[str, Any]:
    """A JSON file of a model folder. Raises InputError where it is missing, broken or larger than ``most`` bytes."""
    text = read_text(path, most)
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f'"{path}" is not a complete JSON file; get a complete copy of the model') from error
    if not isinstance(config, dict):
        raise InputError(f'"{path}" is broken: it has no entries; get a complete copy of the model')
    return config


def read_text(path: Path, most: int) -> str:
    """The text of an ordinary file of at most ``most`` bytes. Raises InputError for anything else: nothing of a model
    folder but weights is read otherwise."""
    try:
        with open_ordinary(path) as file:
            data = file.read(most + 1)
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f'"{path}" is missing or cannot be read; get a complete copy of the model') from error
    if len(data) > most:
        raise InputError(f'"{path}" is larger than {most / 2**20:g} MB, which no such file of a model should be')
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f'"{path}" is not text in UTF-8; get a complete copy of the model') from error


def _check_pieces(folder: Path, part: str) -> None:
    """Raise InputError where a part has no weights, or lacks a piece of them."""
    files = weight_files(folder, part)[variant_of(folder, part, half=False)]
    names = {file.name for file in files}
    # of each number of pieces that a name speaks of
    for file, piece in {found[2]: (file, found) for file in files if (found := PIECE.search(file.stem))}.values():
        for number in range(1, 1 + int(piece[2])):
            wanted = PIECE.sub(f"-{number:05d}-of-{piece[2]}", file.name)
            if wanted not in names:
                raise InputError(
                    f'the model in "{folder}" is not whole: its folder "{part}" has no {wanted}; get a complete copy '
                    "of it"
                )
