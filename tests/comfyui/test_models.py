"""Other models than the demo's: full-size Stable Diffusion 1.5 and 2.x, LoRA, ControlNet; and gradients."""

import json
import math

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from nullinv_core import load_inversion
from nullinv_core.demo.training.text import WIDTH

from .graphs import Chain, Graph
from .outputs import latent, newest, relative, told
from .server import PACK, error_of

PROMPTS = ("a photo of a cat on a table", "a drawing of a red car in the snow")
SIDE = 64


def epsilon_of_one_step(inversion):
    """The noise that a one-step inversion predicted."""
    before, after = inversion.trajectory.latents
    a, b = inversion.trajectory.schedule.alphas_cumprod
    return (after - math.sqrt(b / a) * before) / (math.sqrt(1 - b) - math.sqrt(b * (1 - a) / a))


@pytest.fixture(scope="module", params=["sd15", "sd2"])
def checkpoint(comfy, request):
    """The name of a full-size checkpoint with random weights."""
    yield comfy.checkpoint(request.param).name
    comfy.post("/free", {"unload_models": True, "free_memory": True})


class Photo:
    """A checkpoint, a small photo and its text; every node of ours can follow."""

    def __init__(self, checkpoint, side=SIDE):
        self.graph = g = Graph()
        self.load = g.add("CheckpointLoaderSimple", ckpt_name=checkpoint)
        scene = g.add("NullInvDemoScene", seed=0, edit="colour")
        self.image = g.add(
            "ImageScale", image=scene(), upscale_method="bicubic", width=side, height=side, crop="center"
        )
        self.latent = g.add("VAEEncode", pixels=self.image(), vae=self.load(2))
        self.source = g.add("CLIPTextEncode", clip=self.load(1), text=PROMPTS[0])
        self.empty = g.add("CLIPTextEncode", clip=self.load(1), text="")

    def invert(self, steps=2, source=None):
        return self.graph.add(
            "NullInvDDIMInvert", model=self.load(), source=source or self.source(), latent=self.latent(), steps=steps
        )

    def optimize(self, inverted, source=None, negative=None):
        return self.graph.add(
            "NullInvOptimize", model=self.load(), source=source or self.source(), negative=negative or self.empty(),
            trajectory=inverted(1), inner_steps=2,
        )  # fmt: skip

    def edit(self, inverted, optimized, **extras):
        plan = self.graph.add(
            "NullInvP2PEdit", clip=self.load(1), source_text=PROMPTS[0], edit_text="a photo of a (dog:1.5) on a table",
            blend_words="cat", word_windows="dog=0.2-0.6",
        )  # fmt: skip
        return self.graph.add(
            "NullInvP2PSampler", model=self.load(), trajectory=inverted(1), edit=plan(),
            null_embeddings=optimized(), **extras,
        )  # fmt: skip

    def save(self, samples, name):
        self.graph.add("SaveLatent", samples=samples, filename_prefix=name)


def test_a_full_size_checkpoint_goes_through_every_node(comfy, checkpoint):
    """Guards real models: invert, optimize, edit, maps, native samplers, save; 2.x as v-prediction."""
    photo = Photo(checkpoint)
    inverted = photo.invert()
    optimized = photo.optimize(inverted)
    edited = photo.edit(inverted, optimized)
    g = photo.graph
    photo.save(edited(0), "full-edited")
    photo.save(optimized(1), "full-reconstruction")
    photo.save(edited(1), "full-source")
    maps = g.add("NullInvAttentionMaps", attention=edited(3), words="cat", edit=0)
    g.add("PreviewImage", images=maps())
    applied = g.add("NullInvApply", model=photo.load(), null_embeddings=optimized())
    sampled = g.add(
        "KSamplerAdvanced", model=applied(), steps=2, cfg=7.5, positive=photo.source(), negative=photo.empty(),
        latent_image=inverted(0),
    )  # fmt: skip
    photo.save(sampled(), "full-ksampler")
    guided = g.guided(photo.load(), photo.source(), optimized(), inverted(0), steps=2)
    photo.save(guided(), "full-guided")
    g.add("NullInvSave", trajectory=inverted(1), prompt=PROMPTS[0], filename_prefix="full", null_embeddings=optimized())
    printed = len(comfy.text())
    comfy.run(g)
    kind = "V_PREDICTION" if "sd2" in checkpoint else "EPS"
    assert f"model_type {kind}" in comfy.text()[printed:]
    reconstruction = latent(comfy, "full-reconstruction")
    assert relative(latent(comfy, "full-source"), reconstruction) < 1e-3
    assert relative(latent(comfy, "full-ksampler"), reconstruction) < 1e-3
    assert relative(latent(comfy, "full-guided"), reconstruction) < 1e-3
    assert relative(latent(comfy, "full-edited"), reconstruction) > 1e-3
    path = newest(comfy, "full")
    saved = load_inversion(path)
    assert saved.null.losses.isfinite().all() and saved.null.embeddings.shape[2:] == saved.trajectory.context.shape[1:]
    later = Photo(checkpoint)
    loaded = later.graph.add("NullInvLoad", file=f"output/{path.name}")
    later.save(later.edit(lambda slot: loaded(0), lambda: loaded(1))(0), "full-loaded")
    comfy.run(later.graph)
    assert relative(latent(comfy, "full-loaded"), latent(comfy, "full-edited")) < 1e-3


def test_the_random_weights_see_the_prompt(comfy, checkpoint):
    """Guards the test above against weights for which every text is the same."""
    found = []
    for number, prompt in enumerate(PROMPTS):
        photo = Photo(checkpoint)
        photo.graph[photo.source()[0]]["inputs"]["text"] = prompt
        inverted = photo.invert(steps=1)
        photo.graph.add("NullInvSave", trajectory=inverted(1), prompt=prompt, filename_prefix=f"sees-{number}")
        comfy.run(photo.graph)
        found.append(epsilon_of_one_step(load_inversion(newest(comfy, f"sees-{number}"))))
    assert relative(*found) >= 0.05


@pytest.mark.parametrize("checkpoint", ["sd15"], indirect=True)
def test_a_controlnet_takes_part(comfy, checkpoint):
    """Guards CONDITIONING extras: the edit's source branch retraces the photo with the ControlNet, not without it."""
    path = comfy.base / "models" / "controlnet" / "random.safetensors"
    comfy.script("random_models.py", "controlnet", path)
    photo = Photo(checkpoint)
    g = photo.graph
    loaded = g.add("ControlNetLoader", control_net_name="random.safetensors")
    both = g.add(
        "ControlNetApplyAdvanced", positive=photo.source(), negative=photo.empty(), control_net=loaded(),
        image=photo.image(), strength=1.0, start_percent=0.0, end_percent=1.0,
    )  # fmt: skip
    inverted = photo.invert(source=both(0))
    optimized = photo.optimize(inverted, both(0), both(1))
    photo.save(optimized(1), "control-reconstruction")
    photo.save(photo.edit(inverted, optimized, source=both(0), negative=both(1))(1), "control-with")
    photo.save(photo.edit(inverted, optimized)(1), "control-without")
    guided = g.guided(photo.load(), both(0), optimized(), inverted(0), steps=2, negative=both(1))
    photo.save(guided(), "control-guided")
    applied = g.add("NullInvApply", model=photo.load(), null_embeddings=optimized())
    sampled = g.add(
        "KSamplerAdvanced", model=applied(), steps=2, cfg=7.5, positive=both(0), negative=both(1),
        latent_image=inverted(0),
    )  # fmt: skip
    photo.save(sampled(), "control-ksampler")
    older = g.add("ControlNetApply", conditioning=photo.source(), control_net=loaded(), image=photo.image(), strength=1)
    for source, name in (both, "half"), (older, "older"):
        photo.save(photo.edit(inverted, optimized, source=source(0))(1), f"control-{name}")
    assert sum("has a ControlNet and negative is open" in line for line in told(comfy, g)) == 1
    reconstruction = latent(comfy, "control-reconstruction")
    for name in ("with", "guided", "ksampler"):
        assert relative(latent(comfy, f"control-{name}"), reconstruction) < 1e-3, name
    assert relative(latent(comfy, "control-without"), reconstruction) > 1e-2
    path.unlink()


@pytest.mark.parametrize("checkpoint", ["sd15"], indirect=True)
def test_fp8_weights_go_through_every_node(comfy, checkpoint):
    """Guards Load Diffusion Model with weights in eight bits, computed in more: another trajectory, finite embeddings
    that move; a KSampler and the edit's source branch retrace the reconstruction; a file names the model."""
    path = comfy.base / "models" / "diffusion_models" / f"unet-{checkpoint}"
    path.parent.mkdir(exist_ok=True)
    path.hardlink_to(comfy.base / "models" / "checkpoints" / checkpoint)
    for dtype in ("default", "fp8_e4m3fn"):
        photo = Photo(checkpoint)
        g, whole = photo.graph, photo.load
        eight = g.add("UNETLoader", unet_name=path.name, weight_dtype=dtype)
        photo.load = lambda slot=0, whole=whole, eight=eight: whole(slot) if slot else eight()
        inverted = photo.invert()
        photo.save(inverted(0), f"{dtype}-noise")
        if dtype == "default":
            comfy.run(g)
    optimized = photo.optimize(inverted)
    applied = g.add("NullInvApply", model=eight(), null_embeddings=optimized())
    sampled = g.add(
        "KSamplerAdvanced", model=applied(), steps=2, cfg=7.5, positive=photo.source(), negative=photo.empty(),
        latent_image=inverted(0),
    )  # fmt: skip
    saved = {"reconstruction": optimized(1), "ksampler": sampled(), "source": photo.edit(inverted, optimized)(1)}
    for name, samples in saved.items():
        photo.save(samples, f"eight-{name}")
    g.add("NullInvSave", trajectory=inverted(1), prompt="x", filename_prefix="eight", null_embeddings=optimized())
    assert told(comfy, g, 900) == []
    for name in ("ksampler", "source"):
        assert relative(latent(comfy, f"eight-{name}"), latent(comfy, "eight-reconstruction")) < 1e-3, name
    saved = load_inversion(newest(comfy, "eight"))
    # not the checkpoint, whose VAE encoded the photo
    assert saved.model == path.name
    null = saved.null
    assert null.losses.isfinite().all() and not null.embeddings[0].equals(null.embeddings[1])
    assert 1e-3 < relative(latent(comfy, "default-noise"), latent(comfy, "fp8_e4m3fn-noise")) < 0.5
    path.unlink()


def test_a_lora_takes_part(comfy):
    """Guards weight patches: a LoRA before our nodes changes the trajectory; without it the trajectory is refused."""
    unet = load_file(PACK / "nullinv_core/demo/model/unet/diffusion_pytorch_model.safetensors")
    rows, columns = unet["mid_block.attentions.0.transformer_blocks.0.attn2.to_v.weight"].shape
    generator = torch.Generator().manual_seed(0)
    name = "lora_unet_middle_block_1_transformer_blocks_0_attn2_to_v"
    tensors = {
        f"{name}.lora_up.weight": torch.randn(rows, 2, generator=generator) * 0.5,
        f"{name}.lora_down.weight": torch.randn(2, columns, generator=generator) * 0.5,
        f"{name}.alpha": torch.tensor(2.0),
    }
    save_file(tensors, comfy.base / "models" / "loras" / "random.safetensors")
    latents = {}
    for strength in (0.0, 1.0):
        chain = Chain(steps=4, inner_steps=2)
        g = chain.graph
        lora = g.add("LoraLoaderModelOnly", model=chain.load(), lora_name="random.safetensors", strength_model=strength)
        _, sampler = chain.edit()
        for node in (chain.invert, chain.optimize, sampler):
            g[node()[0]]["inputs"]["model"] = lora()
        name = f"lora-{strength:.0f}"
        g.add("SaveLatent", samples=chain.invert(0), filename_prefix=name)
        g.add("SaveLatent", samples=sampler(1), filename_prefix=f"{name}-source")
        g.add("SaveLatent", samples=chain.optimize(1), filename_prefix=f"{name}-reconstruction")
        applied = g.add("NullInvApply", model=lora(), null_embeddings=chain.optimize())
        g.add("SaveLatent", samples=chain.ksampler(applied(), 7.5)(), filename_prefix=f"{name}-ksampler")
        assert told(comfy, g) == []
        latents[strength] = latent(comfy, name)
        assert relative(latent(comfy, f"{name}-source"), latent(comfy, f"{name}-reconstruction")) < 1e-3
    assert relative(latents[1.0], latents[0.0]) > 1e-3
    g[sampler()[0]]["inputs"]["model"] = chain.load()
    assert "another MODEL: with LoRA there, without it here" in error_of(comfy.finish(comfy.queue(g)))
    half = {"lora_name": "random.safetensors", "strength_model": 0.5}
    g[sampler()[0]]["inputs"]["model"] = g.add("LoraLoaderModelOnly", model=chain.load(), **half)()
    assert "another MODEL: with another LoRA strength there" in error_of(comfy.finish(comfy.queue(g)))


def test_a_learned_word_takes_part(comfy):
    """Guards textual inversion: an embedding is one word that can be replaced, weighted and blended by its name."""
    vectors = torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(0))
    save_file({"emb_params": vectors}, comfy.base / "models" / "embeddings" / "mystar.safetensors")
    chain = Chain(steps=4, inner_steps=2)
    text = "an embedding:mystar on a marble table"
    chain.source = chain.graph.add("CLIPTextEncode", clip=chain.load(1), text=text)
    for node in (chain.invert, chain.optimize):
        chain.graph[node()[0]]["inputs"]["source"] = chain.source()
    plan, sampler = chain.edit("an (embedding:mystar:1.5) on a wooden table", blend_words="embedding:mystar")
    chain.graph[plan()[0]]["inputs"]["source_text"] = text
    chain.graph.add("PreviewAny", source=plan(3))
    chain.graph.add("SaveLatent", samples=sampler(0), filename_prefix="learned")
    entry = comfy.run(chain.graph)
    shown = json.dumps(entry["outputs"])
    assert "embedding:mystar" in shown
    for node in (chain.source, plan):
        inputs = chain.graph[node()[0]]["inputs"]
        inputs.update({k: v.replace("mystar", "nostar") for k, v in inputs.items() if k in ("text", "source_text")})
    entry = comfy.finish(comfy.queue(chain.graph))
    assert "models/embeddings" in error_of(entry)


@pytest.mark.parametrize("checkpoint", ["sd2"], indirect=True)
def test_a_photo_goes_through_edit_photo(comfy, checkpoint):
    """Guards the one-node chain on full-size models: a photo of any size, cropped to multiples of 8 pixels."""
    photo = Photo(checkpoint)
    wide = photo.graph.add(
        "ImageScale", image=photo.image(), upscale_method="bicubic", width=150, height=70, crop="disabled"
    )
    edited = photo.graph.add(
        "NullInvEditPhoto", model=photo.load(), clip=photo.load(1), vae=photo.load(2), image=wide(),
        source_text=PROMPTS[0], edit_text="a photo of a dog on a table", strength=0.35, blend_words="", size=64,
        steps=1, cfg=7.5, keep_pixels=False,
    )  # fmt: skip
    photo.graph.add("SaveImage", images=edited(0), filename_prefix="one-node")
    comfy.run(photo.graph)
    assert Image.open(newest(comfy, "one-node")).size == (136, 64)


def test_gradients_are_right(comfy):
    """Guards the backward pass inside ComfyUI: a directional derivative, from inference mode as executors run nodes;
    and checkpointing, which must not change it."""
    slopes = json.loads(comfy.script("gradient_check.py", PACK).splitlines()[-1])
    assert slopes["autograd"] > 0 and math.isclose(slopes["autograd"], slopes["numeric"], rel_tol=0.01)
    assert slopes["checkpointed_apart"] < 1e-5 and slopes["runs"] == [1, 2]
    assert slopes["cosine of float16"] > 0.99 and not slopes["same"]
