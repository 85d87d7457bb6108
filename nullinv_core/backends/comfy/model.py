"""A ComfyUI MODEL as the core takes it, with the CLIP and VAE that go with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor

from ...context import Context
from ...denoiser import Denoiser
from ...drift import Check
from ...errors import InputError
from ...families import Family
from ...files.fingerprint import Fingerprint, difference
from ...files.store import Inversion
from ...model import Result
from ...prompt_to_prompt.prompt import Prompt
from ...schedule import Schedule, check_levels
from .checks import check_model
from .conditioning import family_of, sizes_of, text_of, with_sizes
from .denoiser import ComfyDenoiser
from .fingerprint import fingerprint_of, trained_alphas
from .host import Guided, run
from .notices import tell
from .other_packs import holds
from .precision import compute_dtype
from .protocols import Clip, Conditioning, Patcher, Vae
from .schedule import schedule_of
from .text import encode, prompt_of
from .truth import check_of

Part = TypeVar("Part")
SCHEDULER = "ddim_uniform"
"""The scheduler whose steps are the authors'."""


@dataclass(frozen=True, eq=False)
class ComfyModel:
    """``Model`` of a MODEL.

    ``positive`` and ``negative``: the CONDITIONINGs whose extras go with conditional and unconditional rows. ``clip``
    and ``vae`` are needed where texts or pictures are worked on.
    """

    patcher: Patcher
    positive: Conditioning = field(default_factory=list)
    negative: Conditioning = field(default_factory=list)
    clip: Clip | None = None
    vae: Vae | None = None
    place: str = ""

    @property
    def family(self) -> Family:
        """Its row in the table of families."""
        return family_of(self.patcher.model)

    @property
    def precision(self) -> str:
        """In which precision it computes, by PyTorch's name."""
        return str(compute_dtype(self.patcher)).removeprefix("torch.")

    @property
    def fingerprint(self) -> Fingerprint:
        """See ``fingerprint_of``."""
        return fingerprint_of(self.patcher)

    @property
    def only_text_differs(self) -> bool:
        """Whether nothing but the text tells conditional and unconditional predictions apart, as a ControlNet or a
        patch of the MODEL may."""
        both = (self.positive, self.negative)
        plain = all(set(extras) <= {"pooled_output"} for entry in both for _, extras in entry)
        return plain and not holds([self.patcher.model_options, self.patcher.wrappers])

    def schedule(self, steps: int) -> Schedule:
        """The schedule of the scheduler whose steps are the authors'."""
        return schedule_of(self.patcher, SCHEDULER, steps)

    def encode_image(self, images: Tensor) -> Tensor:
        """Clean latents of an IMAGE."""
        return self.latents(_there(self.vae, "VAE").encode(images))

    def decode(self, latents: Tensor) -> Tensor:
        """An IMAGE of clean latents, float32 on the CPU."""
        return _there(self.vae, "VAE").decode(self.samples(latents.cpu())).to("cpu", torch.float32)

    def latents(self, samples: Tensor) -> Tensor:
        """Clean latents in the model's scale of a LATENT's samples, float32: some hosts pass half precision on."""
        return self.patcher.model.process_latent_in(samples.float())

    def samples(self, latents: Tensor) -> Tensor:
        """A LATENT's samples of latents in the model's scale."""
        return self.patcher.model.process_latent_out(latents)

    def prompt(self, text: str) -> Prompt:
        """Tokens and words of a text."""
        return prompt_of(_there(self.clip, "CLIP"), text)

    def contexts(self, prompts: Sequence[Prompt]) -> list[Context]:
        """The context of each prompt; long texts have more tokens than others."""
        clip, network = _there(self.clip, "CLIP"), self.patcher.model
        return [text_of(encode(clip, prompt), "source", 1, network) for prompt in prompts]

    def sizes_of(self, latents: Tensor) -> tuple[int, ...]:
        """What the network is told of the picture of some latents, or nothing."""
        extras = self.positive[0][1] if self.positive else {}
        return sizes_of(extras, latents) if self.family.sizes else ()

    def conditioned(self, source: Prompt, empty: Prompt, sizes: tuple[int, ...]) -> ComfyModel:
        """The model with the CONDITIONINGs of two texts, which tell these sizes."""
        clip = _there(self.clip, "CLIP")
        positive, negative = (with_sizes(encode(clip, prompt), sizes) for prompt in (source, empty))
        return replace(self, positive=positive, negative=negative)

    def check_made(self, inversion: Inversion) -> None:
        """Raise InputError unless this MODEL made the inversion."""
        check_made_with(self.patcher, inversion)

    def truth(self, inversion: Inversion) -> Check:
        """See ``check_of``."""
        return check_of(self.patcher, inversion)

    def tell(self, text: str) -> None:
        """See ``notices.tell``."""
        tell(text)

    def run(
        self,
        job: Callable[[Denoiser, Tensor], Result],
        latents: Tensor,
        schedule: Schedule,
        gradients: bool = False,
        branches: int = 1,
    ) -> Result:
        """See ``Model`` and ``host.run``."""

        def with_latents(denoiser: ComfyDenoiser, clean: Tensor) -> Result:
            # ComfyUI has scaled them out and in again, which may have changed a bit
            here = latents.to(clean.device).clone()
            return job(denoiser, here)

        guided = Guided(self.patcher, self.positive, self.negative)
        return run(guided, self.samples(latents), schedule, with_latents, gradients, branches)


def _there(part: Part | None, name: str) -> Part:
    """A part that the work at hand needs; raises TypeError for a model that was made without it."""
    if part is None:
        raise TypeError(f"this model was made without its {name}")
    return part


def check_made_with(model: Patcher, inversion: Inversion) -> None:
    """Raise InputError unless this MODEL made the inversion."""
    check_model(model)
    if other := difference(inversion.fingerprint, fingerprint_of(model)):
        made_with = f' ("{inversion.model}")' if inversion.model else ""
        raise InputError(
            f"the trajectory was made with another MODEL{made_with}: {other}; connect that one, or invert again"
        )
    check_levels(inversion.trajectory.schedule, trained_alphas(model.get_model_object("model_sampling")))
