"""Weights in texts and texts of unequal length, in a real ComfyUI."""

import json

import pytest
import torch
from safetensors.torch import load_file

from nullinv_core.backends.diffusers import load_model

from .graphs import Chain
from .outputs import latent, relative
from .server import PACK

QUICK = {"steps": 4, "inner_steps": 1}
LONG = ", ".join(["a plain calm scene"] * 12)


@pytest.fixture(scope="module")
def readings(comfy, tmp_path_factory):
    """What prompt_check.py found, and ComfyUI's own encodings of its texts."""
    path = tmp_path_factory.mktemp("texts") / "encodings.safetensors"
    return json.loads(comfy.script("prompt_check.py", PACK, path).splitlines()[-1]), load_file(path)


def test_texts_are_read_as_comfyui_reads_them(readings):
    """Guards the one parser of both backends: 5,000 random texts, brackets without partners among them."""
    found, _ = readings
    assert found["otherwise"] == []
    assert found["words"][0] == ["a", "red", "cat"] and found["weights"][0] == [1, 1.5, 1]
    assert found["weights"][1] == pytest.approx([1.21, 1]) and found["weights"][2] == [1, 1.2, 0.5, 0.5, 1]


def test_both_backends_encode_weights_alike(readings):
    """Guards one meaning: words, weights and encodings of the diffusers backend are those of CLIP Text Encode."""
    found, encodings = readings
    model = load_model("demo")
    for text, words, weights in zip(found["texts"], found["words"], found["weights"], strict=True):
        prompt, theirs = model.prompt(text), encodings[text]
        assert list(prompt.words) == words and list(prompt.weights) == pytest.approx(weights)
        assert relative(model.encode_prompts([prompt]).text, theirs) < 1e-4


def test_the_same_weight_in_both_texts_changes_nothing(readings):
    """Guards source and edit: equal marks give equal encodings and no factor; another weight scales attention alone."""
    found, _ = readings
    assert all(found["source as ComfyUI"]) and all(found["same text, same encoding"])
    assert all(factors == [1.0] for factors in found["factors"])
    assert found["factors of another weight"] == [1.0, 2.0] and found["encoding of another weight"]


def test_a_weighted_word_that_stays_keeps_the_photo(comfy):
    """Guards the chain: a text with a weight, in CLIP Text Encode, source and edit, is no edit at all."""
    chain = Chain(**QUICK)
    text = "a polished (pink:1.5) apple on a ((wooden)) table"
    chain.graph[chain.source()[0]]["inputs"]["text"] = text
    plan, sampler = chain.edit(text=f"{text}\n{text.replace('1.5', '4')}")
    chain.graph[plan()[0]]["inputs"]["source_text"] = text
    for slot, name in enumerate(("edits", "source")):
        chain.graph.add("SaveLatent", samples=sampler(slot), filename_prefix=f"weighted-{name}")
    comfy.run(chain.graph)
    edits, source = latent(comfy, "weighted-edits"), latent(comfy, "weighted-source")
    assert relative(edits[:1], source) < 1e-4 < 1e-2 < relative(edits[1:], source)


@pytest.mark.parametrize("long_source", [False, True])
def test_an_edit_may_take_another_chunk(comfy, long_source):
    """Guards unequal texts, one chunk of 77 tokens against two, and two edits of different length in a run: the source
    branch is the reconstruction as before."""
    chain = Chain(**QUICK)
    short = "a polished pink apple on a wooden table"
    texts = {False: short, True: f"{short}, {LONG}"}
    chain.graph[chain.source()[0]]["inputs"]["text"] = texts[long_source]
    edits = "\n".join(texts[length].replace("pink", "green") for length in (not long_source, long_source))
    plan, sampler = chain.edit(text=edits, blend_words="apple")
    chain.graph[plan()[0]]["inputs"]["source_text"] = texts[long_source]
    for name, samples in {"edits": sampler(0), "source": sampler(1), "photo": chain.optimize(1)}.items():
        chain.graph.add("SaveLatent", samples=samples, filename_prefix=f"chunks-{name}")
    maps = chain.graph.add("NullInvAttentionMaps", attention=sampler(3), words="apple", edit=1)
    chain.graph.add("PreviewImage", images=maps())
    comfy.run(chain.graph)
    photo = latent(comfy, "chunks-photo")
    assert relative(latent(comfy, "chunks-source"), photo) < 1e-4
    moved = [relative(one[None], photo) for one in latent(comfy, "chunks-edits")]
    assert len(moved) == 2 and min(moved) > 1e-2
    assert torch.isfinite(latent(comfy, "chunks-edits")).all()
