"""What other packs leave on a MODEL or do inside its network: taken along exactly, or refused by name with a way out.

The packs' own ways are played by ``other_pack``; at the demo's widths, and at Stable Diffusion's proportions, where
patches that look for its widths act.
"""

import pytest
import torch
from safetensors.torch import save_file

from .graphs import Chain
from .outputs import latent, relative
from .proportions import write_proportions
from .server import error_of
from .test_interplay import QUICK, through

PLAIN = "connect the MODEL from before that node to DDIM Invert and to all that follows"


def whole(comfy, kind=None, folder=None, preset="custom", edit=None, **inputs):
    """The whole chain with another pack's node before all that samples: its error, and the latents by their names."""
    chain = Chain(**QUICK)
    g = chain.graph
    if folder:
        g[chain.load()[0]]["inputs"]["model"] = folder
    g[chain.optimize()[0]]["inputs"]["preset"] = preset
    _, sampler = chain.edit(**(edit or {}))
    model = chain.load
    if kind:
        model = through(chain, kind, sampler)
        g[model()[0]]["inputs"].update(inputs)
    saved = chain.save_all(model(), sampler, "whole")
    error = error_of(comfy.finish(comfy.queue(g)))
    return error, {} if error else {part: latent(comfy, f"whole-{part}") for part in saved}


def works(comfy, kind=None, **inputs):
    """The latents of the whole chain with another pack's node; raises AssertionError where a node of it failed."""
    error, found = whole(comfy, kind, **inputs)
    assert not error, error
    return found


def refusal(comfy, kind, **inputs):
    """The sentence that refuses another pack's node in the whole chain."""
    return whole(comfy, kind, **inputs)[0].strip()


@pytest.fixture(scope="module")
def plain(comfy):
    """What the chain gives without any other node."""
    return works(comfy)


@pytest.fixture(scope="module")
def proportions(comfy):
    """A folder with a network of Stable Diffusion's proportions, and what the chain gives with it."""
    folder = comfy.base / "models" / "diffusers" / "proportions"
    write_proportions(folder)
    return folder.name, works(comfy, folder=folder.name)


def retraced(found):
    """Whether an edit's source branch and a KSampler come back to the reconstruction."""
    return all(relative(found[part], found["reconstruction"]) < 1e-3 for part in ("source", "ksampler"))


@pytest.mark.parametrize("preset", ["custom", "fast"])
def test_a_tensor_that_others_left_on_the_model_changes_nothing(comfy, plain, preset):
    """Guards packs that keep tensors in a MODEL's options (smZNodes after any KSampler): they have no truth."""
    without = plain if preset == "custom" else works(comfy, preset=preset)
    found = works(comfy, "OtherLeave", preset=preset)
    assert torch.equal(found["reconstruction"], without["reconstruction"])
    assert torch.equal(found["edited"], without["edited"])


def test_patches_may_write_over_what_they_read(comfy, plain):
    """Guards gradients through patches of every place that work in place: the same as through those that do not."""
    found = {over: works(comfy, "OtherInPlace", over=over) for over in (False, True)}
    assert retraced(found[True])
    assert relative(found[True]["reconstruction"], found[False]["reconstruction"]) < 1e-5
    assert relative(found[True]["reconstruction"], plain["reconstruction"]) > 1e-3


@pytest.mark.parametrize(
    ("kind", "inputs"),
    [
        ("FreeU_V2", {"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2}),
        ("PatchModelAddDownscale", {"block_number": 3, "downscale_factor": 2.0, "start_percent": 0.0,
                                    "end_percent": 0.35, "downscale_after_skip": True, "downscale_method": "bicubic",
                                    "upscale_method": "bicubic"}),
    ],
)  # fmt: skip
def test_patches_of_core_act_at_the_proportions_that_they_look_for(comfy, proportions, kind, inputs):
    """Guards patches that look for Stable Diffusion's widths, which the demo model has not."""
    folder, without = proportions
    found = works(comfy, kind, folder=folder, **inputs)
    assert retraced(found)
    assert relative(found["reconstruction"], without["reconstruction"]) > 1e-3


@pytest.mark.parametrize(
    ("what", "preset"), [("whole", "custom"), ("middle", "custom"), ("middle", "fast"), ("middle", "negative-prompt")]
)
def test_predictions_that_are_left_out_are_seen(comfy, what, preset):
    """Guards caches that tell nobody (First Block Cache): seen by what the network runs for, and named."""
    error = refusal(comfy, "OtherCache", preset=preset, what=what)
    assert "leaves out predictions" in error and "(Cache of other_pack)" in error and PLAIN in error


def test_what_passes_no_gradient_is_refused_with_two_ways_out(comfy, plain):
    """Guards tiled predictions under inference mode: both ways that the sentence names work."""
    error = refusal(comfy, "OtherTiles", pieces=1)
    assert "NullInvOptimize" in error and "(Tiles of other_pack) cannot be differentiated through" in error
    assert PLAIN in error and "(direct, negative-prompt)" in error
    assert retraced(works(comfy, "OtherTiles", preset="negative-prompt", pieces=1))
    direct = works(comfy, "OtherTiles", preset="direct", pieces=1)
    assert relative(direct["edited"], direct["source"]) > 1e-2


@pytest.mark.parametrize("kind", ["OtherFrozen", "LoraLoaderBypassModelOnly"])
def test_layers_of_inference_mode_in_a_patch_take_part(comfy, plain, kind):
    """Guards hypernetworks and LoRAs beside their layers, whose tensors autograd may not save as they are."""
    if kind not in comfy.get("/object_info"):
        pytest.skip("this ComfyUI has no such node")
    inputs = {}
    if kind != "OtherFrozen":
        name = "lora_unet_middle_block_1_transformer_blocks_0_attn2_to_v"
        generator = torch.Generator().manual_seed(0)
        tensors = {
            f"{name}.lora_up.weight": torch.randn(224, 2, generator=generator) * 0.2,
            f"{name}.lora_down.weight": torch.randn(2, 128, generator=generator) * 0.2,
        }
        save_file(tensors, comfy.base / "models" / "loras" / "beside.safetensors")
        inputs = {"lora_name": "beside.safetensors", "strength_model": 1.0}
    found = works(comfy, kind, **inputs)
    assert retraced(found)
    assert relative(found["reconstruction"], plain["reconstruction"]) > 1e-4


@pytest.mark.parametrize("self_replace", [0.4, 0.0])
def test_pictures_in_pieces_are_refused_in_edits(comfy, self_replace):
    """Guards words and places against tiles of the picture: no way is named that is refused again."""
    error = refusal(comfy, "OtherTiles", preset="direct", edit={"self_replace": self_replace}, pieces=2)
    assert "NullInvP2PSampler" in error and "(Tiles of other_pack)" in error and error.endswith(PLAIN)


@pytest.mark.parametrize("what", ["guidance", "style"])
def test_rows_that_read_each_other_are_refused(comfy, what):
    """Guards guidance in the attention and styles of a batch, which act only where rows share a call."""
    error = refusal(comfy, "OtherMix", what=what, strength=0.5)
    assert "NullInvDDIMInvert" in error and "(Mix of other_pack)" in error and PLAIN in error
    if what == "guidance":
        assert retraced(works(comfy, "OtherMix", what=what, strength=0.0))


def test_guidance_in_core_s_attention_is_refused_before_anything_is_loaded(comfy):
    """Guards NAGuidance, which asks for both branches whatever the scale."""
    if "NAGuidance" not in comfy.get("/object_info"):
        pytest.skip("this ComfyUI has no NAGuidance")
    error = refusal(comfy, "NAGuidance", nag_scale=5.0, nag_alpha=0.5, nag_tau=2.5)
    assert "another node (NAGuidance) changes this MODEL's guidance" in error and PLAIN in error


def test_quantized_weights_are_told_apart(comfy, plain):
    """Guards GGUF: layers that show hollow tensors instead of their weights go through every node; others are seen."""
    found = works(comfy, "OtherQuantize", other=False)
    assert retraced(found)
    assert relative(found["reconstruction"], plain["reconstruction"]) > 1e-5
    chain = Chain(**QUICK)
    one, another = (chain.graph.add("OtherQuantize", model=chain.load(), other=other) for other in (False, True))
    chain.graph[chain.invert()[0]]["inputs"]["model"] = one()
    chain.graph[chain.optimize()[0]]["inputs"]["model"] = another()
    chain.graph.add("SaveLatent", samples=chain.optimize(1), filename_prefix="quantized")
    assert "another MODEL: its weights are others" in error_of(comfy.finish(comfy.queue(chain.graph)))


def test_a_controlnet_whose_weights_are_streamed_takes_part(comfy):
    """Guards ControlNets under dynamic offloading: constants to the gradient, and nowhere else; as near to the photo as
    with the whole gradient."""
    reached = {}
    for streams in (False, True):
        chain = Chain(**QUICK)
        g = chain.graph
        both = g.add("OtherApplyControl", positive=chain.source(), negative=chain.empty(), streams=streams)
        _, sampler = chain.edit()
        for node in (chain.invert, chain.optimize, sampler):
            g[node()[0]]["inputs"]["source"] = both(0)
        for node in (chain.optimize, sampler):
            g[node()[0]]["inputs"]["negative"] = both(1)
        saved = {"photo": chain.latent(), "reconstruction": chain.optimize(1), "source": sampler(1)}
        for part, samples in saved.items():
            g.add("SaveLatent", samples=samples, filename_prefix=f"streamed-{part}")
        comfy.run(g)
        found = {part: latent(comfy, f"streamed-{part}") for part in saved}
        assert relative(found["source"], found["reconstruction"]) < 1e-3
        reached[streams] = relative(found["reconstruction"], found["photo"])
    assert reached[True] < 1.06 * reached[False]


def test_a_streamed_model_is_read_again_once(comfy, plain):
    """Guards dynamic offloading: the whole weights that optimizing needs are kept with the MODEL, and are its own."""
    if "get_non_dynamic_delegate" not in (comfy.comfyui / "comfy" / "model_patcher.py").read_text(encoding="utf-8"):
        pytest.skip("this ComfyUI has no dynamic offloading")
    chain = Chain(**QUICK)
    chain.graph[chain.optimize()[0]]["inputs"]["model"] = chain.graph.add("OtherStream", model=chain.load())()
    chain.graph.add("SaveLatent", samples=chain.optimize(1), filename_prefix="read-again")
    before = comfy.text().count("reads the checkpoint again")
    for inner_steps in (QUICK["inner_steps"] + 1, QUICK["inner_steps"]):
        chain.graph[chain.optimize()[0]]["inputs"]["inner_steps"] = inner_steps
        comfy.run(chain.graph)
    assert torch.equal(latent(comfy, "read-again"), plain["reconstruction"])
    assert comfy.text().count("reads the checkpoint again") == before + 1
