"""What differs between an inversion and its use is told in the log and under the node, or refused where it cannot work.

Another guidance, another MODEL, other noise levels, null text that another node leaves out.
"""

import pytest

from .graphs import Chain
from .outputs import FEW_STEPS, latent, relative, told
from .server import error_of

QUICK = {"steps": 8, "inner_steps": 2}
DRIFTS, GUIDANCE = "no longer predicts this photo", "optimized for a guidance of 3, and 7.5"


def set_inputs(chain, node, **inputs):
    chain.graph[node()[0]]["inputs"].update(inputs)


def custom(chain, model, **named):
    """SamplerCustom with BasicScheduler's noise levels, or those that are named."""
    g = chain.graph
    sigmas = g.add("BasicScheduler", model=model, scheduler="ddim_uniform", steps=chain.steps, denoise=1.0)
    return g.add(
        "SamplerCustom", **{
            "model": model, "add_noise": False, "noise_seed": 0, "cfg": 7.5, "positive": chain.source(),
            "negative": chain.empty(), "latent_image": chain.invert(0), "sigmas": sigmas(),
            "sampler": g.add("KSamplerSelect", sampler_name="euler")(), **named,
        }
    )  # fmt: skip


@pytest.mark.parametrize("preset", ["custom", "fast"])
def test_a_chain_that_fits_is_told_nothing(comfy, preset):
    """Guards against false alarms: invert, optimize, edit, both of our ways into samplers, with either method; and a
    node that changes no prediction."""
    for method in ("ddim", "fixed-point"):
        chain = Chain(**QUICK)
        set_inputs(chain, chain.invert, method=method)
        set_inputs(chain, chain.optimize, preset=preset)
        wrapped = chain.graph.add("OtherWrap", model=chain.load())
        for model, name in ((chain.load, "plain"), (wrapped, "wrapped")):
            _, sampler = chain.edit()
            set_inputs(chain, sampler, model=model())
            applied = chain.graph.add("NullInvApply", model=model(), null_embeddings=chain.optimize())
            every = (sampler(), chain.ksampler(applied(), 7.5)(), chain.guided(model())(), custom(chain, applied())())
            for place, samples in enumerate(every):
                chain.graph.add("SaveLatent", samples=samples, filename_prefix=f"fits-{name}-{place}")
        assert told(comfy, chain.graph) == []


def test_embeddings_know_their_guidance(comfy):
    """Guards cfg 0, which is theirs, and another one, which is told in the log and under the node: in the edit, in a
    KSampler, in our guider."""
    chain = Chain(**QUICK)
    g = chain.graph
    set_inputs(chain, chain.optimize, cfg=3.0)
    applied = g.add("NullInvApply", model=chain.load(), null_embeddings=chain.optimize())
    for name, cfg in (("theirs", 0.0), ("same", 3.0)):
        _, sampler = chain.edit()
        set_inputs(chain, sampler, cfg=cfg)
        for place, samples in enumerate((sampler(0), sampler(1), chain.guided(chain.load(), cfg=cfg)())):
            g.add("SaveLatent", samples=samples, filename_prefix=f"guidance-{name}-{place}")
    g.add("SaveLatent", samples=chain.ksampler(applied(), 3.0)(), filename_prefix="guidance-ksampler")
    assert told(comfy, g) == []
    for place in range(3):
        assert latent(comfy, f"guidance-theirs-{place}").equal(latent(comfy, f"guidance-same-{place}"))
    assert relative(latent(comfy, "guidance-theirs-2"), latent(comfy, "guidance-theirs-1")) < 1e-3
    _, sampler = chain.edit()
    set_inputs(chain, sampler, cfg=7.5)
    for node in (sampler, chain.ksampler(applied(), 7.5), chain.guided(chain.load(), cfg=7.5)):
        wanted = {k: v for k, v in g.items() if v["class_type"] != "SaveLatent"}
        wanted["last"] = {
            "class_type": "SaveLatent",
            "inputs": {"samples": node(), "filename_prefix": "guidance-other"},
        }
        before = len(comfy.text())
        page = [data for kind, data in comfy.watch(wanted) if kind == "preview"]
        assert comfy.text()[before:].count(GUIDANCE) == 1
        assert [data for data in page if GUIDANCE.encode() in data and node()[0].encode() in data]


@pytest.mark.parametrize(
    ("inputs", "cfg"),
    [({}, "7.5"), ({"cfg": 0.0}, "7.5"), ({"cfg": 3.0}, "3"), ({"path": "random"}, None), ({"cfg": 1.0}, None),
     ({"source_cfg": 1.0}, None)],
)  # fmt: skip
def test_an_edit_without_null_embeddings_is_told(comfy, inputs, cfg):
    """Guards a Null-Text Optimize that is muted or bypassed: the edit goes on and the photo drifts; nothing is told
    where no embeddings are needed."""
    chain = Chain(**QUICK, optimize=False)
    plan = chain.graph.add("NullInvP2PEdit", clip=chain.load(1), source_text=chain.scene(1), edit_text=chain.scene(2))
    sampler = chain.graph.add(
        "NullInvP2PSampler", model=chain.load(), trajectory=chain.invert(1), edit=plan(), **inputs
    )
    chain.graph.add("SaveLatent", samples=sampler(), filename_prefix="no-embeddings")
    lines = told(comfy, chain.graph)
    assert len(lines) == (cfg is not None), lines
    assert all(f"no null embeddings are connected: cfg {cfg} is used" in line for line in lines)


def test_a_part_of_the_photo_is_told_of(comfy):
    """Guards detailers and upscalers: a crop that is sampled with a whole photo's null text is told, and goes on."""
    chain = Chain(**QUICK)
    applied = chain.graph.add("NullInvApply", model=chain.load(), null_embeddings=chain.optimize())
    crop = chain.graph.add("LatentCrop", samples=chain.latent(), width=64, height=96, x=0, y=0)
    sampled = chain.ksampler(applied(), 7.5, crop())
    set_inputs(chain, sampled, add_noise="enable", start_at_step=4)
    chain.graph.add("SaveLatent", samples=sampled(), filename_prefix="crop")
    (text,) = told(comfy, chain.graph)
    assert "a picture of 64×96 pixels is sampled with null text" in text and "a whole photo of 128×128 pixels" in text
    assert latent(comfy, "crop").isfinite().all()


def sampled_each(comfy, chain, latents):
    """What our nodes tell of each latent that a KSampler adds noise to, behind Apply Null-Text."""
    g = chain.graph
    applied = g.add("NullInvApply", model=chain.load(), null_embeddings=chain.optimize())
    every = []
    for samples in latents:
        sampled = chain.ksampler(applied(), 7.5, samples)
        set_inputs(chain, sampled, add_noise="enable", start_at_step=4)
        last = {"class_type": "SaveLatent", "inputs": {"samples": sampled(), "filename_prefix": "sampled"}}
        every.append(told(comfy, g | {"last": last}))
    return every


def part_of(chain, side, x=0, y=0):
    """A square of the photo, as large as the photo, in latents."""
    g = chain.graph
    part = g.add("ImageCrop", image=chain.scene(0), width=side, height=side, x=x, y=y)
    enlarged = g.add("ImageScale", image=part(), upscale_method="bicubic", width=128, height=128, crop="disabled")
    return g.add("VAEEncode", pixels=enlarged(), vae=chain.load(2))()


def test_a_part_as_large_as_the_photo_is_told_of(comfy):
    """Guards detailers that enlarge a part to the photo's size, as most do, alone or several at once."""
    chain = Chain(**QUICK)
    parts = [part_of(chain, 96), part_of(chain, 64, 64, 32), part_of(chain, 48, 40, 64)]
    parts.append(chain.graph.add("LatentBatch", samples1=chain.latent(), samples2=parts[0])())
    for lines in sampled_each(comfy, chain, parts):
        assert len(lines) == 1 and "looks like a part of the photo" in lines[0], lines


@pytest.mark.parametrize("kind", ["colour", "object"])
def test_the_whole_photo_and_its_edits_are_no_part(comfy, kind):
    """Guards against false alarms: a KSampler that begins in the middle, at the photo, at the perfect edit of it, or at
    ours, at an empty latent, or the photo twice."""
    chain = Chain(**QUICK, edit=kind)
    g = chain.graph
    wholes = [chain.latent(), g.add("VAEEncode", pixels=chain.scene(3), vae=chain.load(2))()]
    if kind == "colour":
        empty = g.add("EmptyLatentImage", width=128, height=128, batch_size=1)
        twice = g.add("RepeatLatentBatch", samples=chain.latent(), amount=2)
        wholes += [chain.edit()[1](), empty(), twice()]
    assert sampled_each(comfy, chain, wholes) == [[]] * len(wholes)


def test_a_sampler_that_silences_the_log_is_heard(comfy):
    """Guards tiled upscalers, which silence the root logger while they sample: the sentence is in the log."""
    chain = Chain(**QUICK)
    g = chain.graph
    applied = g.add("NullInvApply", model=chain.load(), null_embeddings=chain.optimize())
    tile = g.add("LatentCrop", samples=chain.latent(), width=72, height=72, x=0, y=0)
    sampled = g.add("OtherQuiet", model=applied(), latent=tile(), positive=chain.source(), negative=chain.empty())
    g.add("SaveLatent", samples=sampled(), filename_prefix="quiet")
    (line,) = told(comfy, g)
    assert "a picture of 72×72 pixels" in line


def test_a_guidance_that_cannot_be_used_is_refused_first(comfy):
    """Guards source_cfg after a preset whose photo is read: refused before the model is even looked at."""
    chain = Chain(**QUICK)
    set_inputs(chain, chain.optimize, preset="direct")
    _, sampler = chain.edit()
    other = chain.graph.add("ModelMergeSubtract", model1=chain.load(), model2=chain.load(), multiplier=0.5)
    set_inputs(chain, sampler, model=other(), source_cfg=2.0)
    chain.graph.add("SaveLatent", samples=sampler(), filename_prefix="refused-first")
    assert "no guidance of its own" in error_of(comfy.finish(comfy.queue(chain.graph)))


DOWNSCALE = {
    "block_number": 1, "downscale_factor": 2.0, "start_percent": 0.0, "end_percent": 0.35,
    "downscale_after_skip": True, "downscale_method": "bicubic", "upscale_method": "bicubic",
}  # fmt: skip


@pytest.mark.parametrize("preset", ["custom", "fast"])
@pytest.mark.parametrize(
    ("kind", "inputs", "name"),
    [("PatchModelAddDownscale", DOWNSCALE, "PatchModelAddDownscale"), ("OtherOutputPatch", {}, "OutputPatch")],
)
def test_another_model_is_told_by_name(comfy, preset, kind, inputs, name):
    """Guards a patch that the inversion did not have, or that it alone had: told in the edit and in a KSampler, with
    the patch's name; the same patch everywhere is not told of."""
    for here, at_the_inversion in ((True, False), (False, True), (True, True)):
        chain = Chain(**QUICK)
        g = chain.graph
        set_inputs(chain, chain.optimize, preset=preset)
        set_inputs(chain, chain.invert, method="fixed-point" if preset == "fast" else "ddim")
        patch = g.add(kind, model=chain.load(), **inputs)
        _, sampler = chain.edit()
        if at_the_inversion:
            for node in (chain.invert, chain.optimize):
                set_inputs(chain, node, model=patch())
        model = patch if here else chain.load
        set_inputs(chain, sampler, model=model())
        applied = g.add("NullInvApply", model=model(), null_embeddings=chain.optimize())
        for place, samples in enumerate((sampler(1), chain.ksampler(applied(), 7.5)())):
            g.add("SaveLatent", samples=samples, filename_prefix=f"another-{place}")
        lines = told(comfy, g)
        assert len(lines) == (0 if here and at_the_inversion else 2), lines
        assert all(DRIFTS in line and f"only {'here' if here else 'there'}: {name}" in line for line in lines)


@pytest.mark.parametrize("steps", [6, 12])
def test_a_schedule_with_more_steps_than_asked(comfy, steps):
    """Guards ddim_uniform where it makes one step more: DDIM Invert says so and gives its noise levels away, with which
    SamplerCustom is where a KSampler is; a sampler that begins a level too late is refused."""
    chain = Chain(steps=steps, inner_steps=2)
    g = chain.graph
    applied = g.add("NullInvApply", model=chain.load(), null_embeddings=chain.optimize())
    g.add("SaveLatent", samples=chain.ksampler(applied(), 7.5)(), filename_prefix="more-ksampler")
    whole = custom(chain, applied(), sigmas=chain.invert(2))
    g.add("SaveLatent", samples=whole(), filename_prefix="more-custom")
    (line,) = told(comfy, g)
    close = {6: "5 or 8", 12: "10 or 20"}[steps]
    assert f"ddim_uniform makes {steps + 1} steps of {steps}" in line and f"all agree at {close} steps" in line
    assert relative(latent(comfy, "more-custom"), latent(comfy, "more-ksampler")) < 1e-6
    for late in (custom(chain, applied()), chain.guided(chain.load())):
        wanted = {k: v for k, v in g.items() if v["class_type"] != "SaveLatent"}
        wanted["last"] = {"class_type": "SaveLatent", "inputs": {"samples": late(), "filename_prefix": "late"}}
        assert "later than this noise" in error_of(comfy.finish(comfy.queue(wanted)))


@pytest.mark.parametrize("steps", [1, 4, 8])
def test_few_steps_are_told(comfy, steps):
    """Guards owners of Turbo and Lightning models, who leave four steps: DDIM Invert and Edit Photo say that these are
    too few; eight, and noise levels of the user's own, are told nothing."""
    chain = Chain(steps=steps, optimize=False)
    g = chain.graph
    sigmas = g.add("BasicScheduler", model=chain.load(), scheduler="ddim_uniform", steps=steps, denoise=1.0)
    own = g.add("NullInvDDIMInvert", **g[chain.invert()[0]]["inputs"] | {"sigmas": sigmas()})
    edited = g.add(
        "NullInvEditPhoto", model=chain.load(), clip=chain.load(1), vae=chain.load(2), image=chain.scene(0),
        source_text=chain.scene(1), edit_text=chain.scene(2), strength=0.3, blend_words="", size=128, steps=steps,
        cfg=3.0, keep_pixels=False,
    )  # fmt: skip
    for node in (chain.invert, own):
        g.add("SaveLatent", samples=node(), filename_prefix="few-steps")
    g.add("PreviewImage", images=edited())
    lines = [line for line in told(comfy, g, few_steps=True) if FEW_STEPS in line]
    assert len(lines) == (0 if steps == 8 else 2), lines


def test_other_noise_levels_on_the_way_are_told(comfy):
    """Guards samplers of another scheduler, which begin at the photo's noise and go other ways."""
    chain = Chain(**QUICK)
    applied = chain.graph.add("NullInvApply", model=chain.load(), null_embeddings=chain.optimize())
    sampler = chain.ksampler(applied(), 7.5)
    set_inputs(chain, sampler, scheduler="sgm_uniform")
    chain.graph.add("SaveLatent", samples=sampler(), filename_prefix="levels")
    (line,) = told(comfy, chain.graph)
    assert "which the inversion did not have" in line


def test_guidance_behind_apply_is_told(comfy):
    """Guards nodes that change the guidance after Apply Null-Text, and those that leave the null text out."""
    chain = Chain(**QUICK)
    g = chain.graph
    applied = g.add("NullInvApply", model=chain.load(), null_embeddings=chain.optimize())
    behind = {
        g.add("RescaleCFG", model=applied(), multiplier=0.7): ["sampler_cfg_function"],
        g.add("TCFG", model=applied()): ["sampler_pre_cfg_function"],
        g.add("OtherGuidance", model=applied()): ["calc_cond_batch", "never reached the network"],
    }
    if "NAGuidance" in comfy.get("/object_info"):
        # guidance in the attention, which a prediction of the text alone does not show
        attention = {"nag_scale": 5.0, "nag_alpha": 0.5, "nag_tau": 2.5}
        behind[g.add("NAGuidance", model=applied(), **attention)] = ["another node (NAGuidance) changes"]
    for model, wanted in behind.items():
        save = g.add("SaveLatent", samples=chain.ksampler(model(), 7.5)(), filename_prefix="behind")
        lines = told(comfy, g)
        assert len(lines) == len(wanted) and all(part in line for part, line in zip(wanted, lines, strict=True)), lines
        del g[save()[0]]
        g["0"] = {"class_type": "PreviewAny", "inputs": {"source": "x"}}


def test_a_patcher_of_another_s_making_keeps_the_null_text(comfy):
    """Guards nodes behind Apply Null-Text that copy a MODEL's options alone (AnimateDiff's to unload it)."""
    chain = Chain(**QUICK)
    g = chain.graph
    applied = g.add("NullInvApply", model=chain.load(), null_embeddings=chain.optimize())
    bare = g.add("OtherUnload", model=applied())
    g.add("SaveLatent", samples=chain.ksampler(bare(), 7.5)(), filename_prefix="bare-ksampler")
    g.add("SaveLatent", samples=chain.optimize(1), filename_prefix="bare-reconstruction")
    assert told(comfy, g) == []
    assert relative(latent(comfy, "bare-ksampler"), latent(comfy, "bare-reconstruction")) < 1e-3


@pytest.mark.parametrize(
    ("kind", "inputs", "owner"),
    [
        ("OtherCache", {"what": "middle"}, "Cache of other_pack"),
        ("OtherCache", {"what": "whole"}, "Cache of other_pack"),
        ("EasyCache", {"reuse_threshold": 1.0}, "easycache"),
        ("LazyCache", {"reuse_threshold": 1.0}, "lazycache"),
    ],
)
def test_predictions_left_out_behind_apply_are_told(comfy, kind, inputs, owner):
    """Guards caches behind Apply Null-Text: in a KSampler they are told by name, once, and go on."""
    chain = Chain(**QUICK)
    g = chain.graph
    applied = g.add("NullInvApply", model=chain.load(), null_embeddings=chain.optimize())
    widgets = {"start_percent": 0.15, "end_percent": 0.95, "verbose": False} if kind != "OtherCache" else {}
    cached = g.add(kind, model=applied(), **widgets, **inputs)
    g.add("SaveLatent", samples=chain.ksampler(cached(), 7.5)(), filename_prefix="left-out")
    (line,) = [line for line in told(comfy, g) if "leaves out predictions" in line]
    assert owner in line


def test_a_patch_behind_apply_is_told_by_name(comfy):
    """Guards patches that a MODEL gets behind Apply Null-Text: the sentence names them too."""
    chain = Chain(**QUICK)
    applied = chain.graph.add("NullInvApply", model=chain.load(), null_embeddings=chain.optimize())
    patched = chain.graph.add("OtherOutputPatch", model=applied())
    chain.graph.add("SaveLatent", samples=chain.ksampler(patched(), 7.5)(), filename_prefix="patched-behind")
    (line,) = told(comfy, chain.graph)
    assert DRIFTS in line and "only here: OutputPatch" in line


def test_noise_levels_of_other_models_behind_apply_are_refused_by_name(comfy):
    """Guards rectified flow's noise levels on a MODEL with null text: the sentence names who gave them."""
    chain = Chain(**QUICK)
    applied = chain.graph.add("NullInvApply", model=chain.load(), null_embeddings=chain.optimize())
    flow = chain.graph.add("ModelSamplingSD3", model=applied(), shift=3.0)
    chain.graph.add("SaveLatent", samples=chain.ksampler(flow(), 7.5)(), filename_prefix="flow-behind")
    error = error_of(comfy.finish(comfy.queue(chain.graph)))
    assert "another node (ModelSamplingSD3" in error and "connect the MODEL from before that node" in error


def test_null_text_finds_the_negative_text(comfy):
    """Guards guiders that do not pass the positive text first, or one text alone (core's DualModelGuider): null text
    goes to the negative one."""
    if "DualModelGuider" not in comfy.get("/object_info"):
        pytest.skip("this ComfyUI has no guider of two models")
    chain = Chain(**QUICK)
    g = chain.graph
    applied = g.add("NullInvApply", model=chain.load(), null_embeddings=chain.optimize())
    texts = {"positive": chain.source(), "negative": chain.empty(), "cfg": 7.5}
    for name, second in (("two", applied()), ("one", None)):
        guider = g.add("DualModelGuider", model=applied(), **texts, **({"model_negative": second} if second else {}))
        sampled = g.add(
            "SamplerCustomAdvanced", noise=g.add("DisableNoise")(), guider=guider(), sigmas=chain.invert(2),
            sampler=g.add("KSamplerSelect", sampler_name="euler")(), latent_image=chain.invert(0),
        )  # fmt: skip
        g.add("SaveLatent", samples=sampled(), filename_prefix=f"models-{name}")
    g.add("SaveLatent", samples=chain.optimize(1), filename_prefix="models-reconstruction")
    assert told(comfy, g) == []
    for name in ("one", "two"):
        assert relative(latent(comfy, f"models-{name}"), latent(comfy, "models-reconstruction")) < 1e-3
