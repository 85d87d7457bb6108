"""A folder with random weights and Stable Diffusion 1.5's levels, blocks and proportions, a tenth as wide."""

import torch
from diffusers import UNet2DConditionModel

from nullinv_core.demo.training.autoencoder import new_autoencoder
from nullinv_core.demo.training.folder import write_model
from nullinv_core.demo.training.text import WIDTH, new_text_encoder

from ..core.helpers import demo_tokenizer


def write_proportions(folder):
    """Write the folder, the same each time."""
    tokenizer = demo_tokenizer(folder / "tokenizer")
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=16, block_out_channels=(32, 64, 128, 128), layers_per_block=2, attention_head_dim=2,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3, cross_attention_dim=WIDTH,
    )  # fmt: skip
    write_model(folder, new_autoencoder(), unet, new_text_encoder(tokenizer), demo_tokenizer(folder / "tokenizer"))
