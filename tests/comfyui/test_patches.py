"""Nodes of ComfyUI's own that change a MODEL, CLIP or CONDITIONING, in front of ours: all of docs/interplay.md."""

import json
import re

import pytest
import torch
from safetensors.torch import save_file

from nullinv_core import load_inversion
from nullinv_core.photo.images import psnr

from .graphs import Chain
from .outputs import latent, newest, relative, told
from .server import PACK, error_of
from .test_interplay import QUICK, through


def retraced(comfy, chain, model, name, exact=1e-3, **conditionings):
    """The noise of a chain whose edit and KSampler come back to its reconstruction, saved as ``name``."""
    g = chain.graph
    _, sampler = chain.edit()
    for node in (chain.invert, chain.optimize, sampler):
        g[node()[0]]["inputs"]["model"] = model()
    g[sampler()[0]]["inputs"].update(conditionings)
    applied = g.add("NullInvApply", model=model(), null_embeddings=chain.optimize())
    saved = {"noise": chain.invert(0), "source": sampler(1), "reconstruction": chain.optimize(1), "edited": sampler(0),
             "ksampler": chain.ksampler(applied(), 7.5)()}  # fmt: skip
    for part, samples in saved.items():
        g.add("SaveLatent", samples=samples, filename_prefix=f"{name}-{part}")
    comfy.run(g, seconds=600)
    found = {part: latent(comfy, f"{name}-{part}") for part in saved}
    for part in ("source", "ksampler"):
        assert relative(found[part], found["reconstruction"]) < exact, part
    assert relative(found["edited"], found["reconstruction"]) > 1e-2
    return found["noise"]


@pytest.fixture(scope="module")
def plain(comfy):
    """The noise of the chain without any other node."""
    chain = Chain(**QUICK)
    return retraced(comfy, chain, chain.load, "plain")


@pytest.mark.parametrize(
    ("kind", "inputs"),
    [
        ("OtherOutputPatch", {}),
        ("ModelSamplingDiscrete", {"sampling": "eps", "zsnr": True}),
        ("ModelSamplingDiscrete", {"sampling": "v_prediction", "zsnr": True}),
        ("ModelComputeDtype", {"dtype": "bf16"}),
        ("OtherCompile", {}),
    ],
)
def test_what_a_node_makes_of_the_model_takes_part(comfy, plain, kind, inputs):
    """Guards FreeU, another noise schedule, another precision, a compiled network: through the whole chain."""
    chain = Chain(**QUICK)
    other = chain.graph.add(kind, model=chain.load(), **inputs)
    # batches of other sizes are rounded in other ways
    noise = retraced(comfy, chain, other, kind, exact=0.05 if kind == "ModelComputeDtype" else 1e-3)
    assert (relative(noise, plain) > 1e-4) is (kind != "OtherCompile")


def test_clip_skip_takes_part(comfy, plain):
    """Guards CLIP Set Last Layer: the same in every text."""
    chain = Chain(**QUICK)
    g = chain.graph
    skipped = g.add("CLIPSetLastLayer", clip=chain.load(1), stop_at_clip_layer=-2)
    for node in g.values():
        if node["class_type"] == "CLIPTextEncode":
            node["inputs"]["clip"] = skipped()
    load = chain.load
    chain.load = lambda slot=0: skipped() if slot == 1 else load(slot)
    assert relative(retraced(comfy, chain, load, "clip-skip"), plain) > 1e-4


def test_a_range_of_all_steps_is_none(comfy, plain):
    """Guards encoders that set the range of steps always (Prompt Control's): the whole of it limits nothing."""
    chain = Chain(**QUICK)
    g = chain.graph
    source, empty = (g.add("ConditioningSetTimestepRange", conditioning=c(), start=0.0, end=1.0)
                     for c in (chain.source, chain.empty))  # fmt: skip
    g[chain.invert()[0]]["inputs"]["source"] = source()
    g[chain.optimize()[0]]["inputs"].update(source=source(), negative=empty())
    chain.source, chain.empty = source, empty
    assert relative(retraced(comfy, chain, chain.load, "whole-range", source=source(), negative=empty()), plain) < 1e-6


def test_a_lora_as_a_hook_takes_part(comfy, plain):
    """Guards LoRAs that hang on a CONDITIONING: in the inversion, the embeddings, the edit and a KSampler."""
    generator = torch.Generator().manual_seed(0)
    name = "lora_unet_middle_block_1_transformer_blocks_0_attn2_to_v"
    tensors = {
        f"{name}.lora_up.weight": torch.randn(224, 2, generator=generator) * 0.2,
        f"{name}.lora_down.weight": torch.randn(2, 128, generator=generator) * 0.2,
        f"{name}.alpha": torch.tensor(2.0),
    }
    save_file(tensors, comfy.base / "models" / "loras" / "hooked.safetensors")
    chain = Chain(**QUICK)
    g = chain.graph
    hook = g.add("CreateHookLoraModelOnly", lora_name="hooked.safetensors", strength_model=1.0)
    source, empty = (g.add("ConditioningSetProperties", cond_NEW=c(), strength=1.0, set_cond_area="default",
                           hooks=hook()) for c in (chain.source, chain.empty))  # fmt: skip
    g[chain.invert()[0]]["inputs"]["source"] = source()
    g[chain.optimize()[0]]["inputs"].update(source=source(), negative=empty())
    chain.source, chain.empty = source, empty
    noise = retraced(comfy, chain, chain.load, "hooked", source=source(), negative=empty())
    assert relative(noise, plain) > 1e-4


@pytest.mark.parametrize(
    ("kind", "inputs"),
    [
        ("HyperTile", {"tile_size": 64, "swap_size": 2, "max_depth": 0, "scale_depth": False}),
        ("TomePatchModel", {"ratio": 0.5}),
        ("TomePatchModel", {"ratio": 0.75}),
    ],
)
def test_positions_that_are_moved_are_refused(comfy, kind, inputs):
    """Guards edits against tiles and merged positions, where the photo's place is no longer the edit's: refused in
    words while self-attention is replaced; done without."""
    chain = Chain(**QUICK)
    _, sampler = chain.edit()
    other = through(chain, kind, sampler)
    chain.graph[other()[0]]["inputs"].update(inputs)
    chain.graph.add("SaveLatent", samples=sampler(), filename_prefix=kind)
    assert "HyperTile, ToMe" in error_of(comfy.finish(comfy.queue(chain.graph)))
    plan = chain.graph[sampler()[0]]["inputs"]["edit"]
    chain.graph[plan[0]]["inputs"]["self_replace"] = 0.0
    comfy.run(chain.graph)
    assert latent(comfy, kind).isfinite().all()


@pytest.mark.parametrize("what", ["tokens", "rows"])
def test_tokens_beside_the_text_are_refused_in_edits(comfy, what):
    """Guards words: what a patch appends to the text's tokens would be taken for a word, and rows that it adds for
    other branches. All else goes on with it."""
    chain = Chain(**QUICK)
    _, sampler = chain.edit(self_replace=0.0)
    other = through(chain, "OtherTokens", sampler)
    chain.graph[other()[0]]["inputs"]["what"] = what
    chain.graph.add("SaveLatent", samples=chain.optimize(1), filename_prefix="tokens")
    comfy.run({k: v for k, v in chain.graph.items() if v["class_type"] not in ("NullInvP2PEdit", "NullInvP2PSampler")})
    assert latent(comfy, "tokens").isfinite().all()
    chain.graph.add("SaveLatent", samples=sampler(), filename_prefix="tokens-edited")
    error = error_of(comfy.finish(comfy.queue(chain.graph)))
    assert "adds tokens to the text" in error
    # what is named as different is different
    counts = re.findall(r"(\d+) ([a-z ]+) in place of (\d+)", error)
    assert counts and all(found != own for found, _, own in counts)
    assert what == "rows" or ("79", "tokens of the text", "77") in counts


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_gives_the_photo_back(comfy, picture, dtype):
    """Guards precision inside ComfyUI: the reconstruction within half a decibel of float32's. An edit and a KSampler in
    half precision are told nothing, be the inversion in float32 or not. A file says which it was."""
    found = []
    for name in ("fp32", dtype):
        chain = Chain(**QUICK)
        g = chain.graph
        inverting, sampling = (g.add("ModelComputeDtype", model=chain.load(), dtype=each)() for each in (name, dtype))
        _, sampler = chain.edit()
        applied = g.add("NullInvApply", model=sampling, null_embeddings=chain.optimize())
        for node, model in ((chain.invert, inverting), (chain.optimize, inverting), (sampler, sampling)):
            g[node()[0]]["inputs"]["model"] = model
        for samples in (sampler(0), chain.ksampler(applied(), 7.5)()):
            g.add("SaveLatent", samples=samples, filename_prefix="in-half")
        g.save(chain.load(2), chain.optimize(1), f"in-{name}")
        g.add("NullInvSave", trajectory=chain.invert(1), prompt="x", filename_prefix=f"in-{name}-file")
        g.add("SaveImage", images=chain.scene(0), filename_prefix="in-truth")
        assert told(comfy, g) == []
        found.append(psnr(picture(f"in-{name}"), picture("in-truth")))
        precision = load_inversion(newest(comfy, f"in-{name}-file")).precision
        assert precision == {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}[name]
    assert found[1] > found[0] - 0.5


def test_eight_bit_weights_give_the_photo_back(comfy):
    """Guards fp8: computed in more bits; the reconstruction within 1.5 dB of float32's, and retraced. What is rounded
    to three or two bits is another model: it lost up to 0.7 and 1.1 dB, of 7 to 10 that the optimization brings."""
    found = {}
    for flag in ("--fp32-unet", "--fp8_e4m3fn-unet", "--fp8_e5m2-unet"):
        found[flag] = json.loads(comfy.script("eight_bits.py", PACK, flag).splitlines()[-1])
    plain = found.pop("--fp32-unet")
    assert plain["weights"] == plain["computed"] == "torch.float32"
    for one in found.values():
        assert "float8" in one["weights"] and one["computed"] == "torch.float32"
        assert one["finite"] and one["moved"] > 1
        assert one["reconstruction"] > plain["reconstruction"] - 1.5 and one["source"] > 60


def test_the_network_is_never_asked(comfy):
    """Guards privacy: a model loads, a photo is inverted, optimized and edited in a process that may not connect."""
    found = json.loads(comfy.script("no_network.py", "eight_bits.py", PACK, "--fp32-unet").splitlines()[-1])
    assert found["finite"]
