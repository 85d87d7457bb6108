"""Tiny networks and prompts that the core's tests share."""

from pathlib import Path

import pytest
import torch
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

import nullinv_core.demo

from .helpers import tiny_unet, tiny_vae_folder


@pytest.fixture
def unet64():
    """A tiny UNet in float64, sensitive to its context."""
    return tiny_unet(torch.float64)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A complete tiny diffusers folder with random weights."""
    return tiny_vae_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    """A tiny random CLIP in the layout of the real one."""
    # found by transformers itself, it warns that torchvision is not there
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    folder = tmp_path_factory.mktemp("clip")
    tokenizer = CLIPTokenizer.from_pretrained(Path(nullinv_core.demo.__file__).parent / "model" / "tokenizer")
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={**small, **ids, "vocab_size": len(tokenizer) + 5},
        vision_config={**small, "image_size": 32, "patch_size": 8}, projection_dim=16,
    )  # fmt: skip
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    preparation = {"shortest_edge": 32}, {"height": 32, "width": 32}
    CLIPImageProcessorPil(size=preparation[0], crop_size=preparation[1]).save_pretrained(folder)
    return folder
