"""Builders of tiny random networks, prompts and denoisers for tests."""

import json
import shutil
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from nullinv_core import Context, Prompt, leading_schedule
from nullinv_core.backends.diffusers import DEMO_MODEL, DiffusersDenoiser
from nullinv_core.backends.diffusers.attention import ControlledAttention
from nullinv_core.demo.training.folder import scheduler, write_model
from nullinv_core.prompt_to_prompt.prompt import END, PAD, START
from nullinv_core.schedule import scaled_linear_alphas

WIDTH, TOKENS = 12, 10


def tiny_unet(dtype=torch.float32, seed=0, width=WIDTH, sample_size=8):
    """Two levels with attention at both; cross-attention scaled up so that the prompt matters."""
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=sample_size,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=width,
        attention_head_dim=2,
    )
    _let_text_matter(unet)
    return unet.to(dtype).eval().requires_grad_(False)


def _let_text_matter(unet):
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if "attn" in name and parameter.ndim == 2:
                parameter *= 3.0


def controlled(unet, prediction="epsilon"):
    """A denoiser of ours around a UNet."""
    unet.set_attn_processor(ControlledAttention())
    return DiffusersDenoiser(unet, prediction)


def tiny_schedule(steps=4):
    """The paper's spacing with so few steps that tests stay quick."""
    return leading_schedule(scaled_linear_alphas(), steps)


def word_prompt(text, length=TOKENS, vocabulary=97):
    """A prompt of one token per word, two for words of more than five letters; ids depend on the word alone."""
    ids, places, words = [0], [START], text.split()
    for index, word in enumerate(words):
        for part in range(1 + (len(word) > 5)):
            ids.append(1 + sum(map(ord, word)) % vocabulary + part)
            places.append(index)
    ids.append(vocabulary + 3)
    places.append(END)
    places += [PAD] * (length - len(ids))
    ids += [vocabulary + 3] * (length - len(ids))
    assert len(ids) == length, f"{text!r} needs {len(ids)} tokens"
    return Prompt(text, tuple(ids), tuple(words), tuple(places))


def context_of(prompt, dtype=torch.float64, width=WIDTH):
    """The context of a single text, which depends on token ids and positions: (tokens, width)."""
    rows = [torch.randn(width, generator=torch.Generator().manual_seed(i)) for i in prompt.token_ids]
    position = torch.randn(len(rows), width, generator=torch.Generator().manual_seed(999))
    return Context((torch.stack(rows) + 0.3 * position).to(dtype))


def empty_context(dtype=torch.float64, length=TOKENS):
    """Context of the empty prompt."""
    return context_of(word_prompt("", length), dtype)


def latents_of(batch=1, size=8, dtype=torch.float64, seed=5):
    """Random clean latents (batch, 4, size, size)."""
    return torch.randn(batch, 4, size, size, generator=torch.Generator().manual_seed(seed)).to(dtype)


def demo_tokenizer(folder: Path) -> CLIPTokenizer:
    """Write the demo model's tokenizer to a folder; return it, unused."""
    shutil.copytree(DEMO_MODEL / "tokenizer", folder, dirs_exist_ok=True)
    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def tiny_vae_folder(folder: Path) -> Path:
    """Write a tiny but complete Stable Diffusion folder: 32×32 pixels, random weights."""
    tokenizer = demo_tokenizer(folder / "tokenizer")
    torch.manual_seed(3)
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=77, bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    unet = tiny_unet(width=16, sample_size=4)
    write_model(folder, AutoencoderTiny(scaling_factor=1.0), unet, text, demo_tokenizer(folder / "tokenizer"))
    demo_tokenizer(folder / "tokenizer")
    return folder


def with_plain_autoencoder(folder: Path) -> StableDiffusionPipeline:
    """A folder's pipeline with Stable Diffusion's kind of autoencoder, which single files hold; random weights."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    torch.manual_seed(0)
    pipeline.vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), norm_num_groups=4, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    return pipeline


def tiny_xl_folder(folder: Path, pooled=20, time_width=8, heads=2) -> Path:
    """Write a tiny but complete SDXL folder: 64×64 pixels, attention from the second level on, random weights."""
    tokenizers = [demo_tokenizer(folder / name) for name in ("tokenizer", "tokenizer_2")]
    # SDXL's second tokenizer fills up with its first token
    tokenizers[1].pad_token = tokenizers[1].convert_ids_to_tokens(0)
    torch.manual_seed(4)

    def text(kind, width):
        return kind(
            CLIPTextConfig(
                vocab_size=len(tokenizers[0]), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=3,
                num_attention_heads=2, max_position_embeddings=77, projection_dim=pooled,
                bos_token_id=tokenizers[0].bos_token_id, eos_token_id=tokenizers[0].eos_token_id,
            )
        )  # fmt: skip

    encoders = text(CLIPTextModel, 12), text(CLIPTextModelWithProjection, 16)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 64), layers_per_block=1, transformer_layers_per_block=(1, 2),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=28, attention_head_dim=(heads, 2 * heads), use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=time_width,
        projection_class_embeddings_input_dim=pooled + 6 * time_width,
    )  # fmt: skip
    _let_text_matter(unet)
    vae = AutoencoderKL(
        block_out_channels=(32, 32, 32, 32), latent_channels=4, scaling_factor=0.13025, layers_per_block=2,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    pipeline = StableDiffusionXLPipeline(
        vae, *encoders, *tokenizers, unet, scheduler(), force_zeros_for_empty_prompt=False, add_watermarker=False
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    # the map that demo_tokenizer left wins over what the pipeline has saved
    special = folder / "tokenizer_2" / "special_tokens_map.json"
    special.write_text(json.dumps({**json.loads(special.read_text()), "pad_token": tokenizers[1].pad_token}))
    return folder
