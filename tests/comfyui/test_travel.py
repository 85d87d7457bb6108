"""Inversions that travel between the command line and ComfyUI, and noise levels that lead nowhere."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from nullinv_core import EditSettings, batch_edits, edit, load_inversion, plan_edit, save_inversion
from nullinv_core.backends.diffusers import check_inversion, load_model
from nullinv_core.cli import app
from nullinv_core.demo.edits import sample_edit
from nullinv_core.demo.scenes import render
from nullinv_core.files.fingerprint import Fingerprint
from nullinv_core.photo.images import save_image

from .graphs import DEMO, Chain, Graph
from .outputs import latent, relative
from .server import error_of


@pytest.fixture(scope="module")
def model():
    return load_model("demo")


@pytest.fixture(scope="module")
def travelled(comfy, model, tmp_path_factory):
    """The demo's scene, inverted by the command line, on the authors' noise levels; its file's name in ComfyUI."""
    folder, case = tmp_path_factory.mktemp("cli"), sample_edit(0, "colour")
    save_image(torch.from_numpy(render(case.source)), folder / "photo.png")
    file = comfy.base / "input" / "travelled.safetensors"
    arguments = ["--image", folder / "photo.png", "--prompt", case.captions[0], "--out", file, "--steps", 6]
    app(
        ["invert", "--model", "demo", "--device", "cpu", "--guidance", "3", *map(str, arguments)], standalone_mode=False
    )
    return file


def edit_of(model, inversion, text, guidance=3.0):
    """Latents of an edit by the diffusers backend, as ComfyUI's LATENT has them."""
    inversion, null = check_inversion(inversion, model)
    source, target = model.prompt(inversion.prompts[0]), model.prompt(text)
    plan = plan_edit(source, target, inversion.trajectory.schedule.steps, EditSettings())
    contexts = model.encode_prompts([target])[None]
    result = edit(model.denoiser, inversion.trajectory, null, contexts, batch_edits([[plan]]), guidance)
    return result.latents[0] / model.vae.config.scaling_factor


def loaded(file, text, changed=None):
    """A graph that edits a saved inversion; ``changed``: a node that MODEL goes through first, and its inputs."""
    g = Graph()
    load = g.add("NullInvLoadDiffusers", model=DEMO)
    unet = load() if changed is None else g.add(changed[0], model=load(), **changed[1])()
    inversion = g.add("NullInvLoad", file=file)
    plan = g.add("NullInvP2PEdit", clip=load(1), source_text=inversion(2), edit_text=text)
    sampler = g.add(
        "NullInvP2PSampler", model=unet, trajectory=inversion(0), edit=plan(), null_embeddings=inversion(1), cfg=3.0
    )
    g.add("SaveLatent", samples=sampler(), filename_prefix="travelled")
    return g


def test_the_command_line_s_inversion_is_edited_in_comfyui(comfy, model, travelled):
    """Guards files that travel: Load Inversion and P2P Edit Sampler give the edit of the command line's backend."""
    text = sample_edit(0, "colour").captions[1]
    comfy.run(loaded(f"input/{travelled.name}", text))
    ours = edit_of(model, load_inversion(travelled), text)
    assert relative(latent(comfy, "travelled"), ours) < 1e-3
    assert relative(ours, load_inversion(travelled).trajectory.clean / model.vae.config.scaling_factor) > 0.1


def test_comfyui_s_inversion_is_edited_by_the_command_line(comfy, model):
    """Guards files that travel the other way: the diffusers backend takes the file, and gives ComfyUI's edit."""
    chain = Chain(steps=6)
    g, case = chain.graph, sample_edit(0, "colour")
    g[chain.optimize()[0]]["inputs"] |= {"preset": "fast", "cfg": 3.0}
    _, sampler = chain.edit()
    g[sampler()[0]]["inputs"]["cfg"] = 3.0
    g.add("SaveLatent", samples=sampler(), filename_prefix="stayed")
    g.add(
        "NullInvSave", trajectory=chain.invert(1), prompt=chain.scene(1), filename_prefix="stayed",
        null_embeddings=chain.optimize(),
    )  # fmt: skip
    comfy.run(g)
    file = max((comfy.base / "output").glob("stayed_*.safetensors"))
    ours = edit_of(model, load_inversion(file), case.captions[1])
    assert relative(ours, latent(comfy, "stayed")) < 1e-3
    out = comfy.base / "stayed.png"
    app(["edit", "--inversion", str(file), "--model", "demo", "--device", "cpu", "--prompt", case.captions[1],
         "--out", str(out)], standalone_mode=False)  # fmt: skip
    assert Image.open(out).size == (128, 128)


def test_another_model_says_what_differs(comfy, model, travelled, tmp_path):
    """Guards the refusal: ε or v, other noise levels, other weights, files of before that nobody here made."""
    changed = {
        "that one predicts ε, this one v": ("ModelSamplingDiscrete", {"sampling": "v_prediction", "zsnr": False}),
        "its noise levels are others": ("ModelSamplingDiscrete", {"sampling": "eps", "zsnr": True}),
    }
    for said, (node, inputs) in changed.items():
        graph = loaded(f"input/{travelled.name}", "a cat", (node, inputs))
        assert f'another MODEL ("demo"): {said}' in error_of(comfy.finish(comfy.queue(graph)))
    stored = load_inversion(travelled)
    weights = {shape: tuple(2 * v for v in values) for shape, values in stored.fingerprint.weights.items()}
    for name, fingerprint, said in (
        ("others", replace(stored.fingerprint, weights=weights), "its weights are others"),
        ("old", Fingerprint(digest="0" * 64), "older version"),
    ):
        save_inversion(comfy.base / "input" / f"{name}.safetensors", replace(stored, fingerprint=fingerprint))
        graph = loaded(f"input/{name}.safetensors", "a cat")
        assert said in error_of(comfy.finish(comfy.queue(graph)))


def split(chain, slot, step=3):
    """DDIM Invert on one half of Split Sigmas."""
    g = chain.graph
    whole = g.add("BasicScheduler", model=chain.load(), scheduler="ddim_uniform", steps=chain.steps, denoise=1.0)
    halves = g.add("SplitSigmas", sigmas=whole(), step=step)
    g[chain.invert()[0]]["inputs"]["sigmas"] = halves(slot)
    return halves


def test_sigmas_that_end_in_noise_are_refused(comfy):
    """Guards the upper half of Split Sigmas, which no photo lies on the end of."""
    chain = Chain(steps=6, optimize=False)
    split(chain, 0)
    chain.graph.add("SaveLatent", samples=chain.invert(0), filename_prefix="upper")
    assert "where noise is left, but a photo has no noise" in error_of(comfy.finish(comfy.queue(chain.graph)))


def test_sigmas_that_begin_half_way_are_a_shorter_path(comfy):
    """Guards the lower half: edits and samplers on the same levels start there, and the photo comes back; samplers on
    all levels and fresh noise are refused."""
    chain = Chain(steps=6)
    g = chain.graph
    g[chain.invert()[0]]["inputs"]["method"] = "fixed-point"
    halves = split(chain, 1)
    plan, sampler = chain.edit()
    applied = g.add("NullInvApply", model=chain.load(), null_embeddings=chain.optimize())
    inputs = {
        "model": applied(), "add_noise": False, "noise_seed": 0, "cfg": 7.5, "positive": chain.source(),
        "negative": chain.empty(), "sampler": g.add("KSamplerSelect", sampler_name="euler")(),
        "latent_image": chain.invert(0),
    }  # fmt: skip
    sampled = g.add("SamplerCustom", sigmas=halves(1), **inputs)
    back = g.add("SamplerCustom", sigmas=halves(1), **{**inputs, "model": chain.load(), "cfg": 1.0})
    for name, samples in (
        ("photo", chain.latent()), ("source", sampler(1)), ("edited", sampler(0)), ("sampled", sampled()),
        ("optimized", chain.optimize(1)), ("back", back()),
    ):  # fmt: skip
        g.add("SaveLatent", samples=samples, filename_prefix=f"lower-{name}")
    comfy.run(g)
    photo, optimized = latent(comfy, "lower-photo"), latent(comfy, "lower-optimized")
    assert relative(latent(comfy, "lower-back"), photo) < 0.1
    for name in ("sampled", "source"):
        assert relative(latent(comfy, f"lower-{name}"), optimized) < 1e-3, name
    assert relative(latent(comfy, "lower-edited"), optimized) > 0.1
    guided = chain.guided(chain.load())
    g.add("SaveLatent", samples=guided(), filename_prefix="lower-guided")
    assert "give the sampler the SIGMAS of DDIM Invert" in error_of(comfy.finish(comfy.queue(g)))
    del g[list(g)[-1]]
    g[plan()[0]]["inputs"]["fresh_noise"] = 0.5
    assert "stops half way to noise" in error_of(comfy.finish(comfy.queue(g)))
