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
from nullinv_core.demo.edits import sample_edit
from nullinv_core.demo.scenes import render
from nullinv_core.null_text.presets import PRESETS
from nullinv_core.null_text.settings import NullTextSettings
from nullinv_core.photo.images import psnr
from nullinv_core.shared_guidance import guidance_of_photo

from .graphs import Chain
from .outputs import latent, newest, relative, told
from .server import error_of

TWO_PHOTOS = 135, 168
"""Scenes that have one text."""
CUSTOM = NullTextSettings(inner_steps=3, keep_best=True, relative=True)


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
    g.save(vae, chain.guided(chain.load())(), "guider")
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
    words = sample_edit(0, "colour").captions[0].split()
    assert len(list(outputs.glob("maps_*.png"))) == len(words)


@pytest.fixture(scope="module")
def both(outputs):
    """The saved inversion, and the same computed by the diffusers backend with the saved schedule."""
    saved = load_inversion(next((outputs / "inversions").glob("photo_*.safetensors")))
    model, case = load_model("demo"), sample_edit(0, "colour")
    prompts = [model.prompt(t) for t in (case.captions[0], case.captions[1], "")]
    context, edited, empty = model.contexts(prompts)
    latents = model.encode_image(torch.from_numpy(render(case.source))[None])
    trajectory = invert(model.denoiser, latents, context, saved.trajectory.schedule)
    return saved, model, trajectory, prompts, edited, empty


def test_the_trajectory_is_that_of_the_diffusers_backend(both):
    """Guards parity: one schedule, the same weights, 1e-3 relative."""
    saved, _, trajectory, *_ = both
    assert saved.prompts == (sample_edit(0, "colour").captions[0],)
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
    _, reached = optimize_null_text(model.denoiser, trajectory, empty, CUSTOM)
    source = render(sample_edit(0, "colour").source)
    ours = psnr(model.decode(reached)[0], source)
    assert math.isclose(ours, psnr(picture("reconstruction"), source), abs_tol=0.1)


def test_a_new_edit_text_runs_the_edit_alone(comfy, outputs):
    """Guards the cache: changing the edit text neither inverts nor optimizes again."""
    chain = Chain()
    _, sampler = chain.edit(text="a polished pink apple on a wooden table")
    chain.graph.save(chain.load(2), sampler(), "other")
    entry = comfy.run(chain.graph)
    cached = next(data["nodes"] for kind, data in entry["status"]["messages"] if kind == "execution_cached")
    assert {chain.invert()[0], chain.optimize()[0]} <= set(cached)


def test_a_ksampler_is_bit_identical_before_and_after(comfy):
    """Guards the MODEL: it is as it was after our nodes ran, failed and were cancelled, without being loaded anew."""
    runs = iter(range(9_990, 10_000))

    def sampled():
        chain = Chain(optimize=False)
        blank = chain.graph.add("EmptyLatentImage", width=128, height=128, batch_size=1)
        sampler = chain.ksampler(chain.load(), 7.5, blank())
        # a last step beyond all steps changes nothing but the cache's key
        settings = {"add_noise": "enable", "noise_seed": 7, "end_at_step": next(runs)}
        chain.graph[sampler()[0]]["inputs"].update(settings)
        chain.graph.add("SaveLatent", samples=sampler(), filename_prefix="same")
        entry = comfy.run(chain.graph)
        return latent(comfy, "same"), cached(entry), chain

    def cached(entry):
        return next(data["nodes"] for kind, data in entry["status"]["messages"] if kind == "execution_cached")

    before, *_ = sampled()
    ran = Chain(steps=4, inner_steps=2, seed=1)
    applied = ran.graph.add("NullInvApply", model=ran.load(), null_embeddings=ran.optimize())
    for samples in (ran.edit()[1](), ran.ksampler(applied(), 7.5)(), ran.guided(ran.load())()):
        ran.graph.add("SaveLatent", samples=samples, filename_prefix="between")
    failing = Chain(steps=4, seed=2)
    short = failing.graph.add("OtherRunOut", model=failing.load(), times=2)
    failing.graph[failing.optimize()[0]]["inputs"]["model"] = short()
    failing.graph.add("SaveLatent", samples=failing.optimize(1), filename_prefix="between")
    cancelled = Chain(steps=50, seed=3)
    cancelled.graph.add("SaveLatent", samples=cancelled.optimize(1), filename_prefix="between")
    for graph, ends in ((ran.graph, "success"), (failing.graph, "error"), (cancelled.graph, "interrupted")):
        for kind, data in comfy.watch(graph):
            if ends == "interrupted" and kind == "progress" and data["node"] == cancelled.optimize()[0]:
                comfy.post("/interrupt", {})
        assert kind == f"execution_{ends}"
        after, hits, chain = sampled()
        assert torch.equal(before, after) and chain.load()[0] in hits


@pytest.mark.parametrize("sampler", ["heun", "dpm_2"])
def test_samplers_that_ask_more_often_are_served(comfy, sampler):
    """Guards other samplers than euler, which ask twice a step or between the steps: both of our ways agree, and the
    photo is nearer than without."""
    chain = Chain(steps=20, inner_steps=2)
    g = chain.graph
    applied = g.add("NullInvApply", model=chain.load(), null_embeddings=chain.optimize())
    guided = chain.guided(chain.load(), sampler)
    names = {name: g[guided()[0]]["inputs"][name] for name in ("sigmas", "sampler", "latent_image")}
    for name, model in (("with", applied()), ("without", chain.load())):
        sampled = g.add(
            "SamplerCustom", model=model, add_noise=False, noise_seed=0, cfg=7.5, positive=chain.source(),
            negative=chain.empty(), **names,
        )  # fmt: skip
        g.add("SaveLatent", samples=sampled(), filename_prefix=f"{sampler}-{name}")
    g.add("SaveLatent", samples=guided(), filename_prefix=f"{sampler}-guided")
    g.add("SaveLatent", samples=chain.latent(), filename_prefix=f"{sampler}-photo")
    comfy.run(g)
    photo, ours = latent(comfy, f"{sampler}-photo"), latent(comfy, f"{sampler}-with")
    assert relative(latent(comfy, f"{sampler}-guided"), ours) < 1e-3
    assert relative(ours, photo) < 0.8 * relative(latent(comfy, f"{sampler}-without"), photo)


def test_a_batch_of_photos_equals_single_ones(comfy):
    """Guards batches: two photos under one text go through every node as they do alone; each has its own maps."""

    def chain_of(*seeds):
        chain = Chain(steps=4, inner_steps=2, seed=seeds[0])
        g = chain.graph
        if len(seeds) > 1:
            other = g.add("NullInvDemoScene", seed=seeds[1], edit="colour")
            both = g.add("ImageBatch", image1=chain.scene(0), image2=other(0))
            g[chain.latent()[0]]["inputs"]["pixels"] = both()
        text, target = "a red cat on a wooden table", "a green cat on a wooden table"
        g[chain.source()[0]]["inputs"]["text"] = text
        plan, sampler = chain.edit(target)
        g[plan()[0]]["inputs"]["source_text"] = text
        name = "batch-" + "-".join(map(str, seeds))
        for slot, samples in enumerate((chain.optimize(1), sampler(0))):
            g.add("SaveLatent", samples=samples, filename_prefix=f"{name}-{slot}-")
        maps = g.add("NullInvAttentionMaps", attention=sampler(3), words="cat, table", edit=0)
        for images in (maps(), chain.optimize(2)):
            g.add("PreviewImage", images=images)
        outputs = comfy.run(g)["outputs"].values()
        shown = [len(output["images"]) for output in outputs if output.get("images")]
        return [latent(comfy, f"{name}-{slot}-") for slot in (0, 1)], sorted(shown)

    together, shown = chain_of(21, 22)
    assert shown == [2, 4]
    for row, seed in enumerate((21, 22)):
        alone, _ = chain_of(seed)
        for batch, single in zip(together, alone, strict=True):
            assert relative(batch[[row]], single) < 1e-3


def two_photos(steps):
    """A chain of two photos of one text in a batch, and a MODEL with their null text."""
    chain = Chain(steps=steps, seed=TWO_PHOTOS[0])
    g = chain.graph
    other = g.add("NullInvDemoScene", seed=TWO_PHOTOS[1], edit="colour")
    both = g.add("ImageBatch", image1=chain.scene(0), image2=other(0))
    g[chain.latent()[0]]["inputs"]["pixels"] = both()
    g[chain.invert()[0]]["inputs"]["method"] = "fixed-point"
    return chain, g.add("NullInvApply", model=chain.load(), null_embeddings=chain.optimize())


@pytest.mark.parametrize("guider", [False, True])
def test_null_text_finds_its_photo_in_a_batch(comfy, guider):
    """Guards photos that are taken out of a batch, changed in their order or multiplied: each row has its own photo's
    null text, with Apply Null-Text and with the guider, and nothing is told."""
    chain, applied = two_photos(4)
    g = chain.graph
    first, second = (g.add("LatentFromBatch", samples=chain.invert(0), batch_index=i, length=1) for i in (0, 1))
    wanted = {
        "one": (second(), [1]),
        "turned": (g.add("LatentBatch", samples1=second(), samples2=first())(), [1, 0]),
        "twice": (g.add("RepeatLatentBatch", samples=chain.invert(0), amount=2)(), [0, 1, 0, 1]),
    }
    for name, (noise, _) in wanted.items():
        if guider:
            sampled = g.guided(chain.load(), chain.source(), chain.optimize(), noise, chain.steps)
        else:
            sampled = chain.ksampler(applied(), 7.5, noise)
        g.add("SaveLatent", samples=sampled(), filename_prefix=f"rows-{name}")
    g.add("SaveLatent", samples=chain.optimize(1), filename_prefix="rows-all")
    assert told(comfy, g) == []
    every = latent(comfy, "rows-all")
    for name, (_, rows) in wanted.items():
        assert relative(latent(comfy, f"rows-{name}"), every[rows]) < 1e-3, name


def test_edits_of_two_photos_go_on_in_a_ksampler(comfy):
    """Guards the end step with several edits of each of several photos: every row goes on with its own photo's null
    text; where it cannot be told, the sampler stops with a sentence."""
    chain, applied = two_photos(8)
    g = chain.graph
    _, sampler = chain.edit("\n".join(sample_edit(TWO_PHOTOS[0], "colour").captions))
    g[sampler()[0]]["inputs"]["end_step"] = 4
    rest = chain.ksampler(applied(), 7.5, sampler(0))
    g[rest()[0]]["inputs"]["start_at_step"] = 4
    for name, samples in {"edits": rest(), "photos": chain.optimize(1)}.items():
        g.add("SaveLatent", samples=samples, filename_prefix=f"go-on-{name}")
    comfy.run(g)
    edits, photos = latent(comfy, "go-on-edits"), latent(comfy, "go-on-photos")
    # the first edit of each photo has the photo's own text
    assert relative(edits[::2], photos) < 1e-3 and relative(edits[1::2], photos) > 1e-2
    empty = g.add("EmptyLatentImage", width=128, height=128, batch_size=1)
    g[rest()[0]]["inputs"] |= {"latent_image": empty(), "add_noise": "enable"}
    assert "null embeddings are of 2 photos" in error_of(comfy.finish(comfy.queue(g)))


def test_every_scheduler_works_at_its_default_steps(comfy):
    """Guards the list of schedulers: at 50 steps their noise levels lie closer than the trained ones; and the photo
    comes back on the densest of them."""
    chain = Chain(steps=50, optimize=False)
    g = chain.graph
    names = comfy.get("/object_info/NullInvDDIMInvert")["NullInvDDIMInvert"]["input"]["required"]["scheduler"]
    names = names[1]["options"] if isinstance(names[0], str) else names[0]
    assert len(names) >= 7
    for name in names:
        inputs = {**g[chain.invert()[0]]["inputs"], "scheduler": name}
        inverted = g.add("NullInvDDIMInvert", **inputs)
        g.add("SaveLatent", samples=inverted(0), filename_prefix=f"scheduler-{name}")
        if name == "karras":
            back = chain.ksampler(chain.load(), 1.0, inverted(0))
            g[back()[0]]["inputs"]["scheduler"] = name
            g.add("SaveLatent", samples=back(), filename_prefix="scheduler-back")
    g.add("SaveLatent", samples=chain.latent(), filename_prefix="scheduler-photo")
    comfy.run(g)
    assert relative(latent(comfy, "scheduler-back"), latent(comfy, "scheduler-photo")) < 0.1


@pytest.mark.parametrize("wish", ["closed windows", "local blend", "fresh noise", "focus", "any size"])
def test_a_pinned_edit_is_that_of_the_diffusers_backend(comfy, wish):
    """Guards the pinned sampler, whose conditional and unconditional rows differ in number: two edits of two photos'
    trajectory, with closed windows, local blend, fresh noise around a word, focused words, and all of that on latents
    of 17×25, which no layer halves evenly; 1e-3 relative."""
    chain = Chain(steps=6)
    g, case = chain.graph, sample_edit(0, "colour")
    if wish == "any size":
        wide = g.add("ImageScale", image=chain.scene(0), upscale_method="area", width=200, height=136, crop="center")
        g[chain.latent()[0]]["inputs"]["pixels"] = wide()
    flipped = g.add("LatentFlip", samples=chain.latent(), flip_method="x-axis: vertically")
    photos = g.add("LatentBatch", samples1=chain.latent(), samples2=flipped())
    g[chain.invert()[0]]["inputs"] |= {"method": "fixed-point", "latent": photos()}
    g[chain.optimize()[0]]["inputs"]["preset"] = "fast"
    thing = case.source.things[0]
    text = f"{case.captions[1]}\n{case.captions[0].replace(thing.colour, 'yellow')}"
    node, ours = {
        "closed windows": ({}, {}),
        "local blend": ({"blend_words": thing.kind}, {"blend_words": [thing.kind]}),
        "fresh noise": (
            {"fresh_noise": 0.7, "steady_words": thing.kind, "variant": 5},
            {"fresh_noise": 0.7, "steady_words": [thing.kind], "variant": 5},
        ),
        "focus": ({"focus_from": 0.4}, {"focus_from": 0.4}),
        "any size": (
            {"focus_from": 0.4, "blend_words": thing.kind, "fresh_noise": 0.3, "steady_words": thing.kind},
            {"focus_from": 0.4, "blend_words": [thing.kind], "fresh_noise": 0.3, "steady_words": [thing.kind]},
        ),
    }[wish]
    _, sampler = chain.edit(text=text, self_replace=0.2, cross_replace=0.5, **node)
    g.add("SaveLatent", samples=sampler(0), filename_prefix="pinned")
    g.add(
        "NullInvSave", trajectory=chain.invert(1), prompt=chain.scene(1), filename_prefix="inversions/pinned",
        null_embeddings=chain.optimize(),
    )  # fmt: skip
    comfy.run(g)
    saved, model = load_inversion(newest(comfy, "inversions/pinned")), load_model("demo")
    source, *prompts = (model.prompt(t) for t in (case.captions[0], *text.split("\n")))
    settings = EditSettings(cross_replace=0.5, self_replace=0.2, **ours)
    plans = [plan_edit(source, p, saved.trajectory.schedule.steps, settings) for p in prompts]
    contexts = model.encode_prompts(prompts)[None].expand(2, len(prompts))
    result = edit(model.denoiser, saved.trajectory, saved.null, contexts, batch_edits([plans] * 2), 7.5)
    scale = model.vae.config.scaling_factor
    assert relative(latent(comfy, "pinned") * scale, result.latents.flatten(0, 1)) < 1e-3
    assert saved.null.pinned and torch.equal(result.source, saved.trajectory.clean)
    pivot = saved.trajectory
    fixed = invert(model.denoiser, pivot.clean, pivot.context, pivot.schedule, method="fixed-point")
    assert relative(pivot.latents, fixed.latents) < 1e-3
    own = guidance_of_photo(model.denoiser, pivot, model.encode_prompts([model.prompt("")]))
    assert relative(saved.null.pin.guidance, own) < 1e-3


def test_the_nodes_presets_are_the_cores(comfy):
    """Guards the node's list, which does not load the core."""
    known = comfy.get("/object_info/NullInvOptimize")["NullInvOptimize"]["input"]["required"]["preset"]
    assert [*PRESETS, "custom"] == (known[1]["options"] if "options" in known[1] else known[0])
