"""Train the model of the clay world: ``python -m nullinv_core.demo.clay.train``. Resumable; the same command goes on.

First ``python -m nullinv_core.demo.clay.dataset`` renders; a training may run beside it and takes in what comes. Parts:
the autoencoder, the text encoder, the UNet (which waits for the autoencoder), the judge. ``--part write`` writes the
model folder.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch

from ..train import write_model
from ..training_loop import Budget
from ..training_state import finished_steps, load_module
from . import train_autoencoder, train_judge, train_text, train_unet

PARTS = ("autoencoder", "text", "unet", "judge", "write")


def train(work: Path, out: Path, part: str, device: str, deadline: float) -> None:
    """Run one part, see the module."""
    work.mkdir(parents=True, exist_ok=True)
    if part == "autoencoder":
        train_autoencoder.train(work, device, deadline)
    elif part == "judge":
        train_judge.train(work, device, deadline)
    else:
        tokenizer = train_text.tokenizer_of(work / "tokenizer")
        text = train_text.train(work, tokenizer, device, Budget())
        if text is None:
            raise AssertionError("an unlimited training ended early")
        if part == "unet":
            train_unet.train(work, text, tokenizer, device, deadline)
        elif part == "write":
            _write(work, out, text)


def _write(work: Path, out: Path, text: torch.nn.Module) -> None:
    """Write the model from the newest state of each part."""
    vae, unet = train_autoencoder.new_autoencoder(), train_unet.new_unet(train_unet.HINTS)
    for module, name, part in ((vae, "model", "autoencoder"), (unet, "average", "unet")):
        path = work / f"{part}.safetensors"
        load_module(path, name, module)
        print(f"{path.name}: {finished_steps(path)} steps")
    write_model(out, vae, train_unet.without_hints(unet), text)
    train_text.tokenizer_of(out / "tokenizer")


def main() -> None:
    """Command line of the training."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("demo-training"), help="folder of the resumable state")
    parser.add_argument("--out", type=Path, default=Path("clay-model"), help="where the finished model goes")
    parser.add_argument("--part", choices=PARTS, default="unet")
    parser.add_argument("--deadline", type=float, default=math.inf, help="end well at this time (seconds since 1970)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    options = parser.parse_args()
    # gradients of a bfloat16 network are often denormal, which costs a CPU many times the work of zeros
    torch.set_flush_denormal(True)
    if options.device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    started = time.time()
    train(options.work, options.out, options.part, options.device, options.deadline)
    print(f"{options.part} finished in {time.time() - started:.0f} s")


if __name__ == "__main__":
    main()
