"""Wrong folders in our loader inside of ComfyUI: ``wrong_folders.py PACK WHOLE WORK COUNT SEED EVERY``, run by its
Python through launch.py.

Prints JSON: how many loaded, or were refused in words. A text is encoded with what loads, and a prediction made.
"""

import json
import sys
from pathlib import Path

ARGUMENTS, sys.argv = sys.argv[1:], [sys.argv[0], "--cpu"]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.model_management  # noqa: E402
import comfy.sample  # noqa: E402
import torch  # noqa: E402

# behind ComfyUI's own folder, which has a "nodes" too
sys.path += [ARGUMENTS[0], f"{ARGUMENTS[0]}/tests/core"]

from fuzz_folders import fuzz_folders  # noqa: E402

from nullinv_core.backends.comfy.loading.models import load_folder  # noqa: E402


def use(loaded):
    """Encode a text, predict once and decode with (MODEL, CLIP, VAE)."""
    with torch.inference_mode():
        model, clip, vae = loaded
        words = clip.encode_from_tokens_scheduled(clip.tokenize("a red cat"))
        latents = torch.zeros(1, 4, 8, 8)
        sampled = comfy.sample.sample(
            model, torch.ones_like(latents), 1, 1.0, "euler", "simple", words, words, latents, seed=0, disable_pbar=True
        )
        assert sampled.shape == latents.shape
        vae.decode(sampled)


whole, work = map(Path, ARGUMENTS[1:3])
count, seed, every = (int(number) for number in ARGUMENTS[3:6])
print(json.dumps(fuzz_folders(whole, work, count, seed, every=every, load=load_folder, use=use)))
