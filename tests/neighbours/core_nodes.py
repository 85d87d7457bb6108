"""ComfyUI's own nodes that change a MODEL: found by asking ComfyUI, and the settings at which they act."""

from ..comfyui.workflow import WIDGETS
from .wiring import Whole, needed

LORA = "proportions.safetensors"
SETTINGS = {
    "LoraLoader": {"lora_name": LORA}, "LoraLoaderModelOnly": {"lora_name": LORA},
    "LoraLoaderBypass": {"lora_name": LORA}, "LoraLoaderBypassModelOnly": {"lora_name": LORA},
    "HypernetworkLoader": {"hypernetwork_name": "proportions.pt"},
    "HyperTile": {"tile_size": 64},
    "ModelComputeDtype": {"dtype": "fp16"},
    "ModelSamplingDiscrete": {"zsnr": True},
    "ModelMergeSimple": {"ratio": 0.5},
    "PatchModelAddDownscale": {"block_number": 3, "end_percent": 0.8},
    "CFGOverride": {"cfg": 2.0, "start_percent": 0.0, "end_percent": 1.0},
    "UNetSelfAttentionMultiply": {"q": 1.2, "k": 1.1, "v": 1.1, "out": 1.1},
    "UNetCrossAttentionMultiply": {"q": 1.2, "k": 1.1, "v": 1.1, "out": 1.1},
    "UNetTemporalAttentionMultiply": {"self_structural": 1.2, "cross_structural": 1.2},
    "Epsilon Scaling": {"scaling_factor": 1.05},
    "TemporalScoreRescaling": {"tsr_k": 0.8, "tsr_sigma": 1.0},
    "FreSca": {"scale_low": 1.2, "scale_high": 1.5},
    "TrainLoraNode": {"steps": 2, "training_dtype": "fp32", "lora_dtype": "fp32"},
    "EasyCache": {"reuse_threshold": 1.0}, "LazyCache": {"reuse_threshold": 1.0},
}  # fmt: skip
"""Where a node's defaults do nothing, or not at these widths and steps, or round."""


def patches(info):
    """ComfyUI's own nodes that take a MODEL and give one, in order. ``info``: /object_info."""
    return sorted(
        name
        for name, node in info.items()
        if not node["python_module"].startswith("custom_nodes") and "MODEL" in node["output"] and model_inputs(node)
    )


def inputs_of(node):
    return {name: spec[0] for name, spec in node["input"].get("required", {}).items()}


def model_inputs(node):
    """Names of a node's inputs that are a MODEL."""
    return [name for name, kind in inputs_of(node).items() if kind == "MODEL"]


def links(node):
    """What a node wants on wires, by the input's name, but its MODELs."""
    return {
        name: kind
        for name, kind in inputs_of(node).items()
        if not isinstance(kind, list) and kind not in WIDGETS and kind != "MODEL" and not kind.startswith("COMFY_")
    }


def sources(chain):
    """What a chain has for a node's wires, by kind."""
    g = chain.graph
    sigmas = g.add("BasicScheduler", model=chain.load(0), scheduler="ddim_uniform", steps=chain.steps, denoise=1.0)
    return {
        "CLIP": chain.load(1), "VAE": chain.load(2), "IMAGE": chain.scene(0), "MASK": chain.scene(4),
        "LATENT": chain.latent(), "CONDITIONING": chain.empty(), "SIGMAS": sigmas(),
        "LATENT_OPERATION": g.add("LatentOperationSharpen", sharpen_radius=3, sigma=1.0, alpha=0.5)(),
    }  # fmt: skip


def put_in(chain, info, name, link, among=None):
    """Put a patch between the MODEL ``link`` and its readers; a second MODEL of a merge has a LoRA. Returns what it
    wants that nothing here gives."""
    node, given = info[name], sources(chain)
    missing = sorted(kind for kind in links(node).values() if kind not in given)
    if missing:
        return missing
    first, *others = model_inputs(node)
    lora = (
        chain.graph.add("LoraLoaderModelOnly", model=["1", 0], lora_name=LORA, strength_model=1.0) if others else None
    )
    wires = {wire: given[kind] for wire, kind in links(node).items()}
    wires |= {wire: lora() for wire in others}
    added = chain.splice(link, name, first, node["output"].index("MODEL"), among, **wires, **SETTINGS.get(name, {}))
    # what was added for it reads the MODEL from before it
    for key, each in chain.graph.items():
        if each["class_type"] in ("BasicScheduler", "LoraLoaderModelOnly") and key != added()[0]:
            each["inputs"]["model"] = ["1", 0]
    return []


def alone(info, model, name=None):
    """A plain KSampler, with a patch on its MODEL or without; nothing of ours but the loader. None where the patch
    wants what nothing here gives."""
    chain = Whole()
    chain.set(chain.load, model=model)
    g = chain.graph
    if name and put_in(chain, info, name, chain.load(0)):
        return None
    (patched,) = {tuple(n["inputs"]["model"]) for n in g.values() if n["class_type"] == "NullInvDDIMInvert"}
    sampled = chain.ksampler(list(patched), 3.0, chain.latent())
    chain.set(sampled, add_noise="enable")
    g.add("SaveLatent", samples=sampled(), filename_prefix="alone-ksampler")
    return needed(g)
