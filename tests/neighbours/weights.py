"""Write what packs load beside a checkpoint, with seeded random weights: ``weights.py CHECKPOINT MODELS INPUT``.

By ComfyUI's Python, with the gguf package. CHECKPOINT: the shallow one of random_models.py. Into the folder MODELS: the
UNet as GGUF in F16 and Q8_0 and as safetensors, an IPAdapter for it, an autoencoder, a LoRA for the demo model; into
the folder INPUT: embeddings of a picture, and of none, for the IPAdapter.
"""

import sys
from pathlib import Path

import comfy.cli_args
import gguf
import numpy as np
import torch
from safetensors.torch import load_file, save_file

comfy.cli_args.args.cpu = True

from comfy.taesd.taesd import TAESD  # noqa: E402

UNET = "model.diffusion_model."
BLOCKS, WIDTH, CONTEXT, TOKENS, PICTURE = 16, 320, 768, 4, 1024
"""Of the IPAdapter: cross-attentions of Stable Diffusion 1.5, all as wide as the shallow UNet; its text's width; tokens
and width of a picture."""
LORA = "lora_unet_middle_block_1_transformer_blocks_0_attn2_to_v"

checkpoint, models, pictures = (Path(part) for part in sys.argv[1:])
generator = torch.Generator().manual_seed(0)


def drawn(*shape, scale):
    return torch.randn(*shape, generator=generator) * scale


def folder(name):
    (models / name).mkdir(parents=True, exist_ok=True)
    return models / name


unet = {k.removeprefix(UNET): v for k, v in load_file(checkpoint).items() if k.startswith(UNET)}
save_file(unet, folder("diffusion_models") / "shallow.safetensors")
for name, quantized in (("f16", False), ("q8", True)):
    writer = gguf.GGUFWriter(folder("unet") / f"shallow-{name}.gguf", "sd1")
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for key, tensor in unet.items():
        kind = gguf.GGMLQuantizationType.Q8_0 if quantized and tensor.ndim == 2 else None
        values = tensor.float().numpy()
        if kind:
            writer.add_tensor(key, gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(key, values.astype(np.float32 if tensor.ndim == 1 else np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
adapter = {
    "image_proj.proj.weight": drawn(TOKENS * CONTEXT, PICTURE, scale=0.03),
    "image_proj.proj.bias": torch.zeros(TOKENS * CONTEXT),
    "image_proj.norm.weight": torch.ones(CONTEXT),
    "image_proj.norm.bias": torch.zeros(CONTEXT),
}
for block in range(BLOCKS):
    for part in ("k", "v"):
        adapter[f"ip_adapter.{2 * block + 1}.to_{part}_ip.weight"] = drawn(WIDTH, CONTEXT, scale=0.04)
save_file(adapter, folder("ipadapter") / "shallow.safetensors")
lora = {f"{LORA}.lora_up.weight": drawn(224, 2, scale=0.2), f"{LORA}.lora_down.weight": drawn(2, 128, scale=0.2)}
save_file({**lora, f"{LORA}.alpha": torch.tensor(2.0)}, folder("loras") / "demo.safetensors")
torch.manual_seed(0)
save_file(TAESD().state_dict(), folder("vae") / "tiny.safetensors")
pictures.mkdir(parents=True, exist_ok=True)
torch.save(drawn(1, PICTURE, scale=1.0), pictures / "picture.ipadpt")
torch.save(torch.zeros(1, PICTURE), pictures / "no-picture.ipadpt")
