"""What inversion costs and what it is worth, method by method: ``python -m benchmarks.speed --scenes 20``.

All methods run on the same weights and scenes in one process, interleaved scene by scene. The cost unit is a sample
through the UNet: a forward pass counts 1, a backward pass 2. With ``--peer FILE`` diffusers' community pipeline
(``examples/community/pipeline_null_text_inversion.py``, not part of this repository) is one of the methods.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nullinv_core import NullEmbeddings, Trajectory, edit, invert, reconstruct
from nullinv_core.backends.diffusers import DiffusersModel, load_model
from nullinv_core.backends.diffusers_attention import ControlledAttention
from nullinv_core.demo.judge import is_right
from nullinv_core.demo.run import EDIT_GUIDANCE, demo_case, edit_settings
from nullinv_core.demo.scenes import EditCase, render
from nullinv_core.denoiser import Counted
from nullinv_core.images import psnr
from nullinv_core.null_text import NullTextSettings
from nullinv_core.presets import Preset, embed
from nullinv_core.prompt_to_prompt.attention import batch_edits
from nullinv_core.prompt_to_prompt.edit import Edit, plan_edit

from . import full_size, reference
from .common import RESULTS, environment, markdown_table, write_json

FIRST_SEED = 20_000
"""Scenes that nothing was tuned on."""


@dataclass(frozen=True)
class Prepared:
    """What a method made of a photo: the pivot, what guides its edits, and the reconstruction's latents."""

    trajectory: Trajectory
    null: NullEmbeddings
    reached: Tensor


@dataclass(frozen=True)
class Row:
    """Figures of one method on one scene. Cost in samples (forward 1, backward 2), PSNR in dB."""

    method: str
    seed: int
    cost: int
    seconds: float
    edit_cost: int
    edit_seconds: float
    dense_edit_seconds: float
    reconstruction_psnr: float
    background_psnr: float
    changed_region_gain: float
    edit_judged_right: bool
    peak_bytes: int | None


Method = Callable[[DiffusersModel, Counted, Tensor, Tensor, Tensor, float], Prepared]


def ours(method: Preset | NullTextSettings) -> Method:
    """A preset, or null-text inversion with some settings."""

    def run(
        model: DiffusersModel, denoiser: Counted, latents: Tensor, context: Tensor, empty: Tensor, guidance: float
    ) -> Prepared:
        trajectory = invert(denoiser, latents, context, model.schedule(50))
        return Prepared(trajectory, *embed(denoiser, trajectory, empty, method, guidance))

    return run


def peer(path: Path) -> Method:
    """The community pipeline of a file: its inversion and optimization, on our latents."""
    spec = importlib.util.spec_from_file_location("peer_pipeline", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f'"{path}" is no Python file')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    pipelines: dict[str, Any] = {}

    def run(
        model: DiffusersModel, denoiser: Counted, latents: Tensor, context: Tensor, empty: Tensor, guidance: float
    ) -> Prepared:
        if guidance != 7.5:
            raise SystemExit("the peer's guidance is 7.5; leave --guidance")
        if not pipelines:
            pipelines["it"] = module.NullTextPipeline.from_pretrained(model.name, safety_checker=None)
        it = pipelines["it"].to(model.device)
        it.num_inference_steps = 50
        hook = it.unet.register_forward_hook(lambda module, inputs, output: _count(denoiser, output.sample))
        try:
            both = torch.cat([empty, context])
            path = it.ddim_inversion_loop(latents, both)
            nulls = it.null_optimization(path, both, 10, 1e-5)
        finally:
            hook.remove()
        schedule = model.schedule(50)
        trajectory = Trajectory(torch.stack(path), context, schedule)
        blank = torch.zeros(50, 1)
        null = NullEmbeddings(torch.stack(nulls[::-1]), schedule, guidance, blank, blank.long())
        # what it reached is not returned; retracing it is not counted
        return Prepared(trajectory, null, reconstruct(model.denoiser, trajectory, null, guidance))

    return run


def _count(counter: Counted, sample: Tensor) -> None:
    counter.forwards += len(sample)
    if sample.requires_grad:
        sample.register_hook(counter._count)


def cost(counter: Counted) -> int:
    """Samples through the network, a backward pass as two."""
    return counter.forwards + 2 * counter.backwards


def measure(
    model: DiffusersModel, method: str, run: Method, case: EditCase, seed: int, guidance: float, edit_guidance: float
) -> Row:
    """One method on one scene. The edit has null embeddings for its own guidance, which are not counted."""
    source, truth = render(case.source), render(case.target)
    prompts = [model.prompt(case.source.caption), model.prompt(case.target.caption), model.prompt("")]
    context, edit_context, empty = model.encode_prompts(prompts).split(1)
    latents = model.encode_image(torch.from_numpy(source)[None])
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    counter = Counted(model.denoiser)
    started = _now(model)
    prepared = run(model, counter, latents, context, empty, guidance)
    done = _now(model)
    spent, counter = cost(counter), Counted(model.denoiser)
    peak = torch.cuda.max_memory_allocated() if model.device.type == "cuda" else None
    plan = plan_edit(prompts[0], prompts[1], 50, edit_settings(case))
    for_edit = prepared
    if edit_guidance != guidance:
        for_edit = run(model, Counted(model.denoiser), latents, context, empty, edit_guidance)
    edit_started = _now(model)
    result = edit(counter, for_edit.trajectory, for_edit.null, edit_context[None], batch_edits([[plan]]), edit_guidance)
    edited_at = _now(model)
    dense = dense_edit(model, for_edit, plan, torch.cat([context, edit_context]), edit_guidance)
    edited = model.decode(result.latents[0])[0].numpy()
    return Row(
        method=method,
        seed=seed,
        cost=spent,
        seconds=done - started,
        edit_cost=cost(counter),
        edit_seconds=edited_at - edit_started,
        dense_edit_seconds=dense,
        reconstruction_psnr=psnr(model.decode(prepared.reached)[0].numpy(), model.decode(latents)[0].numpy()),
        background_psnr=psnr(edited, source, ~case.mask),
        changed_region_gain=psnr(edited, truth, case.mask) - psnr(source, truth, case.mask),
        edit_judged_right=is_right(edited, case.target),
        peak_bytes=peak,
    )


def dense_edit(model: DiffusersModel, prepared: Prepared, plan: Edit, contexts: Tensor, guidance: float) -> float:
    """Seconds that the plain transcription takes for an edit: four samples a step, whole attention matrices."""
    mapping, schedule = plan.alignment.mapping, model.schedule(50)
    pairs = [(i, j, float(mapping[i, j])) for i, j in mapping.nonzero().tolist()]
    windows = [row.nonzero().flatten().tolist() for row in plan.cross_window]
    controller = reference.Controller([pairs], [{}], [windows], int(plan.self_window.sum()), 256)
    unet = model.denoiser.unet
    unet.set_attn_processor(reference.DenseAttention(controller))
    try:
        started = _now(model)
        with torch.no_grad():
            reference.edit(
                unet, prepared.trajectory.noisiest, contexts, list(prepared.null.embeddings.flip(0)),
                [int(t) for t in schedule.timesteps], schedule.alphas_cumprod, guidance, controller,
            )  # fmt: skip
        return _now(model) - started
    finally:
        unet.set_attn_processor(ControlledAttention())


def _now(model: DiffusersModel) -> float:
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def table_of(rows: list[Row], reference: str) -> str:
    """Medians by method; seconds also as a share of the reference's, scene by scene."""
    base = {row.seed: row.seconds for row in rows if row.method == reference}
    lines = []
    for method in dict.fromkeys(row.method for row in rows):
        own = [row for row in rows if row.method == method]

        def median(name: str, own: list[Row] = own) -> float:
            return float(np.median([getattr(row, name) for row in own]))

        ratio = float(np.median([row.seconds / base[row.seed] for row in own]))
        seconds = [row.seconds for row in own]
        lines.append(
            [method, f"{median('cost'):.0f}", f"{median('seconds'):.1f} ({min(seconds):.1f}-{max(seconds):.1f})",
             f"{ratio:.2f}", f"{median('reconstruction_psnr'):.1f}", f"{median('background_psnr'):.1f}",
             f"{median('changed_region_gain'):+.1f}", f"{sum(r.edit_judged_right for r in own)} of {len(own)}",
             f"{median('edit_cost'):.0f}", f"{median('edit_seconds'):.1f}",
             f"{float(np.median([row.edit_seconds / row.dense_edit_seconds for row in own])):.2f}"]
        )  # fmt: skip
    head = [
        "method", "samples", "seconds", f"of {reference}", "reconstruction, dB", "background, dB", "changed region, dB",
        "right", "samples of an edit", "its seconds", "of the dense one's",
    ]  # fmt: skip
    return markdown_table(head, lines)


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--guidance", type=float, default=7.5)
    parser.add_argument("--edit-guidance", type=float, default=EDIT_GUIDANCE)
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--arch", choices=["demo", "sd15"], default="demo", help="sd15: full size, random weights")
    parser.add_argument("--steps", type=int, default=50, help="of --arch sd15")
    parser.add_argument("--side", type=int, default=64, help="of the latents of --arch sd15")
    options = parser.parse_args()
    out = options.out or RESULTS / ("speed.json" if options.arch == "demo" else "speed_sd15.json")
    if options.arch == "sd15":
        dtype = torch.float32 if options.device == "cpu" else torch.float16
        figures = full_size.run(options.device, dtype, options.steps, options.side, ["paper", "fast"])
        write_json(out, {**environment(), "steps": options.steps, "side": options.side, **figures})
        return
    model = load_model(options.model, options.device)
    methods: dict[str, Method] = {
        "paper": ours("paper"),
        "paper without early stop": ours(NullTextSettings(early_stop=0.0, early_stop_growth=0.0)),
        "negative-prompt": ours("negative-prompt"),
        "direct": ours("direct"),
        "fast": ours("fast"),
    }
    if options.peer:
        methods["diffusers community pipeline"] = peer(options.peer)
    rows = []
    for seed in range(options.first_seed, options.first_seed + options.scenes):
        for name, run in methods.items():
            rows.append(measure(model, name, run, demo_case(seed), seed, options.guidance, options.edit_guidance))
            print(json.dumps(asdict(rows[-1])), flush=True)
    table = table_of(rows, "paper")
    guidances = {"guidance": options.guidance, "edit_guidance": options.edit_guidance}
    settings = {**guidances, "first_seed": options.first_seed, "device": options.device}
    write_json(out, {**environment(), **settings, "rows": [asdict(row) for row in rows]})
    out.with_suffix(".md").write_text(table + "\n", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
