"""Another pack, as ComfyUI's users have many: it wraps models and replaces attention with the calls that packs use."""

import logging

import comfy.patcher_extension


def _count(executor, *args, **kwargs):
    logging.warning("other pack: a wrapped prediction")
    return executor(*args, **kwargs)


class _OnModel:
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "apply"
    CATEGORY = "other"

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"model": ("MODEL",)}}


class Wrap(_OnModel):
    """Counts predictions in a wrapper, and rescales them by one in the older hook for the same."""

    def apply(self, model):
        patched = model.clone()
        patched.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.CALC_COND_BATCH, "other pack", _count)
        patched.set_model_unet_function_wrapper(lambda apply, p: apply(p["input"], p["timestep"], **p["c"]) * 1.0)
        return (patched,)


class PatchAttention(_OnModel):
    """Makes what a patch of the attention's inputs may make: the values of the text a tenth louder."""

    def apply(self, model):
        patched = model.clone()
        patched.set_model_attn2_patch(lambda q, k, v, extra: (q, k, v * 1.1))
        return (patched,)


class ReplaceAttention(_OnModel):
    """Takes one layer's attention for itself."""

    def apply(self, model):
        patched = model.clone()
        patched.set_model_attn2_replace(lambda q, k, v, extra: q, "middle", 0, 0)
        return (patched,)


NODE_CLASS_MAPPINGS = {
    "OtherWrap": Wrap,
    "OtherPatchAttention": PatchAttention,
    "OtherReplaceAttention": ReplaceAttention,
}
