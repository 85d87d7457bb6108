"""Measure what a forward and a backward pass hold in memory, with or without gradient checkpointing.

``gradient_memory.py PACK CHECKPOINT SIDE plain|checkpointed``, run by ComfyUI's Python through launch.py on a CPU under
Linux: resident memory at its peak less that before, in bytes, for latents SIDE×SIDE, and what
``checkpointing.memory_needed`` expects, as JSON. One pass a process: what an earlier one gave back is used again.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

ARGUMENTS, sys.argv = sys.argv[1:], [sys.argv[0], "--cpu"]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.sd  # noqa: E402
import torch  # noqa: E402

# behind ComfyUI's own folder, which has a "nodes" too
sys.path.append(ARGUMENTS[0])

from nullinv_core.backends.comfy.conditioning import text_of  # noqa: E402
from nullinv_core.backends.comfy.gradients.checkpointing import Checkpointing, memory_needed  # noqa: E402
from nullinv_core.backends.comfy.host import Guided, run  # noqa: E402
from nullinv_core.backends.comfy.schedule import schedule_of  # noqa: E402

STATUS = Path("/proc/self/status")
switch = Checkpointing(ARGUMENTS[3] == "checkpointed")


def resident(field):
    """VmRSS, or its peak VmHWM, in bytes."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def peak(denoiser, clean):
    """Peak of a gradient of the null context."""
    empty = text_of(conditioning, "empty", network=model.model)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    with torch.enable_grad():
        null = replace(empty, text=empty.text.clone().requires_grad_(True))
        torch.autograd.grad(denoiser(clean, schedule.level(3), null, unconditional=1).square().mean(), null.text)
    return resident("VmHWM") - before


with torch.inference_mode():
    model, clip, *_ = comfy.sd.load_checkpoint_guess_config(ARGUMENTS[1], output_vae=False)
    schedule = schedule_of(model, "ddim_uniform", 5)
    conditioning = clip.encode_from_tokens_scheduled(clip.tokenize("a photo of a cat"))
    side = int(ARGUMENTS[2])
    latents = torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(0))
    measured = run(
        Guided(model, conditioning, conditioning), latents, schedule, peak, gradients=True, checkpointing=switch
    )
print(json.dumps({"measured": measured, "reckoned": memory_needed(model, latents.shape, switch.on)}))
