"""What a backend supplies of a loaded model, and what every backend does where a number or the memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from .context import Context
from .denoiser import Denoiser
from .drift import Check
from .errors import InputError, NonFiniteError
from .families import Family
from .files.fingerprint import Fingerprint
from .files.store import Inversion
from .prompt_to_prompt.prompt import Prompt
from .schedule import Schedule

Result = TypeVar("Result")
NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")
"""What devices say of it; the last one is a CPU's on Linux."""


class Model(Protocol):
    """A loaded model. Pictures are (B, H, W, 3) in 0…1; latents float32 (B, C, h, w) in the paper's scale; contexts
    float32."""

    @property
    def family(self) -> Family:
        """Its row in the table of families."""
        ...

    @property
    def fingerprint(self) -> Fingerprint:
        """What tells it from others, whatever its precision."""
        ...

    @property
    def place(self) -> str:
        """Where its files are, for people and for the command line; may be empty."""
        ...

    @property
    def precision(self) -> str:
        """What its network computes in, by PyTorch's name ("float32")."""
        ...

    @property
    def only_text_differs(self) -> bool:
        """Whether nothing but the text tells conditional and unconditional predictions apart."""
        ...

    def schedule(self, steps: int) -> Schedule:
        """The authors' schedule of so many steps, or the host's nearest, on this model's noise levels."""
        ...

    def encode_image(self, images: Tensor) -> Tensor:
        """Clean latents of pictures."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures of clean latents, on the CPU."""
        ...

    def prompt(self, text: str) -> Prompt:
        """Tokens and words of a text."""
        ...

    def contexts(self, prompts: Sequence[Prompt]) -> list[Context]:
        """The context of each prompt, of one text (1, tokens, width)."""
        ...

    def sizes_of(self, latents: Tensor) -> tuple[int, ...]:
        """What the network is told of the picture of some latents (``families.SIZES``), or nothing."""
        ...

    def conditioned(self, source: Prompt, empty: Prompt, sizes: tuple[int, ...]) -> Model:
        """The model with all that goes with texts beside their contexts, of a picture of these sizes."""
        ...

    def check_made(self, inversion: Inversion) -> None:
        """Raise InputError unless this model made the inversion."""
        ...

    def truth(self, inversion: Inversion) -> Check:
        """What tells the user where the model does not predict the inversion's trajectory any more."""
        ...

    def tell(self, text: str) -> None:
        """Say a sentence to the user while the work goes on."""
        ...

    def run(
        self,
        job: Callable[[Denoiser, Tensor], Result],
        latents: Tensor,
        schedule: Schedule,
        gradients: bool = False,
        branches: int = 1,
    ) -> Result:
        """What ``job`` returns of the denoiser and the latents on its device.

        Once more in safer precision where float16 overflows, and with gradient checkpointing where memory runs out.
        ``gradients``: whether the job differentiates. ``branches``: rows of each latent that it samples at once.
        """
        ...


class Computing(Protocol):
    """What a network computes in, and how to change it."""

    @property
    def compute_dtype(self) -> torch.dtype:
        """In which precision it computes, whatever its weights are kept in."""
        ...

    def check_weights(self) -> None:
        """Raise NonFiniteError where a weight is NaN or infinite."""
        ...

    def compute_in_float32(self) -> None:
        """Compute in float32 from now on. The weights keep what float16 made of them."""
        ...

    def tell(self, text: str) -> None:
        """Say a sentence to the user."""
        ...


def in_safer_precision(job: Callable[[], Result], network: Computing) -> Result:
    """What ``job`` returns; where float16 overflows in it, what it returns with the network in float32.

    Raises NonFiniteError where another precision, the second run, or a weight has NaN.
    """
    try:
        return job()
    except NonFiniteError as error:
        network.check_weights()
        if network.compute_dtype != torch.float16:
            raise
        found = str(error)
    # outside of the handler, which keeps the failed run's tensors alive
    network.tell(f"{found}; once more in float32")
    network.compute_in_float32()
    return job()


@dataclass
class Checkpointing:
    """Whether blocks compute their inner values again for the backward pass in place of keeping them."""

    on: bool = False


@dataclass(frozen=True)
class Memory:
    """A device's memory: how a host frees it (``wholly``: all that it can), how it speaks, and what it advises."""

    free: Callable[[bool], None]
    tell: Callable[[str], None]
    advice: str


def in_less_memory(job: Callable[[], Result], checkpointing: Checkpointing, memory: Memory) -> Result:
    """What ``job`` returns, tried once more with gradient checkpointing where memory runs out.

    Raises InputError where it runs out with checkpointing too.
    """
    while True:
        try:
            return job()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if checkpointing.on:
                memory.free(True)
                raise InputError(
                    "there is not enough memory to optimize this picture; take a smaller one, fewer pictures at once, "
                    f"or {memory.advice}"
                ) from error
        # outside of the handler, which keeps the failed run's tensors alive
        memory.tell("ran out of memory; once more with gradient checkpointing")
        memory.free(False)
        checkpointing.on = True


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device, whichever it is, had no memory left."""
    text = str(error).lower()
    return isinstance(error, torch.cuda.OutOfMemoryError) or any(words in text for words in NO_MEMORY)
