"""The real packs that ours is tried beside, and how their users wire them: one table."""

from collections.abc import Callable
from dataclasses import dataclass

from .wiring import Whole


@dataclass(frozen=True)
class Pack:
    """A pack as it was tried. ``repository``: owner/name on GitHub; ``commit``: of the sources. ``inside``: what else
    belongs into a folder of it: (folder, repository, commit). ``needs``: packs that it asks for."""

    repository: str
    commit: str
    inside: tuple[tuple[str, str, str], ...] = ()
    needs: "tuple[Pack, ...]" = ()

    @property
    def folder(self):
        """Its folder among the fetched sources, and in custom_nodes."""
        return self.repository.split("/")[1]


@dataclass(frozen=True)
class Trial:
    """One graph with a pack's node in our whole chain, and what it must come to.

    ``wire`` puts the ``node`` in. ``what``: of its place and settings, for the table. ``acts``: the latent in which its
    effect is seen; empty where it must change nothing. ``told``, ``refused``: words of the sentence that our nodes say.
    ``base``: loads another model first, in the chain without the node too. ``by``: the preset. ``edit``: of the scene.
    """

    pack: Pack
    node: str
    what: str
    wire: Callable[[Whole], object]
    acts: str = "noise"
    told: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    base: Callable[[Whole], object] | None = None
    by: str = "custom"
    edit: str = "colour"

    @property
    def key(self):
        """Its row among the verdicts."""
        return f"{self.pack.folder}/{self.node}/{self.what}"


def on_model(node, **inputs):
    """Before all of our nodes that sample."""
    return lambda c: c.splice(c.load(0), node, **inputs)


def after_apply(node, **inputs):
    """Between Apply Null-Text and the KSampler."""
    return lambda c: c.splice(c.apply(), node, **inputs)


def encoding(node, **inputs):
    """Every text goes through a pack's encoder."""
    return lambda c: c.swap("CLIPTextEncode", node, **inputs)


def sampling(node, **inputs):
    """A pack's sampler in place of the KSampler behind Apply Null-Text."""
    return lambda c: c.swap("KSamplerAdvanced", node, **inputs)


def on_text(node, takes, gives=0, **inputs):
    """The source text comes through a pack's node."""
    return lambda c: c.splice(c.scene(1), node, takes, gives, **inputs)


def on_photo(node, takes="image", gives=0, **inputs):
    """The photo comes through a pack's node."""
    return lambda c: c.splice(c.scene(0), node, takes, gives, **inputs)


def shallow(c):
    """A checkpoint that ComfyUI's loaders take for Stable Diffusion 1.5's, with random weights."""
    checkpoint = c.graph.add("CheckpointLoaderSimple", ckpt_name="shallow.safetensors")
    for slot in (0, 1):
        c.reroute(c.load(slot), checkpoint(slot))
    vae, c.load = c.load(2), lambda slot=0: vae if slot == 2 else checkpoint(slot)


def proportions(c):
    """A network of Stable Diffusion's proportions with random weights, at whose widths patches act."""
    c.set(c.load, model="proportions")


def loaded(node, **inputs):
    """The MODEL of a pack's loader in place of the checkpoint's."""
    return lambda c: c.reroute(c.load(0), c.graph.add(node, **inputs)())


def steps_from(node, gives=0, **inputs):
    """The number of steps comes from a pack's node."""

    def wire(c):
        steps = c.graph.add(node, **inputs)
        c.set(c.invert, steps=steps(gives))
        c.set(c.last, steps=steps(gives))

    return wire


def seed_from(node, **inputs):
    """The seed comes from a pack's node."""
    return lambda c: c.set(c.last, noise_seed=c.graph.add(node, **inputs)())


def mask_from(node, gives=0, **inputs):
    """The mask that limits the edit comes through a pack's node; a whole one changes nothing."""

    def wire(c):
        whole = c.graph.add("SolidMask", value=1.0, width=128, height=128)
        c.set(c.sampler, mask=c.graph.add(node, mask=whole(), **inputs)(gives))

    return wire


def nothing(c):
    """The chain as it is, after what ran before it."""


def adapter(c):
    """An IPAdapter with a picture's embedding, as a checkpoint's MODEL goes through it."""
    g = c.graph
    c.splice(
        c.load(0), "IPAdapterEmbeds", ipadapter=g.add("IPAdapterModelLoader", ipadapter_file="shallow.safetensors")(),
        pos_embed=g.add("IPAdapterLoadEmbeds", embeds="picture.ipadpt")(),
        neg_embed=g.add("IPAdapterLoadEmbeds", embeds="no-picture.ipadpt")(), weight=0.8,
    )  # fmt: skip


def controlled(c):
    """Both texts through an advanced ControlNet with the photo as its hint, strong at first and weak later."""
    g = c.graph
    net = g.add("ControlNetLoaderAdvanced", control_net_name="shallow.safetensors")
    both = g.add("ACN_AdvancedControlNetApply_v2", positive=c.source(), negative=c.empty(), control_net=net(),
                 image=c.scene(0), strength=0.6)  # fmt: skip
    c.reroute(c.source(), both(0), but=both()[:1])
    c.reroute(c.empty(), both(1), but=both()[:1])
    c.set(c.sampler, source=both(0), negative=both(1))


def through_context(c):
    """MODEL, CLIP, VAE and texts travel in rgthree's context."""
    big = c.graph.add("Context (rgthree)", model=c.load(0), clip=c.load(1), vae=c.load(2))
    for slot in range(3):
        c.reroute(c.load(slot), big(slot + 1), but=big()[:1])


def through_pipe(c):
    """The KSampler's MODEL and texts travel in Impact's pipe, to its own sampler."""
    pipe = c.graph.add("ToBasicPipe", model=c.apply(), clip=c.load(1), vae=c.load(2), positive=c.source(),
                       negative=c.empty())  # fmt: skip
    c.swap("KSamplerAdvanced", "ImpactKSamplerAdvancedBasicPipe", basic_pipe=pipe(), add_noise=False, gives=1,
           return_with_leftover_noise=False, drop=("model", "positive", "negative"))  # fmt: skip


def detailed(c):
    """A detailer gives a crop to a MODEL with a whole photo's null text."""
    g = c.graph
    parts = g.add("MaskToSEGS", mask=c.scene(4), combined=True, drop_size=1, crop_factor=1.5)
    picture = g.add(
        "DetailerForEach", image=c.scene(0), segs=parts(), model=c.apply(), clip=c.load(1), vae=c.load(2),
        guide_size=96, max_size=96, steps=2, cfg=7.5, scheduler="ddim_uniform", positive=c.source(),
        negative=c.empty(), denoise=0.5,
    )  # fmt: skip
    c.saved["detailed"] = g.add("VAEEncode", pixels=picture(), vae=c.load(2))()


def upscaled(c):
    """Ultimate SD Upscale gives tiles to a MODEL with a whole photo's null text."""
    g = c.graph
    larger = g.add("ImageScale", image=c.scene(0), upscale_method="bicubic", width=256, height=256, crop="disabled")
    picture = g.add(
        "UltimateSDUpscaleNoUpscale", upscaled_image=larger(), model=c.apply(), positive=c.source(),
        negative=c.empty(), vae=c.load(2), steps=2, cfg=7.5, scheduler="ddim_uniform", tile_width=64, tile_height=64,
        tile_padding=8, denoise=0.5,
    )  # fmt: skip
    c.saved["upscaled"] = g.add("VAEEncode", pixels=picture(), vae=c.load(2))()


def unsampled(c):
    """BNK's Unsampler is an inversion of its own: ours is not needed for its noise."""
    g = c.graph
    back = g.add("BNK_Unsampler", model=c.apply(), steps=c.steps, cfg=7.5, scheduler="ddim_uniform",
                 positive=c.source(), negative=c.empty(), latent_image=c.latent())  # fmt: skip
    c.saved["unsampled"] = back()


def clown(c):
    """RES4LYF's sampler on our noise and noise levels."""
    c.swap(
        "KSamplerAdvanced", "ClownsharKSampler_Beta", sampler_name="linear/euler", sigmas=c.invert(2), eta=0.0,
        sampler_mode="resample",
        bongmath=False, scheduler="ddim_uniform",
        drop=("add_noise", "noise_seed", "start_at_step", "end_at_step", "return_with_leftover_noise"),
    )  # fmt: skip


def multiplied(c):
    """Our noise levels through RES4LYF's arithmetic, back to DDIM Invert."""
    basic = c.graph.add("BasicScheduler", model=c.load(0), scheduler="ddim_uniform", steps=c.steps, denoise=1.0)
    c.set(c.invert, sigmas=c.graph.add("Sigmas Mult", sigmas=basic(), multiplier=1.0)())


def kept_noise(c):
    """Noise on top of ours, as much as nothing: the latent comes back."""
    c.reroute(c.invert(0), c.graph.add("BNK_InjectNoise", latents=c.invert(0), strength=0.0)(), among=c.last()[:1])


def switched(c):
    """The MODEL comes out of a switch of two."""
    switch = c.graph.add("CR Model Input Switch", Input=1, model1=c.load(0), model2=c.load(0))
    c.reroute(c.load(0), switch(), but=switch()[:1])


def conditional(c):
    """A MODEL that is another one in the first half of the steps."""
    freed = c.graph.add("FreeU_V2", model=c.load(0))
    c.splice(c.load(0), "BlehModelPatchConditional", takes="model_default", model_matched=freed(), end_percent=0.5)
    c.set(freed, model=["1", 0])


def kept_mask(c):
    """The edit's mask from a shape that covers the photo."""
    shape = c.graph.add("CreateShapeMask", shape="square", location_x=64, location_y=64, frame_width=128,
                        frame_height=128, shape_width=400, shape_height=400)  # fmt: skip
    c.set(c.sampler, mask=shape())


NEWEST = "0.33.0"
"""Every pack loads in this ComfyUI; in older ones some do not."""
WAY_OUT = "connect the MODEL from before that node to DDIM Invert and to all that follows"
GUIDES = "changes this MODEL's guidance"
BEHIND = "changes this MODEL's guidance after Apply Null-Text"
PLAIN_SAMPLER = {"add_noise": False, "return_with_leftover_noise": False}
LORA = "demo.safetensors"

SMZ = Pack("shiimizu/ComfyUI_smZNodes", "9562d76c3cf206a3c2362e2baf8bbf717a4869a5")
TILED = Pack("shiimizu/ComfyUI-TiledDiffusion", "a155b1bac39147381aeaa52b9be42e545626a44f")
WAVE = Pack("chengzeyi/Comfy-WaveSpeed", "8253745127785d820cff0a9621d1537a5aae5424")
ADAPTER = Pack("cubiq/ComfyUI_IPAdapter_plus", "9d076a3df0d2763cef5510ec5ab807f6632c39f5")
KJ = Pack("kijai/ComfyUI-KJNodes", "3f20054214fec9f9234fd3841ae6f1e4287948f6")
IMPACT = Pack(
    "ltdrdata/ComfyUI-Impact-Pack", "727295b52e5f7b5429e81ca2179172865aa83b99",
    (("impact_subpack", "ltdrdata/ComfyUI-Impact-Subpack", "bd4dedc4ea514dda9cfa333a0f42e296e32b8c10"),),
)  # fmt: skip
INSPIRE = Pack("ltdrdata/ComfyUI-Inspire-Pack", "1aef2c57e35078b6017697df9cf30ad595d93826", needs=(IMPACT,))
RGTHREE = Pack("rgthree/rgthree-comfy", "13b4399c00b5ef5a97b1b6800fc1185874740f5d")
GGUF = Pack("city96/ComfyUI-GGUF", "795e45156ece99afbc3efef911e63fcb46e6a20d")
CONTROL = Pack("Kosinkadink/ComfyUI-Advanced-ControlNet", "9e60d8a9c8016c5315063aa7af66b321a0444df7")
ANIMATE = Pack("Kosinkadink/ComfyUI-AnimateDiff-Evolved", "d8d163cd90b1111f6227495e3467633676fbb346")
EFFICIENCY = Pack("jags111/efficiency-nodes-comfyui", "4579b7d6076b2870998a08f5d37883fbc8261ff2")
EVERYWHERE = Pack("chrisgoringe/cg-use-everywhere", "a3952a4480a07fc3df03ec8be315dfcd11bd5135")
NOISE = Pack("BlenderNeko/ComfyUI_Noise", "0c9ec19b16dc72334cb8ce82c3774aed183048e4")
ENCODE = Pack("BlenderNeko/ComfyUI_ADV_CLIP_emb", "63984deefb005da1ba90a1175e21d91040da38ab")
ESSENTIALS = Pack("cubiq/ComfyUI_essentials", "33ff89fd354d8ec3ab6affb605a79a931b445d99")
SCRIPTS = Pack("pythongosssss/ComfyUI-Custom-Scripts", "609f3afaa74b2f88ef9ce8d939626065e3247469")
WAS = Pack("WASasquatch/was-node-suite-comfyui", "ea935d1044ae5a26efa54ebeb18fe9020af49a45")
MULTI = Pack("pollockjj/ComfyUI-MultiGPU", "a38cbda5fb64232bfa67867d55ae473d2c44d54e")
RES = Pack("ClownsharkBatwing/RES4LYF", "022c873c6d198c67b3312a1804336533a050df18")
PERTURBED = Pack("pamparamm/sd-perturbed-attention", "904319bff623b185f15047e231a446d615ee48c6")
THRESHOLD = Pack("mcmonkeyprojects/sd-dynamic-thresholding", "73e4e04565aa86237d66764ac58ffae1f7e40e48")
SKIMMED = Pack("Extraltodeus/Skimmed_CFG", "2712803a8b721665d43d5aeb4430e5ac0e931091")
PROMPT = Pack("asagi4/comfyui-prompt-control", "b24d93b778ef833422640b38857060952a71c101")
UPSCALE = Pack(
    "ssitu/ComfyUI_UltimateSDUpscale", "34a3c2c0d8a0321d4f9a355092f105046e56d998",
    (("repositories/ultimate_sd_upscale", "Coyote-A/ultimate-upscale-for-automatic1111",
      "2322caa480535b1011a1f9c18126d85ea444f146"),),
)  # fmt: skip
COMFYROLL = Pack("Suzie1/ComfyUI_Comfyroll_CustomNodes", "d78b780ae43fcf8c6b7c6505e6ffb4584281ceca")
BLEH = Pack("blepping/ComfyUI-bleh", "b889683c425f0870a6192606438fecb7a5bda8b9")

ONE_TILE = {"method": "MultiDiffusion", "tile_width": 512, "tile_height": 512, "tile_overlap": 64, "tile_batch_size": 4}
TILES = {**ONE_TILE, "tile_width": 64, "tile_height": 64, "tile_overlap": 16}
CACHE = {
    "object_to_patch": "diffusion_model", "residual_diff_threshold": 0.9, "start": 0.0, "end": 1.0,
    "max_consecutive_cache_hits": -1,
}  # fmt: skip
CUT = ("MultiDiffusion of ComfyUI-TiledDiffusion", WAY_OUT)
CACHED = ("ApplyFBCacheOnModel of Comfy-WaveSpeed", WAY_OUT)
ADVANCED = {"token_normalization": "mean", "weight_interpretation": "A1111"}
CROP = ("give detailers and upscalers the MODEL from before Apply Null-Text",)
TRIALS = [
    Trial(SMZ, "any KSampler", "has run with the MODEL before", nothing, "", by="fast"),
    Trial(SMZ, "smZ CLIPTextEncode", "A1111's parser for all texts",
          encoding("smZ CLIPTextEncode", parser="A1111"), ""),
    Trial(TILED, "TiledDiffusion", "one tile, preset custom", on_model("TiledDiffusion", **ONE_TILE), refused=CUT),
    Trial(TILED, "TiledDiffusion", "one tile, preset negative-prompt", on_model("TiledDiffusion", **ONE_TILE), "",
          by="negative-prompt"),
    Trial(TILED, "TiledDiffusion", "several tiles, preset direct", on_model("TiledDiffusion", **TILES), refused=CUT,
          by="direct"),
    Trial(WAVE, "ApplyFBCacheOnModel", "threshold 0.9", on_model("ApplyFBCacheOnModel", **CACHE), refused=CACHED,
          by="fast"),
    Trial(WAVE, "ApplyFBCacheOnModel", "threshold 0",
          on_model("ApplyFBCacheOnModel", **{**CACHE, "residual_diff_threshold": 0.0}), ""),
    Trial(ADAPTER, "IPAdapterEmbeds", "an adapter for all of our nodes", adapter, base=shallow),
    Trial(KJ, "ModelPassThrough", "between loader and all", on_model("ModelPassThrough"), ""),
    Trial(KJ, "INTConstant", "steps", steps_from("INTConstant", value=5), ""),
    Trial(KJ, "CreateShapeMask", "the edit's mask", kept_mask, ""),
    Trial(KJ, "ImageResizeKJv2", "the photo",
          on_photo("ImageResizeKJv2", width=128, height=128, keep_proportion="stretch"), ""),
    Trial(KJ, "CFGZeroStarAndInit", "between loader and all", on_model("CFGZeroStarAndInit"),
          refused=("ComfyUI-KJNodes", GUIDES, WAY_OUT)),
    Trial(IMPACT, "ImpactKSamplerAdvancedBasicPipe", "behind Apply Null-Text", through_pipe, ""),
    Trial(IMPACT, "DetailerForEach", "a crop behind Apply Null-Text", detailed, "", told=CROP, edit="object"),
    Trial(INSPIRE, "KSamplerAdvanced //Inspire", "behind Apply Null-Text",
          sampling("KSamplerAdvanced //Inspire", noise_mode="CPU", **PLAIN_SAMPLER), ""),
    Trial(INSPIRE, "HyperTile //Inspire", "between loader and all",
          on_model("HyperTile //Inspire", tile_size=64), refused=("HyperTile, ToMe",)),
    Trial(RGTHREE, "Context (rgthree)", "carries MODEL, CLIP and VAE", through_context, ""),
    Trial(RGTHREE, "Power Prompt - Simple (rgthree)", "encodes the texts",
          lambda c: c.swap("CLIPTextEncode", "Power Prompt - Simple (rgthree)", {"clip": "opt_clip", "text": "prompt"}),
          ""),
    Trial(GGUF, "UnetLoaderGGUF", "F16", loaded("UnetLoaderGGUF", unet_name="shallow-f16.gguf"), "", base=shallow),
    Trial(GGUF, "UnetLoaderGGUF", "Q8_0", loaded("UnetLoaderGGUF", unet_name="shallow-q8.gguf"), base=shallow),
    Trial(CONTROL, "ACN_AdvancedControlNetApply_v2", "on all texts", controlled, base=shallow),
    Trial(ANIMATE, "ADE_UseEvolvedSampling", "between loader and all",
          on_model("ADE_UseEvolvedSampling", beta_schedule="use existing"), ""),
    Trial(ANIMATE, "ADE_AnimateDiffUnload", "behind Apply Null-Text", after_apply("ADE_AnimateDiffUnload"), ""),
    Trial(EFFICIENCY, "KSampler Adv. (Efficient)", "behind Apply Null-Text",
          sampling("KSampler Adv. (Efficient)", gives=3, preview_method="none", vae_decode="false"), ""),
    Trial(EVERYWHERE, "Seed Everywhere", "the KSampler's seed", seed_from("Seed Everywhere", seed=7), ""),
    Trial(NOISE, "BNK_InjectNoise", "our noise, strength 0", kept_noise, ""),
    Trial(NOISE, "BNK_Unsampler", "behind Apply Null-Text", unsampled, ""),
    Trial(ENCODE, "BNK_CLIPTextEncodeAdvanced", "A1111's weights for all texts",
          encoding("BNK_CLIPTextEncodeAdvanced", **ADVANCED), ""),
    Trial(ESSENTIALS, "ImageResize+", "the photo", on_photo("ImageResize+", width=128, height=128), ""),
    Trial(ESSENTIALS, "MaskBlur+", "the edit's mask", mask_from("MaskBlur+"), ""),
    Trial(ESSENTIALS, "GuidanceTimestepping+", "between loader and all", on_model("GuidanceTimestepping+"),
          refused=("ComfyUI_essentials", GUIDES, WAY_OUT)),
    Trial(ESSENTIALS, "GuidanceTimestepping+", "behind Apply Null-Text", after_apply("GuidanceTimestepping+"),
          "ksampler", told=(BEHIND,)),
    Trial(SCRIPTS, "StringFunction|pysssss", "the source text",
          on_text("StringFunction|pysssss", "text_a", action="append", tidy_tags="no", text_b=""), ""),
    Trial(SCRIPTS, "MathExpression|pysssss", "steps", steps_from("MathExpression|pysssss", expression="2+3"), ""),
    Trial(SCRIPTS, "LoraLoader|pysssss", "between loader and all",
          on_model("LoraLoader|pysssss", clip=["1", 1], lora_name=LORA)),
    Trial(WAS, "Text Concatenate", "the source text",
          on_text("Text Concatenate", "text_a", delimiter="", clean_whitespace="false"), ""),
    Trial(WAS, "Image Resize", "the photo",
          on_photo("Image Resize", mode="resize", resize_width=128, resize_height=128, supersample="false"), "photo"),
    Trial(MULTI, "CheckpointLoaderSimpleMultiGPU", "loads the checkpoint",
          loaded("CheckpointLoaderSimpleMultiGPU", ckpt_name="shallow.safetensors"), "", base=shallow),
    Trial(RES, "ClownsharKSampler_Beta", "linear/euler, behind Apply Null-Text", clown, ""),
    Trial(RES, "Sigmas Mult", "sigmas of DDIM Invert", multiplied, ""),
    Trial(PERTURBED, "PerturbedAttention", "between loader and all", on_model("PerturbedAttention"),
          refused=("sd-perturbed-attention", GUIDES, WAY_OUT)),
    Trial(PERTURBED, "PerturbedAttention", "behind Apply Null-Text", after_apply("PerturbedAttention"), "ksampler",
          told=(BEHIND,)),
    Trial(PERTURBED, "NormalizedAttentionGuidance", "between loader and all",
          lambda c: c.splice(c.load(0), "NormalizedAttentionGuidance", negative=c.empty()), base=proportions),
    Trial(PERTURBED, "PLADIS", "between loader and all", on_model("PLADIS"), base=proportions),
    Trial(THRESHOLD, "DynamicThresholdingSimple", "between loader and all", on_model("DynamicThresholdingSimple"),
          refused=("sd-dynamic-thresholding", GUIDES, WAY_OUT)),
    Trial(THRESHOLD, "DynamicThresholdingSimple", "behind Apply Null-Text",
          after_apply("DynamicThresholdingSimple", mimic_scale=3.0), "ksampler", told=(BEHIND,)),
    Trial(SKIMMED, "Skimmed CFG", "between loader and all", on_model("Skimmed CFG"),
          refused=("Skimmed_CFG", GUIDES, WAY_OUT)),
    Trial(SKIMMED, "Skimmed CFG", "behind Apply Null-Text", after_apply("Skimmed CFG", Skimming_CFG=2.0), "ksampler",
          told=(BEHIND,)),
    Trial(PROMPT, "PCTextEncode", "encodes the texts", lambda c: c.swap("CLIPTextEncode", "PCTextEncode"), ""),
    Trial(PROMPT, "PCLazyTextEncode", "a schedule in the text", lambda c: (
        c.swap("CLIPTextEncode", "PCLazyTextEncode"), c.set(c.source, text="a [red:blue:0.5] mug")),
        refused=("2 prompts", "use a single one")),
    Trial(UPSCALE, "UltimateSDUpscaleNoUpscale", "tiles behind Apply Null-Text", upscaled, "", told=CROP),
    Trial(COMFYROLL, "CR Model Input Switch", "between loader and all", switched, ""),
    Trial(COMFYROLL, "CR Prompt Text", "the source text", on_text("CR Prompt Text", "prompt"), ""),
    Trial(BLEH, "BlehDeepShrink", "between loader and all",
          on_model("BlehDeepShrink", commasep_block_numbers="3"), base=proportions),
    Trial(BLEH, "BlehModelPatchConditional", "another MODEL in the first half of the steps", conditional,
          base=proportions),
    Trial(BLEH, "BlehHyperTile", "between loader and all", on_model("BlehHyperTile", tile_size=64),
          refused=("HyperTile, ToMe",)),
]  # fmt: skip
RANDOM = (shallow, proportions)
"""Bases with random weights, which bring no photo back."""
PACKS = sorted({trial.pack for trial in TRIALS}, key=lambda pack: pack.folder.lower())
