"""Another pack, as ComfyUI's users have many: it wraps models and replaces attention with the calls that packs use."""

import logging

import comfy.model_management
import comfy.patcher_extension
import comfy.samplers
import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy_api.torch_helpers import set_torch_compile_wrapper


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
    "OtherPatchAttention": PatchAttention,
    "OtherAdapter": Adapter,
    "OtherGuidance": Guidance,
    "OtherRunOut": RunOut,
    "OtherFail": Fail,
    "OtherTokens": Tokens,
    "OtherOutputPatch": OutputPatch,
    "OtherCompile": Compile,
    "OtherOverflow": Overflow,
}
