"""SDXL: two text encoders, a pooled vector that contexts carry, and the picture's size."""

import json
from dataclasses import replace

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from hypothesis import given
from hypothesis import strategies as st

from nullinv_core import (
    PRESETS,
    EditSettings,
    InputError,
    NullTextSettings,
    batch_edits,
    edit,
    embed,
    invert,
    optimize_null_text,
    plan_edit,
    reconstruct,
)  # fmt: skip
from nullinv_core.backends.diffusers import load_model, wrap_pipeline
from nullinv_core.context import lengthened, pack, pooled_rows, unpack
from nullinv_core.schedule import NoiseLevel

from .helpers import latents_of, tiny_xl_folder

LEVEL = NoiseLevel(500.0, 0.3)
POOLED = 20
TEXTS = ("a red cat on a marble table", "a red dog on a marble table", "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_xl_folder(tmp_path_factory.mktemp("xl"), POOLED)


@pytest.fixture(scope="module")
def model(folder):
    return load_model(folder)


@pytest.fixture(scope="module")
def contexts(model):
    return model.encode_prompts([model.prompt(text) for text in TEXTS])


def latents(batch=1, size=32):
    return latents_of(batch, size, torch.float32)


@given(batch=st.integers(1, 3), tokens=st.integers(1, 9), width=st.integers(1, 9), pooled=st.integers(1, 30))
def test_a_pooled_vector_comes_back_whole(batch, tokens, width, pooled):
    """Guards the packing at any widths, where the vector is longer than a row too; and longer contexts."""
    text, vector = torch.randn(batch, tokens, width), torch.randn(batch, pooled)
    packed = pack(text, vector)
    assert pack(text.half(), vector).dtype == torch.float16
    assert packed.shape == (batch, tokens + pooled_rows(pooled, width), width)
    found = unpack(packed, pooled)
    assert torch.equal(found[0], text) and torch.equal(found[1], vector)
    assert pack(text, None) is text and unpack(text, 0) == (text, None)
    longer = lengthened(packed, 3 * tokens, pooled)
    assert torch.equal(unpack(longer, pooled)[0], text.repeat(1, 3, 1)) and torch.equal(
        unpack(longer, pooled)[1], vector
    )
    assert lengthened(packed, tokens, pooled) is packed
    if tokens > 1:
        with pytest.raises(InputError, match=f"takes {tokens} tokens, the source {3 * tokens + 1}; shorten it"):
            lengthened(packed, 3 * tokens + 1, pooled)


def test_the_pipeline_gives_the_same_noise_prediction(folder, model, contexts):
    """Guards loading: both encoders' layers, the pooled vector, sizes and ε are those of diffusers' own pipeline."""
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder, local_files_only=True)
    embedded, _, pooled, _ = pipeline.encode_prompt(TEXTS[0], device="cpu", do_classifier_free_guidance=False)
    text, vector = unpack(contexts[:1], POOLED)
    assert torch.allclose(text, embedded, atol=1e-6) and torch.allclose(vector, pooled, atol=1e-6)
    sizes = pipeline._get_add_time_ids((128, 256), (0, 0), (128, 256), torch.float32, POOLED)
    z = torch.randn(1, 4, 16, 32, generator=torch.Generator().manual_seed(0))
    added = {"text_embeds": pooled, "time_ids": sizes}
    theirs = pipeline.unet(z, torch.tensor(500), embedded, added_cond_kwargs=added).sample
    ours = model.denoiser(z, LEVEL, contexts[:1])
    assert torch.allclose(ours, theirs, atol=1e-5)
    other = torch.cat([contexts[:1, :-1], contexts[1:2, -1:]], 1)
    assert not torch.allclose(model.denoiser(z, LEVEL, other), theirs, atol=1e-5), "the pooled vector matters"


def test_latents_have_the_autoencoders_scale(model):
    """Guards both ways through an autoencoder whose scale is not 1: its mode times the scale, and back."""
    images = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    mode = model.vae.encode(images.permute(0, 3, 1, 2) * 2 - 1).latent_dist.mode()
    assert model.vae.config.scaling_factor == 0.13025
    assert torch.allclose(model.encode_image(images), mode * 0.13025, atol=1e-6)
    pixels = model.vae.decode(mode).sample.permute(0, 2, 3, 1) / 2 + 0.5
    assert torch.allclose(model.decode(mode * 0.13025), pixels.clamp(0, 1), atol=1e-5)


def test_each_encoder_fills_up_with_its_own_padding(folder, model, contexts):
    """Guards SDXL's second tokenizer, which pads with token 0 where the first repeats the end: each half of the context
    is that of its own padding and would be another one with the other's."""
    first, second = model.text.tokenizers
    assert first.pad_token_id == first.eos_token_id and second.pad_token_id == 0 != first.pad_token_id
    ids = model.prompt(TEXTS[0]).token_ids
    end = ids.index(first.eos_token_id)
    own = [*ids[: end + 1], *[0] * (len(ids) - end - 1)]
    text, _ = unpack(contexts[:1], POOLED)
    for padded, same in ((own, True), (ids, False)):
        found = model.text.encoders[1](torch.tensor([padded]), output_hidden_states=True)
        assert torch.allclose(found.hidden_states[-2], text[..., 12:], atol=1e-5) is same
    found = model.text.encoders[0](torch.tensor([ids]), output_hidden_states=True)
    assert torch.allclose(found.hidden_states[-2], text[..., :12], atol=1e-5)


def test_the_sizes_of_an_inversion_are_told(folder, model, contexts):
    """Guards inversions that ComfyUI made of a cropped picture: ε is that of diffusers' own pipeline for its sizes, in
    the order that a file has them (width, height, left, top, width, height)."""
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder, local_files_only=True)
    embedded, _, pooled, _ = pipeline.encode_prompt(TEXTS[0], device="cpu", do_classifier_free_guidance=False)
    sizes = pipeline._get_add_time_ids((768, 1024), (64, 32), (384, 512), torch.float32, POOLED)
    z = latents(size=16)
    theirs = pipeline.unet(z, torch.tensor(500), embedded, added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes})
    told = model.told((1024, 768, 32, 64, 512, 384))
    assert torch.allclose(told.denoiser(z, LEVEL, contexts[:1]), theirs.sample, atol=1e-5)
    plain = model.denoiser(z, LEVEL, contexts[:1])
    assert not torch.allclose(plain, theirs.sample, atol=1e-5)
    assert torch.equal(model.told(model.sizes_of(z)).denoiser(z, LEVEL, contexts[:1]), plain)


@pytest.mark.parametrize("wanted", [False, True])
def test_the_pooled_vector_is_optimized_where_it_is_asked_for(model, contexts, wanted):
    """Guards ∅: its token rows move; its pooled vector stays, unless asked for; and the loss falls."""
    denoiser = replace(model.denoiser, pooled_gradient=wanted)
    trajectory = invert(denoiser, latents(), contexts[:1], model.schedule(4))
    null, reached = optimize_null_text(denoiser, trajectory, contexts[2], NullTextSettings(inner_steps=8))
    (text, vector), (empty, pooled) = unpack(null.at(1)[0], POOLED), unpack(contexts[2], POOLED)
    assert not torch.equal(text, empty) and torch.equal(vector, pooled) is not wanted
    plain = reconstruct(denoiser, trajectory, contexts[2], 7.5)
    assert (reached - latents()).norm() < 0.9 * (plain - latents()).norm()


@pytest.mark.parametrize("preset", ["fast", "paper"])
def test_a_batch_of_edits_equals_single_ones(folder, contexts, preset):
    """Guards contexts of several photos and edits: each branch has its own text and pooled vector."""
    # random networks are chaotic: what float32 rounds off would be seen
    model, contexts = load_model(folder, dtype=torch.float64), contexts.double()
    steps, recipe, photos = 3, PRESETS[preset], latents_of(2, 32)
    recipe = replace(recipe, optimization=replace(recipe.optimization, inner_steps=2))
    prompts = [model.prompt(text) for text in TEXTS]
    settings = (EditSettings(blend_words=["cat"], self_replace=0.5), EditSettings(weights={"dog": 2.0}))
    plans = [plan_edit(prompts[0], prompts[1], steps, one) for one in settings]

    def run(z, plans):
        context = contexts[:1].expand(len(z), -1, -1)
        trajectory = invert(model.denoiser, z, context, model.schedule(steps), method=recipe.inversion)
        null, _ = embed(model.denoiser, trajectory, contexts[2], recipe, 3.0)
        texts = contexts[1].expand(len(z), len(plans), -1, -1)
        return edit(model.denoiser, trajectory, null, texts, batch_edits([plans] * len(z)), 3.0).latents

    both = run(photos, plans)
    for photo in range(2):
        for number, plan in enumerate(plans):
            alone = run(photos[photo : photo + 1], [plan])[0, 0]
            assert torch.allclose(both[photo, number], alone, atol=1e-6)
    assert not torch.allclose(both[0, 0], both[0, 1], atol=1e-2)


def test_a_refiner_and_parts_of_other_families_are_refused(folder, model, tmp_path):
    """Guards the edge: what cannot be told by its widths would fail deep inside of the network."""
    index = {"_class_name": "StableDiffusionXLImg2ImgPipeline"}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="SDXL text-to-image"):
        load_model(tmp_path)
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.unet.register_to_config(addition_embed_type=None)
    with pytest.raises(InputError, match="another family"):
        wrap_pipeline(pipeline, "mixed", "cpu", torch.float32)
    pipeline.text_encoder = None
    with pytest.raises(InputError, match="has no text_encoder"):
        wrap_pipeline(pipeline, "half", "cpu", torch.float32)
