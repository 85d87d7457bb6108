"""Compare autograd with finite differences inside ComfyUI, as an executor runs a node: in inference mode.

``gradient_check.py PACK``, run by ComfyUI's Python through launch.py; prints JSON with both slopes of the loss along
the gradient's direction, how far the gradient with checkpointing is from the one without, how often a layer ran for the
one and the other, and the cosine of the gradient in float16 to that in float32.
"""

import json
import sys
from pathlib import Path

ARGUMENTS, sys.argv = sys.argv[1:], [sys.argv[0], "--cpu"]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import torch  # noqa: E402

# behind ComfyUI's own folder, which has a "nodes" too
sys.path.append(ARGUMENTS[0])

from nullinv_core.backends.comfy.conditioning import text_of  # noqa: E402
from nullinv_core.backends.comfy.gradients.checkpointing import Checkpointing  # noqa: E402
from nullinv_core.backends.comfy.host import Guided, run  # noqa: E402
from nullinv_core.backends.comfy.loading.models import load_folder  # noqa: E402
from nullinv_core.backends.comfy.schedule import schedule_of  # noqa: E402
from nullinv_core.context import Context  # noqa: E402
from nullinv_core.null_text.optimization import LOSS_SCALE  # noqa: E402

STEP = 0.05
switch = Checkpointing()


def loss_of(denoiser, clean, null):
    """How far a prediction under a null context is from a random one."""
    wanted = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    return (denoiser(clean, schedule.level(3), null, unconditional=1) - wanted).square().mean()


def gradient(denoiser, clean):
    """Of that loss by the null context, scaled as the core scales it."""
    with torch.enable_grad():
        null = text_of(conditioning, "empty").map(lambda tensor: tensor.clone().requires_grad_(True))
        (found,) = torch.autograd.grad(loss_of(denoiser, clean, null) * LOSS_SCALE, null.tensors)
    return found / LOSS_SCALE


def slopes(denoiser, clean):
    """Slope of a loss along its gradient: by autograd, and by a central difference."""
    empty = text_of(conditioning, "empty")
    ran = []
    layer = denoiser.model.diffusion_model.middle_block[2].in_layers
    hook = layer.register_forward_hook(lambda *_: ran.append(switch.on))
    plain = gradient(denoiser, clean)
    switch.on = True
    again = gradient(denoiser, clean)
    switch.on = False
    hook.remove()
    direction = plain / plain.norm()
    ahead, behind = (loss_of(denoiser, clean, Context(empty.text + step * direction)) for step in (STEP, -STEP))
    numeric = (ahead - behind) / (2 * STEP)
    apart = float((again - plain).norm() / plain.norm())
    return {
        "autograd": float(plain.norm()), "numeric": float(numeric), "checkpointed_apart": apart,
        "runs": [ran.count(False), ran.count(True)],
    }  # fmt: skip


with torch.inference_mode():
    model, clip, _ = load_folder(Path(ARGUMENTS[0]) / "nullinv_core" / "demo" / "model")
    # what moving to a device does: the weights do not say any more that they are of inference mode
    with torch.inference_mode(False):
        model.model.diffusion_model.double().float()
    schedule = schedule_of(model, "ddim_uniform", 5)
    conditioning = clip.encode_from_tokens_scheduled(clip.tokenize("a red cat on a wooden table"))
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    found = run(
        Guided(model, conditioning, conditioning), latents, schedule, slopes, gradients=True, checkpointing=switch
    )
    grown = []
    for dtype in (torch.float32, torch.float16):
        patched = model.clone()
        patched.set_model_compute_dtype(dtype)
        grown.append(
            run(Guided(patched, conditioning, conditioning), latents, schedule, gradient, gradients=True).flatten()
        )
    found["cosine of float16"] = float(torch.nn.functional.cosine_similarity(*grown, 0))
    found["same"] = bool(torch.equal(*grown))
print(json.dumps(found))
