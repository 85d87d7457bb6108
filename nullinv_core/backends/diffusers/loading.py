"""Stable Diffusion pipelines from local diffusers folders and single checkpoint files, never from the network."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from ... import families
from ...errors import InputError, short
from ...families import FAMILIES, Family
from ...version import INSTALL
from ..clip_tokenizer import load_tokenizer, read_vocabulary
from ..clip_vocabulary import write_vocabulary
from ..model_folder import ModelFolder, read_folder, read_settings, tokenizers_of, variant_of, weight_files
from .configuration import write_configuration, write_settings

IN_ONE_FILE = {
    "UNet": ("model.diffusion_model.", ["unet"]),
    "autoencoder": ("first_stage_model.", ["vae"]),
    "text encoder": (("cond_stage_model.", "conditioner.embedders."), []),
}
"""Parts of a single checkpoint: how the names of their weights begin, and what a pipeline calls them; text encoders are
called by their family."""
SPREAD_OF_V = 0.09
"""Standard deviation above which ComfyUI takes a 2.x checkpoint for one that predicts v."""
POSITIONS = "position_ids"
"""A buffer of text encoders, 0 … 76, that some files hold and no network needs."""
PLAIN = ("F16", "BF16", "F32", "F64")
"""Types of weights that are numbers by themselves; others come with scales that we do not know."""


def load_pipeline(path: Path, config: Path | None = None) -> tuple[Any, Family]:
    """The parts of a folder or ``.safetensors`` checkpoint by diffusers' names (``unet``, ``vae``, ``scheduler``,
    ``text_encoder``, ``tokenizer`` …), and its family; ``config`` as in ``load_model``.

    Raises InputError for a missing, broken or incomplete model, for kinds that null-text inversion does not apply to,
    and where diffusers is not installed: a pack that serves ComfyUI alone does without it.
    """
    if find_spec("diffusers") is None:
        raise InputError(f"loading a model needs diffusers; {INSTALL}")
    with quiet():
        return _load_folder(path) if path.is_dir() else _load_single_file(path, config)


@contextmanager
def quiet() -> Iterator[None]:
    """Load without the libraries' own log lines and progress bars; their settings are put back."""
    from diffusers.utils import logging as ours
    from transformers.utils import logging as theirs

    before = [(log, log.get_verbosity(), log.is_progress_bar_enabled()) for log in (ours, theirs)]
    for log, _, _ in before:
        log.set_verbosity_error()
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log, level, bars in before:
            log.set_verbosity(level)
            if bars:
                log.enable_progress_bar()


def _load_folder(path: Path) -> tuple[Any, Family]:
    folder = read_folder(path)
    parts = {"scheduler": _noise_levels(folder.configs["scheduler"])}
    parts |= {tokenizer: load_tokenizer(path / tokenizer) for tokenizer in tokenizers_of(folder.family)}
    # the headers of all files, before memory is taken for any
    parts |= {part: _unfilled(folder, part) for part in folder.networks}
    for part in folder.networks:
        _fill(folder, part, parts[part])
    return SimpleNamespace(**parts), folder.family


def _noise_levels(config: dict[str, Any]) -> Any:
    """A scheduler with the noise levels that a folder's own has. Which one does not matter: we step ourselves."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(**config)


def _unfilled(folder: ModelFolder, part: str) -> Any:
    """A part of a folder, built from the entries that were checked and nothing else; its weights are shapes alone.

    Raises InputError where the files hold others than those.
    """
    with _told(folder, part):
        with torch.device("meta"):
            network = _empty(folder.classes[part], folder.configs[part])
        _check_shapes(folder, part, network)
        return network


def _fill(folder: ModelFolder, part: str, network: Any) -> None:
    """Give a network the weights of its files, float32."""
    with _told(folder, part):
        names = _names_of(network)
        weights = {name: weight for file in _files(folder, part) for name, weight in _read(file, names)}
        network.load_state_dict(weights, strict=False, assign=True)
        for name, buffer in network.named_buffers():
            if name.endswith(POSITIONS):
                network.get_submodule(name.rpartition(".")[0]).position_ids = torch.arange(buffer.shape[-1])[None]


def _files(folder: ModelFolder, part: str) -> list[Path]:
    return weight_files(folder.path, part)[variant_of(folder.path, part, half=False)]


@contextmanager
def _told(folder: ModelFolder, part: str) -> Iterator[None]:
    """Whatever the libraries raise becomes one sentence."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f'the {part} of "{folder.path}" cannot be read: {_first_line(error)}') from error


def _empty(kind: str, config: dict[str, Any]) -> Any:
    """A network of one of ``model_config.CLASSES``, its weights not yet there."""
    import diffusers
    import transformers

    if not hasattr(diffusers, kind):
        return getattr(transformers, kind)(transformers.CLIPTextConfig(**config))
    return getattr(diffusers, kind)(**config)


def _names_of(network: Any) -> dict[str, str]:
    """A network's names of its weights by those of any version of the libraries."""
    return {_current_name(name): name for name in network.state_dict() if not name.endswith(POSITIONS)}


def _check_shapes(folder: ModelFolder, part: str, network: Any) -> None:
    """Raise InputError where files lack weights, or hold them in other shapes or types. Reads no weights."""
    names, wanted = _names_of(network), network.state_dict()
    missing = set(names)
    for file in _files(folder, part):
        with safe_open(file, "pt") as weights:
            for stored in weights.keys():  # noqa: SIM118 (not a dict)
                name = _current_name(stored)
                if name not in names:
                    continue
                missing.discard(name)
                entry, expected = weights.get_slice(stored), tuple(wanted[names[name]].shape)
                if tuple(entry.get_shape()) != expected or entry.get_dtype() not in PLAIN:
                    raise InputError(
                        f'{short(stored)} of "{file}" is {entry.get_dtype()} {entry.get_shape()}; the configuration '
                        f"beside it asks for plain numbers {list(expected)}; get a complete copy of the model"
                    )
    if missing:
        raise InputError(
            f'the model in "{folder.path}" lacks {len(missing)} weights ({part}.{min(missing)} …); get a complete '
            "copy of it"
        )


def _read(file: Path, names: dict[str, str]) -> Iterator[tuple[str, Tensor]]:
    """The weights of a file that a network has, float32, in memory of their own."""
    with safe_open(file, "pt") as weights:
        for stored in weights.keys():  # noqa: SIM118 (not a dict)
            if _current_name(stored) in names:
                yield names[_current_name(stored)], weights.get_tensor(stored).to(torch.float32, copy=True)


def _current_name(name: str) -> str:
    """A weight's name, whichever version of the libraries wrote it."""
    name = name.removeprefix("text_model.")
    if ".attentions." in name:
        for old, new in (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")):
            name = name.replace(f".{old}.", f".{new}.")
    return name


def _load_single_file(path: Path, config: Path | None) -> tuple[Any, Family]:
    if path.suffix != ".safetensors" or not path.is_file():
        raise InputError(
            f'"{path.name}" is not a .safetensors file; other checkpoint formats can run code, so they are not loaded'
        )
    given = None if config is None else read_settings(config)
    try:
        found, scheduler = _family(path)
        family = FAMILIES[found]
        if given is not None and given.family.pipeline != family.pipeline:
            raise InputError(f'"{path.name}" is a {family.pipeline}, and --config "{config}" is not')
        with TemporaryDirectory() as folder:
            if given is None:
                write_configuration(Path(folder), family, scheduler)
            else:
                given.configs["scheduler"].update(scheduler if family.v_prediction == "mark" else {})
                write_settings(Path(folder), given.family, given.classes, given.configs)
                for tokenizer in tokenizers_of(given.family):
                    write_vocabulary(Path(folder) / tokenizer, read_vocabulary(given.path / tokenizer))
            pipeline = _pipeline_class(family.pipeline).from_single_file(
                path, config=folder, local_files_only=True, **_unused(family)
            )
    except InputError:
        raise
    except Exception as error:
        what = f"{families.supported()} text-to-image checkpoint"
        raise InputError(f'"{path.name}" cannot be read as a {what} ({_first_line(error)})') from error
    _check_gaps(path, pipeline, family)
    return pipeline, family


def _pipeline_class(kind: str) -> Any:
    import diffusers

    return getattr(diffusers, kind)


def _unused(family: Family) -> dict[str, Any]:
    """Parts of a pipeline that are not loaded."""
    return {"feature_extractor": None} | ({} if family.pooled else {"safety_checker": None})


def _check_gaps(path: Path, pipeline: Any, family: Family) -> None:
    """Raise InputError where a checkpoint lacks weights, which the libraries would make up at random.

    Its names are others than diffusers', and some of its weights are shaped otherwise: their sizes are counted.
    """
    with safe_open(path, "pt") as file:
        sizes = {name: math.prod(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (not a dict)
    encoders = [encoder.part for encoder in family.encoders]
    for part, (beginnings, attributes) in IN_ONE_FILE.items():
        wanted = Counter(
            weight.numel()
            for network in (getattr(pipeline, name) for name in attributes or encoders)
            for name, weight in network.state_dict().items()
            if not name.endswith(POSITIONS)
        )
        stored: Counter[int] = Counter()
        for name, size in sizes.items():
            if name.startswith(beginnings):
                # OpenCLIP keeps query, key and value of a layer in one
                pieces = 3 if ".in_proj_" in name else 1
                stored[size // pieces] += pieces
        if missing := (wanted - stored).total():
            raise InputError(f'the {part} of "{path.name}" lacks {missing} weights; get a complete copy of the file')


def marked_prediction(names: Container[str]) -> dict[str, Any]:
    """What a checkpoint's own marks say about its scheduler: fine-tunes of SDXL that predict v carry empty tensors."""
    marked = {"prediction_type": "v_prediction"} if "v_pred" in names else {}
    return marked | ({"rescale_betas_zero_snr": True} if marked and "ztsnr" in names else {})


def predicts_v(weights: dict[str, Tensor]) -> bool:
    """Whether a 2.x checkpoint predicts v. No entry of the file says so: guessed as ComfyUI guesses it
    (``supported_models.SD20``), by how far the biases of one layer spread."""
    bias = weights.get("model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias")
    return bias is not None and float(bias.float().std(correction=0)) > SPREAD_OF_V


def _family(path: Path) -> tuple[str, dict[str, Any]]:
    """A checkpoint's name in ``FAMILIES`` and what the file says about its scheduler.

    Raises InputError for unsupported kinds, and for files that hold a part of a model.
    """
    from diffusers.loaders.single_file_utils import infer_diffusers_model_type, load_single_file_checkpoint

    checkpoint = load_single_file_checkpoint(str(path), local_files_only=True)
    kind = infer_diffusers_model_type(checkpoint)
    if "edm_vpred.sigma_max" in checkpoint:
        kind = "CosXL"
    if kind not in FAMILIES:
        raise InputError(
            f'"{path.name}" looks like a model of the kind "{kind}"; null-text inversion here needs a '
            f"{families.supported()} text-to-image checkpoint"
        )
    for part, (beginnings, _) in IN_ONE_FILE.items():
        if not any(name.startswith(beginnings) for name in checkpoint):
            raise InputError(
                f'"{path.name}" has no {part} of a {families.supported()} text-to-image checkpoint; give a file of the '
                "whole model, not a LoRA or a single part"
            )
    how = FAMILIES[kind].v_prediction
    if how == "bias" and predicts_v(checkpoint):
        return f"{kind}, v prediction", {"prediction_type": "v_prediction"}
    return kind, marked_prediction(checkpoint) if how == "mark" else {}


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
