"""Text encoders of a diffusers folder as ComfyUI's CLIP, at any width: one (1.x, 2.x), or two (SDXL)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import comfy.sd
import comfy.sd1_clip
import comfy.sdxl_clip
import comfy.supported_models_base
import comfy.utils
import folder_paths
import torch
from torch import Tensor
from transformers import CLIPTokenizer, CLIPTokenizerFast

from ..errors import InputError
from ..prompt_to_prompt.prompt import check_tokens
from .comfy_folder import check_whole, read_weights
from .model_folder import read_config

VOCABULARY = 49_408
"""Rows of the token table that ComfyUI builds, whatever the tokenizer."""
UNUSED = {"text_model.embeddings.position_ids"}
PROJECTION = "text_projection.weight"
"""What ComfyUI's text encoder has and only SDXL's second one reads."""


@dataclass(frozen=True, eq=False)
class _Part:
    """One text encoder of a folder: what builds its tokenizer and its network, and its weights."""

    tokenizer: Any
    network: Any
    weights: dict[str, Tensor]


def load_clip(folder: Path, parts: tuple[tuple[str, str], ...]) -> Any:
    """ComfyUI's CLIP of a folder's text encoders, by the names of their own and their tokenizers' folders.

    Raises InputError where one is broken or of another build.
    """
    found = [_part(folder, *names, len(parts) > 1) for names in parts]
    weights = {f"{number}.{name}": w for number, one in enumerate(found) for name, w in one.weights.items()}
    clip = comfy.sd.CLIP(
        _target(found),
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        parameters=comfy.utils.calculate_parameters(weights),
    )
    model = clip.cond_stage_model
    for one, network in zip(found, [getattr(model, f"clip_{name}") for name in ("l", "g")[: len(found)]], strict=True):
        missing = set(network.load_sd(one.weights).missing_keys) - UNUSED
        check_whole(folder, "text encoder", missing if one is found[-1] and len(found) > 1 else missing - {PROJECTION})
    return clip


def _part(folder: Path, encoder: str, tokenizer: str, sdxl: bool) -> _Part:
    try:
        return _read_part(folder, encoder, tokenizer, sdxl)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f'"{encoder}" or "{tokenizer}" of "{folder.name}" lacks {error}; get a complete copy of the model'
        ) from error


def _read_part(folder: Path, encoder: str, tokenizer: str, sdxl: bool) -> _Part:
    config = read_config(folder / encoder / "config.json")
    second = encoder != "text_encoder"
    if second and config.get("projection_dim") != config["hidden_size"]:
        raise InputError(f'the second text encoder of "{folder.name}" is not built as SDXL\'s')
    tokens = _tokenizer(folder / tokenizer)
    special = {"start": tokens.bos_token_id, "end": tokens.eos_token_id, "pad": tokens.pad_token_id}
    layers = {"layer": "hidden", "layer_idx": -2, "layer_norm_hidden_state": False} if sdxl else {}
    network = partial(
        comfy.sd1_clip.SDClipModel,
        textmodel_json_config=config, special_tokens=special, return_projected_pooled=second, **layers,
    )  # fmt: skip
    splitter = partial(
        comfy.sd1_clip.SDTokenizer,
        tokenizer_path=str(folder / tokenizer), tokenizer_class=type(tokens), pad_token=special["pad"],
        embedding_size=config["hidden_size"], embedding_key="clip_g" if second else "clip_l",
    )  # fmt: skip
    return _Part(splitter, network, _named(read_weights(folder, encoder), max(tokens.get_vocab().values())))


def _tokenizer(folder: Path) -> Any:
    # transformers 4 has two classes, of which the first reads no tokenizer.json
    kind = CLIPTokenizer if (folder / "vocab.json").is_file() else CLIPTokenizerFast
    try:
        return kind.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:
        raise InputError(
            f'"{folder.name}" of "{folder.parent.name}" is no CLIP tokenizer; get a complete copy of the model'
        ) from error


def _named(weights: dict[str, Tensor], highest: int) -> dict[str, Tensor]:
    """Weights by ComfyUI's names, the token table as long as its.

    Raises InputError where it lacks the tokenizer's ``highest`` token.
    """
    named = {k if k.startswith("text_") else f"text_model.{k}": v for k, v in weights.items()}
    table = named["text_model.embeddings.token_embedding.weight"]
    check_tokens(highest, len(table))
    named["text_model.embeddings.token_embedding.weight"] = torch.nn.functional.pad(
        table, (0, 0, 0, VOCABULARY - len(table))
    )
    return named


def _target(parts: list[_Part]) -> Any:
    """What ComfyUI builds a CLIP from."""
    if len(parts) == 1:
        return comfy.supported_models_base.ClipTarget(
            partial(comfy.sd1_clip.SD1Tokenizer, tokenizer=parts[0].tokenizer),
            partial(comfy.sd1_clip.SD1ClipModel, clip_model=parts[0].network),
        )

    class Tokenizer(comfy.sdxl_clip.SDXLTokenizer):
        """SDXL's, from this folder."""

        def __init__(self, **named: Any) -> None:
            self.clip_l, self.clip_g = (part.tokenizer(**named) for part in parts)

    class Encoder(comfy.sdxl_clip.SDXLClipModel):
        """SDXL's, at this folder's widths."""

        def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> None:
            torch.nn.Module.__init__(self)
            given = {"device": device, "dtype": dtype, "model_options": model_options or {}}
            self.clip_l, self.clip_g = (part.network(**given) for part in parts)
            self.dtypes = {dtype}

    return comfy.supported_models_base.ClipTarget(Tokenizer, Encoder)
