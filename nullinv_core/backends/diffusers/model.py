"""A model of diffusers' as the core takes it: any width of the families that are known, from local files."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ... import families
from ...context import Context
from ...denoiser import AttentionControl, Counted, Denoiser, broken_model, broken_weight, no_gradients
from ...drift import Check
from ...errors import InputError, NonFiniteError
from ...families import Family
from ...files.fingerprint import Fingerprint, difference, digest_of, fingerprint
from ...files.store import Inversion
from ...model import Checkpointing, Memory, Result, in_less_memory, in_safer_precision
from ...photo.images import check_pixels, check_side
from ...prompt_to_prompt.prompt import Prompt
from ...schedule import NoiseLevel, Schedule, check_levels, epsilon_from_v, leading_schedule
from ...types import NullEmbeddings
from ..model_folder import DEMO_MODEL, networks_of, tokenizers_of
from .loading import load_pipeline, quiet
from .text import TextEncoder

LEAST_ALPHA = 4.8973451890853435e-08
"""ᾱ of pure noise, which "zero terminal SNR" models are trained on; as ComfyUI has it, where 0 would divide."""


@dataclass(frozen=True, eq=False)
class DiffusersDenoiser:
    """``Denoiser`` of a diffusers UNet. The UNet may run in any precision; what comes out has the latents' dtype.

    ``factor``: pixels per latent position. ``sizes``: what a network that is told of the picture's size is told
    (``families.SIZES``), where they are given.
    """

    unet: Any
    prediction: str
    factor: int = 8
    sizes: tuple[int, ...] = ()

    def __call__(
        self,
        latents: Tensor,
        level: NoiseLevel,
        context: Context,
        attention: AttentionControl | None = None,
        unconditional: int = 0,
    ) -> Tensor:
        dtype = self.unet.dtype
        read = context.to(dtype)
        with self._feature_hooks(attention):
            predicted = self.unet(
                latents.to(dtype),
                torch.tensor(level.timestep, device=latents.device),
                read.text,
                added_cond_kwargs=None if read.pooled is None else self._added(latents, read.pooled),
                cross_attention_kwargs=None if attention is None else {"control": attention},
            ).sample.to(latents.dtype)
        return predicted if self.prediction == "epsilon" else epsilon_from_v(latents, predicted, level.alpha)

    def _feature_hooks(self, attention: AttentionControl | None) -> AbstractContextManager[None]:
        if attention is None or not attention.edits_features:
            return nullcontext()
        from .attention import edited_features

        return edited_features(self.unet, attention)

    def _added(self, latents: Tensor, pooled: Tensor) -> dict[str, Tensor]:
        """With a pooled vector goes (H, W) of the picture as it was, its crop, and (H, W) as it is."""
        width, height, left, top, now_wide, now_high = self.sizes or plain_sizes(latents, self.factor)
        told = pooled.new_tensor([height, width, top, left, now_high, now_wide]).expand(len(latents), -1)
        return {"text_embeds": pooled, "time_ids": told}


def plain_sizes(latents: Tensor, factor: int) -> tuple[int, ...]:
    """Sizes (``families.SIZES``) of a picture that was neither scaled nor cropped."""
    height, width = (side * factor for side in latents.shape[-2:])
    return (width, height, 0, 0, width, height)


@dataclass(frozen=True, eq=False, repr=False)
class DiffusersModel:
    """A loaded model of a ``family`` and what the core needs of it.

    ``alphas_cumprod``: ᾱ of every training timestep. ``fingerprint``: tells models apart, whatever their precision.
    ``place``: where its files are. ``checkpointing``: whether blocks compute their inner values again for a backward
    pass; None: where the device needs it. ``counter``: is asked in place of the denoiser. ``warn``: speaks to the user.
    """

    family: Family
    denoiser: DiffusersDenoiser
    vae: Any
    text: TextEncoder
    alphas_cumprod: tuple[float, ...]
    fingerprint: Fingerprint
    name: str
    place: str = ""
    checkpointing: bool | None = None
    counter: Counted | None = None
    warn: Callable[[str], None] = logging.getLogger("nullinv_core").warning

    @property
    def precision(self) -> str:
        """What the UNet computes in, by PyTorch's name ("float32")."""
        return str(self.compute_dtype).removeprefix("torch.")

    @property
    def compute_dtype(self) -> torch.dtype:
        """What the UNet computes in."""
        found: torch.dtype = self.denoiser.unet.dtype
        return found

    def compute_in_float32(self) -> None:
        """Let the UNet compute in float32 from now on. Its weights keep what float16 made of them."""
        self.denoiser.unet.float()

    @property
    def only_text_differs(self) -> bool:
        """Nothing but the text tells conditional and unconditional predictions apart."""
        return True

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
        size = self.denoiser.unet.config.sample_size or self.family.side
        return (size if isinstance(size, int) else min(size)) * self.factor

    def check_size(self, side: int) -> int:
        """Return ``side``; raise InputError where it is no multiple of a latent's pixels, or too small to be halved as
        often as the UNet does."""
        config = self.denoiser.unet.config
        channels, groups = config.block_out_channels, config.norm_num_groups
        # a group of one channel at one position is a single value, which cannot be normalized
        halvings = len(channels) - 1 + (groups in channels[-2:])
        return check_side(side, self.factor, self.factor * 2**halvings)

    def sizes_of(self, latents: Tensor) -> tuple[int, ...]:
        """What this model is told of the picture of some latents: its sizes, or nothing."""
        return plain_sizes(latents, self.factor) if self.family.sizes else ()

    def told(self, sizes: tuple[int, ...]) -> DiffusersModel:
        """The model, told the sizes that a picture was inverted with; empty: those of the picture at hand."""
        return replace(self, denoiser=replace(self.denoiser, sizes=sizes))

    def conditioned(self, source: Prompt, empty: Prompt, sizes: tuple[int, ...]) -> DiffusersModel:
        """The model, told the sizes of a picture; nothing else goes with texts here."""
        return self.told(sizes)

    def tell(self, text: str) -> None:
        """Say a sentence to the user."""
        self.warn(text)

    def truth(self, inversion: Inversion) -> Check:
        """What tells the user where the model does not predict an inversion's trajectory any more."""
        return Check(self.tell, self.compute_dtype)

    def check_made(self, inversion: Inversion) -> None:
        """Raise InputError where another model or schedule made an inversion."""
        if other := difference(inversion.fingerprint, self.fingerprint):
            made_with = f' ("{inversion.model}")' if inversion.model else ""
            raise InputError(
                f'this inversion was made with another model{made_with} than "{self.name}": {other}; '
                "use that model or invert the image again"
            )
        trajectory, config = inversion.trajectory, self.denoiser.unet.config
        found = trajectory.clean.shape[1], trajectory.context.shape[-1]
        if found != (
            config.in_channels,
            config.cross_attention_dim,
        ):
            raise InputError(f'this inversion does not have the shapes of "{self.name}"; invert the image again')
        check_levels(trajectory.schedule, self.alphas_cumprod)

    def run(
        self,
        job: Callable[[Denoiser, Tensor], Result],
        latents: Tensor,
        schedule: Schedule,
        gradients: bool = False,
        branches: int = 1,
    ) -> Result:
        """See ``Model``."""
        with exact_convolutions():
            return self._run(job, latents, gradients)

    def _run(self, job: Callable[[Denoiser, Tensor], Result], latents: Tensor, gradients: bool) -> Result:
        from .memory import checkpoint, checkpoint_if_needed, release

        here, denoiser = latents.to(self.device), self.counter or self.denoiser
        if not gradients or self.checkpointing is not None:
            checkpoint(self, bool(self.checkpointing))
            return in_safer_precision(lambda: job(denoiser, here), self)
        switch = Checkpointing()

        def attempt() -> Result:
            # counted again where float32 takes more
            switch.on = checkpoint_if_needed(self, here, self._any_context()) or switch.on
            checkpoint(self, switch.on)
            return job(denoiser, here)

        memory = Memory(release, self.tell, "a model in half precision (--dtype float16)")
        return in_less_memory(lambda: in_safer_precision(attempt, self), switch, memory)

    def _any_context(self) -> Context:
        """A context of the model's own size, to count memory with."""
        text = torch.zeros(1, self.text.length, self.denoiser.unet.config.cross_attention_dim, device=self.device)
        return Context(text, text.new_zeros(1, self.text.pooled) if self.text.pooled else None)

    def schedule(self, steps: int) -> Schedule:
        """The authors' schedule of so many steps on this model's noise levels."""
        return leading_schedule(self.alphas_cumprod, steps)

    def encode_image(self, images: Tensor) -> Tensor:
        """Clean latents, float32 (B, 4, H/8, W/8), of images, floats (B, H, W, 3) in 0…1.

        Raises InputError for any other pictures, NonFiniteError where the autoencoder makes NaN of them.
        """
        check_pixels(images, "pictures to encode")
        with no_gradients(), exact_convolutions():
            pixels = images.to(self.device, self.vae.dtype).permute(0, 3, 1, 2) * 2 - 1
            encoded = self.vae.encode(pixels)
            latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
            return self._finite(latents.float() * self.vae.config.scaling_factor, "autoencoder", "vae")

    def decode(self, latents: Tensor) -> Tensor:
        """Images, float32 (B, H, W, 3) in 0…1 on the CPU, of clean latents (B, 4, h, w).

        Raises NonFiniteError where the autoencoder makes NaN of them.
        """
        with no_gradients(), exact_convolutions():
            pixels = self.vae.decode(latents.to(self.device, self.vae.dtype) / self.vae.config.scaling_factor).sample
            pixels = self._finite(pixels.float(), "autoencoder", "vae")
            return (pixels.permute(0, 2, 3, 1) / 2 + 0.5).clamp(0, 1).cpu()

    def prompt(self, text: str) -> Prompt:
        """Tokens and words of a text; raises InputError where it is longer than the encoder reads."""
        return self.text.prompt(text)

    def contexts(self, prompts: Sequence[Prompt]) -> list[Context]:
        """The context of each prompt, of one text; see ``encode_prompts``."""
        whole = self.encode_prompts(prompts)
        return [whole[place : place + 1] for place in range(len(whole))]

    def encode_prompts(self, prompts: Sequence[Prompt]) -> Context:
        """The contexts of B prompts, float32.

        Raises NonFiniteError where the text encoder makes NaN of them.
        """
        found = self.text.encode(prompts)
        return found.map(lambda tensor: self._finite(tensor, "text encoder", "text_encoder"))

    def check_weights(self, part: str = "") -> None:
        """Raise NonFiniteError where a weight, of all or of those whose names begin with ``part``, is NaN or infinite.

        Reads every weight: for when something has gone wrong.
        """
        encoders = dict(zip((row.part for row in self.family.encoders), self.text.encoders, strict=True))
        for name, module in {"unet": self.denoiser.unet, "vae": self.vae, **encoders}.items():
            found = broken_weight(module.state_dict()) if name.startswith(part) else None
            if found is not None:
                raise broken_model(f"{name}.{found}", module.dtype)

    def _finite(self, values: Tensor, what: str, part: str) -> Tensor:
        if bool(values.isfinite().all()):
            return values
        self.check_weights(part)
        raise NonFiniteError(f"the {what} produced NaN or infinity; in float16 try bfloat16 or float32")


def exact_convolutions() -> AbstractContextManager[None]:
    """Convolutions as exact as their type, and the same twice: on a GPU, ten bits lead inversions astray."""
    now = torch.backends.cudnn
    return now.flags(now.enabled, now.benchmark, now.benchmark_limit, deterministic=True, allow_tf32=False)


def load_model(
    path: Path | str, device: str = "cpu", dtype: torch.dtype = torch.float32, config: Path | str | None = None
) -> DiffusersModel:
    """Load a model folder in diffusers' layout or a single ``.safetensors`` checkpoint; ``demo`` is the one that ships.

    Only local safetensors files are read, never the network. ``dtype`` is the UNet's and text encoder's; the
    autoencoder stays float32. ``config``: for a single file, a diffusers folder of the same family to take another
    configuration and tokenizer from than the family's own (see ``families``).
    Raises InputError for a missing or broken model and for kinds that null-text inversion does not apply to.
    """
    place = "demo" if str(path) == "demo" else str(Path(path).resolve())
    path = DEMO_MODEL if place == "demo" else Path(path)
    if not os.path.exists(path):
        raise InputError(f'there is no model at "{path}"; give a diffusers folder, a .safetensors file, or "demo"')
    pipeline, family = load_pipeline(path, None if config is None else Path(config))
    return replace(wrap_pipeline(pipeline, path.name, device, dtype, family), place=place)


def wrap_pipeline(
    pipeline: Any, name: str, device: str, dtype: torch.dtype, family: Family | None = None
) -> DiffusersModel:
    """The model of a loaded pipeline of a known family, its UNet prepared for attention control.

    ``family``: None where the pipeline is diffusers' own and its class says so. Raises InputError where a part is
    missing or of another kind.
    """
    from .attention import control_attention

    unet, vae, scheduler = pipeline.unet, pipeline.vae, pipeline.scheduler
    family = family or families.of_pipeline(type(pipeline).__name__)
    for part in (*networks_of(family), *tokenizers_of(family)):
        if getattr(pipeline, part) is None:
            raise InputError(f'"{name}" has no {part}; use a complete model')
    if unet.config.in_channels != family.channels:
        raise families.more_channels(f'"{name}"', unet.config.in_channels)
    prediction = scheduler.config.get("prediction_type", "epsilon")
    if not hasattr(scheduler, "alphas_cumprod"):
        raise families.unknown_noise(f'"{name}"')
    if prediction not in family.predictions:
        raise InputError(f'"{name}" predicts "{prediction}"; supported are {", ".join(family.predictions)}')
    encoders = {row.part: getattr(pipeline, row.part) for row in family.encoders}
    alphas = tuple(scheduler.alphas_cumprod.cpu().double().clamp(min=LEAST_ALPHA).tolist())
    identity = replace(
        fingerprint(unet.state_dict().values(), prediction, alphas),
        digest=digest_of(_named_weights(unet, vae, encoders), prediction),
    )
    with quiet():
        for module in (unet, *encoders.values()):
            module.requires_grad_(False).eval().to(device, dtype)
        vae.requires_grad_(False).eval().to(device, torch.float32)
    control_attention(unet)
    tokenizers = tuple(getattr(pipeline, part) for part in tokenizers_of(family))
    text = TextEncoder(family, tokenizers, tuple(encoders.values()))
    if (unet.config.addition_embed_type == "text_time") != family.pooled:
        raise InputError(f'"{name}" has a UNet of another family than its text encoders; use a complete model')
    model = DiffusersModel(
        family=family,
        denoiser=DiffusersDenoiser(unet, prediction),
        vae=vae,
        text=text,
        alphas_cumprod=alphas,
        fingerprint=identity,
        name=name,
    )
    return replace(model, denoiser=replace(model.denoiser, factor=model.factor))


def _named_weights(unet: Any, vae: Any, encoders: dict[str, Any]) -> dict[str, Tensor]:
    """The weights that files of version 1 have a digest of, by names that do not depend on the libraries' versions."""
    named = {part.replace("text_encoder", "text"): encoder for part, encoder in encoders.items()}
    return {
        f"{part}.{name.removeprefix('text_model.')}": weight
        for part, module in {"unet": unet, "vae": vae, **named}.items()
        for name, weight in module.state_dict().items()
        if not name.endswith("position_ids")
    }


def check_inversion(inversion: Inversion, model: DiffusersModel) -> tuple[Inversion, NullEmbeddings]:
    """The inversion and its null embeddings on the model's device.

    Raises InputError where another model or schedule made it, or nothing was optimized.
    """
    model.check_made(inversion)
    if inversion.null is None:
        raise InputError("this inversion holds no null embeddings; invert the image again")
    null = inversion.null.to(model.device)
    return replace(inversion, trajectory=inversion.trajectory.to(model.device), null=null), null
