"""The demo model's photo from inversion to edit at a precision of the weights: ``eight_bits.py PACK FLAG``.

Run by ComfyUI's Python through launch.py; FLAG is one of ComfyUI's own (``--fp8_e4m3fn-unet``). Prints JSON: the types
of the stored weights and of what is computed, how near the reconstruction is to the photo, and the edit's source branch
to the reconstruction (decibels of the latents), whether all is finite and how far the null embeddings moved.
"""

import json
import math
import sys
from pathlib import Path

ARGUMENTS, sys.argv = sys.argv[1:], [sys.argv[0], "--cpu", sys.argv[2]]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import torch  # noqa: E402

# behind ComfyUI's own folder, which has a "nodes" too
sys.path.append(ARGUMENTS[0])

from nullinv_core import PRESETS  # noqa: E402
from nullinv_core.backends.comfy.jobs import invert_latent, optimize, sample_edit  # noqa: E402
from nullinv_core.backends.comfy.loading.models import load_folder  # noqa: E402
from nullinv_core.backends.comfy.precision import compute_dtype  # noqa: E402
from nullinv_core.backends.comfy.schedule import schedule_of  # noqa: E402
from nullinv_core.backends.comfy.text import plan_request  # noqa: E402
from nullinv_core.demo.edits import sample_edit as sample_scene_edit  # noqa: E402
from nullinv_core.demo.scenes import render  # noqa: E402
from nullinv_core.pipeline import Sampling  # noqa: E402
from nullinv_core.prompt_to_prompt.edit import EditSettings  # noqa: E402


def decibels(found, wanted):
    """How far latents are from others."""
    return -20 * math.log10(float((found - wanted).norm() / wanted.norm()))


with torch.inference_mode():
    model, clip, vae = load_folder(Path(ARGUMENTS[0]) / "nullinv_core" / "demo" / "model")
    scene = sample_scene_edit(0, "colour")
    latent = {"samples": vae.encode(torch.from_numpy(render(scene.source))[None])}
    request = plan_request(clip, *scene.captions, EditSettings())
    schedule = schedule_of(model, "ddim_uniform", 10)
    text, empty = request.source_conditioning, request.empty
    inversion, _ = invert_latent(model, text, latent, schedule, "ddim")
    inversion, reached = optimize(model, text, empty, inversion, PRESETS["paper"], 7.5)
    edited, source, *_ = sample_edit(model, inversion, inversion, request, Sampling(7.5))
    weights = next(model.model.diffusion_model.parameters()).dtype
found = {
    "weights": str(weights),
    "computed": str(compute_dtype(model)),
    "reconstruction": decibels(reached["samples"], latent["samples"]),
    "source": decibels(source["samples"], reached["samples"]),
    "finite": bool(edited["samples"].isfinite().all() and inversion.null.losses.isfinite().all()),
    "moved": float((inversion.null.embeddings.text[-1] - inversion.null.embeddings.text[0]).norm()),
}
print(json.dumps(found))
