"""Our nodes among those of others: wrappers, attention patches, core nodes behind ours, graphs in a queue."""

import pytest
import torch

from .graphs import Chain
from .outputs import latent, relative
from .server import error_of

QUICK = {"steps": 4, "inner_steps": 2}


def through(chain, kind, sampler):
    """Put another pack's node between the loader and all that samples."""
    other = chain.graph.add(kind, model=chain.load())
    for node in (chain.invert, chain.optimize, sampler):
        chain.graph[node()[0]]["inputs"]["model"] = other()
    return other


@pytest.mark.parametrize("kind", ["OtherWrap", "OtherPatchAttention"])
def test_what_others_set_on_the_model_takes_part(comfy, kind):
    """Guards composition: ours run inside another pack's wrapper and over its attention patch; so does KSampler."""
    chain = Chain(**QUICK)
    _, sampler = chain.edit()
    other = through(chain, kind, sampler)
    applied = chain.graph.add("NullInvApply", model=other(), null_embeddings=chain.optimize())
    chain.graph.add("SaveLatent", samples=chain.guided(other())(), filename_prefix=f"{kind}-guided")
    chain.graph.add("SaveLatent", samples=chain.ksampler(applied(), 7.5)(), filename_prefix=f"{kind}-ksampler")
    chain.graph.add("SaveLatent", samples=chain.optimize(1), filename_prefix=f"{kind}-reconstruction")
    chain.graph.add("SaveLatent", samples=chain.invert(0), filename_prefix=f"{kind}-noise")
    chain.graph.add("SaveLatent", samples=sampler(0), filename_prefix=f"{kind}-edited")
    plain = Chain(**QUICK, optimize=False)
    plain.graph.add("SaveLatent", samples=plain.invert(0), filename_prefix=f"{kind}-plain-noise")
    lines = ("a wrapped prediction", "the older hook")
    before = [comfy.text().count(line) for line in lines]
    without = chain.graph.add("NullInvP2PSampler", **chain.graph[sampler()[0]]["inputs"] | {"model": chain.load()})
    chain.graph.add("SaveLatent", samples=without(0), filename_prefix=f"{kind}-edited-without")
    comfy.run(chain.graph)
    comfy.run(plain.graph)
    same = torch.equal(latent(comfy, f"{kind}-noise"), latent(comfy, f"{kind}-plain-noise"))
    assert same == (kind == "OtherWrap")
    for line, count in zip(lines, before, strict=True):
        assert (comfy.text().count(line) > count) == (kind == "OtherWrap")
    apart = relative(latent(comfy, f"{kind}-edited"), latent(comfy, f"{kind}-edited-without"))
    assert apart == 0 if kind == "OtherWrap" else apart > 1e-2
    reconstruction = latent(comfy, f"{kind}-reconstruction")
    assert relative(latent(comfy, f"{kind}-ksampler"), reconstruction) < 1e-3
    assert relative(latent(comfy, f"{kind}-guided"), reconstruction) < 1e-3


def test_a_wrapper_may_tell_texts_apart(comfy):
    """Guards wrappers that are among the MODEL's own, not in its options: where one treats unconditional rows in its
    own way, the prediction of the source text is not taken for theirs, and a KSampler is where the optimization was."""
    chain = Chain(**QUICK)
    g = chain.graph
    other = g.add("OtherUnconditional", model=chain.load())
    for node in (chain.invert, chain.optimize):
        g[node()[0]]["inputs"]["model"] = other()
    g[chain.invert()[0]]["inputs"]["method"] = "fixed-point"
    g[chain.optimize()[0]]["inputs"]["preset"] = "fast"
    applied = g.add("NullInvApply", model=other(), null_embeddings=chain.optimize())
    g.add("SaveLatent", samples=chain.ksampler(applied(), 7.5)(), filename_prefix="apart-ksampler")
    g.add("SaveLatent", samples=chain.optimize(1), filename_prefix="apart-reconstruction")
    comfy.run(g)
    assert relative(latent(comfy, "apart-ksampler"), latent(comfy, "apart-reconstruction")) < 1e-3


def test_out_of_memory_is_tried_once_more_with_checkpointing(comfy):
    """Guards small cards: one retry in less memory gives the same; a second failure is a sentence."""
    entries = []
    for times in (0, 1, 2):
        chain = Chain(**QUICK)
        short = chain.graph.add("OtherRunOut", model=chain.load(), times=times)
        chain.graph[chain.optimize()[0]]["inputs"]["model"] = short()
        chain.graph.add("SaveLatent", samples=chain.optimize(1), filename_prefix=f"ran-out-{times}")
        entries.append(comfy.finish(comfy.queue(chain.graph)))
    assert relative(latent(comfy, "ran-out-1"), latent(comfy, "ran-out-0")) < 1e-4
    assert "once more with gradient checkpointing" in comfy.text()
    assert "not enough memory to optimize" in error_of(entries[2])


def test_wrapped_blocks_do_not_pile_up(comfy):
    """Guards the network that all MODELs share: blocks that one optimization wrapped are not wrapped by the next."""
    for rate in (0.01, 0.02, 0.03):
        chain = Chain(**QUICK)
        chain.graph[chain.optimize()[0]]["inputs"]["learning_rate"] = rate
        told = chain.graph.add("OtherLook", model=chain.load(), after=chain.optimize(1))
        shown = chain.graph.add("PreviewAny", source=told())
        entry = comfy.run(chain.graph)
        assert "wrapped 1 times" in str(entry["outputs"][shown()[0]])


def test_attention_that_another_pack_replaced_takes_part(comfy):
    """Guards IPAdapter and its like: what it adds to attention is in the inversion, the embeddings and the edit, and so
    is the edit's own control over the same layers. One that adds nothing changes nothing."""
    found = {}
    for weight in (0.0, 0.5):
        chain = Chain(**QUICK)
        g = chain.graph
        _, sampler = chain.edit(self_replace=0.8)
        other = through(chain, "OtherAdapter", sampler)
        g[other()[0]]["inputs"]["weight"] = weight
        applied = g.add("NullInvApply", model=other(), null_embeddings=chain.optimize())
        for name, samples in {
            "edited": sampler(0), "source": sampler(1), "reconstruction": chain.optimize(1),
            "ksampler": chain.ksampler(applied(), 7.5)(),
        }.items():  # fmt: skip
            g.add("SaveLatent", samples=samples, filename_prefix=f"adapter-{name}")
        comfy.run(g)
        found[weight] = {n: latent(comfy, f"adapter-{n}") for n in ("edited", "source", "reconstruction", "ksampler")}
        for name in ("source", "ksampler"):
            assert relative(found[weight][name], found[weight]["reconstruction"]) < 1e-3
    plain = Chain(**QUICK)
    _, sampler = plain.edit(self_replace=0.8)
    plain.graph.add("SaveLatent", samples=sampler(0), filename_prefix="adapter-none")
    comfy.run(plain.graph)
    assert relative(found[0.0]["edited"], latent(comfy, "adapter-none")) < 1e-3
    assert relative(found[0.5]["edited"], found[0.0]["edited"]) > 1e-2
    assert relative(found[0.5]["edited"], found[0.5]["source"]) > 1e-2


def test_outputs_plug_into_core_nodes(comfy):
    """Guards chaining: upscale a latent, preview masks and text, composite over the photo."""
    chain = Chain(**QUICK)
    g = chain.graph
    _, sampler = chain.edit(blend_words="sand")
    larger = g.add(
        "LatentUpscale", samples=sampler(0), upscale_method="bilinear", width=192, height=192, crop="disabled"
    )
    picture = g.add("VAEDecode", samples=larger(), vae=chain.load(2))
    shown = [g.add("PreviewImage", images=picture()), g.add("MaskPreview", mask=sampler(2))]
    edited = g.add("VAEDecode", samples=sampler(0), vae=chain.load(2))
    pasted = g.add(
        "ImageCompositeMasked", destination=chain.scene(0), source=edited(), x=0, y=0, resize_source=False,
        mask=sampler(2),
    )  # fmt: skip
    shown.append(g.add("PreviewImage", images=pasted()))
    outputs = comfy.run(g)["outputs"]
    assert all(outputs[node()[0]]["images"] for node in shown)


def test_one_graph_may_hold_a_node_twice_and_wait_in_a_queue(comfy):
    """Guards state: two optimizations of one trajectory in one graph agree, and so do two graphs queued at once."""
    names = []
    for number in (1, 2):
        chain = Chain(**QUICK, seed=10 + number)
        twin = chain.graph.add("NullInvOptimize", **chain.graph[chain.optimize()[0]]["inputs"])
        names += [f"queued-{number}", f"queued-{number}-twin"]
        chain.graph.add("SaveLatent", samples=chain.optimize(1), filename_prefix=names[-2])
        chain.graph.add("SaveLatent", samples=twin(1), filename_prefix=names[-1])
        last = comfy.queue(chain.graph)
    assert comfy.finish(last)["status"]["status_str"] == "success"
    one, one_twin, two, two_twin = (latent(comfy, name) for name in names)
    assert torch.equal(one, one_twin) and torch.equal(two, two_twin) and not torch.equal(one, two)


def test_float16_that_overflows_is_done_once_more_in_float32(comfy):
    """Guards half precision: inversion, optimization and edit come out as in float32, each with a line in the log; no
    way out where float32 has NaN too. The user's MODEL goes on as it was."""
    found = []
    for overflows in (False, True):
        chain = Chain(steps=3, inner_steps=1)
        g = chain.graph
        half = g.add("ModelComputeDtype", model=chain.load(), dtype="fp16" if overflows else "fp32")
        model = g.add("OtherOverflow", model=half(), always=False)
        _, sampler = chain.edit()
        for node in (chain.invert, chain.optimize, sampler):
            g[node()[0]]["inputs"]["model"] = model()
        g.add("SaveLatent", samples=sampler(0), filename_prefix=f"overflow-{overflows}")
        printed = len(comfy.text())
        comfy.run(g)
        assert comfy.text()[printed:].count("once more in float32") == 3 * overflows
        found.append(latent(comfy, f"overflow-{overflows}"))
    assert found[1].isfinite().all() and relative(*found) < 1e-3
    g[model()[0]]["inputs"]["always"] = True
    assert "NaN or infinity at step 1" in error_of(comfy.finish(comfy.queue(g)))
