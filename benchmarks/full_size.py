"""What a full-size network costs: ``python -m benchmarks.speed --arch sd15 --device cuda``.

Stable Diffusion 1.5's UNet with seeded random weights at 64×64 latents (512×512 pixels). Its pictures mean nothing, so
nothing but time, memory and rates is measured: seconds to invert and optimize and to edit, the share of the device's
own matrix product rate that is reached, and where the time goes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from nullinv_core import Edit, EditSettings, batch_edits, edit, invert, plan_edit
from nullinv_core.backends.diffusers import DiffusersDenoiser, load_model
from nullinv_core.backends.diffusers.attention import ControlledAttention
from nullinv_core.backends.diffusers.memory import saved_bytes
from nullinv_core.context import Context, cat
from nullinv_core.denoiser import Counted
from nullinv_core.null_text.embedding import embed
from nullinv_core.null_text.presets import PRESETS
from nullinv_core.schedule import leading_schedule, scaled_linear_alphas

from .common import dense_edit, now

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
    started = now(device)
    for _ in range(10):
        a @ a
    return 10 * 2 * side**3 / (now(device) - started)


def edit_beside_dense(unet: UNet2DConditionModel, steps: int, side: int) -> dict[str, float]:
    """Seconds of an edit with a pinned source, and of the plain dense one; the device is warmed up by the inversion."""
    device, latents = str(unet.device), torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(0))
    source, target, empty = contexts_of(device)
    denoiser, recipe, plan = DiffusersDenoiser(unet, "epsilon"), PRESETS["direct"], plan_of(steps)
    trajectory = invert(denoiser, latents.to(device), source, leading_schedule(scaled_linear_alphas(), steps))
    null, _ = embed(denoiser, trajectory, empty, recipe, 7.5)
    started = now(device)
    edit(denoiser, trajectory, null, target[None], batch_edits([[plan]]), 7.5)
    seconds = now(device) - started
    dense = dense_edit(unet, trajectory, null, plan, cat([source, target]), 7.5)
    return {"seconds_edit": seconds, "seconds_dense_edit": dense, "share": seconds / dense}


def memory_of_gradients(unet: UNet2DConditionModel, side: int) -> dict[str, int]:
    """Bytes beside the weights that one optimizer step keeps, plain and with checkpointing: counted, an estimate."""
    denoiser, level = DiffusersDenoiser(unet, "epsilon"), leading_schedule(scaled_linear_alphas(), 2).level(1)
    latents, (source, _, _) = torch.randn(1, 4, side, side).to(unet.device), contexts_of(str(unet.device))
    counted = {}
    for name, turn in (
        ("plain", unet.disable_gradient_checkpointing), ("checkpointing", unet.enable_gradient_checkpointing)
    ):  # fmt: skip
        turn()
        counted[name] = saved_bytes(denoiser, latents, level, source)
    unet.disable_gradient_checkpointing()
    return counted


def contexts_of(device: str) -> list[Context]:
    """Random contexts of source, edit and empty prompt, (1, 77, 768) each."""
    return [Context(text) for text in torch.randn(3, 1, 77, 768, generator=torch.Generator().manual_seed(1)).to(device)]


def plan_of(steps: int) -> Edit:
    """An edit with local blend."""
    before, after = (load_model("demo").prompt(text) for text in PROMPTS)
    return plan_edit(before, after, steps, EditSettings(blend_words=["star"]))


def measure(unet: UNet2DConditionModel, preset: str, checkpointing: bool, steps: int, side: int) -> FullSizeRow:
    """One preset, its second run timed: the first one warms the device up."""
    recipe = PRESETS[preset]
    device, latents = str(unet.device), torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(0))
    source, target, empty = contexts_of(device)
    plain, edits = DiffusersDenoiser(unet, "epsilon"), batch_edits([[plan_of(steps)]])
    schedule = leading_schedule(scaled_linear_alphas(), steps)
    (unet.enable_gradient_checkpointing if checkpointing else unet.disable_gradient_checkpointing)()
    flops = FlopCounterMode(display=False)
    with torch.no_grad(), flops:
        plain(latents.to(device), schedule.level(1), source)
    forward = flops.get_total_flops()
    with torch.enable_grad(), flops:
        plain(latents.to(device), schedule.level(1), Context(source.text.clone().requires_grad_(True))).sum().backward()
    backward = flops.get_total_flops() - forward

    def once() -> FullSizeRow:
        counter = Counted(plain)
        if device != "cpu":
            torch.cuda.reset_peak_memory_stats()
        started = now(device)
        trajectory = invert(counter, latents.to(device), source, schedule, method=recipe.inversion)
        inverted = now(device)
        null, _ = embed(counter, trajectory, empty, recipe, 7.5)
        optimized = now(device)
        peak = torch.cuda.max_memory_allocated() if device != "cpu" else None
        ran, counter = (counter.forwards, counter.backwards), Counted(plain)
        resumed = now(device)
        edit(counter, trajectory, null, target[None], edits, 7.5)
        edited = now(device)
        return FullSizeRow(
            preset=preset,
            checkpointing=checkpointing,
            samples=ran[0] + 2 * ran[1],
            seconds_invert=inverted - started,
            seconds_optimize=optimized - inverted,
            seconds_edit=edited - resumed,
            edit_samples=counter.forwards,
            rate=(forward * ran[0] + backward * ran[1]) / (optimized - started),
            edit_rate=forward * counter.forwards / (edited - resumed),
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


def run(device: str, dtype: torch.dtype, steps: int, side: int, presets: list[str]) -> dict[str, Any]:
    """The edit beside the dense one; every preset, ``fast`` also with gradient checkpointing, and a profile.

    Without presets the edit alone.
    """
    unet = full_size_unet(device, dtype)
    rate = matmul_rate(device, dtype)
    name = torch.cuda.get_device_name() if device != "cpu" else "cpu"
    figures = {"device": name, "matmul_rate": rate, "edit": edit_beside_dense(unet, steps, side)}
    weights = sum(p.numel() * p.element_size() for p in unet.parameters())
    figures |= {"bytes_of_weights": weights, "bytes_of_gradients_estimate": memory_of_gradients(unet, side)}
    print(figures, flush=True)
    if not presets:
        return figures
    rows = []
    for preset, checkpointing in [*((p, False) for p in presets), ("fast", True)]:
        rows.append(measure(unet, preset, checkpointing, steps, side))
        print(rows[-1], flush=True)
    table = where_time_goes(unet, side)
    print(table)
    return {**figures, "rows": [asdict(row) for row in rows], "profile": table.splitlines()}
