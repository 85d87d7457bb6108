"""Text encoders of a diffusers folder as ComfyUI's CLIP, at any width: as many as the family has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import comfy.sd
import comfy.sd1_clip
import comfy.sdxl_clip
import comfy.supported_models_base
import comfy.utils
import folder_paths
import torch
from torch import Tensor

from ....errors import InputError
from ....families import TextEncoder
from ....prompt_to_prompt.prompt import check_tokens
from ...clip_tokenizer import load_tokenizer
from ...model_folder import ModelFolder
from ..protocols import Clip, Options
from .weights import lacking, read_weights

VOCABULARY = 49_408
"""Rows of the token table that ComfyUI builds, whatever the tokenizer."""
TABLE = "text_model.embeddings.token_embedding.weight"
UNUSED = {"text_model.embeddings.position_ids"}
PROJECTION = "text_projection.weight"
"""What ComfyUI's text encoders have and only one whose pooled vector is read needs."""


@dataclass(frozen=True, eq=False)
class _Part:
    """One text encoder of a folder: what builds its tokenizer and its network, and its weights."""

    tokenizer: Callable[..., object]
    network: Callable[..., object]
    weights: dict[str, Tensor]


def load_clip(folder: ModelFolder) -> Clip:
    """ComfyUI's CLIP of a folder's text encoders.

    Raises InputError where one is broken or of another build.
    """
    rows = folder.family.encoders
    found = [_part(folder, row) for row in rows]
    weights = {f"{number}.{name}": w for number, one in enumerate(found) for name, w in one.weights.items()}
    clip = comfy.sd.CLIP(
        _target(rows, found),
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        parameters=comfy.utils.calculate_parameters(weights),
    )
    model = clip.cond_stage_model
    for row, one in zip(rows, found, strict=True):
        missing = set(getattr(model, f"clip_{row.comfy}").load_sd(one.weights).missing_keys) - UNUSED
        if not row.pooled:
            missing -= {PROJECTION}
        if missing:
            raise lacking(folder.path, "text encoder", missing)
    return clip


def _part(folder: ModelFolder, row: TextEncoder) -> _Part:
    config = folder.configs[row.part]
    if row.pooled and config["projection_dim"] != config["hidden_size"]:
        raise InputError(f'the {row.part} of "{folder.path.name}" is not built as that of {folder.family.name} models')
    if config["max_position_embeddings"] != row.tokens:
        raise InputError(
            f'the {row.part} of "{folder.path.name}" reads {config["max_position_embeddings"]} tokens; ComfyUI gives '
            f"{row.tokens}"
        )
    tokens = load_tokenizer(folder.path / row.tokenizer)
    special = {"start": tokens.bos_token_id, "end": tokens.eos_token_id, "pad": tokens.pad_token_id}
    layers = {"layer": "hidden", "layer_idx": -2, "layer_norm_hidden_state": False} if row.layer == -2 else {}
    network = partial(
        comfy.sd1_clip.SDClipModel,
        textmodel_json_config=config, special_tokens=special, return_projected_pooled=row.pooled, **layers,
    )  # fmt: skip
    splitter = partial(
        comfy.sd1_clip.SDTokenizer,
        tokenizer_path=row.tokenizer, tokenizer_class=_Read(tokens), pad_token=special["pad"],
        embedding_size=config["hidden_size"], embedding_key=f"clip_{row.comfy}",
    )  # fmt: skip
    return _Part(
        splitter, network, _named(folder.path, read_weights(folder.path, row.part), max(tokens.get_vocab().values()))
    )


@dataclass(frozen=True, eq=False)
class _Read:
    """A tokenizer that was read already, where ComfyUI asks a class to read one."""

    tokens: object

    def from_pretrained(self, path: str, **named: object) -> object:
        """The tokenizer."""
        return self.tokens


def _named(folder: Path, weights: dict[str, Tensor], highest: int) -> dict[str, Tensor]:
    """Weights by ComfyUI's names, the token table as long as its.

    Raises InputError where it is not there, or lacks the tokenizer's ``highest`` token.
    """
    named = {k if k.startswith("text_") else f"text_model.{k}": v for k, v in weights.items()}
    if TABLE not in named:
        raise lacking(folder, "text encoder", {TABLE})
    table = named[TABLE]
    check_tokens(highest, min(len(table), VOCABULARY))
    named[TABLE] = torch.nn.functional.pad(table, (0, 0, 0, VOCABULARY - len(table)))
    return named


def _target(rows: tuple[TextEncoder, ...], parts: list[_Part]) -> object:
    """What ComfyUI builds a CLIP from."""
    if len(parts) == 1:
        return comfy.supported_models_base.ClipTarget(
            partial(comfy.sd1_clip.SD1Tokenizer, tokenizer=parts[0].tokenizer),
            partial(comfy.sd1_clip.SD1ClipModel, clip_model=parts[0].network),
        )

    class Tokenizer(comfy.sdxl_clip.SDXLTokenizer):
        """SDXL's, from this folder."""

        def __init__(self, **named: object) -> None:
            for row, part in zip(rows, parts, strict=True):
                setattr(self, f"clip_{row.comfy}", part.tokenizer(**named))

    class Encoder(comfy.sdxl_clip.SDXLClipModel):
        """SDXL's, at this folder's widths."""

        def __init__(
            self, device: object = "cpu", dtype: torch.dtype | None = None, model_options: Options | None = None
        ) -> None:
            torch.nn.Module.__init__(self)
            given = {"device": device, "dtype": dtype, "model_options": model_options or {}}
            for row, part in zip(rows, parts, strict=True):
                setattr(self, f"clip_{row.comfy}", part.network(**given))
            self.dtypes = {dtype}

    return comfy.supported_models_base.ClipTarget(Tokenizer, Encoder)
