"""ComfyUI's own nodes that change a MODEL, every one that this ComfyUI has, at three places around ours.

A network of Stable Diffusion's proportions with random weights: patches that look for its widths act. NODES names those
to try, with commas between; all by default.
"""

import os
import re

import pytest
import torch
from safetensors.torch import save_file

from ..comfyui.outputs import relative
from .core_nodes import LORA, alone, patches, put_in
from .verdicts import DRIFT, SAME, keep, run
from .wiring import Whole

pytestmark = pytest.mark.neighbours
MODEL = "proportions"
MAKERS = {"SkipLayerGuidanceSD3": "SkipLayerGuidanceDiT", "ModelSamplingAuraFlow": "ModelSamplingSD3"}
"""Nodes that let another one do their work: the sentence can only name that one."""
NAMED = ("HyperTile, ToMe", "made with another MODEL: ")
"""Sentences that name kinds of nodes, or what differs."""
ROUNDED = ("ModelComputeDtype",)
"""Batches of other sizes are rounded in other ways."""
NOTHING = 1e-6
"""Up to this relative distance a patch did nothing to a KSampler's latent."""


def chain_of(place, info, name=None):
    """Our whole chain with a patch at a place; and what is missing for it."""
    chain = Whole()
    chain.set(chain.load, model=MODEL)
    missing = []
    if name:
        link = chain.apply() if place == "after" else chain.load(0)
        readers = {node()[0] for node in (chain.optimize, chain.sampler, chain.apply)}
        missing = put_in(chain, info, name, link, readers if place == "between" else None)
    chain.save(place)
    return chain, missing


def letters(text):
    return re.sub(r"[^a-z0-9]", "", text.lower())


def verdict_at(server, place, name, plain, effect):
    """What a place comes to, in words for the table; raises AssertionError where it drifts in silence or fails in
    another way than in a sentence of ours."""
    chain, _ = chain_of(place, server.info, name)
    ran = run(server, chain.graph, place, chain.saved)
    said = " ".join([ran.error, *ran.told])
    if ran.refused:
        # a node that runs the MODEL itself has the error's red border
        assert (
            ran.at == name or letters(MAKERS.get(name, name)) in letters(said) or any(word in said for word in NAMED)
        ), f"unnamed: {ran.error}"
        return "refused"
    assert not ran.error, ran.error
    found = ran.found
    drift = relative(found["ksampler"], found["reconstruction"])
    if place == "before":
        back = max(drift, relative(found["source"], found["reconstruction"]))
        moved = relative(found["noise"], plain["noise"])
        assert back < (DRIFT if name in ROUNDED else SAME) or ran.told, f"drifts by {back:.1g}"
        assert not (effect and moved < NOTHING and not ran.told and plain_guidance(name)), "its effect is lost"
    else:
        moved = relative(found["reconstruction" if place == "between" else "ksampler"],
                         plain["reconstruction" if place == "between" else "ksampler"])  # fmt: skip
        assert moved < DRIFT or ran.told, f"silent: moved by {moved:.1g}"
    return "told" if ran.told else "works" if effect else "works (no effect)"


def plain_guidance(name):
    """Whether a patch acts without guidance too, so that an inversion sees it."""
    return name not in ("CFGOverride",)


@pytest.fixture(scope="module")
def server(start):
    server = start()
    generator = torch.Generator().manual_seed(0)
    layer = "lora_unet_middle_block_1_transformer_blocks_0_attn2_to_v"
    save_file(
        {f"{layer}.lora_up.weight": torch.randn(128, 2, generator=generator) * 0.2,
         f"{layer}.lora_down.weight": torch.randn(2, 128, generator=generator) * 0.2,
         f"{layer}.alpha": torch.tensor(2.0)},
        server.base / "models" / "loras" / LORA,
    )  # fmt: skip
    layers = {f"{i}.{part}": torch.randn(*shape, generator=generator) * 0.03
              for i in range(2) for part, shape in (("weight", (128, 128)), ("bias", (128,)))}  # fmt: skip
    (server.base / "models" / "hypernetworks").mkdir(parents=True, exist_ok=True)
    torch.save({128: (layers, layers)}, server.base / "models" / "hypernetworks" / "proportions.pt")
    server.info = server.get("/object_info")
    yield server
    server.stop()


def test_every_patch_of_core_is_honoured_told_or_refused(server):
    """Guards ComfyUI's own patches, those of later versions too: nothing drifts in silence."""
    wrong = []
    plain = {}
    for place in ("before", "between", "after"):
        chain, _ = chain_of(place, server.info)
        ran = run(server, chain.graph, place, chain.saved)
        assert not ran.error and not ran.told, (ran.error, ran.told)
        plain[place] = ran.found
    without = run(server, alone(server.info, MODEL), "alone", ["ksampler"]).found["ksampler"]
    for name in filter(None, os.environ.get("NODES", ",".join(patches(server.info))).split(",")):
        verdicts = verdicts_of(server, name, plain, without)
        wrong += [f"{name}, {place}: {verdict}" for place, verdict in verdicts.items() if "wrong" in verdict]
        for place, verdict in verdicts.items():
            keep(f"core {place}", server.version, name, verdict)
    assert not wrong, "\n".join(wrong)


def verdicts_of(server, name, plain, without):
    """A patch's verdicts by place. ``plain``: latents of the chains without it; ``without``: a KSampler's."""
    missing = put_in(Whole(), server.info, name, ["1", 0])
    if missing:
        return dict.fromkeys(plain, f"not tried: takes a {', '.join(missing)}")
    reference = run(server, alone(server.info, MODEL, name), "alone", ["ksampler"])
    if reference.error:
        words = reference.error.split(": ", 1)[1].splitlines()[0][:60].rstrip(".")
        return dict.fromkeys(plain, f"not for this kind of model: {words}")
    effect = relative(reference.found["ksampler"], without) > NOTHING
    found = {}
    for place in plain:
        try:
            found[place] = verdict_at(server, place, name, plain[place], effect)
        except AssertionError as error:
            found[place] = f"**wrong**: {str(error).splitlines()[0][:200]}"
    return found
