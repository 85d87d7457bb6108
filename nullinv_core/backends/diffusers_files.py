"""Stable Diffusion pipelines from local diffusers folders and single checkpoint files, never from the network."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors import safe_open
from torch import Tensor

from ..errors import InputError
from .families import FAMILIES, write_configuration
from .model_folder import INDEX, NETWORKS, check_folder, parts_of, read_config, variant_of, weight_files

IN_ONE_FILE = {
    "UNet": ("model.diffusion_model.", ["unet"]),
    "autoencoder": ("first_stage_model.", ["vae"]),
    "text encoder": (("cond_stage_model.", "conditioner.embedders."), ["text_encoder", "text_encoder_2"]),
}
"""Parts of a single checkpoint: how the names of their weights begin, and what a pipeline calls them."""
SPREAD_OF_V = 0.09
"""Standard deviation above which ComfyUI takes a 2.x checkpoint for one that predicts v."""
SUPPORTED = "Stable Diffusion 1.x, 2.x or SDXL text-to-image"
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")


def load_pipeline(path: Path, config: Path | None = None) -> Any:
    """The diffusers pipeline of a folder or a ``.safetensors`` checkpoint; ``config`` as in ``load_model``.

    Raises InputError for a missing, broken or incomplete model and for kinds that null-text inversion does not apply
    to.
    """
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


def _pipeline_class(kind: str) -> Any:
    import diffusers

    return getattr(diffusers, kind)


def _unused(kind: str) -> dict[str, Any]:
    """Parts of a pipeline that are not loaded."""
    return {"feature_extractor": None} | ({"safety_checker": None} if kind == "StableDiffusionPipeline" else {})


def _load_folder(folder: Path) -> Any:
    kind = check_folder(folder)
    copies = {part: variant_of(folder, part, half=False) for part in parts_of(kind) if part in NETWORKS}
    try:
        pipeline = _pipeline_class(kind).from_pretrained(
            folder, use_safetensors=True, local_files_only=True, variant=next(filter(None, copies.values()), None),
            **_unused(kind), **({"requires_safety_checker": False} if "safety_checker" in _unused(kind) else {}),
        )  # fmt: skip
        missing = _missing_weights(folder, pipeline, copies)
    except Exception as error:
        raise InputError(f'the model in "{folder}" cannot be read: {_first_line(error)}') from error
    if missing:
        raise InputError(
            f'the model in "{folder}" lacks {len(missing)} weights ({missing[0]} …); get a complete copy of it'
        )
    return pipeline


def _missing_weights(folder: Path, pipeline: Any, copies: dict[str, str]) -> list[str]:
    """Weights that no file holds; the libraries would make them up at random and only warn."""
    missing = []
    for part, copy in copies.items():
        stored: set[str] = set()
        for file in weight_files(folder, part)[copy]:
            with safe_open(file, "pt") as weights:
                stored |= {_current_name(name) for name in weights.keys()}  # noqa: SIM118 (not a dict)
        wanted = getattr(pipeline, part).state_dict()
        missing += [f"{part}.{n}" for n in wanted if _current_name(n) not in stored and not n.endswith("position_ids")]
    return missing


def _current_name(name: str) -> str:
    """A weight's name, whichever version of the libraries wrote it."""
    name = name.removeprefix("text_model.")
    if ".attentions." in name:
        for old, new in (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")):
            name = name.replace(f".{old}.", f".{new}.")
    return name


def _load_single_file(path: Path, config: Path | None) -> Any:
    if path.suffix != ".safetensors":
        raise InputError(
            f'"{path.name}" is not a .safetensors file; other checkpoint formats can run code and are refused'
        )
    try:
        found, scheduler = _family(path)
        with TemporaryDirectory() as folder:
            if config is None:
                write_configuration(Path(folder), FAMILIES[found], scheduler)
            elif read_config(config / INDEX).get("_class_name") != FAMILIES[found].pipeline:
                raise InputError(f'"{path.name}" is a {FAMILIES[found].pipeline}, and --config "{config}" is not')
            pipeline = _pipeline_class(FAMILIES[found].pipeline).from_single_file(
                path, config=str(config or folder), local_files_only=True, **_unused(FAMILIES[found].pipeline)
            )
        if config is not None and found == "xl_base":
            pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, **scheduler)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f'"{path.name}" cannot be read as a {SUPPORTED} checkpoint ({_first_line(error)})') from error
    _check_gaps(path, pipeline)
    return pipeline


def _check_gaps(path: Path, pipeline: Any) -> None:
    """Raise InputError where a checkpoint lacks weights, which the libraries would make up at random.

    Its names are others than diffusers', and some of its weights are shaped otherwise: their sizes are counted.
    """
    with safe_open(path, "pt") as file:
        sizes = {name: math.prod(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (not a dict)
    for part, (beginnings, attributes) in IN_ONE_FILE.items():
        wanted = Counter(
            weight.numel()
            for network in (getattr(pipeline, name, None) for name in attributes)
            for name, weight in ({} if network is None else network.state_dict()).items()
            if not name.endswith("position_ids")
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
            f'"{path.name}" looks like a model of the kind "{kind}"; null-text inversion here needs a {SUPPORTED} '
            "checkpoint"
        )
    for part, (beginnings, _) in IN_ONE_FILE.items():
        if not any(name.startswith(beginnings) for name in checkpoint):
            raise InputError(
                f'"{path.name}" has no {part} of a {SUPPORTED} checkpoint; give a file of the whole model, no LoRA or '
                "single part"
            )
    if kind == "v2" and predicts_v(checkpoint):
        return "v2, v prediction", {"prediction_type": "v_prediction"}
    return kind, marked_prediction(checkpoint) if kind == "xl_base" else {}


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
