"""Full-size Stable Diffusion 1.5, 2.1 and SDXL in both backends, from one checkpoint file: ``make test-full``.

Random weights, small latents; each backend has the machine to itself. The figures go to
``benchmarks/results/full_size.json``.
"""

import gc
import json
import math

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from benchmarks.common import environment, write_json
from nullinv_core import EditSettings, batch_edits, edit, invert, load_inversion, plan_edit, reconstruct
from nullinv_core.backends.diffusers import DiffusersDenoiser, check_inversion, load_model
from nullinv_core.backends.diffusers.attention import ControlledAttention
from nullinv_core.backends.diffusers.configuration import write_configuration
from nullinv_core.context import cat, distance, norm
from nullinv_core.families import FAMILIES

from .outputs import latent, newest, relative
from .server import PACK
from .test_models import PROMPTS, Photo

pytestmark = pytest.mark.full
RESULT = PACK / "benchmarks" / "results" / "full_size.json"
NAMES = {"sd15": "v1", "sd2": "v2, v prediction", "sdxl": "xl_base"}
SIDES = {"sd15": 128, "sd2": 128, "sdxl": 256}
"""In pixels: SDXL has no layer with attention on the grid of smaller pictures."""
EDITED = "a photo of a dog on a table"


def in_comfyui(comfy, kind):
    """Every node that samples, on a checkpoint; what they saved, in the paper's scale."""
    photo = Photo(comfy.checkpoint(kind).name, SIDES[kind])
    g = photo.graph
    inverted = photo.invert()
    optimized = photo.optimize(inverted)
    plan = g.add("NullInvP2PEdit", clip=photo.load(1), source_text=PROMPTS[0], edit_text=EDITED, blend_words="cat")
    edited = g.add(
        "NullInvP2PSampler", model=photo.load(), trajectory=inverted(1), edit=plan(), null_embeddings=optimized()
    )
    applied = g.add("NullInvApply", model=photo.load(), null_embeddings=optimized())
    sampled = g.add(
        "KSamplerAdvanced", model=applied(), steps=2, cfg=7.5, positive=photo.source(), negative=photo.empty(),
        latent_image=inverted(0),
    )  # fmt: skip
    guided = g.guided(photo.load(), photo.source(), optimized(), inverted(0), steps=2)
    # the edit text's encoding, as the context of a trajectory of its own
    text = g.add("CLIPTextEncode", clip=photo.load(1), text=EDITED)
    other = photo.invert(steps=1, source=text())
    saved = {"edited": edited(0), "source": edited(1), "reconstruction": optimized(1), "ksampler": sampled(),
             "guided": guided()}  # fmt: skip
    for name, samples in saved.items():
        photo.save(samples, f"{kind}-{name}")
    maps = g.add("NullInvAttentionMaps", attention=edited(3), words="cat", edit=0)
    pictures = [g.add("VAEDecode", samples=samples, vae=photo.load(2))() for samples in (edited(0), photo.latent())]
    kept = g.add("NullInvKeepPhoto", photo=photo.image(), edited=pictures[0], reconstructed=pictures[1])
    for images in (maps(), kept()):
        g.add("PreviewImage", images=images)
    g.add("NullInvSave", trajectory=inverted(1), prompt=PROMPTS[0], filename_prefix=kind, null_embeddings=optimized())
    g.add("NullInvSave", trajectory=other(1), prompt=EDITED, filename_prefix=f"{kind}-text")
    comfy.run(g, seconds=3000)
    later = Photo(comfy.checkpoint(kind).name, SIDES[kind])
    g = later.graph
    loaded = g.add("NullInvLoad", file=f"output/{newest(comfy, kind).name}")
    plan = g.add("NullInvP2PEdit", clip=later.load(1), source_text=loaded(2), edit_text=EDITED, blend_words="cat")
    again = g.add("NullInvP2PSampler", model=later.load(), trajectory=loaded(0), edit=plan(), null_embeddings=loaded(1))
    later.save(again(), f"{kind}-loaded")
    one = g.add(
        "NullInvEditPhoto", model=later.load(), clip=later.load(1), vae=later.load(2), image=later.image(),
        source_text=PROMPTS[0], edit_text=EDITED, strength=0.35, blend_words="", size=SIDES[kind], steps=1, cfg=7.5,
        keep_pixels=True,
    )  # fmt: skip
    g.add("PreviewImage", images=one(1))
    comfy.run(g, seconds=3000)
    saved["loaded"] = again()
    comfy.post("/free", {"unload_models": True, "free_memory": True})
    return {name: latent(comfy, f"{kind}-{name}") * FAMILIES[NAMES[kind]].scale for name in saved}


def test_a_file_s_own_marks_are_read(comfy):
    """Guards fine-tunes of SDXL that predict v to pure noise: both backends see it in the file, whatever its family's
    configuration says."""
    file = comfy.checkpoint("sdxl")
    marked = file.with_name("marked.safetensors")
    save_file({**load_file(file), "v_pred": torch.tensor([]), "ztsnr": torch.tensor([])}, marked)
    photo, printed = Photo(marked.name, SIDES["sdxl"]), len(comfy.text())
    inverted = photo.graph.add(
        "NullInvDDIMInvert", model=photo.load(), source=photo.source(), latent=photo.latent(), steps=1,
        scheduler="normal",
    )  # fmt: skip
    photo.graph.add("NullInvSave", trajectory=inverted(1), prompt=PROMPTS[0], filename_prefix="marked")
    comfy.run(photo.graph, seconds=3000)
    comfy.post("/free", {"unload_models": True, "free_memory": True})
    assert "model_type V_PREDICTION" in comfy.text()[printed:]
    schedule = load_inversion(newest(comfy, "marked")).trajectory.schedule
    model = load_model(marked, dtype=torch.bfloat16)
    assert model.denoiser.prediction == "v_prediction"
    assert math.isclose(schedule.alphas_cumprod[-1], model.alphas_cumprod[-1], rel_tol=0.01)
    assert model.alphas_cumprod[-1] < 1e-7
    marked.unlink()


@pytest.mark.parametrize("kind", ["sd15", "sd2", "sdxl"])
def test_both_backends_give_the_same(comfy, tmp_path, kind):
    """Guards full-size models: ComfyUI's own samplers and the diffusers backend, 1e-3 with the same embeddings."""
    file = comfy.checkpoint(kind)
    there = in_comfyui(comfy, kind)
    saved, text = (load_inversion(newest(comfy, name)) for name in (f"{kind}", f"{kind}-text"))
    found = {name: relative(there[name], there["reconstruction"]) for name in ("source", "ksampler", "guided")}

    model = load_model(file, dtype=torch.bfloat16)
    prompts = [model.prompt(t) for t in (PROMPTS[0], EDITED)]
    contexts = cat([saved.trajectory.context, text.trajectory.context])
    model_contexts = model.encode_prompts(prompts)
    prediction = model.denoiser.prediction
    assert prediction == ("v_prediction" if kind == "sd2" else "epsilon")
    check_inversion(saved, model)
    del model
    gc.collect()
    write_configuration(tmp_path, FAMILIES[NAMES[kind]], {})
    unet = UNet2DConditionModel.from_single_file(
        file, config=str(tmp_path), subfolder="unet", local_files_only=True, torch_dtype=torch.float32
    )
    unet.requires_grad_(False).eval().set_attn_processor(ControlledAttention())
    denoiser = DiffusersDenoiser(unet, prediction)
    trajectory = saved.trajectory
    again = invert(denoiser, trajectory.clean, trajectory.context, trajectory.schedule, method="ddim")
    found["trajectory"] = relative(again.latents, trajectory.latents)
    found["reconstruction"] = relative(reconstruct(denoiser, trajectory, saved.null, 7.5), there["reconstruction"])
    plan = plan_edit(*prompts, trajectory.schedule.steps, EditSettings(blend_words=["cat"]))
    result = edit(denoiser, trajectory, saved.null, contexts[None, 1:], batch_edits([[plan]]), 7.5)
    found["edited"] = relative(result.latents[0], there["edited"])
    found["edited, from the file"] = relative(there["loaded"], there["edited"])

    contexts_differ = float(distance(model_contexts, contexts) / norm(contexts))
    assert contexts_differ < 0.03
    assert max(found.values()) < 1e-3, found
    about = {
        "contexts in bfloat16": contexts_differ,
        "parameters": sum(p.numel() for p in unet.parameters()),
        "comfyui": comfy.get("/system_stats")["system"]["comfyui_version"],
        **environment(),
    }
    written = json.loads(RESULT.read_text(encoding="utf-8"))
    write_json(RESULT, {**written, kind: {**found, **about}})
    file.unlink()
