"""The main chain in a real ComfyUI, beside its native samplers and the diffusers backend."""

import math

import pytest
import torch
from safetensors.torch import load_file

from nullinv_core import (
    EditSettings,
    batch_edits,
    edit,
    invert,
    load_inversion,
    optimize_null_text,
    plan_edit,
    reconstruct,
)
from nullinv_core.backends.diffusers import load_model
from nullinv_core.demo.scenes import render, sample_edit
from nullinv_core.images import psnr
from nullinv_core.null_text import NullTextSettings

from .graphs import Chain
from .outputs import relative


@pytest.fixture(scope="module")
def outputs(comfy):
    """One run of everything: pictures, latents and a saved inversion."""
    chain = Chain()
    g, vae = chain.graph, chain.load(2)
    g.add("SaveImage", images=chain.scene(0), filename_prefix="source")
    g.save(vae, chain.latent(), "autoencoder")
    g.save(vae, chain.optimize(1), "reconstruction")
    g.save(vae, chain.ksampler(chain.load(), 1.0)(), "ksampler-1")
    applied = g.add("NullInvApply", model=chain.load(), null_embeddings=chain.optimize())
    g.save(vae, chain.ksampler(applied(), 7.5)(), "ksampler-7.5")
    guider = g.add(
        "NullInvGuider", model=chain.load(), conditioning=chain.source(), null_embeddings=chain.optimize(), cfg=7.5
    )
    sigmas = g.add("BasicScheduler", model=chain.load(), scheduler="ddim_uniform", steps=chain.steps, denoise=1.0)
    sampled = g.add(
        "SamplerCustomAdvanced", noise=g.add("DisableNoise")(), guider=guider(), sigmas=sigmas(),
        sampler=g.add("KSamplerSelect", sampler_name="euler")(), latent_image=chain.invert(0),
    )  # fmt: skip
    g.save(vae, sampled(), "guider")
    plan, sampler = chain.edit(blend_words="")
    g.save(vae, sampler(), "edited")
    g.add("SaveLatent", samples=sampler(0), filename_prefix="edited")
    g.add("SaveLatent", samples=chain.optimize(1), filename_prefix="reconstruction")
    maps = g.add("NullInvAttentionMaps", attention=sampler(3), words="", edit=0, image=chain.scene(0))
    g.add("SaveImage", images=maps(), filename_prefix="maps")
    g.add("PreviewAny", source=plan(3))
    g.add(
        "NullInvSave", trajectory=chain.invert(1), prompt=chain.scene(1), filename_prefix="inversions/photo",
        null_embeddings=chain.optimize(),
    )  # fmt: skip
    g.add("SaveImage", images=chain.optimize(2), filename_prefix="loss")
    comfy.run(g)
    return comfy.base / "output"


def test_the_noise_gives_the_photo_back_at_cfg_1(outputs, picture):
    """Guards chaining: DDIM Invert's noise through KSampler (Advanced) is the photo."""
    assert psnr(picture("ksampler-1"), picture("autoencoder")) > 22


@pytest.mark.parametrize("name", ["ksampler-7.5", "guider"])
def test_native_samplers_retrace_our_reconstruction(outputs, picture, name):
    """Guards Apply Null-Text and Null-Text Guider: ComfyUI's own samplers reach our reconstruction at cfg 7.5."""
    assert psnr(picture(name), picture("reconstruction")) > 60


def test_every_word_has_a_map(outputs):
    """Guards Attention Maps: one picture per word of the source text."""
    words = sample_edit(0, "colour").source.caption.split()
    assert len(list(outputs.glob("maps_*.png"))) == len(words)


@pytest.fixture(scope="module")
def both(outputs):
    """The saved inversion, and the same computed by the diffusers backend with the saved schedule."""
    saved = load_inversion(next((outputs / "inversions").glob("photo_*.safetensors")))
    model, case = load_model("demo"), sample_edit(0, "colour")
    prompts = [model.prompt(t) for t in (case.source.caption, case.target.caption, "")]
    context, edited, empty = model.encode_prompts(prompts).split(1)
    latents = model.encode_image(torch.from_numpy(render(case.source))[None])
    trajectory = invert(model.denoiser, latents, context, saved.trajectory.schedule)
    return saved, model, trajectory, prompts, edited, empty


def test_the_trajectory_is_that_of_the_diffusers_backend(both):
    """Guards parity: one schedule, the same weights, 1e-3 relative."""
    saved, _, trajectory, *_ = both
    assert saved.prompts == (sample_edit(0, "colour").source.caption,)
    assert relative(saved.trajectory.latents, trajectory.latents) < 1e-3


def latent_file(outputs, name, scale):
    return load_file(next(outputs.glob(f"{name}_*.latent")))["latent_tensor"] * scale


def test_reconstruction_and_edit_are_those_of_the_diffusers_backend(both, outputs):
    """Guards parity with the same saved embeddings: 1e-3 relative."""
    saved, model, trajectory, prompts, edited, _ = both
    scale = model.vae.config.scaling_factor
    ours = reconstruct(model.denoiser, trajectory, saved.null, 7.5)
    assert relative(latent_file(outputs, "reconstruction", scale), ours) < 1e-3
    plan = plan_edit(prompts[0], prompts[1], trajectory.schedule.steps, EditSettings())
    result = edit(model.denoiser, trajectory, saved.null, edited[None], batch_edits([[plan]]), 7.5)
    assert relative(latent_file(outputs, "edited", scale), result.latents[0]) < 1e-3


def test_separate_optimizations_agree(both, outputs, picture):
    """Guards parity of the optimizer itself: 0.1 dB against the source."""
    _, model, trajectory, *_, empty = both
    _, reached = optimize_null_text(model.denoiser, trajectory, empty, NullTextSettings(inner_steps=3))
    source = render(sample_edit(0, "colour").source)
    ours = psnr(model.decode(reached)[0], source)
    assert math.isclose(ours, psnr(picture("reconstruction"), source), abs_tol=0.1)


def test_a_new_edit_text_runs_the_edit_alone(comfy, outputs):
    """Guards the cache: changing the edit text neither inverts nor optimizes again."""
    chain = Chain()
    _, sampler = chain.edit(text="a small pink heart on a white background")
    chain.graph.save(chain.load(2), sampler(), "other")
    entry = comfy.run(chain.graph)
    cached = next(data["nodes"] for kind, data in entry["status"]["messages"] if kind == "execution_cached")
    assert {chain.invert()[0], chain.optimize()[0]} <= set(cached)


def test_a_ksampler_is_bit_identical_before_and_after(comfy, outputs):
    """Guards the MODEL: our nodes leave it as it was."""

    def sampled(name, seed):
        chain = Chain(optimize=False)
        blank = chain.graph.add("EmptyLatentImage", width=128, height=128, batch_size=1)
        sampler = chain.graph.add(
            "KSampler", model=chain.load(), seed=seed, steps=4, cfg=7.5, sampler_name="euler", scheduler="normal",
            positive=chain.source(), negative=chain.empty(), latent_image=blank(), denoise=1.0,
        )  # fmt: skip
        chain.graph.add("SaveLatent", samples=sampler(), filename_prefix=name)
        comfy.run(chain.graph)
        return latent_file(comfy.base / "output", name, 1.0)

    before = sampled("before", 7)
    between = Chain(seed=1)
    between.graph.save(between.load(2), between.optimize(1), "between")
    comfy.run(between.graph)
    comfy.post("/free", {"free_memory": True})
    assert torch.equal(before, sampled("after", 7))
