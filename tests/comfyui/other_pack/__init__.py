"""Another pack, as ComfyUI's users have many: it wraps models and replaces attention with the calls that packs use."""

import copy
import gc
import logging
import sys

import comfy.controlnet
import comfy.ldm.modules.attention
import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
import comfy.samplers
import torch
from aiohttp import web
from comfy.ldm.modules.attention import optimized_attention
from comfy_api.torch_helpers import set_torch_compile_wrapper
from server import PromptServer


@PromptServer.instance.routes.get("/other_pack/tensors")
async def _tensors(_):
    """Bytes of all tensors that somebody in this process holds."""
    gc.collect()
    return web.json_response(sum(dict(filter(None, map(_stored, gc.get_objects()))).values()))


def _stored(thing):
    """Where a tensor's numbers are and how many bytes; nothing for what has none, as a compiler's tensors."""
    # by its type: isinstance would wake what stands in for objects that are not there yet
    if not issubclass(type(thing), torch.Tensor):
        return None
    try:
        storage = thing.untyped_storage()
        return storage.data_ptr(), storage.nbytes()
    except (NotImplementedError, RuntimeError):
        return None


def _count(executor, *args, **kwargs):
    logging.warning("other pack: a wrapped prediction")
    return executor(*args, **kwargs)


def _count_older(apply, given):
    logging.warning("other pack: the older hook")
    return apply(given["input"], given["timestep"], **given["c"])


class _OnModel:
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "apply"
    CATEGORY = "other"

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"model": ("MODEL",)}}


class Wrap(_OnModel):
    """Counts predictions in a wrapper, and in the older hook for the same."""

    def apply(self, model):
        patched = model.clone()
        patched.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.CALC_COND_BATCH, "other pack", _count)
        patched.set_model_unet_function_wrapper(_count_older)
        return (patched,)


class Unconditional(_OnModel):
    """Makes the predictions of unconditional rows a tenth louder, in a wrapper that is not in the MODEL's options."""

    def apply(self, model):
        patched = model.clone()

        def louder(executor, *args, **kwargs):
            found, places = executor(*args, **kwargs), args[5]["cond_or_uncond"]
            rows = zip(found.chunk(len(places)), places, strict=True)
            return torch.cat([1.1 * part if kind == 1 else part for part, kind in rows])

        patched.add_wrapper(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, louder)
        return (patched,)


class PatchAttention(_OnModel):
    """Makes what a patch of the attention's inputs may make: the values of the text a tenth louder."""

    def apply(self, model):
        patched = model.clone()
        patched.set_model_attn2_patch(lambda q, k, v, extra: (q, k, v * 1.1))
        return (patched,)


class Tokens(_OnModel):
    """Appends two tokens of its own to those of the text, as the first adapters did; or lets every row attend twice and
    takes the mean, as packs for regions do."""

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"model": ("MODEL",), "what": (["tokens", "rows"],)}}

    def apply(self, model, what):
        patched = model.clone()

        def tokens(q, k, v, extra):
            own = torch.ones(len(k), 2, k.shape[-1], dtype=k.dtype)
            return q, torch.cat([k, own], 1), torch.cat([v, own], 1)

        if what == "tokens":
            patched.set_model_attn2_patch(tokens)
        else:
            patched.set_model_attn2_patch(lambda q, k, v, extra: tuple(torch.cat([t, t]) for t in (q, k, v)))
            patched.set_model_attn2_output_patch(lambda n, extra: n.unflatten(0, (2, -1)).mean(0))
        return (patched,)


class OutputPatch(_OnModel):
    """Changes what the decoder's blocks read, as FreeU does (which looks for Stable Diffusion's widths)."""

    def apply(self, model):
        patched = model.clone()
        patched.set_model_output_block_patch(lambda hidden, skip, extra: (hidden * 1.05, skip * 0.95))
        return (patched,)


class Adapter(_OnModel):
    """Replaces the attention of two layers as an IPAdapter does: plain attention to the text, and so much of attention
    to tokens of its own. It names one layer in full and one by its block alone, as packs do."""

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"model": ("MODEL",), "weight": ("FLOAT",)}}

    def apply(self, model, weight):
        patched = model.clone()

        def attention(q, k, v, extra):
            plain = optimized_attention(q, k, v, extra["n_heads"])
            generator = torch.Generator().manual_seed(0)
            own = [torch.randn(1, 3, t.shape[-1], generator=generator).to(t).expand(len(q), -1, -1) for t in (k, v)]
            return plain + weight * optimized_attention(q, *own, extra["n_heads"])

        patched.set_model_attn2_replace(attention, "middle", 0, 0)
        patched.set_model_attn2_replace(attention, "output", 1)
        patched.set_model_attn1_replace(attention, "output", 1)
        return (patched,)


class Guidance(_OnModel):
    """Predicts both texts its own way, past all that others have wrapped around predictions."""

    def apply(self, model):
        patched = model.clone()

        def predict(given):
            return comfy.samplers._calc_cond_batch(
                given["model"], given["conds"], given["input"], given["sigma"], given["model_options"]
            )

        patched.model_options["sampler_calc_cond_batch_function"] = predict
        return (patched,)


class RunOut(_OnModel):
    """Runs out of memory in so many of the predictions that keep what a backward pass needs."""

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"model": ("MODEL",), "times": ("INT",)}}

    def apply(self, model, times):
        patched, left = model.clone(), [times]

        def wrapper(executor, *args, **kwargs):
            if torch.is_grad_enabled() and left[0]:
                left[0] -= 1
                raise torch.cuda.OutOfMemoryError("injected")
            return executor(*args, **kwargs)

        patched.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.CALC_COND_BATCH, "run out", wrapper)
        return (patched,)


class Fail(_OnModel):
    """Runs out of memory, or asks for a stop as the page's button does, at one prediction, counted over all nodes."""

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"model": ("MODEL",), "at": ("INT",), "how": (["memory", "cancel"],)}}

    def apply(self, model, at, how):
        patched, count = model.clone(), [0]

        def wrapper(executor, *args, **kwargs):
            count[0] += 1
            if count[0] == at and how == "memory":
                raise torch.cuda.OutOfMemoryError("injected")
            if count[0] == at:
                comfy.model_management.interrupt_current_processing()
            logging.warning("other pack: prediction %d", count[0])
            return executor(*args, **kwargs)

        patched.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.CALC_COND_BATCH, "fail", wrapper)
        return (patched,)


class Compile(_OnModel):
    """Compiles the network as Torch Compile Model does, without a compiler behind it."""

    def apply(self, model):
        patched = model.clone()
        set_torch_compile_wrapper(model=patched, backend="eager")
        return (patched,)


class Overflow(_OnModel):
    """Overflows as a network does in half precision, wherever the model computes in it; in every precision if asked."""

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"model": ("MODEL",), "always": ("BOOLEAN",)}}

    def apply(self, model, always):
        patched = model.clone()

        def wrapper(apply, given):
            clean = apply(given["input"], given["timestep"], **given["c"])
            return clean * float("nan") if always or apply.__self__.manual_cast_dtype == torch.float16 else clean

        patched.set_model_unet_function_wrapper(wrapper)
        return (patched,)


class InPlace(_OnModel):
    """Changes what every place of the network hands to patches, by numbers that are made of it; writing over it, as
    FreeU does, or not."""

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"model": ("MODEL",), "over": ("BOOLEAN",)}}

    def apply(self, model, over):
        patched = model.clone()

        def louder(hidden):
            half = hidden.shape[-1] // 2
            if not over:
                changed = hidden[..., :half] * (1 + 0.1 * hidden[..., :half].tanh())
                return torch.cat([changed, hidden[..., half:]], -1)
            hidden[..., :half] = hidden[..., :half] * (1 + 0.1 * hidden[..., :half].tanh())
            return hidden

        patched.set_model_input_block_patch(lambda hidden, extra: louder(hidden))
        patched.set_model_output_block_patch(lambda hidden, skip, extra: (louder(hidden), louder(skip)))
        patched.set_model_attn1_output_patch(lambda hidden, extra: louder(hidden))
        patched.set_model_attn2_output_patch(lambda hidden, extra: louder(hidden))
        return (patched,)


class Leave:
    """Leaves a tensor among the options of the MODEL that it is given, as a pack does in every run of a KSampler."""

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "apply"
    CATEGORY = "other"

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"model": ("MODEL",)}}

    def apply(self, model):
        levels = torch.linspace(14.0, 0.0, 5)
        model.model_options["sigmas"] = levels
        return (model,)


class _WideVAE:
    """A VAE of 16 channels, as other families have it."""

    def encode(self, pictures):
        return torch.zeros(len(pictures), 16, pictures.shape[1] // 8, pictures.shape[2] // 8)


class Parts:
    """A VAE of another family; and no CLIP and no VAE, as a loader gives them where the checkpoint has none."""

    RETURN_TYPES = ("VAE", "CLIP", "VAE")
    FUNCTION = "load"
    CATEGORY = "other"

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {}}

    def load(self):
        return _WideVAE(), None, None


class Cache(_OnModel):
    """Leaves out every third prediction: the whole of it, or the middle of the network, as First Block Cache does."""

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"model": ("MODEL",), "what": (["whole", "middle"],)}}

    def apply(self, model, what):
        patched, network, count, last = model.clone(), model.model.diffusion_model, [0], {}

        def wrapper(apply, given):
            count[0] += 1
            rows = len(given["input"])
            if count[0] % 3 or rows not in last:
                last[rows] = apply(given["input"], given["timestep"], **given["c"]).detach()
                return last[rows]
            if what == "whole":
                return last[rows]
            middle, network.middle_block = network.middle_block, None
            try:
                return apply(given["input"], given["timestep"], **given["c"])
            finally:
                network.middle_block = middle

        patched.set_model_unet_function_wrapper(wrapper)
        return (patched,)


class Unload(_OnModel):
    """Makes a patcher of its own, with the MODEL's weights, patches and options and nothing else, as AnimateDiff's to
    unload it does."""

    def apply(self, model):
        bare = comfy.model_patcher.ModelPatcher(model.model, model.load_device, model.offload_device)
        bare.patches = {name: list(each) for name, each in model.patches.items()}
        bare.object_patches = dict(model.object_patches)
        bare.model_options = copy.deepcopy(model.model_options)
        return (bare,)


class Frozen(_OnModel):
    """Adds what layers of its own make of the text, which it loads with the node and so in inference mode, as
    hypernetworks do."""

    def apply(self, model):
        patched, layers = model.clone(), {}

        def patch(q, k, v, extra):
            return q, k + 0.1 * layers[k.shape[-1]](k), v

        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            for width in {part.in_features for part in model.model.diffusion_model.modules()
                          if isinstance(part, torch.nn.Linear)}:  # fmt: skip
                layers[width] = torch.nn.Linear(width, width)
        patched.set_model_attn2_patch(patch)
        return (patched,)


class Tiles(_OnModel):
    """Predicts a picture in two halves under inference mode, as packs for large pictures do; or as one piece."""

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"model": ("MODEL",), "pieces": ("INT",)}}

    def apply(self, model, pieces):
        patched = model.clone()

        @torch.inference_mode()
        def wrapper(apply, given):
            tiles = torch.cat(given["input"].chunk(pieces, -1))
            named = {k: torch.cat([v] * pieces) if isinstance(v, torch.Tensor) else v for k, v in given["c"].items()}
            clean = apply(tiles, torch.cat([given["timestep"]] * pieces), **named)
            return torch.cat(clean.chunk(pieces), -1)

        patched.set_model_unet_function_wrapper(wrapper)
        return (patched,)


class Mix(_OnModel):
    """Lets the rows of one call read each other in attention: guidance in the attention, or one style for a batch."""

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"model": ("MODEL",), "what": (["guidance", "style"],), "strength": ("FLOAT",)}}

    def apply(self, model, what, strength):
        patched = model.clone()

        def patch(hidden, extra):
            if what == "style":
                return hidden + strength * (hidden.mean(0, keepdim=True) - hidden)
            places = extra["cond_or_uncond"]
            if not {0, 1} <= set(places):
                return hidden
            parts = list(hidden.chunk(len(places)))
            text, null = (parts[places.index(kind)] for kind in (0, 1))
            parts[places.index(0)] = text + strength * (text - null)
            return torch.cat(parts)

        patched.set_model_attn1_output_patch(patch)
        return (patched,)


class _Packed(torch.Tensor):
    """A weight of eight bits, which names the shape of the numbers that it stands for, and is never copied."""

    @property
    def shape(self):
        return self.whole

    def clone(self, *args, **kwargs):
        return self

    def detach(self):
        return self


class _PackedLinear(torch.nn.Module):
    def __init__(self, layer, sign):
        super().__init__()
        packed = (sign * layer.weight / layer.weight.abs().amax(1, keepdim=True) * 127).round().to(torch.int8)
        kept = torch.nn.Parameter(packed.flatten().as_subclass(_Packed), requires_grad=False)
        kept.whole = layer.weight.shape
        self.weight, self.bias = kept, layer.bias
        self.scale = layer.weight.detach().abs().amax(1, keepdim=True) / 127

    def forward(self, hidden):
        whole = self.weight.as_subclass(torch.Tensor).view(self.weight.whole) * self.scale
        return torch.nn.functional.linear(hidden, whole.to(hidden), self.bias)

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        # what its makers do, who only want the size to be counted
        destination[prefix + "weight"] = torch.zeros(self.weight.numel(), dtype=torch.int8, device="meta")
        destination[prefix + "temp.weight"] = torch.zeros(self.weight.whole, device="meta")


def _twin(module):
    """A module of modules of its own; they share their weights with those of the first."""
    made = copy.copy(module)
    made._modules = {name: None if part is None else _twin(part) for name, part in module._modules.items()}
    return made


class Quantize(_OnModel):
    """A MODEL of its own whose feed-forward layers keep eight bits a weight and tell nobody, as GGUF's do; or one of
    other weights."""

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"model": ("MODEL",), "other": ("BOOLEAN",)}}

    def apply(self, model, other):
        network = _twin(model.model)
        for block in network.diffusion_model.modules():
            if isinstance(block, comfy.ldm.modules.attention.FeedForward):
                layer = block.net[2]
                block.net[2] = _PackedLinear(layer, -1 if other else 1)
        return (comfy.model_patcher.ModelPatcher(network, model.load_device, model.offload_device),)


class _Streaming(torch.nn.Module):
    """Layers that read their weights from one buffer, which each writes over: what streams them to a device."""

    def __init__(self, width, streams):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.layers = torch.nn.Parameter(torch.randn(2, width, width, generator=generator) / width**0.5)
        self.streams = streams
        with torch.inference_mode(False):
            self.buffer = torch.empty(width, width)

    def forward(self, hidden):
        for layer in self.layers.detach():
            weight = self.buffer.copy_(layer) if self.streams else layer
            hidden = (hidden @ weight).tanh()
        return hidden


class _StreamingPatcher(comfy.model_patcher.ModelPatcher):
    """What ComfyUI makes of every ControlNet on a device with dynamic offloading, as far as a CPU can have it."""

    def is_dynamic(self):
        # the loader itself has nothing to stream to on a CPU
        return sys._getframe(1).f_globals["__name__"] != "comfy.model_management"

    def set_in_use_by_current_prompt(self, in_use):
        pass


class _StreamedModel(_StreamingPatcher):
    """A MODEL under dynamic offloading, with the way out of it that this ComfyUI's own has, where it has one."""

    non_dynamic_delegate_model = None
    if hasattr(comfy.model_patcher, "ModelPatcherDynamic"):
        get_non_dynamic_delegate = comfy.model_patcher.ModelPatcherDynamic.get_non_dynamic_delegate


def _read_again(model, disable_dynamic):
    """A checkpoint's model, as its loader would read it from disk."""
    assert disable_dynamic
    logging.warning("other_pack reads the checkpoint again")
    config = model.model.model_config
    network = copy.deepcopy(model.model, {id(config): config})
    return comfy.model_patcher.ModelPatcher(network, model.load_device, model.offload_device)


class Stream(_OnModel):
    """What ComfyUI makes of every MODEL on a device with dynamic offloading, as far as a CPU can have it."""

    def apply(self, model):
        streamed = _StreamedModel(model.model, model.load_device, model.offload_device)
        streamed.cached_patcher_init = (_read_again, (model,))
        return (streamed,)


class _Control(comfy.controlnet.ControlBase):
    def __init__(self, width, streams):
        super().__init__()
        device = torch.device("cpu")
        network = _Streaming(width, streams)
        kind = _StreamingPatcher if streams else comfy.model_patcher.ModelPatcher
        self.patcher = kind(network, load_device=device, offload_device=device)

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        text = self.patcher.model(cond["c_crossattn"].mean(1))
        return {"input": [], "middle": [0.05 * text.mean(1)[:, None, None, None]], "output": []}

    def copy(self):
        made = _Control.__new__(_Control)
        comfy.controlnet.ControlBase.__init__(made)
        made.patcher = self.patcher
        self.copy_to(made)
        return made

    def get_models(self):
        return [self.patcher]


class ApplyControl:
    """A ControlNet for a CONDITIONING, by what the text says; under dynamic offloading or not."""

    RETURN_TYPES = ("CONDITIONING", "CONDITIONING")
    FUNCTION = "apply"
    CATEGORY = "other"

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        both = dict.fromkeys(("positive", "negative"), ("CONDITIONING",))
        return {"required": {**both, "streams": ("BOOLEAN",)}}

    def apply(self, positive, negative, streams):
        control = _Control(positive[0][0].shape[-1], streams)
        return tuple([[text, {**extras, "control": control}] for text, extras in each] for each in (positive, negative))


class Quiet:
    """A KSampler that adds noise and silences the log meanwhile, as tiled upscalers do."""

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "apply"
    CATEGORY = "other"

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        texts = dict.fromkeys(("positive", "negative"), ("CONDITIONING",))
        return {"required": {"model": ("MODEL",), "latent": ("LATENT",), **texts}}

    def apply(self, model, latent, positive, negative):
        logger = logging.getLogger()
        level = logger.level
        logger.setLevel(logging.CRITICAL + 1)
        try:
            return sys.modules["nodes"].common_ksampler(
                model, 0, 2, 7.5, "euler", "ddim_uniform", positive, negative, latent, 0.5
            )
        finally:
            logger.setLevel(level)


class FlatMask:
    """A mask without an axis for pictures, as some packs have them."""

    RETURN_TYPES = ("MASK",)
    FUNCTION = "apply"
    CATEGORY = "other"

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"mask": ("MASK",)}}

    def apply(self, mask):
        return (mask[0],)


class Half:
    """A LATENT of half precision, as ComfyUI's --fp16-intermediates makes them."""

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "apply"
    CATEGORY = "other"

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"samples": ("LATENT",)}}

    def apply(self, samples):
        return ({**samples, "samples": samples["samples"].half()},)


class Look(_OnModel):
    """Tells how often the blocks of the network that a MODEL shares are wrapped, after something else has run."""

    RETURN_TYPES = ("STRING",)

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"model": ("MODEL",), "after": ("LATENT",)}}

    def apply(self, model, after):
        kinds = [type(module) for module in model.model.diffusion_model.modules()]
        depths = [sum(base.__name__.startswith("Checkpointed") for base in kind.__mro__) for kind in kinds]
        return (f"wrapped {max(depths)} times",)


NODE_CLASS_MAPPINGS = {
    "OtherLook": Look,
    "OtherWrap": Wrap,
    "OtherUnconditional": Unconditional,
    "OtherPatchAttention": PatchAttention,
    "OtherAdapter": Adapter,
    "OtherGuidance": Guidance,
    "OtherRunOut": RunOut,
    "OtherFail": Fail,
    "OtherParts": Parts,
    "OtherTokens": Tokens,
    "OtherOutputPatch": OutputPatch,
    "OtherCompile": Compile,
    "OtherOverflow": Overflow,
    "OtherInPlace": InPlace,
    "OtherLeave": Leave,
    "OtherCache": Cache,
    "OtherUnload": Unload,
    "OtherFrozen": Frozen,
    "OtherTiles": Tiles,
    "OtherMix": Mix,
    "OtherQuantize": Quantize,
    "OtherApplyControl": ApplyControl,
    "OtherStream": Stream,
    "OtherQuiet": Quiet,
    "OtherFlatMask": FlatMask,
    "OtherHalf": Half,
}
