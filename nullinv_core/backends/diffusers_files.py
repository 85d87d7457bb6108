"""Stable Diffusion pipelines from local diffusers folders and single checkpoint files, never from the network."""

from __future__ import annotations

import json
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import safe_open

from ..errors import InputError

KINDS = {"StableDiffusionPipeline": ("v1", "v2"), "StableDiffusionXLPipeline": ("xl_base",)}
"""Pipelines that are read, by the name in their index, and diffusers' names for their single files."""
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


def _kind(folder: Path) -> str:
    """The pipeline that a folder holds by its index; raises InputError where it is none of ``KINDS``."""
    index = folder / "model_index.json"
    try:
        kind = json.loads(index.read_text(encoding="utf-8")).get("_class_name")
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f'"{folder}" is not a diffusers model folder: {index.name} is missing or broken') from error
    if kind not in KINDS:
        raise InputError(
            f'"{folder}" holds a {kind}; null-text inversion here needs a {SUPPORTED} model ({" or ".join(KINDS)})'
        )
    return str(kind)


def _pipeline_class(kind: str) -> Any:
    import diffusers

    return getattr(diffusers, kind)


def _unused(kind: str) -> dict[str, Any]:
    """Parts of a pipeline that are not loaded."""
    return {"feature_extractor": None} | ({"safety_checker": None} if kind == "StableDiffusionPipeline" else {})


def _load_folder(folder: Path) -> Any:
    kind = _kind(folder)
    _check_only_safetensors(folder)
    try:
        pipeline = _pipeline_class(kind).from_pretrained(
            folder, use_safetensors=True, local_files_only=True, **_unused(kind),
            **({"requires_safety_checker": False} if "safety_checker" in _unused(kind) else {}),
        )  # fmt: skip
        missing = _missing_weights(folder, pipeline)
    except Exception as error:
        raise InputError(f'the model in "{folder}" cannot be read: {_first_line(error)}') from error
    if missing:
        raise InputError(
            f'the model in "{folder}" lacks {len(missing)} weights ({missing[0]} …); get a complete copy of it'
        )
    return pipeline


def _check_only_safetensors(folder: Path) -> None:
    """Raise InputError where the index of a model in parts names another file than safetensors, which may run code."""
    for index in folder.glob("*/*.index.json"):
        try:
            parts = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise InputError(f'"{index}" is broken; get a complete copy of the model') from error
        if ".safetensors." in index.name and not all(str(part).endswith(".safetensors") for part in parts):
            raise InputError(f'"{index}" names files that are not .safetensors; they can run code and are refused')


def _missing_weights(folder: Path, pipeline: Any) -> list[str]:
    """Weights that no file holds; the libraries would make them up at random and only warn."""
    missing = []
    for part in ("unet", *TEXT_ENCODERS, "vae"):
        if getattr(pipeline, part, None) is None:
            continue
        stored: set[str] = set()
        for file in (folder / part).glob("*.safetensors"):
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
        family, repository, prediction = _family(path)
        folder = _cached_configuration(path, family, repository) if config is None else config
        kind = _kind(folder)
        if family not in KINDS[kind]:
            raise InputError(f'"{path.name}" is no {kind}, as "{folder}" is; name a folder of its family with --config')
        pipeline = _pipeline_class(kind).from_single_file(
            path, config=str(folder), local_files_only=True, **_unused(kind)
        )
        pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, **prediction)
        return pipeline
    except InputError:
        raise
    except Exception as error:
        raise InputError(f'"{path.name}" cannot be read as a {SUPPORTED} checkpoint ({_first_line(error)})') from error


def marked_prediction(names: Container[str]) -> dict[str, Any]:
    """What a checkpoint's own marks say about its scheduler: fine-tunes of SDXL that predict v carry empty tensors."""
    marked = {"prediction_type": "v_prediction"} if "v_pred" in names else {}
    return marked | ({"rescale_betas_zero_snr": True} if marked and "ztsnr" in names else {})


def _family(path: Path) -> tuple[str, str, dict[str, Any]]:
    """A checkpoint's kind, the repository of its family's configuration and what the file says about its scheduler.

    Raises InputError for unsupported kinds.
    """
    from diffusers.loaders.single_file_utils import (
        fetch_diffusers_config,
        infer_diffusers_model_type,
        load_single_file_checkpoint,
    )

    checkpoint = load_single_file_checkpoint(str(path), local_files_only=True)
    kind = infer_diffusers_model_type(checkpoint)
    if "edm_vpred.sigma_max" in checkpoint:
        kind = "CosXL"
    if not any(kind in kinds for kinds in KINDS.values()):
        raise InputError(
            f'"{path.name}" looks like a model of the kind "{kind}"; null-text inversion here needs a {SUPPORTED} '
            "checkpoint"
        )
    repository = str(fetch_diffusers_config(checkpoint)["pretrained_model_name_or_path"])
    return kind, repository, marked_prediction(checkpoint) if kind == "xl_base" else {}


def _cached_configuration(path: Path, kind: str, repository: str) -> Path:
    """The folder of a checkpoint's family in the local Hugging Face cache.

    Looked up here because diffusers would ask the network for it.
    """
    from huggingface_hub import try_to_load_from_cache

    if kind == "v2":
        raise InputError(
            f'"{path.name}" is a Stable Diffusion 2.x file, and the file does not say whether it predicts ε or v; '
            "name a diffusers folder of its family with --config"
        )
    index = try_to_load_from_cache(repository, "model_index.json")
    if not isinstance(index, str):
        raise InputError(
            f'"{path.name}" alone does not say how to build its model, and "{repository}" is not in the local cache; '
            "name any diffusers folder of the same family with --config, or convert the file to such a folder"
        )
    return Path(index).parent


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
