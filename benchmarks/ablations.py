"""The paper's ablations on the demo model: ``python -m benchmarks.ablations --scenes 10``.

DDIM inversion alone at w = 7.5; null-text optimization without the pivot (from a random z_T towards the pivot's
z*_{t-1}); one ∅ for all timesteps; ∅_t per timestep. Mokady et al. 2022, section 4.1. Equal inner iterations:
the shared ∅ is trained by as many Adam steps as the full method may take.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nullinv_core import NullTextSettings, Trajectory, invert, optimize_null_text, reconstruct
from nullinv_core.backends.diffusers import DiffusersModel, load_model
from nullinv_core.context import Context
from nullinv_core.demo.captions import caption
from nullinv_core.demo.scenes import render, sample_scene
from nullinv_core.photo.images import psnr
from nullinv_core.schedule import ddim_step, guide
from nullinv_core.scores.tables import markdown_table

from .common import RESULTS, environment, write_json

GUIDANCE = 7.5
FIRST_SEED = 800_000


def ddim_alone(model: DiffusersModel, trajectory: Trajectory, empty: Context) -> Tensor:
    """Guided DDIM with the plain null embedding."""
    return reconstruct(model.denoiser, trajectory, empty, GUIDANCE)


def without_pivot(model: DiffusersModel, trajectory: Trajectory, empty: Context) -> Tensor:
    """Null-text optimization that starts from random noise in place of z*_T."""
    noise = torch.randn(trajectory.noisiest.shape, generator=torch.Generator().manual_seed(0))
    loose = replace(trajectory, latents=torch.cat([trajectory.latents[:-1], noise[None]]))
    return optimize_null_text(model.denoiser, loose, empty, NullTextSettings(guidance=GUIDANCE))[1]


def one_for_all(model: DiffusersModel, trajectory: Trajectory, empty: Context) -> Tensor:
    """A single ∅ for all timesteps: ten sweeps of Adam over the pivot, one step at each timestep."""
    schedule, shared = trajectory.schedule, Context(empty.text.clone().requires_grad_(True))
    optimizer = torch.optim.Adam([shared.text], lr=1e-2)
    for _ in range(10):
        for step in range(schedule.steps, 0, -1):
            level, latents = schedule.level(step), trajectory.latents[step]
            with torch.no_grad():
                text = model.denoiser(latents, level, trajectory.context)
            reached = ddim_step(latents, guide(model.denoiser(latents, level, shared), text, GUIDANCE), schedule, step)
            optimizer.zero_grad()
            (reached - trajectory.latents[step - 1]).square().mean().backward()
            optimizer.step()
    return reconstruct(model.denoiser, trajectory, shared.map(torch.detach), GUIDANCE)


def per_timestep(model: DiffusersModel, trajectory: Trajectory, empty: Context) -> Tensor:
    """The full method."""
    return optimize_null_text(model.denoiser, trajectory, empty, NullTextSettings(guidance=GUIDANCE))[1]


METHODS: dict[str, Callable[[DiffusersModel, Trajectory, Context], Tensor]] = {
    "DDIM inversion alone": ddim_alone,
    "null-text without the pivot (random z_T)": without_pivot,
    "one ∅ for all timesteps": one_for_all,
    "∅_t per timestep (the method)": per_timestep,
}


def main() -> None:
    """Command line of the ablations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=10)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--out", type=Path, default=RESULTS / "ablations.json")
    options = parser.parse_args()
    model = load_model(options.model)
    empty = model.encode_prompts([model.prompt("")])
    scores: dict[str, list[float]] = {name: [] for name in METHODS}
    for seed in range(FIRST_SEED, FIRST_SEED + options.scenes):
        scene = sample_scene(seed, "held-out")
        latents = model.encode_image(torch.from_numpy(render(scene))[None])
        context = model.encode_prompts([model.prompt(caption(scene))])
        trajectory = invert(model.denoiser, latents, context, model.schedule(50))
        target = model.decode(latents)[0]
        for name, method in METHODS.items():
            scores[name].append(psnr(model.decode(method(model, trajectory, empty))[0], target))
            print(f"{seed} {name}: {scores[name][-1]:.1f} dB", flush=True)
    rows = [[n, f"{np.median(s):.1f}", f"{min(s):.1f} to {max(s):.1f}"] for n, s in scores.items()]
    table = markdown_table(["method", "PSNR against the autoencoder, median dB", "range"], rows)
    write_json(options.out, {**environment(), "first_seed": FIRST_SEED, "psnr": scores})
    options.out.with_suffix(".md").write_text(table + "\n", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
