"""Train the model of the clay world: ``python -m nullinv_core.demo.clay.train``. Resumable; the same command goes on.

Stages: the autoencoder, its decoder, tokenizer and text encoder, the UNet. ``--part`` runs one of them alone: the
decoder may learn on beside the UNet, which needs the encoder only. ``--part write`` writes the model as far as it is
trained, to look at what it draws.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from transformers import CLIPTextModel

from ..train import write_model
from ..training_loop import Budget
from ..training_state import finished_steps, load_module
from . import train_autoencoder, train_judge, train_text, train_unet

PARTS = ("autoencoder", "autoencoder-fine", "decoder", "text", "unet", "judge", "write")


def train(work: Path, out: Path, part: str, device: str, budget: Budget) -> bool:
    """Run one part as far as the budget lets it; return whether it is finished. The UNet's writes the model."""
    work.mkdir(parents=True, exist_ok=True)
    if part in train_autoencoder.STAGES:
        return train_autoencoder.train(work, device, budget, part) is not None
    if part == "judge":
        return train_judge.train(work, device, budget) is not None
    tokenizer = train_text.tokenizer_of(work / "tokenizer")
    text = train_text.train(work, tokenizer, device, budget)
    if text is None or part == "text":
        return text is not None
    if part == "write":
        return _write(work, out, text)
    unet = train_unet.train(
        work, lambda stage: train_autoencoder.train(work, device, budget, stage), text, tokenizer, device, budget
    )
    vae = train_autoencoder.train(work, device, budget, "decoder") if unet else None
    if vae is None or unet is None:
        return False
    _write_parts(out, vae, unet, text)
    return True


def _write(work: Path, out: Path, text: CLIPTextModel) -> bool:
    """Write the model from the newest state of each part; return whether there is one of each."""
    vae, unet = train_autoencoder.new_autoencoder(), train_unet.new_unet(train_unet.HINTS)
    for module, name, stages in (
        (vae, "model", train_autoencoder.STAGES),
        (unet, "average", train_unet.CYCLES),
    ):
        there = [path for stage in stages if (path := work / f"{stage}.safetensors").exists()]
        if not there:
            return False
        load_module(there[-1], name, module)
        print(f"{there[-1].name}: {finished_steps(there[-1])} steps")
    _write_parts(out, vae, unet, text)
    return True


def _write_parts(out: Path, vae: AutoencoderTiny, unet: UNet2DConditionModel, text: CLIPTextModel) -> None:
    write_model(out, vae, train_unet.without_hints(unet), text)
    train_text.tokenizer_of(out / "tokenizer")


def main() -> None:
    """Command line of the training."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("demo-training"), help="folder of the resumable state")
    parser.add_argument("--out", type=Path, default=Path("clay-model"), help="where the finished model goes")
    parser.add_argument("--part", choices=PARTS, default="unet")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so long; run again to go on")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    options = parser.parse_args()
    # gradients of a bfloat16 network are often denormal, which costs a CPU many times the work of zeros
    torch.set_flush_denormal(True)
    done = train(options.work, options.out, options.part, options.device, Budget(options.minutes))
    print(f"{options.part} finished" if done else "stopped before the end; run the same command to go on")


if __name__ == "__main__":
    main()
