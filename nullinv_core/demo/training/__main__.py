"""Train the model of the clay world: ``python -m nullinv_core.demo.training``. Resumable; the same command goes on.

Pictures are rendered beside it by ``dataset`` and taken in as they come. Parts: the text encoder, the autoencoder, the
judge, the UNet. ``--part write`` writes the model folder. ``--minutes`` ends well in that time on any machine: ten on a
large GPU gave the weights of this repository.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import CLIPTextModel

from ..judge import JUDGE, Judge
from . import autoencoder, judge, text, unet
from .folder import write_model
from .state import finished_steps, load_module

PARTS = ("all", "text", "autoencoder", "judge", "unet", "write")
SHARES = {"autoencoder": 0.33, "judge": 0.43, "unet": 1.0}
"""Where each part ends, of the minutes that all have."""
STAGES, VARIATIONS, FOR_THE_JUDGE = 8_000, 16, 5
"""Geometries, pictures of each for the model, and for the judge."""


def train(work: Path, out: Path, part: str, device: str, minutes: float, workers: int) -> None:
    """Run one part or all, see the module."""
    started = time.time()
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = text.tokenizer_of(work / "tokenizer")
    encoder = text.train(work, tokenizer, device)
    rendering = _render(work, workers) if part == "all" else None
    try:
        for name, share in SHARES.items() if part == "all" else [(part, 1.0)]:
            deadline = started + 60 * minutes * share
            if name == "autoencoder":
                autoencoder.train(work, device, deadline)
            elif name == "judge":
                judge.train(work, device, deadline)
            elif name == "unet":
                unet.train(work, encoder, tokenizer, device, deadline)
    finally:
        if rendering is not None:
            rendering.terminate()
    if part in ("all", "write"):
        _write(work, out, encoder)


def _render(work: Path, workers: int) -> subprocess.Popen[bytes]:
    """Start rendering what is missing, in processes of their own."""
    counts = {"stages": STAGES, "variations": VARIATIONS, "judged": FOR_THE_JUDGE, "workers": workers}
    options = [part for name, count in counts.items() for part in (f"--{name}", str(count))]
    module = "nullinv_core.demo.training.dataset"
    return subprocess.Popen([sys.executable, "-m", module, "--work", str(work), *options])


def _write(work: Path, out: Path, encoder: CLIPTextModel) -> None:
    """Write the model and the judge from the newest state of each part."""
    vae, network, reader = autoencoder.new_autoencoder(), unet.new_unet(unet.HINTS), Judge()
    parts = (vae, "model", "autoencoder"), (network, "average", "unet"), (reader, "average", "judge-second")
    for module, name, part in parts:
        path = work / f"{part}.safetensors"
        load_module(path, name, module)
        print(f"{path.name}: {finished_steps(path)} steps")
    # a tokenizer that was used would be saved with the padding of its last call
    write_model(out, vae, unet.without_hints(network), encoder, text.tokenizer_of(out / "tokenizer"))
    text.tokenizer_of(out / "tokenizer")
    weights = {k: v.half() if v.is_floating_point() else v for k, v in reader.state_dict().items()}
    save_file(weights, out / JUDGE.name)


def main() -> None:
    """Command line of the training."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("demo-training"), help="folder of the resumable state")
    parser.add_argument("--out", type=Path, default=Path("demo-model"), help="where the finished model goes")
    parser.add_argument("--part", choices=PARTS, default="all")
    parser.add_argument("--minutes", type=float, default=math.inf, help="end well in so many minutes")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2), help="processes that render")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    options = parser.parse_args()
    # gradients of a bfloat16 network are often denormal, which costs a CPU many times the work of zeros
    torch.set_flush_denormal(True)
    if options.device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    started = time.time()
    train(options.work, options.out, options.part, options.device, options.minutes, options.workers)
    print(f"{options.part} finished in {time.time() - started:.0f} s")


if __name__ == "__main__":
    main()
