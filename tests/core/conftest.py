"""Tiny networks and prompts that the core's tests share."""

import pytest
import torch

from .helpers import tiny_unet, tiny_vae_folder


@pytest.fixture
def unet64():
    """A tiny UNet in float64, sensitive to its context."""
    return tiny_unet(torch.float64)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A complete tiny diffusers folder with random weights."""
    return tiny_vae_folder(tmp_path_factory.mktemp("model"))
