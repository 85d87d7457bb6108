"""How the nodes behave in use: several edits, masks, long texts, cancel, and one sentence for every bad input."""

import json
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nullinv_core import EditSettings, keep_photo, load_inversion
from nullinv_core.batch.jobs import read_job_file, read_jobs
from nullinv_core.demo.edits import sample_edit
from nullinv_core.photo.images import psnr

from .graphs import DEMO, Chain, Graph
from .outputs import latent, newest, relative, told
from .server import error_of

QUICK = {"steps": 4, "inner_steps": 1}


def test_every_line_is_an_edit(comfy):
    """Guards batches: three lines give three edits, each with its own weights, and the plan in words."""
    chain = Chain(**QUICK)
    lines = [f"a {thing} on a wooden table" for thing in ("red cat", "(red:3.0) cat", "dog")]
    plan, sampler = chain.edit("\n".join(lines))
    chain.graph.add("SaveLatent", samples=sampler(0), filename_prefix="three")
    shown = chain.graph.add("PreviewAny", source=plan(3))
    _, plain = chain.edit(lines[0])
    chain.graph.add("SaveLatent", samples=plain(0), filename_prefix="three-plain")
    entry = comfy.run(chain.graph)
    edits = latent(comfy, "three")
    assert edits.shape[0] == 3
    assert relative(edits[:1], latent(comfy, "three-plain")) < 1e-3
    assert relative(edits[1], edits[0]) > 1e-2
    words = json.dumps(entry["outputs"][shown()[0]])
    assert "a red cat on a wooden table" in words and "<-" in words and "(red:3.0)" not in words


def test_a_weight_is_for_one_place(comfy):
    """Guards (word:2.0) where a word stands twice: the one that is marked is the one that is weighted."""
    chain = Chain(**QUICK)
    lines = [
        f"a {things} on a wooden table" for things in ("(red:4) cat and a red donut", "red cat and a (red:4) donut")
    ]
    _, sampler = chain.edit("\n".join(lines))
    chain.graph.add("SaveLatent", samples=sampler(0), filename_prefix="places")
    comfy.run(chain.graph)
    edits = latent(comfy, "places")
    assert relative(edits[1], edits[0]) > 1e-2


@pytest.mark.parametrize("mark", ["(red:.5)", "(red:0.5)", "(red: 0.50 )"])
def test_a_weight_may_be_written_as_comfyui_writes_it(comfy, mark):
    """Guards the forms that CLIP Text Encode takes: all of them are taken out of the text; a bare bracket is 1.1."""
    chain = Chain(**QUICK)
    lines = [f"a {word} cat on a wooden table" for word in (mark, "(red:0.5)", "(red)", "(red:1.1)")]
    _, sampler = chain.edit("\n".join(lines))
    chain.graph.add("SaveLatent", samples=sampler(0), filename_prefix="forms")
    comfy.run(chain.graph)
    edits = latent(comfy, "forms")
    assert torch.equal(edits[0], edits[1]) and torch.equal(edits[2], edits[3]) and not torch.equal(edits[0], edits[2])


def test_optional_inputs_do_what_they_say(comfy):
    """Guards what no example connects: SIGMAS, the source's own guidance, exclude words, maps and masks of an edit."""
    chain = Chain(**QUICK)
    g = chain.graph
    sigmas = g.add("BasicScheduler", model=chain.load(), scheduler="ddim_uniform", steps=4, denoise=1.0)
    g.add("SaveLatent", samples=chain.invert(0), filename_prefix="optional-noise")
    own = g.add("NullInvDDIMInvert", **g[chain.invert()[0]]["inputs"] | {"sigmas": sigmas(), "steps": 9})
    g.add("SaveLatent", samples=own(0), filename_prefix="optional-sigmas")
    _, sampler = chain.edit(blend_words="sand")
    _, excluding = chain.edit(blend_words="sand", exclude_words="flower")
    for name, cfg in (("same", 7.5), ("other", 1.0)):
        twin = g.add("NullInvP2PSampler", **g[sampler()[0]]["inputs"] | {"source_cfg": cfg})
        g.add("SaveLatent", samples=twin(1), filename_prefix=f"optional-{name}")
    g.add("SaveLatent", samples=sampler(1), filename_prefix="optional-source")
    masks = {"all": sampler(2), "less": excluding(2)}
    maps = g.add("NullInvAttentionMaps", attention=sampler(3), words="flower, mug", edit=1)
    masks["words"] = maps(1)
    masks |= {"true": chain.scene(4)}
    for name, mask in masks.items():
        shown = g.add("MaskToImage", mask=mask)
        g.add("SaveImage", images=shown(), filename_prefix=f"optional-{name}")
    for slot, name in ((0, "before"), (3, "after")):
        g.add("SaveImage", images=chain.scene(slot), filename_prefix=f"optional-{name}")
    comfy.run(g)
    assert torch.equal(latent(comfy, "optional-sigmas"), latent(comfy, "optional-noise"))
    assert torch.equal(latent(comfy, "optional-same"), latent(comfy, "optional-source"))
    assert relative(latent(comfy, "optional-other"), latent(comfy, "optional-source")) > 1e-2

    def pictures(name):
        paths = sorted((comfy.base / "output").glob(f"optional-{name}_*.png"))
        return np.stack([np.asarray(Image.open(path), np.float64) / 255 for path in paths])

    assert pictures("less").sum() < pictures("all").sum()
    assert pictures("words").shape[0] == 2 and 0 < pictures("words").mean() < 0.9
    changed = np.abs(pictures("after") - pictures("before")).max(-1) > 0.02
    assert changed.any() and not (changed & (pictures("true")[..., 0] < 0.5)).any()


def test_names_of_inversions_are_filled_in(comfy):
    """Guards the placeholders of ComfyUI's save nodes in Save Inversion: those that the server knows and those of the
    page, in folders too; what they make stays inside of the output folder."""
    chain = Chain(steps=1, optimize=False)

    def save(prefix):
        return chain.graph.add("NullInvSave", trajectory=chain.invert(1), prompt="x", filename_prefix=prefix)

    save("%date:yyyy-M%/%year%%month%-%date:yyMMdd%-%width%x%height%-%x%")
    save("plain")
    days = [time.localtime(), None]
    comfy.run(chain.graph)
    days[1] = time.localtime()
    wanted = {
        f"{d.tm_year}-{d.tm_mon}/{time.strftime('%Y%m-%y%m%d', d)}-128x128-%x%_00001.safetensors" for d in days
    }  # fmt: skip
    root = comfy.base / "output"
    assert {p.relative_to(root).as_posix() for p in root.rglob("*-128x128-*")} <= wanted
    assert len(list(root.rglob("*-128x128-*"))) == 1 and (root / "plain_00001.safetensors").exists()
    for prefix in ("%date:../../..%/x", "../%year%", "%date:/%etc/x%year%"):
        chain = Chain(steps=1, optimize=False)
        save(prefix)
        entry = comfy.finish(comfy.queue(chain.graph))
        assert "lies outside ComfyUI's folders" in error_of(entry), prefix


def test_an_image_with_alpha_is_over_white(comfy):
    """Guards transparent photos: what is under alpha 0 is not edited, shown or kept."""
    chain = Chain(steps=1, optimize=False)
    g = chain.graph
    left = g.add("SolidMask", value=1.0, width=32, height=64)
    clear = g.add("SolidMask", value=0.0, width=64, height=64)
    alpha = g.add("MaskComposite", destination=clear(), source=left(), x=0, y=0, operation="add")
    loud = g.add("EmptyImage", width=64, height=64, batch_size=1, color=0xFF0000)
    white = g.add("EmptyImage", width=64, height=64, batch_size=1, color=0xFFFFFF)
    see_through = g.add("JoinImageWithAlpha", image=loud(), alpha=alpha())
    flat = g.add(
        "ImageCompositeMasked", destination=loud(), source=white(), x=0, y=0, resize_source=False, mask=alpha()
    )
    for name, image in (("alpha", see_through), ("flat", flat)):
        edited = g.add(
            "NullInvEditPhoto", model=chain.load(), clip=chain.load(1), vae=chain.load(2), image=image(),
            source_text="a red mug", edit_text="a blue mug", strength=0.3, blend_words="", size=64, steps=1,
            cfg=3.0, keep_pixels=True,
        )  # fmt: skip
        kept = g.add("NullInvKeepPhoto", photo=image(), edited=image(), reconstructed=image())
        for number, node, slot in ((1, edited, 1), (2, kept, 0)):
            g.add("SaveImage", images=node(slot), filename_prefix=f"{name}-{number}")
    comfy.run(g)
    for number in (1, 2):
        pictures = [np.asarray(Image.open(newest(comfy, f"{name}-{number}"))) for name in ("alpha", "flat")]
        assert np.array_equal(*pictures) and (pictures[0][:, 8:24] > 250).all()


def test_a_photo_that_the_vae_loses_is_told_of(comfy):
    """Guards Edit Photo's warning: noise, which the demo model's VAE cannot draw, gets one; a scene of it does not."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(comfy.base / "input" / "noise.png")
    g, told = Graph(), [comfy.text().count("no reconstruction comes closer")]
    load, scene = g.add("NullInvLoadDiffusers", model=DEMO), g.add("NullInvDemoScene", seed=1, edit="colour")
    for image, size in ((scene, 128), (g.add("LoadImage", image="noise.png"), 64)):
        edited = g.add(
            "NullInvEditPhoto", model=load(), clip=load(1), vae=load(2), image=image(), source_text="a red mug",
            edit_text="a blue mug", strength=0.3, blend_words="", size=size, steps=1, cfg=3.0, keep_pixels=True,
        )  # fmt: skip
        g.add("PreviewImage", images=edited())
        comfy.run(g)
        told.append(comfy.text().count("no reconstruction comes closer"))
    assert told == [told[0], told[0], told[0] + 1]


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_may_be_written_either_way(comfy, forms):
    """Guards texts and words from other systems: an accent as a letter's own or as a sign after it."""
    g = Graph()
    load = g.add("NullInvLoadDiffusers", model=DEMO)
    text, word = (unicodedata.normalize(form, "Würfel") for form in forms)
    plan = g.add(
        "NullInvP2PEdit", clip=load(1), source_text=f"a red {text}", edit_text=f"a blue ({text}:2.0)", blend_words=word,
        exclude_words=word, word_windows=f"{word}=0.4", steady_words=word,
    )  # fmt: skip
    shown = g.add("PreviewAny", source=plan(3))
    entry = comfy.run(g)
    assert "würfel <- würfel" in entry["outputs"][shown()[0]]["text"][0]


def test_a_mask_limits_the_edit(comfy):
    """Guards MASK: outside of it the edited latent is the source's. Some packs' masks have no axis for pictures."""
    chain = Chain(**QUICK)
    _, sampler = chain.edit()
    solid = chain.graph.add("SolidMask", value=0.0, width=128, height=128)
    patch = chain.graph.add("SolidMask", value=1.0, width=64, height=64)
    mask = chain.graph.add("MaskComposite", destination=solid(), source=patch(), x=0, y=0, operation="add")
    flat = chain.graph.add("OtherFlatMask", mask=mask())
    chain.graph[sampler()[0]]["inputs"]["mask"] = flat()
    chain.graph.add("SaveLatent", samples=sampler(0), filename_prefix="masked")
    chain.graph.add("SaveLatent", samples=sampler(1), filename_prefix="unmasked")
    comfy.run(chain.graph)
    moved = (latent(comfy, "masked") - latent(comfy, "unmasked")).abs().amax((0, 1)) > 0
    assert moved[:8, :8].any() and not moved[8:].any() and not moved[:, 8:].any()


def test_a_mask_that_cannot_be_meant_is_told(comfy):
    """Guards painted masks: a black one, which Load Image gives where nobody painted, stops; one that was not cropped
    as the photo was gets a note, and one that an autoencoder may have cropped none."""
    chain = Chain(**QUICK)
    _, sampler = chain.edit()
    solid = chain.graph.add("SolidMask", value=0.0, width=64, height=64)
    chain.graph[sampler()[0]]["inputs"]["mask"] = solid()
    chain.graph.add("SaveLatent", samples=sampler(0), filename_prefix="masked")
    assert "the mask is nowhere more than half white" in error_of(comfy.finish(comfy.queue(chain.graph)))
    for width, warned in ((160, True), (135, False), (128, False)):
        chain.graph[solid()[0]]["inputs"] = {"value": 1.0, "width": width, "height": 128}
        notes = told(comfy, chain.graph)
        assert any("is stretched to the shape" in one for one in notes) == warned, notes


def test_latents_of_half_precision_are_worked_on_in_single(comfy):
    """Guards --fp16-intermediates, and packs whose LATENTs are half: an inversion is float32 all the same."""
    chain = Chain(**QUICK, optimize=False)
    g = chain.graph
    g[chain.invert()[0]]["inputs"]["latent"] = g.add("OtherHalf", samples=chain.latent())()
    g.add("NullInvSave", trajectory=chain.invert(1), prompt=chain.scene(1), filename_prefix="inversions/half")
    comfy.run(g)
    (file,) = (comfy.base / "output" / "inversions").glob("half_*.safetensors")
    trajectory = load_inversion(file).trajectory
    assert trajectory.latents.dtype == torch.float32
    assert not torch.equal(trajectory.latents[-1], trajectory.latents[-1].half().float())


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
    right = g.add("MaskComposite", destination=solid(), source=half(), x=64, y=0, operation="add")
    g[sampler()[0]]["inputs"]["mask"] = right()
    assert "have no place in common" in error_of(comfy.finish(comfy.queue(g)))


def test_noise_carries_no_mask(comfy):
    """Guards `noise` of a LATENT with a noise mask: a sampler would put the noise back wherever the mask is not, so the
    mask stays with the trajectory, and the whole photo comes back."""
    chain = Chain(**QUICK, optimize=False)
    g = chain.graph
    solid, half = (g.add("SolidMask", value=v, width=w, height=128) for v, w in ((0.0, 128), (1.0, 64)))
    left = g.add("MaskComposite", destination=solid(), source=half(), x=0, y=0, operation="add")
    g[chain.invert()[0]]["inputs"]["latent"] = g.add("SetLatentNoiseMask", samples=chain.latent(), mask=left())()
    masked = g.add("SetLatentNoiseMask", samples=chain.invert(0), mask=left())
    for name, noise in (("bare", chain.invert(0)), ("masked", masked())):
        sampled = chain.ksampler(chain.load(), 1.0, noise)
        g.add("SaveLatent", samples=sampled(), filename_prefix=f"noise-{name}")
    g.add("SaveLatent", samples=chain.latent(), filename_prefix="noise-photo")
    comfy.run(g)
    right = {name: latent(comfy, f"noise-{name}")[..., 8:] for name in ("bare", "masked", "photo")}
    assert relative(right["bare"], right["photo"]) < 0.5 < 1 < relative(right["masked"], right["photo"])


def test_a_preset_is_its_constants(comfy):
    """Guards presets: paper gives what its values give as custom, no two others the same; fast and direct read the
    photo's branch from the trajectory."""
    found = {}
    paper = {"inner_steps": 10, "learning_rate": 0.01, "early_stop": 1e-5}
    for name in ("paper", "fast", "negative-prompt", "direct", "custom"):
        chain = Chain(**QUICK)
        chain.graph[chain.optimize()[0]]["inputs"].update(preset=name, **paper)
        _, sampler = chain.edit()
        for slot, what in ((0, "edited"), (1, "source")):
            chain.graph.add("SaveLatent", samples=sampler(slot), filename_prefix=f"preset-{name}-{what}")
        chain.graph.add("SaveLatent", samples=chain.latent(), filename_prefix="preset-photo")
        comfy.run(chain.graph)
        found[name] = latent(comfy, f"preset-{name}-edited")
    assert found.pop("custom").equal(found["paper"])
    edits = list(found.values())
    assert all(relative(a, b) > 1e-3 for i, a in enumerate(edits) for b in edits[:i])
    for name in ("fast", "direct"):
        assert relative(latent(comfy, f"preset-{name}-source"), latent(comfy, "preset-photo")) < 1e-6


def test_fixed_point_inversion_samples_back(comfy):
    """Guards the method of DDIM Invert: at cfg 1 a KSampler comes back far nearer to the photo, as the core does."""
    off = {}
    for method in ("ddim", "fixed-point"):
        chain = Chain(steps=12, optimize=False)
        chain.graph[chain.invert()[0]]["inputs"]["method"] = method
        chain.graph.add("SaveLatent", samples=chain.ksampler(chain.load(), 1.0)(), filename_prefix=f"back-{method}")
        chain.graph.add("SaveLatent", samples=chain.latent(), filename_prefix="back-photo")
        comfy.run(chain.graph)
        off[method] = relative(latent(comfy, f"back-{method}"), latent(comfy, "back-photo"))
    assert off["fixed-point"] < 0.5 * off["ddim"]


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


def test_an_edit_beside_random_noise_needs_no_inversion(comfy):
    """Guards the path random: the photo itself comes back, whatever its trajectory; an edit depends on its variant
    alone, not on how the photo was inverted; steps that are left out keep more of it."""
    chain = Chain(steps=8, optimize=False)
    other = {**chain.graph[chain.invert()[0]]["inputs"], "method": "fixed-point"}
    inverted = {"ddim": chain.invert, "fixed-point": chain.graph.add("NullInvDDIMInvert", **other)}
    chain.graph.add("SaveLatent", samples=chain.latent(), filename_prefix="random-photo")
    wanted = {"ddim": ("ddim", 0, 0.0), "fixed": ("fixed-point", 0, 0.0), "other": ("ddim", 7, 0.0),
              "skipped": ("ddim", 0, 0.5)}  # fmt: skip
    for name, (method, variant, skipped) in wanted.items():
        plan = chain.graph.add(
            "NullInvP2PEdit", clip=chain.load(1), source_text=chain.scene(1), edit_text=chain.scene(2),
            variant=variant, self_replace=0.0, cross_replace=0.0,
        )  # fmt: skip
        sampler = chain.graph.add("NullInvP2PSampler", model=chain.load(), trajectory=inverted[method](1), edit=plan(),
                                  cfg=1.5, path="random", skipped=skipped)  # fmt: skip
        chain.graph.add("SaveLatent", samples=sampler(0), filename_prefix=f"random-{name}")
        chain.graph.add("SaveLatent", samples=sampler(1), filename_prefix=f"random-{name}-source")
    comfy.run(chain.graph)
    photo, edits = latent(comfy, "random-photo"), {name: latent(comfy, f"random-{name}") for name in wanted}
    assert relative(latent(comfy, "random-other-source"), photo) < 1e-5
    assert relative(edits["fixed"], edits["ddim"]) < 1e-4
    assert relative(edits["other"], edits["ddim"]) > 1e-2
    assert 1e-2 < relative(edits["skipped"], photo) < relative(edits["ddim"], photo)


def test_one_node_edits_a_photo(comfy, picture):
    """Guards Edit Photo: any size in, multiples of 8 pixels out, two edits beside their photo; kept pixels stay."""
    chain = Chain(optimize=False)
    wide = chain.graph.add(
        "ImageScale", image=chain.scene(0), upscale_method="bicubic", width=333, height=250, crop="disabled"
    )
    for keep in (True, False):
        photo = chain.graph.add(
            "NullInvEditPhoto", model=chain.load(0), clip=chain.load(1), vae=chain.load(2), image=wide(),
            source_text=chain.scene(1), edit_text="a red donut on a wooden table\na blue donut on a wooden table",
            strength=0.3, blend_words="donut", size=128, steps=4, cfg=3.0, keep_pixels=keep,
        )  # fmt: skip
        chain.graph.add("SaveImage", images=photo(0), filename_prefix=f"photo-{keep}")
        chain.graph.add("SaveImage", images=photo(1), filename_prefix=f"before-after-{keep}")
    comfy.run(chain.graph)
    assert picture("photo-True").shape == (128, 168, 3) and picture("before-after-True").shape == (128, 344, 3)
    before = {keep: picture(f"before-after-{keep}")[:, :168] for keep in (True, False)}
    same = {keep: (before[keep] == picture(f"photo-{keep}")).all(-1).mean() for keep in (True, False)}
    assert same[True] > same[False] + 0.1


SUITED = {
    "replace": {"cross_replace": 0.7, "self_replace": 0.4, "exclude_words": "floor"},
    "add": {"cross_replace": 0.4, "self_replace": 0.0, "fresh_noise": 0.8, "exclude_words": "floor",
            "steady_words": "floor"},
    "remove": {"self_replace": 0.0, "exclude_words": "floor"},
    "background": {"self_replace": 0.0, "fresh_noise": 0.8, "exclude_words": "floor", "steady_words": "floor"},
}  # fmt: skip


def test_a_kind_of_edit_is_its_settings(comfy, picture):
    """Guards Edit Photo's kinds: each picture is nearest to that of the single nodes with the settings of its kind; a
    graph from before there were kinds gives what ``replace`` gives."""
    chain = Chain(steps=5, seed=5, edit="object")
    chain.graph[chain.invert()[0]]["inputs"]["method"] = "fixed-point"
    chain.graph[chain.optimize()[0]]["inputs"]["preset"] = "fast"
    inputs = {
        "model": chain.load(0), "clip": chain.load(1), "vae": chain.load(2), "image": chain.scene(0),
        "source_text": chain.scene(1), "edit_text": chain.scene(2), "strength": 0.5, "blend_words": "cat", "size": 128,
        "steps": 5, "cfg": 7.5, "keep_pixels": False,
    }  # fmt: skip
    changes = {kind: "" if kind == "background" else "cat" for kind in SUITED}
    edits = {
        f"kind-{kind}": {"kind": kind, "blend_words": words, "exclude_words": "floor", "variant": 3}
        for kind, words in changes.items()
    }
    for name, more in ({"kindless": {}, "plain": {"kind": "replace"}} | edits).items():
        edited = chain.graph.add("NullInvEditPhoto", **inputs | more)
        chain.graph.add("SaveImage", images=edited(), filename_prefix=name)
    for kind, settings in SUITED.items():
        _, sampler = chain.edit(blend_words=changes[kind], **settings, variant=3)
        chain.graph.save(chain.load(2), sampler(), f"single-{kind}")
    comfy.run(chain.graph)
    assert np.array_equal(picture("kindless"), picture("plain"))
    near = {
        one: {other: psnr(picture(f"kind-{one}"), picture(f"single-{other}")) for other in SUITED} for one in SUITED
    }
    assert all(max(others, key=others.get) == kind for kind, others in near.items()), near


def parts_that_ran(comfy, graph):
    """Kinds of the parts of a node that a run of a graph did not take from ComfyUI's cache, by their numbers."""
    states = [data["nodes"] for kind, data in comfy.watch(graph) if kind == "progress_state"]
    running = {key for nodes in states for key, node in nodes.items() if node["state"] == "running"}
    return {key.rsplit(".", 1)[1] for key in running if "." in key}


def test_another_strength_does_not_invert_the_photo_again(comfy):
    """Guards Edit Photo's parts: what the edit alone changes runs the edit alone, with the same result; and lists of
    photos, which no parts can serve, give what each photo alone gives."""
    g = Graph()
    load = g.add("NullInvLoadDiffusers", model=DEMO)
    photos = [g.add("NullInvDemoScene", seed=seed, edit="colour") for seed in (0, 1)]
    inputs = {
        "model": load(), "clip": load(1), "vae": load(2), "source_text": "a red mug", "edit_text": "a blue mug",
        "strength": 0.2, "blend_words": "", "size": 64, "steps": 3, "cfg": 7.5, "keep_pixels": False,
    }  # fmt: skip
    alone = g.add("NullInvEditPhoto", image=photos[0](), **inputs)
    # both pictures, as in the example
    g.add("SaveImage", images=alone(0), filename_prefix="parts-edited")
    g.add("SaveImage", images=alone(1), filename_prefix="parts-alone")
    assert parts_that_ran(comfy, g) == {"1", "2"}
    changed = {"strength": 0.6, "edit_text": "a green mug", "cfg": 3.0}
    g[alone()[0]]["inputs"].update(changed)
    assert parts_that_ran(comfy, g) == {"2"}
    # no new noise, so nothing of another variant
    g[alone()[0]]["inputs"]["variant"] = 7
    assert parts_that_ran(comfy, g) == set()
    both = g.add("ImageBatch", image1=photos[0](), image2=photos[1]())
    each = g.add("RebatchImages", images=both(), batch_size=1)
    listed = g.add("NullInvEditPhoto", image=each(), **inputs | changed)
    g.add("SaveImage", images=listed(1), filename_prefix="parts-listed")
    assert parts_that_ran(comfy, g) == set()
    files = sorted((comfy.base / "output").glob("parts-listed_*"))
    assert len(files) == 2
    assert np.array_equal(*(np.asarray(Image.open(file)) for file in (files[0], newest(comfy, "parts-alone"))))
    g[alone()[0]]["inputs"]["steps"] = 2
    assert parts_that_ran(comfy, g) == {"1", "2"}


def test_the_bar_of_edit_photo_moves_with_its_steps(comfy):
    """Guards progress where a scheduler makes one step more than asked for, as ddim_uniform does of 30."""
    g = Graph()
    load, scene = g.add("NullInvLoadDiffusers", model=DEMO), g.add("NullInvDemoScene", seed=2, edit="colour")
    edited = g.add(
        "NullInvEditPhoto", model=load(), clip=load(1), vae=load(2), image=scene(), source_text=scene(1),
        edit_text=scene(2), strength=0.2, blend_words="", size=64, steps=30, cfg=3.0, keep_pixels=False,
    )  # fmt: skip
    g.add("SaveImage", images=edited(), filename_prefix="bar")
    states = [data["nodes"] for kind, data in comfy.watch(g) if kind == "progress_state"]
    seen = {key: {nodes[key]["value"] for nodes in states if key in nodes} for nodes in states for key in nodes}
    inversion, edit = (next(values for key, values in seen.items() if key.endswith(f".{n}")) for n in (1, 2))
    assert len(inversion) > 40 and len(edit) > 20


@pytest.mark.parametrize("kind", ["demo", "sd15"])
def test_the_example_of_edit_photo_shows_no_picture_before_it(kind):
    """Guards the test above in the example: ComfyUI's default cache lets go of the inversion once a node outside of
    Edit Photo has run."""
    from .build_workflows import photo_of

    graph = photo_of("edit-photo", kind).graph
    (edit,) = (key for key, node in graph.items() if node["class_type"] == "NullInvEditPhoto")
    before = {link[0] for link in graph[edit]["inputs"].values() if isinstance(link, list)}
    saved = [graph[key]["inputs"]["images"] for key in sorted(graph.keys() - before - {edit})]
    assert saved == [[edit, 0], [edit, 1]]


def test_constants_that_a_preset_ignores_do_not_optimize_again(comfy):
    """Guards Null-Text Optimize: a value that the preset does not use changes neither result nor cost; one that it uses
    does."""
    chain = Chain(**QUICK)
    chain.graph.add("SaveLatent", samples=chain.optimize(1), filename_prefix="ignored")
    inputs = chain.graph[chain.optimize()[0]]["inputs"]
    inputs.update(preset="fast", inner_steps=10)
    comfy.run(chain.graph)
    first = latent(comfy, "ignored")
    for number, rate in enumerate((0.02, 0.03)):
        inputs.update(learning_rate=rate, inner_steps=3 + number)
        parts = parts_that_ran(comfy, chain.graph)
        # ComfyUI's older cache knows no result of another node, so the first part runs there
        assert parts <= ({"1"} if number == 0 else set()), parts
        assert torch.equal(latent(comfy, "ignored"), first)
    inputs.update(preset="custom")
    comfy.run(chain.graph)
    custom = latent(comfy, "ignored")
    inputs.update(learning_rate=0.1)
    comfy.run(chain.graph)
    assert not torch.equal(custom, first) and not torch.equal(latent(comfy, "ignored"), custom)


def test_keep_photo_gives_the_photo_back(comfy, picture):
    """Guards Keep Photo: what the core makes of the same pictures, its mask, and one sentence for other sizes."""
    chain = Chain(**QUICK)
    g = chain.graph
    g[chain.optimize()[0]]["inputs"]["preset"] = "fast"
    _, sampler = chain.edit(blend_words="mug")
    edited, before = (g.add("VAEDecode", samples=sampler(slot), vae=chain.load(2)) for slot in (0, 1))
    kept = g.add("NullInvKeepPhoto", photo=chain.scene(0), edited=edited(), reconstructed=before())
    mask = g.add("MaskToImage", mask=kept(1))
    shown = {"photo": chain.scene(0), "edited": edited(), "before": before(), "kept": kept(), "share": mask()}
    for name, images in shown.items():
        g.add("SaveImage", images=images, filename_prefix=f"keep-{name}")
    comfy.run(g)
    photo, edit, reconstructed = (
        torch.from_numpy(picture(f"keep-{name}")).float()[None] for name in ("photo", "edited", "before")
    )
    wanted, share = keep_photo(photo, edit, reconstructed)
    assert np.abs(picture("keep-kept") - wanted[0].numpy()).max() < 0.02
    assert np.abs(picture("keep-share")[..., 0] - share[0].numpy()).mean() < 0.02
    assert 0.01 < share.mean() < 0.9
    other = g.add("ImageScale", image=chain.scene(0), upscale_method="bicubic", width=96, height=96, crop="disabled")
    g[kept()[0]]["inputs"]["photo"] = other()
    assert "smaller than its edit" in error_of(comfy.finish(comfy.queue(g)))
    # a photo before it was scaled, and one whose sides are no multiples of eight
    for size in (300, 131):
        g[other()[0]]["inputs"] |= {"width": size, "height": size}
        g.add("SaveImage", images=other(), filename_prefix=f"keep-whole-{size}")
        comfy.run(g)
        result, shown = picture("keep-kept"), picture("keep-share")[..., 0]
        whole = picture(f"keep-whole-{size}")
        assert result.shape == whole.shape and shown.shape == (size, size)
        assert (shown == 0).mean() > 0.1 and np.abs(result - whole)[shown == 0].max() < 0.005


def test_edit_photo_gives_the_photo_s_own_size(comfy, picture):
    """Guards full_size: sharp where nothing changed, both pictures in the photo's size; refused without keep_pixels."""
    g = Graph()
    load, scene = g.add("NullInvLoadDiffusers", model=DEMO), g.add("NullInvDemoScene", seed=1, edit="colour")
    photo = g.add("ImageScale", image=scene(), upscale_method="bicubic", width=421, height=300, crop="center")
    edited = g.add(
        "NullInvEditPhoto", model=load(), clip=load(1), vae=load(2), image=photo(), source_text=scene(1),
        edit_text=scene(2), strength=0.2, blend_words="", size=128, steps=5, cfg=3.0, keep_pixels=True, full_size=True,
    )  # fmt: skip
    for name, images in {"full-photo": photo(), "full-edit": edited(), "full-both": edited(1)}.items():
        g.add("SaveImage", images=images, filename_prefix=name)
    comfy.run(g)
    before, after, both = (picture(f"full-{name}") for name in ("photo", "edit", "both"))
    assert after.shape == before.shape and both.shape == (300, 2 * 421 + 8, 3)
    assert np.array_equal(both[:, :421], before) and np.array_equal(both[:, -421:], after)
    same = np.abs(after - before).max(-1) < 0.005
    assert 0.05 < same.mean() < 0.99
    g[edited()[0]]["inputs"]["keep_pixels"] = False
    assert "full_size needs keep_pixels" in error_of(comfy.finish(comfy.queue(g)))


@pytest.mark.parametrize("chunks", [2, 3])
def test_long_texts_work(comfy, chunks):
    """Guards prompts of 154 and 231 tokens: through the edit, and through ComfyUI's own sampler."""
    chain = Chain(**QUICK)
    filler = ", ".join(["a plain calm scene"] * 6 * (chunks - 1))
    text = f"a polished pink apple on a wooden table, {filler}"
    chain.graph[chain.source()[0]]["inputs"]["text"] = text
    plan, sampler = chain.edit(text=text.replace("pink", "green"))
    chain.graph[plan()[0]]["inputs"]["source_text"] = text
    applied = chain.graph.add("NullInvApply", model=chain.load(), null_embeddings=chain.optimize())
    chain.graph.add(
        "NullInvSave", trajectory=chain.invert(1), prompt=text, filename_prefix=f"long-{chunks}",
        null_embeddings=chain.optimize(),
    )  # fmt: skip
    for name, samples in {
        "edited": sampler(0), "source": sampler(1), "reconstruction": chain.optimize(1),
        "ksampler": chain.ksampler(applied(), 7.5)(), "guider": chain.guided(chain.load())(),
    }.items():  # fmt: skip
        chain.graph.add("SaveLatent", samples=samples, filename_prefix=f"long-{name}")
    comfy.run(chain.graph)
    assert load_inversion(newest(comfy, f"long-{chunks}")).null.embeddings.shape[2] == 77 * chunks
    reconstruction = latent(comfy, "long-reconstruction")
    for name in ("source", "ksampler", "guider"):
        assert relative(latent(comfy, f"long-{name}"), reconstruction) < 1e-3
    assert relative(latent(comfy, "long-edited"), reconstruction) > 1e-2


def change(node, **inputs):
    """A change of a chain's graph: other inputs for one node."""
    return lambda chain, plan, sampler: chain.graph[node(chain, plan, sampler)()[0]]["inputs"].update(inputs)


def patched(kind, nodes=("invert", "optimize", "sampler"), **inputs):
    """A change of a chain's graph: another node behind the loader, for some of ours."""

    def alter(chain, plan, sampler):
        node = chain.graph.add(kind, model=chain.load(), **inputs)
        for name in nodes:
            chain.graph[(sampler if name == "sampler" else getattr(chain, name))()[0]]["inputs"]["model"] = node()

    return alter


def two_prompts(chain, plan, sampler):
    both = chain.graph.add("ConditioningCombine", conditioning_1=chain.source(), conditioning_2=chain.empty())
    chain.graph[chain.invert()[0]]["inputs"]["source"] = both()


def limited(kind, **inputs):
    """A change of a chain's graph: a source text that a core node confines."""

    def alter(chain, plan, sampler):
        part = chain.graph.add(kind, conditioning=chain.source(), **inputs)
        chain.graph[chain.invert()[0]]["inputs"]["source"] = part()

    return alter


A_RANGE = limited("ConditioningSetTimestepRange", start=0.0, end=0.5)
AN_AREA = limited("ConditioningSetArea", width=64, height=64, x=0, y=0, strength=1.0)


def a_region(chain, plan, sampler):
    mask = chain.graph.add("SolidMask", value=1.0, width=128, height=128)
    limited("ConditioningSetMask", mask=mask(), strength=1.0, set_cond_area="default")(chain, plan, sampler)


def embeddings_of(**other):
    """A change of a chain's graph: null embeddings of another photo or schedule."""

    def alter(chain, plan, sampler):
        g = chain.graph
        scene = g.add("NullInvDemoScene", seed=77, edit="colour")
        latent = g.add("VAEEncode", pixels=scene(0), vae=chain.load(2))
        inputs = {**g[chain.invert()[0]]["inputs"], "latent": latent(), **other}
        inverted = g.add("NullInvDDIMInvert", **inputs)
        optimized = g.add("NullInvOptimize", **{**g[chain.optimize()[0]]["inputs"], "trajectory": inverted(1)})
        g[sampler()[0]]["inputs"]["null_embeddings"] = optimized()

    return alter


def another_latent(chain, plan, sampler):
    wide = chain.graph.add("EmptySD3LatentImage", width=128, height=128, batch_size=1)
    chain.graph[chain.invert()[0]]["inputs"]["latent"] = wide()


def applied_before(chain, plan, sampler):
    applied = chain.graph.add("NullInvApply", model=chain.load(), null_embeddings=chain.optimize())
    chain.graph[sampler()[0]]["inputs"]["model"] = applied()


def two_guidances_of_a_pinned_source(chain, plan, sampler):
    chain.graph[chain.optimize()[0]]["inputs"]["preset"] = "direct"
    chain.graph[sampler()[0]]["inputs"]["source_cfg"] = 2.0


RESCALED = patched("RescaleCFG", multiplier=0.7)
PERTURBED = patched("PerturbedAttentionGuidance", scale=3.0)
BLURRED = patched("SelfAttentionGuidance", scale=0.5, blur_sigma=2.0)
FLOW = patched("ModelSamplingSD3", shift=3.0)
CACHED = patched("EasyCache", reuse_threshold=0.2, start_percent=0.15, end_percent=0.95, verbose=False)
VELOCITY = patched("ModelSamplingDiscrete", ["sampler"], sampling="v_prediction", zsnr=False)


def in_edit_photo(width=128, part=None, **inputs):
    """Edit Photo alone, in so many steps that the test would run out of time if the photo was inverted first. ``part``:
    an input that is another pack's (see its Parts), by that output's number."""

    def alter(chain, plan, sampler):
        g = chain.graph
        g.clear()
        load, scene = g.add("NullInvLoadDiffusers", model=DEMO), g.add("NullInvDemoScene", seed=0, edit="colour")
        photo = g.add("ImageScale", image=scene(0), upscale_method="bicubic", width=width, height=128, crop="disabled")
        edited = g.add(
            "NullInvEditPhoto", model=load(0), clip=load(1), vae=load(2), image=photo(), source_text=scene(1),
            edit_text=scene(2), strength=0.3, size=128, steps=999, cfg=7.5, keep_pixels=False,
            **{"blend_words": "", **inputs},
        )  # fmt: skip
        if part is not None:
            (name, slot), parts = part, g.add("OtherParts")
            g[edited()[0]]["inputs"][name] = parts(slot)
        g.add("PreviewImage", images=edited())

    return alter


def other_model(chain, plan, sampler):
    louder = chain.graph.add("ModelMergeSubtract", model1=chain.load(), model2=chain.load(), multiplier=0.5)
    chain.graph[sampler()[0]]["inputs"]["model"] = louder()


def no_clip(chain, plan, sampler):
    chain.graph[plan()[0]]["inputs"]["clip"] = chain.graph.add("OtherParts")(1)


def joined(chain, plan, sampler):
    whole = chain.graph.add("ConditioningConcat", conditioning_to=chain.source(), conditioning_from=chain.empty())
    for node in (chain.invert, chain.optimize):
        chain.graph[node()[0]]["inputs"]["source"] = whole()


def other_layer(chain, plan, sampler):
    fewer = chain.graph.add("CLIPSetLastLayer", clip=chain.load(1), stop_at_clip_layer=-2)
    chain.graph[plan()[0]]["inputs"]["clip"] = fewer()


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (joined, "no node that joins or mixes conditionings"),
        (other_layer, "encoded differently than for the inversion"),
        (change(lambda c, p, s: p, blend_words="zebra"), 'NullInvP2PEdit: blend word "zebra" is in neither prompt'),
        (change(lambda c, p, s: p, exclude_words="zebra"), 'NullInvP2PEdit: exclude word "zebra"'),
        (in_edit_photo(blend_words="zebra"), 'NullInvEditPhoto: blend word "zebra" is in neither prompt'),
        (in_edit_photo(kind="background", blend_words="cat"), "NullInvEditPhoto: blend words keep the background"),
        (in_edit_photo(kind="background"), "NullInvEditPhoto: name what stays in the exclude words"),
        (in_edit_photo(kind="add"), "NullInvEditPhoto: name the new thing in the blend words"),
        (
            in_edit_photo(part=("vae", 0)),
            "not made for a Stable Diffusion 1.x model; encode the photo with the model's",
        ),
        (in_edit_photo(part=("clip", 1)), "NullInvEditPhoto: this checkpoint has no CLIP"),
        (in_edit_photo(part=("vae", 2)), "NullInvEditPhoto: this checkpoint has no VAE"),
        (no_clip, "NullInvP2PEdit: this checkpoint has no CLIP"),
        (in_edit_photo(width=5000), "NullInvEditPhoto: the picture would be 5000×128 pixels"),
        (change(lambda c, p, s: p, edit_text="a (green:1e5) cat"), 'weight of "green" must be a number in ±1000'),
        (change(lambda c, p, s: p, edit_text="a \ud83d cat"), "has bytes that are not text"),
        (CACHED, "leaves out predictions"),
        (change(lambda c, p, s: p, edit_text=f"a (green:{'9' * 400}) cat"), "must be a number in ±1000, not inf"),
        (change(lambda c, p, s: p, edit_text=" "), "the edit text is empty"),
        (change(lambda c, p, s: p, word_windows="zebra=0.4"), 'window "zebra" is not in the prompt'),
        (change(lambda c, p, s: p, word_windows="0.4"), "write word=0.4"),
        (change(lambda c, p, s: p, source_text="a cat"), "not the one that the picture was inverted with"),
        (change(lambda c, p, s: s, end_step=99), "between 1 and 4 steps"),
        (change(lambda c, p, s: s, path="random"), "which the path random does not take"),
        (change(lambda c, p, s: p, source_text=" "), "the source text is empty"),
        (other_model, "another MODEL"),
        (VELOCITY, "another MODEL"),
        (applied_before, "with null embeddings in it"),
        (two_guidances_of_a_pinned_source, "guidance of its own"),
        (RESCALED, "changes this MODEL's guidance"),
        (PERTURBED, "changes this MODEL's guidance"),
        (BLURRED, "changes this MODEL's guidance"),
        (FLOW, "rectified flow models"),
        (embeddings_of(), "belong to another trajectory"),
        (embeddings_of(steps=3), "belong to another trajectory"),
        (another_latent, "not made for a Stable Diffusion"),
        (two_prompts, "holds 2 prompts"),
        (A_RANGE, "limited by a timestep range"),
        (AN_AREA, "limited by an area"),
        (a_region, "limited by a mask"),
    ],
)
def test_bad_input_is_one_sentence(comfy, alter, message):
    """Guards the red border: the node's message says what is wrong, and the server goes on."""
    chain = Chain(**QUICK)
    plan, sampler = chain.edit()
    alter(chain, plan, sampler)
    if sampler()[0] in chain.graph:
        chain.graph.add("SaveLatent", samples=sampler(0), filename_prefix="refused")
    entry = comfy.finish(comfy.queue(chain.graph))
    assert entry["status"]["status_str"] == "error" and message in error_of(entry), error_of(entry)
    assert error_of(entry).count("\n") <= 1


def test_progress_and_preview_reach_the_page(comfy):
    """Guards the feel: every inner iteration moves the node's progress bar, and every step of the preset fast, whose
    work has two parts; pictures come while it works."""
    chain = Chain(steps=5, inner_steps=3, seed=31)
    fast = chain.graph.add("NullInvOptimize", **{**chain.graph[chain.optimize()[0]]["inputs"], "preset": "fast"})
    chain.graph.add("SaveLatent", samples=fast(1), filename_prefix="watched-fast")
    chain.graph.add("SaveLatent", samples=chain.edit()[1](), filename_prefix="watched")
    told = list(comfy.watch(chain.graph))
    # the page shows a part's progress on the node that it is a part of
    shown_on = {
        key: part["display_node_id"] for kind, data in told if kind == "progress_state"
        for key, part in data["nodes"].items()
    }  # fmt: skip
    moved = [(shown_on[data["node"]], data) for kind, data in told if kind == "progress"]
    for node, total in ((chain.invert, 5), (chain.optimize, 15), (fast, 10)):
        seen = [data["value"] for key, data in moved if key == node()[0]]
        most = {data["max"] for key, data in moved if key == node()[0]}
        assert most == {total} and seen == sorted(seen) and len(set(seen)) >= total / 3 and seen[-1] > total - 3
    assert sum(kind == "preview" for kind, _ in told) >= 12


def test_cancel_is_answered_at_once(comfy):
    """Guards cancel in the middle of the optimization: within a call of the network, and the next run is as ever."""
    chain = Chain(steps=50, inner_steps=10, seed=5)
    chain.graph.add("SaveLatent", samples=chain.optimize(1), filename_prefix="cancelled")
    asked = None
    for kind, data in comfy.watch(chain.graph):
        if asked is None and kind == "progress" and data["node"] == chain.optimize()[0]:
            comfy.post("/interrupt", {})
            asked = time.monotonic()
    assert kind == "execution_interrupted" and data["node_type"] == "NullInvOptimize"
    assert time.monotonic() - asked < 3


def test_an_inversion_is_saved_and_loaded(comfy):
    """Guards Save and Load Inversion: a later graph gives the same edit without inverting, and may optimize again; what
    was loaded keeps its text and its model's name; a file without a text is told of."""
    chain = Chain(**QUICK)
    chain.graph.add(
        "NullInvSave", trajectory=chain.invert(1), prompt=chain.scene(1), filename_prefix="saved/again",
        null_embeddings=chain.optimize(),
    )  # fmt: skip
    chain.graph.add("NullInvSave", trajectory=chain.invert(1), prompt="x", filename_prefix="saved/bare")
    chain.graph.add("NullInvSave", trajectory=chain.invert(1), prompt=" ", filename_prefix="saved/untold")
    chain.graph.add("SaveLatent", samples=chain.edit()[1](), filename_prefix="direct")
    chain.graph.add("SaveLatent", samples=chain.optimize(1), filename_prefix="direct-reconstruction")
    assert sum("no prompt is saved" in line for line in told(comfy, chain.graph)) == 1
    files = comfy.get("/object_info/NullInvLoad")["NullInvLoad"]["input"]["required"]["file"][1]["options"]
    later = Chain(optimize=False)
    g = later.graph
    del g[later.invert()[0]]
    load = g.add("NullInvLoad", file=next(f for f in files if "saved/again" in f))
    text = g.add("PreviewAny", source=load(2))
    plan = g.add("NullInvP2PEdit", clip=later.load(1), source_text=load(2), edit_text=later.scene(2))
    edits = {"model": later.load(), "edit": plan(), "null_embeddings": load(1)}
    g.add("SaveLatent", samples=g.add("NullInvP2PSampler", trajectory=load(0), **edits)(), filename_prefix="loaded")
    again = g.add(
        "NullInvOptimize", model=later.load(), source=later.source(), negative=later.empty(), trajectory=load(0),
        inner_steps=1,
    )  # fmt: skip
    g.add("SaveLatent", samples=again(1), filename_prefix="loaded-reconstruction")
    g.add("NullInvSave", trajectory=load(0), prompt="", filename_prefix="saved/kept")
    entry = comfy.run(g)
    kept = load_inversion(newest(comfy, "saved/kept"))
    assert (kept.prompts, kept.model) == ((sample_edit(0, "colour").captions[0],), "demo")
    assert sample_edit(0, "colour").captions[0] in json.dumps(entry["outputs"][text()[0]])
    assert torch.equal(latent(comfy, "loaded"), latent(comfy, "direct"))
    assert torch.equal(latent(comfy, "loaded-reconstruction"), latent(comfy, "direct-reconstruction"))
    g[load()[0]]["inputs"]["file"] = next(f for f in files if "saved/bare" in f)
    g[plan()[0]]["inputs"]["source_text"] = later.scene(1)
    assert "holds no null embeddings" in error_of(comfy.finish(comfy.queue(g)))


def test_a_graph_becomes_a_job_for_a_folder(comfy, tmp_path):
    """Guards the way from one photo to many: the command line reads what the node wrote, and edits as the graph does;
    the file stays in the output folder."""
    chain = Chain(**QUICK)
    source, target = sample_edit(0, "colour").captions
    word = source.split()[-1]
    plan, _ = chain.edit(cross_replace=0.5, blend_words=word, word_windows=f"{word}=0.2-0.6")
    job = chain.graph.add(
        "NullInvSaveBatchJob", edit=plan(), trajectory=chain.invert(1), null_embeddings=chain.optimize(),
        filename_prefix="jobs/tried",
    )  # fmt: skip
    comfy.run(chain.graph)
    defaults, run = read_job_file(newest(comfy, "tried"))
    assert (defaults.prompt, defaults.edits) == (source, (target,))
    (tmp_path / "photo.png").touch()
    (made,) = read_jobs(tmp_path, defaults).jobs
    assert made.settings == EditSettings(cross_replace=0.5, blend_words=[word], word_windows={word: (0.2, 0.6)})
    assert run == {"model": "demo", "steps": chain.steps, "guidance": 7.5, "preset": "paper", "size": 128}
    chain.graph[job()[0]]["inputs"]["filename_prefix"] = "../outside"
    assert "lies outside ComfyUI's folders" in error_of(comfy.finish(comfy.queue(chain.graph)))


def test_a_saved_file_is_loaded_in_the_same_graph(comfy):
    """Guards the link from Save to Load Inversion: by type, by name, and it is read anew only where it was."""
    info = comfy.get("/object_info")
    assert "COMBO" in info["NullInvSave"]["output"][0].split(",")
    chain = Chain(**QUICK)
    g = chain.graph
    saved = g.add(
        "NullInvSave", trajectory=chain.invert(1), prompt="x", filename_prefix="saved/linked",
        null_embeddings=chain.optimize(),
    )  # fmt: skip
    load, plan = g.add("NullInvLoad", file=saved()), chain.edit()[0]
    for name, (trajectory, null) in {"wires": (chain.invert(1), chain.optimize()), "file": (load(0), load(1))}.items():
        sampler = g.add(
            "NullInvP2PSampler", model=chain.load(), trajectory=trajectory, edit=plan(), null_embeddings=null
        )
        g.add("SaveLatent", samples=sampler(), filename_prefix=f"linked-{name}")
    comfy.run(g)
    assert torch.equal(latent(comfy, "linked-file"), latent(comfy, "linked-wires"))
    again = comfy.run(g)
    kept = {key for kind, data in again["status"]["messages"] if kind == "execution_cached" for key in data["nodes"]}
    assert {saved()[0], load()[0]} <= kept
    assert newest(comfy, "linked").name == "linked_00001.safetensors"


def test_a_broken_file_is_a_sentence(comfy):
    """Guards Load Inversion: a file that is none, and one that is gone."""
    path = comfy.base / "output" / "broken.safetensors"
    path.write_bytes(b"no inversion at all")
    load = Chain(optimize=False)
    shown = load.graph.add("NullInvLoad", file="output/broken.safetensors")
    load.graph.add("PreviewAny", source=shown(2))
    assert "not a whole safetensors file" in error_of(comfy.finish(comfy.queue(load.graph)))
    path.unlink()
    load.graph[shown()[0]]["inputs"]["file"] = "output/gone.safetensors"
    answer = comfy.post("/prompt", {"prompt": load.graph})
    # 0.3.64 leaves the list of files to the node
    said = error_of(comfy.finish(answer["prompt_id"])) if "prompt_id" in answer else json.dumps(answer)
    assert "gone.safetensors" in said


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        ("../escape", "folders"),
        ("/tmp/escape", "folders"),
        ("a/../../escape", "folders"),
        ("", "prefix is empty"),
        ("a\0b", "no disk accepts"),
        ("a\ud800", "no disk accepts"),
        ("taken/escape", "cannot be made"),
        ("taken/%year%", "give another prefix"),
    ],
)
def test_files_stay_inside_the_output_folder(comfy, prefix, message):
    """Guards file names."""
    (comfy.base / "output" / "taken").touch()
    chain = Chain(**QUICK)
    chain.graph.add(
        "NullInvSave", trajectory=chain.invert(1), prompt="x", filename_prefix=prefix, null_embeddings=chain.optimize()
    )
    entry = comfy.finish(comfy.queue(chain.graph))
    assert message in error_of(entry)
    assert not [path for place in (comfy.base.parent, Path("/tmp")) for path in place.glob("escape*")]
