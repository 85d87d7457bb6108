"""What other nodes have put on a MODEL: who they are, and whether our assumptions hold with them.

Values that others left there are never compared and never asked for their truth: they may be tensors.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy_api.torch_helpers.torch_compile import COMPILE_KEY
from torch import Tensor, nn

from ...context import Context, cat
from ...denoiser import Denoiser
from ...errors import InputError
from ...schedule import NoiseLevel
from .protocols import Options, UNet

EVERYWHERE = "connect the MODEL from before that node to DDIM Invert and to all that follows"
"""The way out of every refusal: a MODEL that is changed in one place alone would let the photo drift."""
OWN_WRAPPER = "null-text inversion"
"""Under this key Apply Null-Text wraps a MODEL's predictions."""
TOGETHER, ROUNDING = 0.03, 0.01
"""How far predictions may move with what shares their call: in units of what two texts differ by, and of themselves.
Measured near the photo on the demo model: rounding in half precision moves them by 0.003 and 0.002, weak normalized
attention guidance (scale 2, alpha 0.25) by 0.12 and 0.07."""
LUCK = 3.0
"""How many times farther they must move than by luck alone."""
PATCHES = ("patches", "patches_replace")
"""Under these keys of the transformer options other nodes change what the network computes."""


def holds(value: object) -> bool:
    """Whether an entry of a MODEL's options holds anything at all."""
    if isinstance(value, dict):
        return any(map(holds, value.values()))
    if isinstance(value, list | tuple | set):
        return any(map(holds, value))
    return value is not None and value is not False


def weights_of(network: torch.nn.Module) -> dict[str, Tensor]:
    """A network's weights by name.

    Layers of quantized weights (GGUF) put hollow tensors into a state dict, and some that are no weights; those they
    really have are taken, as they keep them.
    """
    kept = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    found = {name: kept.get(name, one) if one.is_meta else one for name, one in network.state_dict().items()}
    return {name: weight for name, weight in found.items() if not weight.is_meta}


def functions_in(value: object) -> Iterator[Callable[..., Any]]:
    """Every function of others in a MODEL's options, however deep."""
    if isinstance(value, dict):
        value = [each for key, each in value.items() if not (isinstance(key, str) and key == OWN_WRAPPER)]
    if isinstance(value, list | tuple | set):
        for one in value:
            yield from functions_in(one)
    elif callable(value) and not isinstance(value, Tensor | type):
        yield value


def named(*places: object) -> str:
    """Whose functions are in ``places``, in brackets, as a part of a sentence; an empty text where there are none."""
    names = dict.fromkeys(owner(function) for place in places for function in functions_in(place))
    return f" ({', '.join(names)})" if names else ""


def owner(function: object) -> str:
    """Who made a function: its node's class, and the folder of its pack where it is not ComfyUI's own."""
    while isinstance(function, partial):
        function = function.func
    maker = function if hasattr(function, "__qualname__") else type(function)
    name, file = maker.__qualname__.split(".")[0], getattr(sys.modules.get(maker.__module__), "__file__", None)
    for folder in folder_paths.get_folder_paths("custom_nodes"):
        if file and Path(file).is_relative_to(folder):
            return f"{name} of {Path(file).relative_to(folder).parts[0]}"
    return name


@dataclass
class Watch:
    """Counts the rows that a network has run for; ``seen`` since it was last asked."""

    others: str
    seen: int = 0
    ran: bool = False

    def missed(self, rows: int) -> bool:
        """Whether the network did not run for so many rows since it was last asked, though it did before."""
        seen, self.seen = self.seen, 0
        self.ran |= seen > 0
        return self.ran and seen < rows

    def check(self, rows: int) -> None:
        """Raise InputError where the network missed rows."""
        if self.missed(rows):
            raise InputError(
                f"another node on this MODEL{self.others} leaves out predictions, or parts of them, and the photo "
                f"would drift; {EVERYWHERE}"
            )


@contextmanager
def watched(network: UNet, options: Options) -> Iterator[Watch | None]:
    """A watch over a ComfyUI UNet's innermost block; None for a compiled network, which need not heed it, and for other
    kinds of network."""
    transformer = options.get("transformer_options", {})
    wrappers = transformer.get("wrappers", {})
    if (
        not hasattr(network, "middle_block")
        or hasattr(network, "_orig_mod")
        or any(COMPILE_KEY in kind for kind in wrappers.values())
    ):
        yield None
        return
    watch = Watch(named(options))

    def count(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        watch.seen += len(inputs[0])

    # ComfyUI calls a block's layers one by one, never the block
    handle = (network.middle_block or network.input_blocks[-1])[0].register_forward_pre_hook(count)
    try:
        yield watch
    finally:
        handle.remove()


def check_apart(denoiser: Denoiser, latents: Tensor, level: NoiseLevel, context: Context, options: Options) -> None:
    """Raise InputError where a patch makes predictions of one call read each other.

    Conditional and unconditional ones, or pictures: they are predicted together in some places and alone in others.
    Clean latents (1, C, h, w), the least noisy level, the context of one text. Costs four samples or six, none for a
    MODEL without patches.
    """
    transformer = options.get("transformer_options", {})
    places = [options.get("model_function_wrapper"), *(transformer.get(key) for key in PATCHES)]
    if not named(places):
        return
    # without words: all its tokens are the one that begins a text
    begun = context.text[:, :1].expand_as(context.text)
    texts = cat([Context(begun, None if context.pooled is None else torch.zeros_like(context.pooled)), context])

    def alone() -> Tensor:
        return torch.cat([denoiser(latents, level, texts[:1], unconditional=1), denoiser(latents, level, texts[1:])])

    first, moved = alone(), denoiser(latents.repeat(2, 1, 1, 1), level, texts, unconditional=1)
    apart = (moved - first).norm()
    if apart <= TOGETHER * (first[1] - first[0]).norm() + ROUNDING * first.norm():
        return
    # patches that draw random numbers, as ToMe does, move every prediction
    if apart > LUCK * (alone() - first).norm():
        raise InputError(
            f"another node on this MODEL{named(places)} makes the predictions of one call read each other, as guidance "
            f"in the attention does, for which null text cannot be optimized; {EVERYWHERE}"
        )
