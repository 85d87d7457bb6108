"""SDXL: two text encoders, a pooled vector beside the tokens, and the picture's size."""

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
from nullinv_core.context import Context, cat, distance, norm, stack
from nullinv_core.files.packing import check_packed, packed, unpacked
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
    """Guards files, at any widths, and longer contexts: the text is repeated, its vector is not."""
    context = Context(torch.randn(batch, tokens, width), torch.randn(batch, min(pooled, width)))
    rows = packed(context)
    assert packed(Context(context.text.half(), context.pooled)).dtype == torch.float16
    assert rows.shape == (batch, tokens + 1, width) and not rows[:, -1, pooled:].any()
    found, empty = unpacked([rows, torch.zeros(2, *rows.shape)], told_sizes=True)
    assert found.equals(context) and empty.shape[:-2] == (2, batch) and empty.fits(context)
    assert packed(Context(context.text)) is context.text
    assert unpacked([rows], told_sizes=False)[0].equals(Context(rows))
    longer = context.lengthened(3 * tokens)
    assert torch.equal(longer.text, context.text.repeat(1, 3, 1)) and torch.equal(longer.pooled, context.pooled)
    assert context.lengthened(tokens) is context
    if tokens > 1:
        with pytest.raises(InputError, match=f"takes {tokens} tokens, the source {3 * tokens + 1}; shorten it"):
            context.lengthened(3 * tokens + 1)


def test_files_of_full_size_tell_their_vector_by_the_width_of_their_tokens():
    """Guards SDXL's files: from before there were sizes, and with a text whose vector is 0, as ComfyUI can make it."""
    for vector in (torch.rand(1, 1280), torch.zeros(1, 1280)):
        context = Context(torch.rand(1, 77, 2048), vector)
        for told in (True, False):
            check_packed(context, told)
            assert unpacked([packed(context)], told)[0].equals(context)
    with pytest.raises(InputError, match="no tokens beside"):
        unpacked([torch.rand(1, 1, 2048)], told_sizes=False)
    for context, told in (
        (Context(torch.rand(1, 9, 6), torch.rand(1, 6)), False),
        (Context(torch.rand(1, 9, 6)), True),
    ):
        with pytest.raises(InputError, match="a pooled text vector needs sizes"):
            check_packed(context, told)


def test_contexts_are_joined_picked_and_compared_with_their_vectors():
    """Guards what travels: text and vector stay together, and a text of another vector is another one."""
    one, other = (Context(torch.rand(2, 3, 4), torch.rand(2, 5)) for _ in range(2))
    both = cat([one, other])
    assert len(both) == 4 and both[:2].equals(one) and both[[2, 3]].equals(other) and both.tokens == 3
    assert stack([one, other], 1)[:, 1].equals(other) and one[0].expand(7, 2)[6, 1].equals(one[0])
    assert not Context(one.text, other.pooled).equals(one) and not Context(one.text).fits(one)
    assert one.to(torch.float64).to(other).equals(one) and one.to("meta").pooled.device.type == "meta"
    every = torch.cat([tensor.flatten() for tensor in (one.text - other.text, one.pooled - other.pooled)])
    assert torch.allclose(distance(one, other), every.norm()) and distance(one, one) == 0 < norm(one)
    with pytest.raises(InputError, match="not of as many texts"):
        Context(torch.rand(2, 3, 4), torch.rand(3, 5))


def test_the_pipeline_gives_the_same_noise_prediction(folder, model, contexts):
    """Guards loading: both encoders' layers, the pooled vector, sizes and ε are those of diffusers' own pipeline."""
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder, local_files_only=True)
    embedded, _, pooled, _ = pipeline.encode_prompt(TEXTS[0], device="cpu", do_classifier_free_guidance=False)
    assert torch.allclose(contexts[:1].text, embedded, atol=1e-6)
    assert torch.allclose(contexts[:1].pooled, pooled, atol=1e-6)
    sizes = pipeline._get_add_time_ids((128, 256), (0, 0), (128, 256), torch.float32, POOLED)
    z = torch.randn(1, 4, 16, 32, generator=torch.Generator().manual_seed(0))
    added = {"text_embeds": pooled, "time_ids": sizes}
    theirs = pipeline.unet(z, torch.tensor(500), embedded, added_cond_kwargs=added).sample
    ours = model.denoiser(z, LEVEL, contexts[:1])
    assert torch.allclose(ours, theirs, atol=1e-5)
    other = Context(contexts[:1].text, contexts[1:2].pooled)
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
    text = contexts[:1].text
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
    denoiser, settings = model.denoiser, NullTextSettings(inner_steps=8, optimize_pooled=wanted)
    trajectory = invert(denoiser, latents(), contexts[:1], model.schedule(4))
    null, reached = optimize_null_text(denoiser, trajectory, contexts[2], settings)
    found, empty = null.at(1)[0], contexts[2]
    assert not torch.equal(found.text, empty.text) and torch.equal(found.pooled, empty.pooled) is not wanted
    plain = reconstruct(denoiser, trajectory, contexts[2], 7.5)
    assert (reached - latents()).norm() < 0.9 * (plain - latents()).norm()


@pytest.mark.parametrize("preset", ["fast", "paper"])
def test_a_batch_of_edits_equals_single_ones(folder, contexts, preset):
    """Guards contexts of several photos and edits: each branch has its own text and pooled vector."""
    # random networks are chaotic: what float32 rounds off would be seen
    model, contexts = load_model(folder, dtype=torch.float64), contexts.to(torch.float64)
    steps, recipe, photos = 3, PRESETS[preset], latents_of(2, 32)
    recipe = replace(recipe, optimization=replace(recipe.optimization, inner_steps=2))
    prompts = [model.prompt(text) for text in TEXTS]
    settings = (EditSettings(blend_words=["cat"], self_replace=0.5), EditSettings(weights={"dog": 2.0}))
    plans = [plan_edit(prompts[0], prompts[1], steps, one) for one in settings]

    def run(z, plans):
        context = contexts[:1].expand(len(z))
        trajectory = invert(model.denoiser, z, context, model.schedule(steps), method=recipe.inversion)
        null, _ = embed(model.denoiser, trajectory, contexts[2], recipe, 3.0)
        texts = contexts[1].expand(len(z), len(plans))
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
