"""SDXL in a real ComfyUI, beside the diffusers backend: two text encoders, the pooled vector, the picture's size."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from nullinv_core import EditSettings, batch_edits, edit, invert, load_inversion, plan_edit, reconstruct
from nullinv_core.backends.diffusers import load_model
from nullinv_core.context import distance, norm
from nullinv_core.demo.edits import sample_edit
from nullinv_core.demo.scenes import render

from ..core.helpers import tiny_xl_folder
from .graphs import Chain, Graph
from .outputs import latent, newest, relative, told
from .server import error_of

NAME, STEPS, POOLED = "tiny-xl", 2, 16
SOURCE, EDIT = "a red cat on a marble table", "a red dog on a marble table"


class Photo(Chain):
    """The narrow SDXL folder and a small photo, inverted and optimized."""

    def __init__(self, **options):
        super().__init__(steps=STEPS, inner_steps=2)
        g = self.graph
        g[self.load()[0]]["inputs"]["model"] = NAME
        for node, text in ((self.source, SOURCE), (self.empty, "")):
            g[node()[0]]["inputs"]["text"] = text
        # 512×256 pixels: layers with attention have 16×32 positions, and the picture is not square
        self.image = g.add(
            "ImageScale", image=self.scene(), upscale_method="bicubic", width=512, height=256, crop="disabled"
        )
        g[self.latent()[0]]["inputs"]["pixels"] = self.image()
        g[self.optimize()[0]]["inputs"].update(options)

    def edit(self, text=EDIT, **options):
        plan, sampler = super().edit(text, **options)
        self.graph[plan()[0]]["inputs"]["source_text"] = SOURCE
        return plan, sampler


@pytest.fixture(scope="module")
def model(comfy):
    return load_model(tiny_xl_folder(comfy.base / "models" / "diffusers" / NAME, POOLED, time_width=256))


@pytest.fixture(scope="module")
def saved(comfy, model):
    """One run of every node that samples, and its inversion."""
    photo = Photo()
    g = photo.graph
    _, sampler = photo.edit(f"{EDIT}\na green cat on a marble table", blend_words="cat", self_replace=0.5)
    applied = g.add("NullInvApply", model=photo.load(), null_embeddings=photo.optimize())
    for name, samples in (
        ("reconstruction", photo.optimize(1)), ("edited", sampler(0)), ("source", sampler(1)),
        ("guided", photo.guided(photo.load())(0)), ("ksampler", photo.ksampler(applied(), 7.5)()),
    ):  # fmt: skip
        g.add("SaveLatent", samples=samples, filename_prefix=f"xl-{name}")
    maps = g.add("NullInvAttentionMaps", attention=sampler(3), words="dog", edit=1)
    g.add("PreviewImage", images=maps())
    g.add(
        "NullInvSave", trajectory=photo.invert(1), prompt=SOURCE, filename_prefix="xl", null_embeddings=photo.optimize()
    )
    comfy.run(g)
    return load_inversion(newest(comfy, "xl"))


def test_the_trajectory_is_that_of_the_diffusers_backend(saved, model):
    """Guards parity: contexts with their pooled vectors, sizes of a wide picture, ε; 1e-3 relative."""
    context = model.encode_prompts([model.prompt(SOURCE)])
    # ComfyUI keeps text encoders in half precision
    assert distance(saved.trajectory.context, context) < 2e-3 * norm(context)
    again = invert(model.denoiser, saved.trajectory.clean, saved.trajectory.context, saved.trajectory.schedule)
    assert relative(saved.trajectory.latents, again.latents) < 1e-3
    assert saved.trajectory.clean.shape == (1, 4, 32, 64)


def test_reconstruction_and_edits_are_those_of_the_diffusers_backend(comfy, saved, model):
    """Guards parity with the same saved embeddings: 1e-3 relative; local blend reads a layer that SDXL has."""
    scale = model.vae.config.scaling_factor
    ours = reconstruct(model.denoiser, saved.trajectory, saved.null, 7.5)
    assert relative(latent(comfy, "xl-reconstruction") * scale, ours) < 1e-3
    texts = [EDIT, "a green cat on a marble table"]
    source, *prompts = [model.prompt(text) for text in (SOURCE, *texts)]
    settings = EditSettings(blend_words=["cat"], self_replace=0.5)
    plans = [plan_edit(source, prompt, STEPS, settings) for prompt in prompts]
    contexts = model.encode_prompts(prompts)[None]
    result = edit(model.denoiser, saved.trajectory, saved.null, contexts, batch_edits([plans]), 7.5)
    assert relative(latent(comfy, "xl-edited") * scale, result.latents[0]) < 1e-3
    assert result.maps.shape[2:4] == (16, 32)


@pytest.mark.parametrize("name", ["source", "guided", "ksampler"])
def test_native_samplers_retrace_our_reconstruction(comfy, saved, name):
    """Guards the null embeddings' pooled vectors in ComfyUI's own samplers, whatever the negative prompt's is."""
    assert relative(latent(comfy, f"xl-{name}"), latent(comfy, "xl-reconstruction")) < 1e-3


@pytest.mark.parametrize("wanted", [False, True])
def test_the_pooled_vector_is_optimized_where_it_is_asked_for(comfy, model, saved, wanted):
    """Guards the option of Null-Text Optimize."""
    photo = Photo(optimize_pooled=wanted)
    photo.graph.add(
        "NullInvSave", trajectory=photo.invert(1), prompt=SOURCE, filename_prefix=f"pooled-{wanted}",
        null_embeddings=photo.optimize(),
    )  # fmt: skip
    comfy.run(photo.graph)
    null = load_inversion(newest(comfy, f"pooled-{wanted}")).null
    empty, found = model.encode_prompts([model.prompt("")])[0], null.at(1)[0]
    assert relative(found.text, empty.text) > 1e-2 and (relative(found.pooled, empty.pooled) > 1e-2) is wanted


def test_edit_photo_takes_an_sdxl_model(comfy, picture, model):
    """Guards the one-node chain: fast, pinned, kept pixels; a picture that fits no grid is cropped to it."""
    photo = Photo()
    g = photo.graph
    wide = g.add("ImageScale", image=photo.scene(), upscale_method="bicubic", width=300, height=260, crop="disabled")
    edited = g.add(
        "NullInvEditPhoto", model=photo.load(), clip=photo.load(1), vae=photo.load(2), image=wide(),
        source_text=SOURCE, edit_text=EDIT, strength=0.35, blend_words="cat", size=256, steps=2, cfg=3.0,
        keep_pixels=True,
    )  # fmt: skip
    g.add("SaveImage", images=edited(0), filename_prefix="xl-one-node")
    g.add("SaveImage", images=wide(), filename_prefix="xl-one-node-photo")
    assert sum("288×256 pixels are few for" in line for line in told(comfy, g)) == 1
    assert Image.open(newest(comfy, "xl-one-node")).size == (288, 256)
    shown, photo_itself = (picture(name) for name in ("xl-one-node", "xl-one-node-photo"))
    kept = np.isclose(shown, photo_itself[2:258, 6:294], atol=2 / 255).all(-1)
    # random networks change much; what they do not is the photo
    assert 0 < kept.mean() < 1


def test_texts_of_another_clip_are_refused(comfy, model):
    """Guards the edge: the demo's CLIP has no pooled vector of this width."""
    photo = Photo()
    demo = Graph(photo.graph)
    other = demo.add("NullInvLoadDiffusers", model="demo model (ships with the nodes)")
    demo[photo.source()[0]]["inputs"]["clip"] = other(1)
    demo.add("SaveLatent", samples=photo.invert(0), filename_prefix="never")
    assert "this SDXL model's CLIP" in error_of(comfy.finish(comfy.queue(demo)))


def encoded(g, clip, text, **sizes):
    """CLIPTextEncodeSDXL: a text, and what SDXL is told of the picture."""
    told = {"width": 512, "height": 256, "crop_w": 0, "crop_h": 0, "target_width": 512, "target_height": 256}
    return g.add("CLIPTextEncodeSDXL", clip=clip, text_g=text, text_l=text, **{**told, **sizes})


def test_sizes_of_the_inversion_hold_in_the_edit(comfy, model, saved):
    """Guards what SDXL is told of the picture: from the inversion on, in a file too; other sizes are refused."""
    photo = Photo()
    g = photo.graph
    _, sampler = photo.edit()
    source, empty = (encoded(g, photo.load(1), text, width=1024, crop_w=64) for text in (SOURCE, ""))
    g[photo.invert()[0]]["inputs"]["source"] = source()
    g[photo.optimize()[0]]["inputs"].update(source=source(), negative=empty())
    saving = g.add("NullInvSave", trajectory=photo.invert(1), prompt=SOURCE, filename_prefix="xl-sizes",
                   null_embeddings=photo.optimize())  # fmt: skip
    # whatever sizes the guider's text has
    plain = encoded(g, photo.load(1), SOURCE)
    guided = g.guided(photo.load(), plain(), photo.optimize(), photo.invert(0), STEPS)
    for name, samples in {"source": sampler(1), "reconstruction": photo.optimize(1), "guided": guided()}.items():
        g.add("SaveLatent", samples=samples, filename_prefix=f"xl-sizes-{name}")
    comfy.run(g)
    stored = load_inversion(newest(comfy, "xl-sizes"))
    assert stored.sizes == (1024, 256, 64, 0, 512, 256) and saved.sizes == (512, 256, 0, 0, 512, 256)
    assert relative(stored.trajectory.latents, saved.trajectory.latents) > 1e-3
    for name in ("source", "guided"):
        assert relative(latent(comfy, f"xl-sizes-{name}"), latent(comfy, "xl-sizes-reconstruction")) < 1e-3, name
    del g[saving()[0]]
    for node, inputs in ((sampler, {"source": plain()}), (photo.optimize, {"negative": photo.empty()})):
        g[node()[0]]["inputs"].update(inputs)
        assert "SDXL the sizes" in error_of(comfy.finish(comfy.queue(g)))


@pytest.mark.parametrize("both", [True, False])
def test_an_embedding_is_for_both_encoders(comfy, model, both):
    """Guards words: SDXL's textual inversions hold vectors for both encoders; one of Stable Diffusion 1.5 would shift
    the tokens of the second, and is refused."""
    vectors = (
        {"clip_l": torch.randn(2, 12), "clip_g": torch.randn(2, 16)} if both else {"emb_params": torch.randn(2, 12)}
    )
    save_file(vectors, comfy.base / "models" / "embeddings" / f"both-{both}.safetensors")
    photo, text = Photo(), f"a red embedding:both-{both} on a marble table"
    plan, sampler = photo.edit(text, blend_words=f"embedding:both-{both}")
    photo.graph.add("PreviewAny", source=plan(3))
    photo.graph.add("SaveLatent", samples=sampler(), filename_prefix="xl-embedding")
    entry = comfy.finish(comfy.queue(photo.graph))
    if both:
        assert "embedding:both-true" in str(entry["outputs"]).lower() and latent(comfy, "xl-embedding").isfinite().all()
    else:
        assert "made for this model" in error_of(entry)


def test_sizes_hold_in_a_ksampler(comfy, model):
    """Guards Apply Null-Text: a text that tells SDXL other sizes than the inversion's is refused."""
    photo = Photo()
    g = photo.graph
    applied = g.add("NullInvApply", model=photo.load(), null_embeddings=photo.optimize())
    sampled = photo.ksampler(applied(), 7.5)
    g.add("SaveLatent", samples=sampled(), filename_prefix="xl-never")
    g[sampled()[0]]["inputs"]["positive"] = encoded(g, photo.load(1), SOURCE, crop_w=64)()
    assert "SDXL the sizes" in error_of(comfy.finish(comfy.queue(g)))


def test_the_photo_of_a_scene_is_seen(comfy, saved, model):
    """Guards the tests above: the latents are those of the scene's picture, by the folder's own autoencoder."""
    scene = torch.from_numpy(render(sample_edit(0, "colour").source))[None].permute(0, 3, 1, 2)
    wide = torch.nn.functional.interpolate(scene, (256, 512), mode="bicubic").clamp(0, 1).permute(0, 2, 3, 1)
    assert relative(saved.trajectory.clean, model.encode_image(wide)) < 0.05
