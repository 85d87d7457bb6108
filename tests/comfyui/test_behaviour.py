"""How the nodes behave in use: several edits, masks, long texts, cancel, and one sentence for every bad input."""

import json
import time

import numpy as np
import pytest

from nullinv_core.images import psnr

from .graphs import Chain
from .outputs import latent
from .server import error_of

QUICK = {"steps": 4, "inner_steps": 1}


def test_every_line_is_an_edit(comfy):
    """Guards batches: three lines give three edits, a weight among them, and the plan in words."""
    chain = Chain(**QUICK)
    text = "a red star on a white background\na (red:2.0) ring on a white background\na moon on a white background"
    plan, sampler = chain.edit(text=text)
    chain.graph.add("SaveLatent", samples=sampler(0), filename_prefix="three")
    shown = chain.graph.add("PreviewAny", source=plan(3))
    entry = comfy.run(chain.graph)
    assert latent(comfy, "three").shape[0] == 3
    words = json.dumps(entry["outputs"][shown()[0]])
    assert "a red ring on a white background" in words and "<-" in words and "(red:2.0)" not in words


def test_a_mask_limits_the_edit(comfy):
    """Guards MASK: outside of it the edited latent is the source's."""
    chain = Chain(**QUICK)
    _, sampler = chain.edit()
    solid = chain.graph.add("SolidMask", value=0.0, width=128, height=128)
    patch = chain.graph.add("SolidMask", value=1.0, width=64, height=64)
    mask = chain.graph.add("MaskComposite", destination=solid(), source=patch(), x=0, y=0, operation="add")
    chain.graph[sampler()[0]]["inputs"]["mask"] = mask()
    chain.graph.add("SaveLatent", samples=sampler(0), filename_prefix="masked")
    chain.graph.add("SaveLatent", samples=sampler(1), filename_prefix="unmasked")
    comfy.run(chain.graph)
    moved = (latent(comfy, "masked") - latent(comfy, "unmasked")).abs().amax((0, 1)) > 0
    assert moved[:8, :8].any() and not moved[8:].any() and not moved[:, 8:].any()


def test_a_noise_mask_limits_the_edit(comfy):
    """Guards the LATENT's own noise mask: it goes with the trajectory, and meets the sampler's mask."""
    chain = Chain(**QUICK)
    g = chain.graph
    whole = {"width": 128, "height": 128}
    solid, half = g.add("SolidMask", value=0.0, **whole), g.add("SolidMask", value=1.0, width=64, height=128)
    left = g.add("MaskComposite", destination=solid(), source=half(), x=0, y=0, operation="add")
    masked = g.add("SetLatentNoiseMask", samples=chain.latent(), mask=left())
    g[chain.invert()[0]]["inputs"]["latent"] = masked()
    _, sampler = chain.edit()
    g.add("SaveLatent", samples=sampler(0), filename_prefix="left")
    g.add("SaveLatent", samples=sampler(1), filename_prefix="left-source")
    comfy.run(g)
    moved = (latent(comfy, "left") - latent(comfy, "left-source")).abs().amax((0, 1)) > 0
    assert moved[:, :8].any() and not moved[:, 8:].any()


def test_a_preset_is_its_constants(comfy):
    """Guards presets: fast gives what its values give as custom, and other embeddings than paper."""
    found = {}
    for name, values in {"fast": {}, "paper": {}, "custom": {"inner_steps": 4, "learning_rate": 0.02,
                                                             "early_stop": 3e-5}}.items():  # fmt: skip
        chain = Chain(**QUICK)
        chain.graph[chain.optimize()[0]]["inputs"].update(preset=name, **values)
        chain.graph.add("SaveLatent", samples=chain.optimize(1), filename_prefix=f"preset-{name}")
        comfy.run(chain.graph)
        found[name] = latent(comfy, f"preset-{name}")
    assert found["fast"].equal(found["custom"]) and not found["fast"].equal(found["paper"])


def test_an_early_end_goes_on_in_a_ksampler(comfy, picture):
    """Guards the end step: the source stopped half-way and finished by KSampler (Advanced) is the reconstruction."""
    chain = Chain(steps=8, inner_steps=3)
    _, sampler = chain.edit()
    chain.graph[sampler()[0]]["inputs"]["end_step"] = 4
    applied = chain.graph.add("NullInvApply", model=chain.load(), null_embeddings=chain.optimize())
    rest = chain.ksampler(applied(), 7.5, latent=sampler(1))
    chain.graph[rest()[0]]["inputs"]["start_at_step"] = 4
    chain.graph.save(chain.load(2), rest(), "finished")
    chain.graph.save(chain.load(2), chain.optimize(1), "whole")
    comfy.run(chain.graph)
    assert psnr(picture("finished"), picture("whole")) > 55


def test_one_node_edits_a_photo(comfy, picture):
    """Guards Edit Photo: any size in, the model's grid out, two edits beside their photo; kept pixels stay."""
    chain = Chain(optimize=False)
    wide = chain.graph.add(
        "ImageScale", image=chain.scene(0), upscale_method="bicubic", width=333, height=250, crop="disabled"
    )
    photo = chain.graph.add(
        "NullInvEditPhoto", model=chain.load(0), clip=chain.load(1), vae=chain.load(2), image=wide(),
        source_text=chain.scene(1), edit_text="a red ring on a white background\na moon on a white background",
        strength=0.3, blend_words="ring", size=128, steps=2, cfg=3.0, keep_pixels=True,
    )  # fmt: skip
    chain.graph.add("SaveImage", images=photo(0), filename_prefix="photo")
    chain.graph.add("SaveImage", images=photo(1), filename_prefix="before-after")
    comfy.run(chain.graph)
    assert picture("photo").shape == (128, 160, 3) and picture("before-after").shape == (128, 328, 3)


def test_long_texts_work(comfy):
    """Guards prompts of 154 tokens: source and edit may both take two chunks."""
    chain = Chain(**QUICK)
    filler = ", ".join(["a plain calm scene"] * 12)
    for node in (chain.source()[0],):
        chain.graph[node]["inputs"]["text"] = f"a small pink heart on a white background, {filler}"
    plan, sampler = chain.edit(text=f"a small green heart on a white background, {filler}")
    chain.graph[plan()[0]]["inputs"]["source_text"] = f"a small pink heart on a white background, {filler}"
    chain.graph.add("SaveLatent", samples=sampler(0), filename_prefix="long")
    comfy.run(chain.graph)
    assert np.isfinite(latent(comfy, "long").numpy()).all()


def change(node, **inputs):
    """A change of a chain's graph: other inputs for one node."""
    return lambda chain, plan, sampler: chain.graph[node(chain, plan, sampler)()[0]]["inputs"].update(inputs)


def other_model(chain, plan, sampler):
    lora = chain.graph.add("ModelSamplingDiscrete", model=chain.load(), sampling="v_prediction", zsnr=False)
    weights = chain.graph.add("ModelMergeSimple", model1=lora(), model2=chain.load(), ratio=0.5)
    chain.graph[sampler()[0]]["inputs"]["model"] = weights()


def two_prompts(chain, plan, sampler):
    both = chain.graph.add("ConditioningCombine", conditioning_1=chain.source(), conditioning_2=chain.empty())
    chain.graph[chain.invert()[0]]["inputs"]["source"] = both()


def an_area(chain, plan, sampler):
    part = chain.graph.add("ConditioningSetTimestepRange", conditioning=chain.source(), start=0.0, end=0.5)
    chain.graph[chain.invert()[0]]["inputs"]["source"] = part()


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (change(lambda c, p, s: p, blend_words="zebra"), 'blend word "zebra" is in neither prompt'),
        (change(lambda c, p, s: p, edit_text=" "), "the edit text is empty"),
        (change(lambda c, p, s: p, edit_text="a (zebra:2) and a (zebra:3)"), "two weights"),
        (change(lambda c, p, s: p, word_windows="zebra=0.4"), 'window "zebra" is not in the prompt'),
        (change(lambda c, p, s: p, word_windows="0.4"), "write word=0.4"),
        (change(lambda c, p, s: p, source_text="a cat"), "not the one that the picture was inverted with"),
        (change(lambda c, p, s: s, end_step=99), "between 1 and 4 steps"),
        (other_model, "another MODEL"),
        (two_prompts, "holds 2 prompts"),
        (an_area, "limited by a timestep range"),
    ],
)
def test_bad_input_is_one_sentence(comfy, alter, message):
    """Guards the red border: the node's message says what is wrong, and the server goes on."""
    chain = Chain(**QUICK)
    plan, sampler = chain.edit()
    alter(chain, plan, sampler)
    chain.graph.add("SaveLatent", samples=sampler(0), filename_prefix="refused")
    entry = comfy.finish(comfy.queue(chain.graph))
    assert entry["status"]["status_str"] == "error" and message in error_of(entry), error_of(entry)
    assert error_of(entry).count("\n") <= 1


def test_cancel_is_answered_at_once(comfy):
    """Guards cancel in the middle of the optimization: the run ends early, and the same graph runs afterwards."""
    chain = Chain(steps=50, inner_steps=10, seed=5)
    chain.graph.add("SaveLatent", samples=chain.optimize(1), filename_prefix="cancelled")
    prompt_id = comfy.queue(chain.graph)
    time.sleep(4)
    comfy.post("/interrupt", {})
    asked = time.monotonic()
    entry = comfy.finish(prompt_id)
    assert time.monotonic() - asked < 10
    assert any(kind == "execution_interrupted" for kind, _ in entry["status"]["messages"])
    after = Chain(**QUICK, seed=5)
    after.graph.add("SaveLatent", samples=after.optimize(1), filename_prefix="after-cancel")
    comfy.run(after.graph)


def test_an_inversion_is_saved_and_loaded(comfy):
    """Guards Save and Load Inversion: a later graph edits without inverting; the stored text comes back."""
    chain = Chain(**QUICK)
    chain.graph.add(
        "NullInvSave", trajectory=chain.invert(1), prompt=chain.scene(1), filename_prefix="saved/again",
        null_embeddings=chain.optimize(),
    )  # fmt: skip
    comfy.run(chain.graph)
    files = comfy.get("/object_info/NullInvLoad")["NullInvLoad"]["input"]["required"]["file"][1]["options"]
    later = Chain(optimize=False)
    del later.graph[later.invert()[0]]
    load = later.graph.add("NullInvLoad", file=next(f for f in files if "saved/again" in f))
    plan = later.graph.add("NullInvP2PEdit", clip=later.load(1), source_text=load(2), edit_text=later.scene(2))
    sampler = later.graph.add(
        "NullInvP2PSampler", model=later.load(), trajectory=load(0), edit=plan(), null_embeddings=load(1)
    )
    later.graph.add("SaveLatent", samples=sampler(0), filename_prefix="loaded")
    comfy.run(later.graph)


@pytest.mark.parametrize("prefix", ["../escape", "/tmp/escape", "a/../../escape", ""])
def test_files_stay_inside_the_output_folder(comfy, prefix):
    """Guards file names."""
    chain = Chain(**QUICK)
    chain.graph.add(
        "NullInvSave", trajectory=chain.invert(1), prompt="x", filename_prefix=prefix, null_embeddings=chain.optimize()
    )
    entry = comfy.finish(comfy.queue(chain.graph))
    assert "folders" in error_of(entry) or "prefix is empty" in error_of(entry)
    assert not list(comfy.base.parent.rglob("escape*"))
