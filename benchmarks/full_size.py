"""What a full-size network costs: ``python -m benchmarks.speed --arch sd15 --device cuda``.

Stable Diffusion 1.5's UNet with seeded random weights at 64×64 latents (512×512 pixels). Its pictures mean nothing, so
nothing but time, memory and rates is measured: seconds to invert and optimize and to edit, the share of the device's
own matrix product rate that is reached, and where the time goes.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from nullinv_core import EditSettings, batch_edits, edit, invert, plan_edit
from nullinv_core.backends.diffusers import DiffusersDenoiser, load_model
from nullinv_core.backends.diffusers_attention import ControlledAttention
from nullinv_core.backends.diffusers_memory import saved_bytes
from nullinv_core.denoiser import Counted
from nullinv_core.presets import PRESETS, PresetName, embed
from nullinv_core.schedule import leading_schedule, scaled_linear_alphas

PROMPTS = ("a red star on a blue background", "a green star on a blue background")
PRODUCT = 8192
"""Side of the matrices whose product measures the device; on a CPU a quarter of it."""


@dataclass(frozen=True)
class FullSizeRow:
    """One preset. ``samples``: through the network, a backward pass as two. Rates in FLOP/s, memory in bytes."""

    preset: str
    checkpointing: bool
    samples: int
    seconds_invert: float
    seconds_optimize: float
    seconds_edit: float
    edit_samples: int
    rate: float
    edit_rate: float
    peak_bytes: int | None
    saved_bytes: int


def full_size_unet(device: str, dtype: torch.dtype) -> UNet2DConditionModel:
    """SD 1.5's UNet, seeded random weights."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=64, cross_attention_dim=768, attention_head_dim=8, block_out_channels=(320, 640, 1280, 1280)
    )
    unet.requires_grad_(False).eval().to(device, dtype, memory_format=torch.channels_last)
    unet.set_attn_processor(ControlledAttention())
    return unet


def matmul_rate(device: str, dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product on the device."""
    side = PRODUCT if device != "cpu" else PRODUCT // 4
    a = torch.randn(side, side, device=device).to(dtype)
    for _ in range(3):
        a @ a
    started = _now(device)
    for _ in range(10):
        a @ a
    return 10 * 2 * side**3 / (_now(device) - started)


def _now(device: str) -> float:
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


def measure(unet: UNet2DConditionModel, preset: PresetName, checkpointing: bool, steps: int, side: int) -> FullSizeRow:
    """One preset, its second run timed: the first one warms the device up."""
    recipe = PRESETS[preset]
    device, latents = str(unet.device), torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(0))
    source, target, empty = torch.randn(3, 1, 77, 768, generator=torch.Generator().manual_seed(1)).to(device)
    plain = DiffusersDenoiser(unet, "epsilon")
    tokenizing = load_model("demo")
    before, after = (tokenizing.prompt(text) for text in PROMPTS)
    edits = batch_edits([[plan_edit(before, after, steps, EditSettings(blend=["star"]))]])
    schedule = leading_schedule(scaled_linear_alphas(), steps)
    (unet.enable_gradient_checkpointing if checkpointing else unet.disable_gradient_checkpointing)()
    flops = FlopCounterMode(display=False)
    with torch.no_grad(), flops:
        plain(latents.to(device), schedule.level(1), source)
    per_sample = flops.get_total_flops()

    def once() -> FullSizeRow:
        counter = Counted(plain)
        if device != "cpu":
            torch.cuda.reset_peak_memory_stats()
        started = _now(device)
        trajectory = invert(counter, latents.to(device), source, schedule, method=recipe.inversion)
        inverted = _now(device)
        null, _ = embed(counter, trajectory, empty, recipe, 7.5)
        optimized = _now(device)
        peak = torch.cuda.max_memory_allocated() if device != "cpu" else None
        spent, counter = counter.forwards + 2 * counter.backwards, Counted(plain)
        resumed = _now(device)
        edit(counter, trajectory, null, target[None], edits, 7.5)
        edited = _now(device)
        return FullSizeRow(
            preset=preset,
            checkpointing=checkpointing,
            samples=spent,
            seconds_invert=inverted - started,
            seconds_optimize=optimized - inverted,
            seconds_edit=edited - resumed,
            edit_samples=counter.forwards,
            rate=per_sample * spent / (optimized - started),
            edit_rate=per_sample * counter.forwards / (edited - resumed),
            peak_bytes=peak,
            saved_bytes=saved_bytes(plain, latents.to(device), schedule.level(1), source),
        )

    once()
    return once()


def where_time_goes(unet: UNet2DConditionModel, side: int, rows: int = 15) -> str:
    """The profiler's table of a few optimized steps and edit steps."""
    device = str(unet.device)
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device != "cpu" else [])
    with profile(activities=activities) as profiled:
        measure(unet, "fast", False, 3, side)
    key = "self_cuda_time_total" if device != "cpu" else "self_cpu_time_total"
    return str(profiled.key_averages().table(sort_by=key, row_limit=rows, max_name_column_width=60))


def run(device: str, dtype: torch.dtype, steps: int, side: int, presets: list[PresetName]) -> dict[str, Any]:
    """Every preset, ``fast`` also with gradient checkpointing, the device's own rate, and a profile."""
    unet = full_size_unet(device, dtype)
    rate = matmul_rate(device, dtype)
    rows = []
    for preset, checkpointing in [*((p, False) for p in presets), ("fast", True)]:
        rows.append(measure(unet, preset, checkpointing, steps, side))
        print(rows[-1], flush=True)
    table = where_time_goes(unet, side)
    print(table)
    name = torch.cuda.get_device_name() if device != "cpu" else "cpu"
    return {"device": name, "matmul_rate": rate, "rows": [asdict(row) for row in rows], "profile": table.splitlines()}
