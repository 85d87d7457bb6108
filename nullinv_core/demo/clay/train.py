"""Train the model of the clay world: ``python -m nullinv_core.demo.clay.train``. Resumable; the same command goes on.

Stages: the autoencoder, its decoder, tokenizer and text encoder, the UNet. ``--part`` runs one of them alone: the
decoder may learn on beside the UNet, which needs the encoder only.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch

from ..training_loop import Budget
from . import train_autoencoder

PARTS = ("autoencoder", "decoder", "text", "unet")


def train(work: Path, part: str, device: str, budget: Budget) -> bool:
    """Run one part as far as the budget lets it; return whether it is finished."""
    work.mkdir(parents=True, exist_ok=True)
    return train_autoencoder.train(work, device, budget, part) is not None


def main() -> None:
    """Command line of the training."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("demo-training"), help="folder of the resumable state")
    parser.add_argument("--part", choices=PARTS, default="unet")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so long; run again to go on")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    options = parser.parse_args()
    # gradients of a bfloat16 network are often denormal, which costs a CPU many times the work of zeros
    torch.set_flush_denormal(True)
    done = train(options.work, options.part, options.device, Budget(options.minutes))
    print(f"{options.part} finished" if done else "stopped by --minutes; run the same command to go on")


if __name__ == "__main__":
    main()
