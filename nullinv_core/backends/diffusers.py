"""The diffusers backend: Stable Diffusion 1.x and 2.x architectures of any width, from a local folder or file."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from ..denoiser import AttentionControl, no_gradients
from ..errors import InputError
from ..prompt_to_prompt.prompt import END, PAD, START, Prompt
from ..schedule import NoiseLevel, Schedule, epsilon_from_v, leading_schedule
from ..store import Inversion, fingerprint
from ..types import NullEmbeddings

DEMO_MODEL = Path(__file__).parent.parent / "demo" / "model"
PREDICTIONS = ("epsilon", "v_prediction")


@dataclass(frozen=True, eq=False)
class DiffusersDenoiser:
    """``Denoiser`` of a diffusers UNet. The UNet may run in any precision; what comes out has the latents' dtype."""

    unet: Any
    prediction: str

    def __call__(
        self,
        latents: Tensor,
        level: NoiseLevel,
        context: Tensor,
        attention: AttentionControl | None = None,
        nulls: int = 0,
    ) -> Tensor:
        dtype = self.unet.dtype
        predicted = self.unet(
            latents.to(dtype),
            torch.tensor(level.timestep, device=latents.device),
            context.to(dtype),
            cross_attention_kwargs=None if attention is None else {"control": attention},
        ).sample.to(latents.dtype)
        return predicted if self.prediction == "epsilon" else epsilon_from_v(latents, predicted, level.alpha)


@dataclass(frozen=True, eq=False, repr=False)
class DiffusersModel:
    """A loaded Stable Diffusion model and what the core needs of it.

    ``alphas_cumprod``: ᾱ of every training timestep. ``fingerprint``: tells models apart, whatever their precision.
    """

    denoiser: DiffusersDenoiser
    vae: Any
    text_encoder: Any
    tokenizer: Any
    alphas_cumprod: tuple[float, ...]
    fingerprint: str
    name: str

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self.denoiser.unet.device

    @property
    def factor(self) -> int:
        """Pixels per latent position along one side (8)."""
        config = self.vae.config
        blocks = config.block_out_channels if "block_out_channels" in config else config.encoder_block_out_channels
        return 2 ** (len(blocks) - 1)

    @property
    def native_size(self) -> int:
        """Side in pixels that the model was trained at."""
        size = self.denoiser.unet.config.sample_size or 64
        return (size if isinstance(size, int) else min(size)) * self.factor

    def check_size(self, side: int) -> int:
        """Return ``side``; raise InputError where it is no multiple of the latent grid the UNet can halve."""
        grid = self.factor * 2 ** (len(self.denoiser.unet.config.block_out_channels) - 1)
        if not grid <= side <= 4096 or side % grid:
            raise InputError(f"size must be a multiple of {grid} up to 4096, not {side}")
        return side

    def schedule(self, steps: int) -> Schedule:
        """The authors' schedule of so many steps on this model's noise levels."""
        return leading_schedule(self.alphas_cumprod, steps)

    def encode_image(self, images: Tensor) -> Tensor:
        """Clean latents, float32 (B, 4, H/8, W/8), of images (B, H, W, 3) in 0…1."""
        with no_gradients():
            pixels = images.to(self.device, self.vae.dtype).permute(0, 3, 1, 2) * 2 - 1
            encoded = self.vae.encode(pixels)
            latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
            return latents.float() * self.vae.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Images, float32 (B, H, W, 3) in 0…1 on the CPU, of clean latents (B, 4, h, w)."""
        with no_gradients():
            pixels = self.vae.decode(latents.to(self.vae.dtype) / self.vae.config.scaling_factor).sample
            return (pixels.float().permute(0, 2, 3, 1) / 2 + 0.5).clamp(0, 1).cpu()

    def prompt(self, text: str) -> Prompt:
        """Tokens and words of a text; raises InputError where it is longer than the encoder reads."""
        length = int(self.tokenizer.model_max_length)
        ids = self.tokenizer(text, padding="max_length", max_length=length).input_ids
        if len(ids) > length:
            raise InputError(
                f'the prompt "{text[:40]}…" takes {len(ids) - 2} tokens, the model reads {length - 2}; shorten it'
            )
        return prompt_of_ids(self.tokenizer, text, ids)

    def encode_prompts(self, prompts: list[Prompt]) -> Tensor:
        """Contexts, float32 (B, tokens, width)."""
        with no_gradients():
            ids = torch.tensor([p.token_ids for p in prompts], device=self.device)
            return self.text_encoder(ids).last_hidden_state.float()


def prompt_of_ids(tokenizer: Any, text: str, ids: list[int]) -> Prompt:
    """A prompt from CLIP token ids; a word ends with the token that ends in ``</w>``."""
    pieces = tokenizer.convert_ids_to_tokens(ids)
    end = ids.index(tokenizer.eos_token_id, 1)
    places: list[int] = [START]
    words: list[str] = []
    open_word: list[int] = []
    for token, piece in zip(ids[1:end], pieces[1:end], strict=True):
        places.append(len(words))
        open_word.append(token)
        if piece.endswith("</w>"):
            words.append(tokenizer.decode(open_word).strip())
            open_word = []
    if open_word:
        words.append(tokenizer.decode(open_word).strip())
    places += [END] + [PAD] * (len(ids) - end - 1)
    return Prompt(text, tuple(ids), tuple(words), tuple(places))


def load_model(
    path: Path | str, device: str = "cpu", dtype: torch.dtype = torch.float32, config: Path | str | None = None
) -> DiffusersModel:
    """Load a model folder in diffusers' layout or a single ``.safetensors`` checkpoint; ``demo`` is the one that ships.

    Only local safetensors files are read, never the network. ``dtype`` is the UNet's and text encoder's; the
    autoencoder stays float32. ``config``: for a single file, a diffusers folder of the same family to take the
    configuration and tokenizer from; by default that family's in the local Hugging Face cache.
    Raises InputError for a missing or broken model and for kinds that null-text inversion does not apply to.
    """
    path = DEMO_MODEL if str(path) == "demo" else Path(path)
    if not os.path.exists(path):
        raise InputError(f'there is no model at "{path}"; give a diffusers folder, a .safetensors file, or "demo"')
    with _quiet():
        pipeline = (
            _load_folder(path) if path.is_dir() else _load_single_file(path, None if config is None else Path(config))
        )
        return wrap_pipeline(pipeline, path.name, device, dtype)


def wrap_pipeline(pipeline: Any, name: str, device: str, dtype: torch.dtype) -> DiffusersModel:
    """The model of a loaded StableDiffusionPipeline, its UNet prepared for attention control."""
    from .diffusers_attention import ControlledAttention

    unet, scheduler = pipeline.unet, pipeline.scheduler
    for part in ("unet", "vae", "text_encoder", "tokenizer"):
        if getattr(pipeline, part) is None:
            raise InputError(f'"{name}" has no {part}; use a complete model')
    if unet.config.in_channels != 4:
        raise InputError(
            f'"{name}" has a UNet with {unet.config.in_channels} input channels (inpainting or depth); '
            "use the text-to-image model of the family"
        )
    prediction = scheduler.config.get("prediction_type", "epsilon")
    if prediction not in PREDICTIONS:
        raise InputError(f'"{name}" predicts "{prediction}"; supported are {", ".join(PREDICTIONS)}')
    identity = fingerprint(_named_weights(pipeline), prediction)
    for module in (unet, pipeline.text_encoder):
        module.requires_grad_(False).eval().to(device, dtype)
    pipeline.vae.requires_grad_(False).eval().to(device, torch.float32)
    unet.set_attn_processor(ControlledAttention())
    return DiffusersModel(
        denoiser=DiffusersDenoiser(unet, prediction),
        vae=pipeline.vae,
        text_encoder=pipeline.text_encoder,
        tokenizer=pipeline.tokenizer,
        alphas_cumprod=tuple(scheduler.alphas_cumprod.double().tolist()),
        fingerprint=identity,
        name=name,
    )


def _named_weights(pipeline: Any) -> dict[str, Tensor]:
    """Every weight that an inversion depends on, by names that do not depend on the libraries' versions."""
    parts = {"unet": pipeline.unet, "text": pipeline.text_encoder, "vae": pipeline.vae}
    return {
        f"{part}.{name.removeprefix('text_model.')}": weight
        for part, module in parts.items()
        for name, weight in module.state_dict().items()
        if not name.endswith("position_ids")
    }


def check_inversion(inversion: Inversion, model: DiffusersModel) -> tuple[Inversion, NullEmbeddings]:
    """The inversion and its null embeddings on the model's device.

    Raises InputError where another model or schedule made it, or nothing was optimized.
    """
    if inversion.fingerprint != model.fingerprint:
        made_with = f' (with "{inversion.model}")' if inversion.model else ""
        raise InputError(
            f'this inversion was made with another model{made_with}, not "{model.name}"; '
            "use that model or invert the image again"
        )
    if inversion.null is None:
        raise InputError("this inversion holds no null embeddings; invert the image again")
    trajectory, config = inversion.trajectory, model.denoiser.unet.config
    if (trajectory.clean.shape[1], trajectory.context.shape[2]) != (config.in_channels, config.cross_attention_dim):
        raise InputError(f'this inversion does not have the shapes of "{model.name}"; invert the image again')
    _check_schedule(trajectory.schedule, model.alphas_cumprod)
    null = inversion.null.to(model.device)
    return replace(inversion, trajectory=trajectory.to(model.device), null=null), null


def _check_schedule(schedule: Schedule, known: tuple[float, ...]) -> None:
    """Raise InputError unless ᾱ of every timestep is the model's, and that of the clean end its first or 1."""
    last = len(known) - 1
    for timestep, alpha in zip(schedule.timesteps, schedule.alphas_cumprod[1:], strict=True):
        below = min(max(math.floor(timestep), 0), last)
        share = timestep - below
        expected = known[below] * (1 - share) + known[min(below + 1, last)] * share
        if not (0 <= timestep <= last and math.isclose(expected, alpha, rel_tol=1e-3)):
            raise InputError(
                f"this inversion was made on another noise schedule (timestep {timestep:g}); invert the image again"
            )
    if not any(math.isclose(schedule.alphas_cumprod[0], clean, rel_tol=1e-3) for clean in (known[0], 1.0)):
        raise InputError("this inversion's noise schedule ends at another noise level; invert the image again")


@contextmanager
def _quiet() -> Iterator[None]:
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


def _check_index(folder: Path) -> None:
    """Raise InputError unless a folder is a Stable Diffusion 1.x or 2.x text-to-image pipeline by its index."""
    index = folder / "model_index.json"
    try:
        kind = json.loads(index.read_text(encoding="utf-8")).get("_class_name")
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f'"{folder}" is not a diffusers model folder: {index.name} is missing or broken') from error
    if kind != "StableDiffusionPipeline":
        raise InputError(
            f'"{folder}" holds a {kind}; null-text inversion here needs a Stable Diffusion 1.x or 2.x text-to-image '
            "model (StableDiffusionPipeline)"
        )


def _load_folder(folder: Path) -> Any:
    from diffusers import StableDiffusionPipeline

    _check_index(folder)
    _check_only_safetensors(folder)
    try:
        pipeline = StableDiffusionPipeline.from_pretrained(
            folder, safety_checker=None, feature_extractor=None, requires_safety_checker=False,
            use_safetensors=True, local_files_only=True,
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
    for part in ("unet", "text_encoder", "vae"):
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
    from diffusers import StableDiffusionPipeline

    if path.suffix != ".safetensors":
        raise InputError(
            f'"{path.name}" is not a .safetensors file; other checkpoint formats can run code and are refused'
        )
    try:
        folder = _cached_configuration(path, *_family(path)) if config is None else config
        _check_index(folder)
        return StableDiffusionPipeline.from_single_file(
            path, config=str(folder), safety_checker=None, feature_extractor=None, local_files_only=True
        )
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f'"{path.name}" cannot be read as a Stable Diffusion 1.x or 2.x checkpoint ({_first_line(error)})'
        ) from error


def _family(path: Path) -> tuple[str, str]:
    """A checkpoint's kind and the repository of its family's configuration; InputError for unsupported kinds."""
    from diffusers.loaders.single_file_utils import (
        fetch_diffusers_config,
        infer_diffusers_model_type,
        load_single_file_checkpoint,
    )

    checkpoint = load_single_file_checkpoint(str(path), local_files_only=True)
    kind = infer_diffusers_model_type(checkpoint)
    if kind not in ("v1", "v2"):
        raise InputError(
            f'"{path.name}" looks like a model of the kind "{kind}"; null-text inversion here needs a Stable Diffusion '
            "1.x or 2.x text-to-image checkpoint"
        )
    return kind, str(fetch_diffusers_config(checkpoint)["pretrained_model_name_or_path"])


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
