"""Train the model of the clay world: ``python -m nullinv_core.demo.clay.train``. Resumable; the same command goes on.

Pictures are rendered beside it by ``dataset`` and taken in as they come. Parts: the text encoder, the autoencoder, the
judge, the UNet. ``--part write`` writes the model folder. ``--minutes`` ends well in that time on any machine: ten on a
large GPU gave the weights of this repository.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
from transformers import CLIPTextModel

from ..train import write_model
from ..training_loop import Budget
from ..training_state import finished_steps, load_module
from . import train_autoencoder, train_judge, train_text, train_unet

PARTS = ("all", "text", "autoencoder", "judge", "unet", "write")
SHARES = {"autoencoder": 0.33, "judge": 0.43, "unet": 1.0}
"""Where each part ends, of the minutes that all have."""
STAGES, VARIATIONS, FOR_THE_JUDGE = 8_000, 16, 3
"""Geometries, pictures of each for the model, and for the judge."""


def train(work: Path, out: Path, part: str, device: str, minutes: float, workers: int) -> None:
    """Run one part or all, see the module."""
    started = time.time()
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = train_text.tokenizer_of(work / "tokenizer")
    text = train_text.train(work, tokenizer, device, Budget())
    if text is None:
        raise AssertionError("a training without a limit ended early")
    rendering = _render(work, workers) if part == "all" else None
    try:
        for name, share in SHARES.items() if part == "all" else [(part, 1.0)]:
            deadline = started + 60 * minutes * share
            if name == "autoencoder":
                train_autoencoder.train(work, device, deadline)
            elif name == "judge":
                train_judge.train(work, device, deadline)
            elif name == "unet":
                train_unet.train(work, text, tokenizer, device, deadline)
    finally:
        if rendering is not None:
            rendering.terminate()
    if part in ("all", "write"):
        _write(work, out, text)


def _render(work: Path, workers: int) -> subprocess.Popen[bytes]:
    """Start rendering what is missing, in processes of their own."""
    counts = {"stages": STAGES, "variations": VARIATIONS, "judged": FOR_THE_JUDGE, "workers": workers}
    options = [part for name, count in counts.items() for part in (f"--{name}", str(count))]
    module = "nullinv_core.demo.clay.dataset"
    return subprocess.Popen([sys.executable, "-m", module, "--work", str(work), *options])


def _write(work: Path, out: Path, text: CLIPTextModel) -> None:
    """Write the model from the newest state of each part."""
    vae, unet = train_autoencoder.new_autoencoder(), train_unet.new_unet(train_unet.HINTS)
    for module, name, part in ((vae, "model", "autoencoder"), (unet, "average", "unet")):
        path = work / f"{part}.safetensors"
        load_module(path, name, module)
        print(f"{path.name}: {finished_steps(path)} steps")
    write_model(out, vae, train_unet.without_hints(unet), text)
    # write_model leaves the flat world's, and a tokenizer.json that is there would be read in place of the vocabulary
    shutil.rmtree(out / "tokenizer")
    train_text.tokenizer_of(out / "tokenizer").save_pretrained(out / "tokenizer")
    train_text.tokenizer_of(out / "tokenizer")


def main() -> None:
    """Command line of the training."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("demo-training"), help="folder of the resumable state")
    parser.add_argument("--out", type=Path, default=Path("clay-model"), help="where the finished model goes")
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
