"""What we use of ComfyUI, by type: its own classes, which are large, differ between versions and have few types.

Nothing here is ever made or checked at run time, and nothing of ComfyUI is imported. What ComfyUI keeps in dictionaries
of many kinds of values has a name of its own here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypedDict, overload

import torch
from torch import Tensor, nn

Extras = dict[str, Any]
"""What goes with a text in a CONDITIONING: its pooled vector, a ControlNet, sizes."""
Conditioning = list[tuple[Tensor, Extras]]
"""ComfyUI's CONDITIONING: texts that are encoded."""
Cond = dict[str, Any]
"""A text as the guider hands it to the network: its inputs by name, in ``model_conds``, and its extras."""
Conds = list[list[Cond] | None]
"""The texts of a call of the network: as a rule positive ones, then negative ones."""
Options = dict[str, Any]
"""``model_options`` of a MODEL, and the ``transformer_options`` in them: what nodes have put there."""
Extra = dict[str, Any]
"""What a layer is told of the call that it runs in: heads, rows, the size of the latents."""
Token = tuple[int | Tensor, float, int]
"""A token's number or learned embedding, its weight, and the number of its word."""
Chunks = list[list[Token]]
"""Tokens in chunks of 77."""
Weighted = dict[str, list[list[tuple[int | Tensor, float]]]]
"""Tokens in chunks and their weights, by text encoder."""


class Latent(TypedDict, total=False):
    """ComfyUI's LATENT. ``samples``: (B, C, h, w); ``noise_mask``: (…, H, W), where to sample."""

    samples: Tensor
    noise_mask: Tensor


class Sampling(Protocol):
    """Noise levels of a network, and what it predicts. ``sigmas``: σ of every training timestep, rising."""

    sigmas: Tensor
    log_sigmas: Tensor


class Config(Protocol):
    """How a network was built."""

    unet_config: dict[str, Any]


class UNet(nn.Module):
    """The network itself, by its blocks of layers."""

    input_blocks: Sequence[nn.Sequential]
    middle_block: nn.Sequential
    output_blocks: Sequence[nn.Sequential]
    model_channels: int


class Network(Protocol):
    """ComfyUI's ``BaseModel``: a network with its noise levels and the scale of its latents."""

    diffusion_model: UNet
    model_config: Config

    def process_latent_in(self, latent: Tensor) -> Tensor:
        """Latents in the network's scale of a LATENT's."""
        ...

    def process_latent_out(self, latent: Tensor) -> Tensor:
        """A LATENT's of latents in the network's scale."""
        ...

    def get_dtype(self) -> torch.dtype:
        """What its weights are kept in."""
        ...


class Patcher(Protocol):
    """ComfyUI's ``ModelPatcher``, the MODEL on a wire."""

    model: Network
    model_options: Options
    object_patches: Mapping[str, object]
    patches: Mapping[str, list[tuple[Any, ...]]]
    backup: Mapping[str, Any]
    wrappers: Mapping[str, object]
    load_device: torch.device

    def clone(self) -> Patcher:
        """Another MODEL of the same network, to be patched by itself."""
        ...

    @overload
    def get_model_object(self, name: Literal["model_sampling"]) -> Sampling: ...
    @overload
    def get_model_object(self, name: Literal["manual_cast_dtype"]) -> torch.dtype | None: ...
    @overload
    def get_model_object(self, name: str) -> Any: ...

    def add_object_patch(self, name: str, value: nn.Module) -> None:
        """Put another object in the place of one of the network."""
        ...

    def model_size(self) -> int:
        """Bytes of the weights."""
        ...

    def set_model_compute_dtype(self, dtype: torch.dtype) -> None:
        """Let the network compute in another precision."""
        ...

    def get_additional_models_with_key(self, key: str) -> list[Patcher]:
        """Other MODELs that come with it."""
        ...

    def get_all_wrappers(self, kind: str) -> list[Callable[..., Any]]:
        """What nodes have put around a stage of sampling."""
        ...


class StreamedPatcher(Patcher, Protocol):
    """A MODEL of a ComfyUI that knows dynamic offloading."""

    cached_patcher_init: object

    def is_dynamic(self) -> bool:
        """Whether its weights are streamed to the device."""
        ...

    def clone(self, disable_dynamic: bool = False) -> Patcher:
        """Another MODEL of the same network, without streaming if asked."""
        ...

    def get_non_dynamic_delegate(self) -> Patcher:
        """The same with its weights wholly on the device."""
        ...


class ControlNet(Protocol):
    """A ControlNet in a CONDITIONING."""

    get_control: Callable[..., Any]

    def get_models(self) -> list[Patcher]:
        """Its networks."""
        ...

    def copy(self) -> ControlNet:
        """Another of the same networks."""
        ...


class WordPieces(Protocol):
    """The tokenizer of a library, inside of ComfyUI's."""

    def decode(self, tokens: list[int]) -> str:
        """The text of some tokens."""
        ...


class Tokenizer(Protocol):
    """ComfyUI's ``SDTokenizer``, of one text encoder."""

    end_token: int
    embedding_size: int
    inv_vocab: Mapping[int, str]
    tokenizer: WordPieces


class Clip(Protocol):
    """ComfyUI's CLIP. ``tokenizer``: has a ``Tokenizer`` for each text encoder, as ``clip_NAME``."""

    tokenizer: object
    cond_stage_model: nn.Module

    @overload
    def tokenize(self, text: str) -> Weighted: ...
    @overload
    def tokenize(self, text: str, return_word_ids: Literal[True]) -> dict[str, Chunks]: ...

    def encode_from_tokens_scheduled(self, tokens: Weighted) -> Conditioning:
        """The CONDITIONING of a text's tokens."""
        ...


class Vae(Protocol):
    """ComfyUI's VAE. Pictures are (B, H, W, 3) in 0…1."""

    def encode(self, pictures: Tensor) -> Tensor:
        """A LATENT's samples of pictures."""
        ...

    def decode(self, samples: Tensor) -> Tensor:
        """Pictures of a LATENT's samples."""
        ...


class Guider(Protocol):
    """ComfyUI's ``CFGGuider`` and those of other packs, which may have another ``cfg``, or none."""

    model_patcher: Patcher
    model_options: Options
    conds: dict[str, list[Cond]]
    cfg: object


class GuidedNetwork(Protocol):
    """What a sampler is given to sample: the guider, around the network that it has loaded."""

    inner_model: Network
    conds: dict[str, list[Cond]]


class OuterSample(Protocol):
    """The rest of a sampler's run, inside of a wrapper around all of it."""

    class_obj: Guider

    def __call__(
        self, noise: Tensor, latent: Tensor, sampler: object, sigmas: Tensor, *rest: Any, **named: Any
    ) -> Tensor:
        """The samples."""
        ...


class CalcCondBatch(Protocol):
    """The rest of a call of the network, inside of a wrapper around it."""

    def __call__(self, network: Network, conds: Conds, x: Tensor, timestep: Tensor, options: Options) -> list[Tensor]:
        """The clean latents that are predicted, for each list of texts."""
        ...


Inputs = dict[str, Any]
"""A node's inputs in a graph: values, and links to other nodes."""


class Graph(Protocol):
    """The graph that runs, as a node may ask for it."""

    def get_node(self, key: str) -> Inputs:
        """A node's class and inputs."""
        ...
