"""What our edge says of narrow models of every family: ``families.py PACK``, run by ComfyUI's Python through launch.py.

Prints JSON in three lines: what ComfyUI does not have of our protocols; for each family the sentence that refuses it,
or null; families whose previews are not ComfyUI's.
"""

import json
import sys

ARGUMENTS, sys.argv = sys.argv[1:], [sys.argv[0], "--cpu"]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.controlnet  # noqa: E402
import comfy.model_patcher  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.sd1_clip  # noqa: E402
import comfy.supported_models as supported  # noqa: E402
import torch  # noqa: E402

# behind ComfyUI's own folder, which has a "nodes" too
sys.path.append(ARGUMENTS[0])

from nullinv_core.backends.comfy import protocols  # noqa: E402
from nullinv_core.backends.comfy.checks import check_model  # noqa: E402
from nullinv_core.errors import InputError  # noqa: E402
from nullinv_core.families import FAMILIES as OURS  # noqa: E402

UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1],
    "channel_mult": [1, 2], "transformer_depth": [0, 1], "transformer_depth_output": [0, 0, 1, 1],
    "transformer_depth_middle": 1, "use_spatial_transformer": True, "legacy": False, "num_heads": 2,
    "use_linear_in_transformer": True, "use_temporal_attention": False, "context_dim": 16,
}  # fmt: skip
EXTRA = {"num_classes": "sequential"}
FAMILIES = {
    "SD 1.5": (supported.SD15, {"adm_in_channels": None}),
    "SD 1.5 inpainting": (supported.SD15, {"adm_in_channels": None, "in_channels": 9}),
    "SD 1.5 instruct-pix2pix": (supported.SD15_instructpix2pix, {"adm_in_channels": None, "in_channels": 8}),
    "SD 2.1": (supported.SD20, {"adm_in_channels": None}),
    "SD 2.1 unCLIP": (supported.SD21UnclipL, {"adm_in_channels": 1536, **EXTRA}),
    "SDXL": (supported.SDXL, {"adm_in_channels": 1536 + 20, **EXTRA}),
    "SDXL inpainting": (supported.SDXL, {"adm_in_channels": 1536 + 20, "in_channels": 9, **EXTRA}),
    "SDXL instruct-pix2pix": (supported.SDXL_instructpix2pix, {"adm_in_channels": 1556, "in_channels": 8, **EXTRA}),
    "SDXL refiner": (supported.SDXLRefiner, {"adm_in_channels": 1280 + 20, **EXTRA}),
    "Playground 2.5": (supported.SDXL, {"adm_in_channels": 1536 + 20, **EXTRA}),
    "CosXL": (supported.SDXL, {"adm_in_channels": 1536 + 20, **EXTRA}),
}
MARKS = {
    "Playground 2.5": {"edm_mean": None, "edm_std": None},
    "CosXL": {"edm_vpred.sigma_max": torch.tensor(120.0), "edm_vpred.sigma_min": torch.tensor(0.002)},
}
"""By what ComfyUI knows models of one family from another."""


def lacking(patcher):
    """Members of our protocols that ComfyUI's objects do not have, as "protocol.member"."""
    network = patcher.model
    there = {
        protocols.Patcher: patcher, protocols.Network: network, protocols.Config: network.model_config,
        protocols.Sampling: network.model_sampling, protocols.UNet: network.diffusion_model,
        protocols.ControlNet: comfy.controlnet.ControlNet(),
    }  # fmt: skip
    # made without their weights: what is set when they are read cannot be asked for
    methods = {
        protocols.Clip: comfy.sd.CLIP,
        protocols.Vae: comfy.sd.VAE,
        protocols.Tokenizer: comfy.sd1_clip.SDTokenizer,
    }
    wanted = [(kind, one, {**vars(kind), **kind.__annotations__}) for kind, one in there.items()]
    wanted += [(kind, one, vars(kind)) for kind, one in methods.items()]
    return [
        f"{kind.__name__}.{name}" for kind, one, names in wanted for name in names
        if not name.startswith("_") and not hasattr(one, name)
    ]  # fmt: skip


def patcher_of(model):
    """A MODEL of a network."""
    device = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=device)


def said_of(family, config):
    """The sentence that refuses a model of a family, or None."""
    model_config = family({**UNET, **config})
    model_config.set_inference_dtype(torch.float32, None)
    weights = dict(MARKS.get(name, {}))
    weights["output_blocks.11.1.transformer_blocks.0.norm1.bias"] = torch.zeros(4)
    model = model_config.get_model(weights, "", device="cpu")
    try:
        check_model(patcher_of(model))
    except InputError as error:
        return str(error)
    return None


plain = supported.SD15({**UNET, "adm_in_channels": None})
plain.set_inference_dtype(torch.float32, None)
print(json.dumps(lacking(patcher_of(plain.get_model({}, "", device="cpu")))))
found = {}
for name, (family, config) in FAMILIES.items():
    found[name] = said_of(family, config)
print(json.dumps(found))
formats = {key: (family, getattr(supported, family.comfy[1]).latent_format()) for key, family in OURS.items()}
print(
    json.dumps(
        [
            key
            for key, (family, theirs) in formats.items()
            if [list(row) for row in family.preview] != theirs.latent_rgb_factors
            or list(family.preview_bias) != (theirs.latent_rgb_factors_bias or [0, 0, 0])
        ]
    )
)
