"""Write a diffusers pipeline as a checkpoint in the original single-file layout (the reverse of what loaders do)."""

from pathlib import Path

from safetensors.torch import save_file

RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
STEM = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip
MIDDLE = {"resnets.0": "middle_block.0", "attentions.0": "middle_block.1", "resnets.1": "middle_block.2"}


def unet_key(key: str, layers: int) -> str:
    """Original name of a UNet weight; ``layers`` per block."""
    parts = key.split(".")
    if parts[0] == "down_blocks":
        block, kind, index = int(parts[1]), parts[2], int(parts[3])
        if kind == "downsamplers":
            return f"input_blocks.{(layers + 1) * (block + 1)}.0.op.{parts[-1]}"
        return f"input_blocks.{(layers + 1) * block + index + 1}.{_inner(kind, parts[4:])}"
    if parts[0] == "up_blocks":
        block, kind, index = int(parts[1]), parts[2], int(parts[3])
        if kind == "upsamplers":
            return f"output_blocks.{(layers + 1) * block + layers}.2.conv.{parts[-1]}"
        return f"output_blocks.{(layers + 1) * block + index}.{_inner(kind, parts[4:])}"
    if parts[0] == "mid_block":
        rest = parts[3:] if parts[1] == "attentions" else _resnet(parts[3:])
        return ".".join([MIDDLE[f"{parts[1]}.{parts[2]}"], *rest])
    stem = next(s for s in STEM if key.startswith(s + "."))
    return STEM[stem] + key[len(stem) :]


def _inner(kind: str, rest: list[str]) -> str:
    return ".".join(["1", *rest] if kind == "attentions" else ["0", *_resnet(rest)])


def _resnet(rest: list[str]) -> list[str]:
    return [RESNET[rest[0]], *rest[1:]]


def vae_key(key: str, blocks: int) -> str:
    """Original name of a KL autoencoder's weight."""
    parts = key.split(".")
    if len(parts) > 2 and parts[1] in ("down_blocks", "up_blocks"):
        up = parts[1] == "up_blocks"
        level = blocks - 1 - int(parts[2]) if up else int(parts[2])
        rest = ["block", *parts[4:]] if parts[3] == "resnets" else ["upsample" if up else "downsample", *parts[5:]]
        parts = [parts[0], "up" if up else "down", str(level), *rest]
    elif len(parts) > 2 and parts[1] == "mid_block":
        place = f"block_{int(parts[3]) + 1}" if parts[2] == "resnets" else "attn_1"
        parts = [parts[0], "mid", place, *parts[4:]]
    names = {"conv_shortcut": "nin_shortcut", "conv_norm_out": "norm_out"}
    attention = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out": "proj_out"}
    names |= attention if "attn_1" in parts else {}
    parts = [names.get(p, p) for p in parts]
    return ".".join(parts).replace("proj_out.0.", "proj_out.")


def write_single_file(pipeline, path: Path) -> None:
    """Write UNet, KL autoencoder and CLIP text model of a pipeline in the layout of Stable Diffusion 1.x."""
    layers = pipeline.unet.config.layers_per_block
    blocks = len(pipeline.vae.config.block_out_channels)
    tensors = {f"model.diffusion_model.{unet_key(k, layers)}": v for k, v in pipeline.unet.state_dict().items()}
    for key, value in pipeline.vae.state_dict().items():
        name = vae_key(key, blocks)
        is_projection = ".attn_1." in name and name.endswith("weight") and ".norm." not in name
        tensors[f"first_stage_model.{name}"] = value[..., None, None] if is_projection else value
    for key, value in pipeline.text_encoder.state_dict().items():
        inner = key if key.startswith("text_model.") else f"text_model.{key}"
        tensors[f"cond_stage_model.transformer.{inner}"] = value
    save_file({k: v.contiguous() for k, v in tensors.items()}, path)
