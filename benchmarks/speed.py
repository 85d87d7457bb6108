"""What inversion costs and what it is worth, method by method: ``python -m benchmarks.speed --scenes 20``.

All methods run on the same weights and scenes in one process, interleaved scene by scene. The cost unit is a sample
through the UNet: a forward pass counts 1, a backward pass 2. With ``--peer FILE`` diffusers' community pipeline
(``examples/community/pipeline_null_text_inversion.py``, not part of this repository) is one of the methods. Rows are
written as they come, and the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nullinv_core import NullEmbeddings, Trajectory, edit, reconstruct
from nullinv_core.backends.diffusers import DEMO_MODEL, DiffusersModel, load_model
from nullinv_core.context import Context
from nullinv_core.demo.edits import EditCase
from nullinv_core.demo.judge import wrong_edit
from nullinv_core.demo.run import demo_case, edit_settings, suited_guidance
from nullinv_core.demo.scenes import render
from nullinv_core.denoiser import Counted
from nullinv_core.null_text.presets import PRESETS
from nullinv_core.null_text.recipe import Recipe
from nullinv_core.null_text.settings import NullTextSettings
from nullinv_core.photo.images import psnr
from nullinv_core.pipeline import null_of, prepare_latents
from nullinv_core.prompt_to_prompt.control import batch_edits
from nullinv_core.prompt_to_prompt.edit import Edit, plan_edit
from nullinv_core.scores.tables import markdown_table

from . import full_size
from .common import RESULTS, add_records, check_installed, dense_edit, environment, known_records, now, write_json

PEER_GUIDANCE = 7.5
"""Written into the peer's functions."""
PEER, UNSTOPPED = "diffusers community pipeline", "paper without early stop"
INVERTED_ALONE = (PEER, UNSTOPPED)
"""Methods whose edits are not measured: the peer has none, and the other is the paper's again."""
FIRST_SEED = 20_000
"""Scenes that nothing was tuned on."""


@dataclass(frozen=True)
class Prepared:
    """What a method made of a photo: the pivot, what guides its edits, and the reconstruction's latents, if it says."""

    trajectory: Trajectory
    null: NullEmbeddings
    reached: Tensor | None


@dataclass(frozen=True)
class EditFigures:
    """An edit at a ``guidance``. ``cost`` in samples, PSNR in dB.

    ``dense_seconds``: what the plain reference takes for the same. ``background_psnr``: None where the whole picture
    may change.
    """

    guidance: float
    cost: int
    seconds: float
    background_psnr: float | None
    changed_region_gain: float
    judged_right: bool
    dense_seconds: float | None = None


@dataclass(frozen=True)
class Row:
    """Figures of one method on one scene. Cost in samples (forward 1, backward 2), PSNR in dB.

    ``reconstruction_psnr``: None where nothing was sampled. ``edit``: at the guidance that suits the method.
    ``strong_edit``: at the guidance of the inversion. Both None where a method is here for its inversion alone.
    """

    method: str
    seed: int
    cost: int
    seconds: float
    reconstruction_psnr: float | None
    peak_bytes: int | None
    edit: EditFigures | None = None
    strong_edit: EditFigures | None = None


Method = Callable[[DiffusersModel, Counted, Tensor, str, float], Prepared]


def ours(recipe: Recipe) -> Method:
    """One of our own ways."""

    def run(model: DiffusersModel, denoiser: Counted, latents: Tensor, text: str, guidance: float) -> Prepared:
        watched = replace(model, counter=denoiser)
        inversion, reached = prepare_latents(watched, latents, text, 50, recipe, guidance)
        here = model.device
        return Prepared(inversion.trajectory.to(here), null_of(inversion).to(here), reached.to(here))

    return run


def peer(path: Path, folder: Path) -> Method:
    """The community pipeline of a file: its inversion and optimization, on our latents, with a model's folder."""
    spec = importlib.util.spec_from_file_location("peer_pipeline", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f'"{path}" is no Python file')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    it = module.NullTextPipeline.from_pretrained(folder, safety_checker=None)

    def run(model: DiffusersModel, denoiser: Counted, latents: Tensor, text: str, guidance: float) -> Prepared:
        context, empty = model.contexts([model.prompt(text), model.prompt("")])
        if guidance != PEER_GUIDANCE:
            raise SystemExit(f"the peer's guidance is {PEER_GUIDANCE}; leave --guidance")
        it.to(model.device)
        it.num_inference_steps = 50
        hook = it.unet.register_forward_hook(lambda module, inputs, output: _count(denoiser, output.sample))
        try:
            both = torch.cat([empty.text, context.text])
            path = it.ddim_inversion_loop(latents, both)
            nulls = it.null_optimization(path, both, 10, 1e-5)
        finally:
            hook.remove()
        schedule = model.schedule(50)
        trajectory = Trajectory(torch.stack(path), context, schedule)
        blank = torch.zeros(50, 1)
        null = NullEmbeddings(Context(torch.stack(nulls[::-1])), schedule, guidance, blank, blank.long())
        return Prepared(trajectory, null, None)

    return run


def _count(counter: Counted, sample: Tensor) -> None:
    counter.forwards += len(sample)
    if sample.requires_grad:
        sample.register_hook(counter._count)


def cost(counter: Counted) -> int:
    """Samples through the network, a backward pass as two."""
    return counter.forwards + 2 * counter.backwards


def scene_of(model: DiffusersModel, case: EditCase) -> tuple[Edit, Context, Tensor]:
    """The plan of a scene's edit; contexts of its source and its edit; latents."""
    prompts = [model.prompt(text) for text in case.captions]
    plan = plan_edit(prompts[0], prompts[1], 50, edit_settings(case))
    return plan, model.encode_prompts(prompts), model.encode_image(torch.from_numpy(render(case.source))[None])


def measure(
    model: DiffusersModel,
    method: str,
    run: Method,
    case: EditCase,
    seed: int,
    guidance: float,
    edit_guidance: float | None,
) -> Row:
    """One method on one scene. The edit has null embeddings for its own guidance, which are not counted.

    ``edit_guidance``: None for the suited one. The dense reference is timed beside the edit of the fast preset alone:
    it costs every method's edit the same.
    """
    plan, contexts, latents = scene_of(model, case)
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    counter = Counted(model.denoiser)
    started = now(model.device)
    prepared = run(model, counter, latents, case.captions[0], guidance)
    done = now(model.device)
    peak = torch.cuda.max_memory_allocated() if model.device.type == "cuda" else None
    reached = prepared.reached
    if reached is None:
        reached = reconstruct(model.denoiser, prepared.trajectory, prepared.null, guidance)
    reconstruction = psnr(model.decode(reached)[0].numpy(), model.decode(latents)[0].numpy())
    exact = None if np.isinf(reconstruction) else reconstruction
    row = Row(method, seed, cost(counter), done - started, exact, peak)
    if method in INVERTED_ALONE:
        return row
    strong = measure_edit(model, prepared, plan, contexts, guidance, case)
    wanted = edit_guidance or suited_guidance(prepared.null)
    if wanted != guidance and not prepared.null.pinned:
        prepared = run(model, Counted(model.denoiser), latents, case.captions[0], wanted)
    suited = measure_edit(model, prepared, plan, contexts, wanted, case)
    if method == "fast":
        suited = replace(
            suited,
            dense_seconds=dense_edit(model.denoiser.unet, prepared.trajectory, prepared.null, plan, contexts, wanted),
        )
    return replace(row, edit=suited, strong_edit=strong)


def measure_edit(
    model: DiffusersModel, prepared: Prepared, plan: Edit, contexts: Context, guidance: float, case: EditCase
) -> EditFigures:
    """An edit of a prepared photo. ``contexts``: of the source and of the edit."""
    source, truth = render(case.source), render(case.target)
    counter = Counted(model.denoiser)
    started = now(model.device)
    result = edit(counter, prepared.trajectory, prepared.null, contexts[None, 1:], batch_edits([[plan]]), guidance)
    seconds = now(model.device) - started
    edited = model.decode(result.latents[0])[0].numpy()
    return EditFigures(
        guidance=guidance,
        cost=cost(counter),
        seconds=seconds,
        background_psnr=psnr(edited, source, ~case.mask) if not case.mask.all() else None,
        changed_region_gain=psnr(edited, truth, case.mask) - psnr(source, truth, case.mask),
        judged_right=not wrong_edit(edited, case),
    )


def compared(rows: Sequence[Row], reference: str) -> list[tuple[str, list[Row]]]:
    """(name, rows) of each method, those on all of the reference's scenes first; then those on fewer, and before them
    the reference once more on their scenes: medians over different scenes say nothing of methods."""
    methods = dict.fromkeys(row.method for row in rows)
    own = {method: [row for row in rows if row.method == method] for method in methods}
    seeds = {method: frozenset(row.seed for row in found) for method, found in own.items()}
    sets = dict.fromkeys([seeds[reference], *seeds.values()])
    found = []
    for some in sets:
        if some != seeds[reference]:
            found.append((f"{reference}, the same scenes", [row for row in own[reference] if row.seed in some]))
        found += [(method, own[method]) for method in methods if seeds[method] == some]
    return found


def marks(rows: Sequence[Row]) -> dict[str, tuple[float, float]]:
    """Median (cost, reconstruction) of each method over the scenes that all of them have; over its own where there are
    none."""
    points = {method: points_of(rows, method) for method in dict.fromkeys(row.method for row in rows)}
    shared = set.intersection(*map(set, points.values())) or set.union(*map(set, points.values()))
    found = {}
    for method, own in points.items():
        cost, quality = np.median(np.array([own[seed] for seed in own if seed in shared]), axis=0)
        found[method] = float(cost), float(quality)
    return found


def points_of(rows: Sequence[Row], method: str) -> dict[int, tuple[int, float]]:
    """(cost, reconstruction) of a method on each scene where it was measured, by seed."""
    own = [row for row in rows if row.method == method]
    return {row.seed: (row.cost, row.reconstruction_psnr) for row in own if row.reconstruction_psnr is not None}


def table_of(rows: list[Row], reference: str) -> str:
    """Medians by method; seconds also as a share of the reference's, scene by scene.

    Methods that were run on fewer scenes than the reference stand below it on the same scenes.
    """
    base, unstopped = ({r.seed: r.seconds for r in rows if r.method == name} for name in (reference, UNSTOPPED))
    lines = []
    for method, own in compared(rows, reference):

        def median(form: str, values: Sequence[float]) -> str:
            return f"{float(np.median(values)):{form}}" if values else ""

        def right(edits: list[EditFigures]) -> str:
            return f"{sum(e.judged_right for e in edits)} of {len(edits)}" if edits else ""

        seconds = [row.seconds for row in own]
        edits, strong = ([e for e in column if e] for column in ([r.edit for r in own], [r.strong_edit for r in own]))
        lines.append(
            [f"{method} ({len(own)})", median(".0f", [row.cost for row in own]),
             f"{median('.1f', seconds)} ({min(seconds):.1f}-{max(seconds):.1f})",
             median(".2f", [row.seconds / base[row.seed] for row in own]),
             median(".2f", [row.seconds / unstopped[row.seed] for row in own if row.seed in unstopped]),
             median(".2f", [row.peak_bytes / 2**30 for row in own if row.peak_bytes]),
             median(".1f", [r.reconstruction_psnr for r in own if r.reconstruction_psnr]),
             median(".1f", [e.background_psnr for e in edits if e.background_psnr]),
             median("+.1f", [e.changed_region_gain for e in edits]),
             right(edits),
             median(".1f", [e.background_psnr for e in strong if e.background_psnr]),
             median("+.1f", [e.changed_region_gain for e in strong]), right(strong),
             median(".0f", [e.cost for e in edits]), median(".1f", [e.seconds for e in edits]),
             median(".2f", [e.seconds / e.dense_seconds for e in edits if e.dense_seconds])]
        )  # fmt: skip
    head = [
        "method (scenes)", "samples", "seconds", f"of {reference}", "of it without early stop", "GPU memory, GiB",
        "reconstruction, dB", "background, dB", "changed region, dB",
        "right", "background, strong", "changed region, strong", "right, strong",
        "samples of an edit", "its seconds", "of the dense one's",
    ]  # fmt: skip
    return markdown_table(head, lines)


def plot(rows: list[Row], path: Path) -> None:
    """Reconstruction against cost: a point a scene, a large one for the median of a method (see ``marks``)."""
    from matplotlib.figure import Figure

    figure = Figure((7, 4), layout="constrained")
    axes = figure.subplots()
    for number, (method, (cost, quality)) in enumerate(marks(rows).items()):
        points = points_of(rows, method).values()
        costs, all_quality = zip(*points, strict=True)
        colour = f"C{number}"
        axes.scatter(costs, all_quality, 12, colour, alpha=0.35, linewidths=0)
        # equal methods lie on one another: the later ones are smaller
        size = 240 * 0.6**number
        axes.scatter(cost, quality, size, colour, edgecolors="black", label=f"{method} ({len(points)} scenes)")
    axes.set(
        xscale="log", xlabel="samples through the network (a backward pass counts two)", ylabel="reconstruction, dB",
        title="small: a scene each; large: the median of the scenes that all have",
    )  # fmt: skip
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def default_out(arch: str, device: str) -> Path:
    """Where figures go by default: a file for each model and device."""
    parts = ["speed", *([] if arch == "demo" else [arch]), *([] if device == "cpu" else [device.replace(":", "")])]
    return RESULTS / ("_".join(parts) + ".json")


def _row(record: dict[str, Any]) -> Row:
    edits = {name: EditFigures(**record[name]) for name in ("edit", "strong_edit") if record[name]}
    return Row(**{**record, **edits})


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--guidance", type=float, default=7.5)
    parser.add_argument("--edit-guidance", type=float, help="by default the one that suits a method")
    parser.add_argument("--peer", type=Path, help="the file of diffusers' community pipeline")
    parser.add_argument("--methods", help="some of them, separated by commas; paper is always one")
    parser.add_argument("--slow-scenes", type=int, default=3, help="scenes of the methods that are inverted alone")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--arch", choices=["demo", "sd15"], default="demo", help="sd15: full size, random weights")
    parser.add_argument("--steps", type=int, default=50, help="of --arch sd15")
    parser.add_argument("--side", type=int, default=64, help="of the latents of --arch sd15")
    parser.add_argument("--edits-alone", action="store_true", help="of --arch sd15: no optimization (for a CPU)")
    options = parser.parse_args()
    out = options.out or default_out(options.arch, options.device)
    if options.arch == "sd15":
        dtype = torch.float32 if options.device == "cpu" else torch.float16
        presets: list[str] = [] if options.edits_alone else ["paper", "fast"]
        figures = full_size.run(options.device, dtype, options.steps, options.side, presets)
        write_json(out, {**environment(), "steps": options.steps, "side": options.side, **figures})
        return
    check_installed("matplotlib")
    model = load_model(options.model, options.device)
    methods: dict[str, Method] = {
        "paper": ours(PRESETS["paper"]),
        UNSTOPPED: ours(Recipe("ddim", NullTextSettings(early_stop=0.0, early_stop_growth=0.0), pinned=False)),
        "negative-prompt": ours(PRESETS["negative-prompt"]),
        "direct": ours(PRESETS["direct"]),
        "fast": ours(PRESETS["fast"]),
    }
    if options.peer:
        methods[PEER] = peer(options.peer, DEMO_MODEL if options.model == "demo" else Path(options.model))
    if options.methods:
        wanted = ("paper", *options.methods.split(","))
        if set(wanted) - set(methods):
            raise SystemExit(f"methods are {', '.join(methods)}; not {', '.join(set(wanted) - set(methods))}")
        methods = {name: methods[name] for name in wanted}
    guidances = {"guidance": options.guidance, "edit_guidance": options.edit_guidance}
    settings = {**guidances, "first_seed": options.first_seed, "device": options.device, "model": options.model}
    kept = out.with_suffix(".jsonl")
    begun, records = known_records(kept, settings)
    rows = [_row(record) for record in records]
    done = {(row.method, row.seed) for row in rows}
    for number, seed in enumerate(range(options.first_seed, options.first_seed + options.scenes)):
        for name, run in methods.items():
            if (name, seed) in done or (name in INVERTED_ALONE and number >= options.slow_scenes):
                continue
            rows.append(measure(model, name, run, demo_case(seed), seed, options.guidance, options.edit_guidance))
            add_records(kept, [asdict(rows[-1])])
            print(json.dumps(asdict(rows[-1])), flush=True)
    rows = [row for row in rows if row.method in methods and row.seed < options.first_seed + options.scenes]
    table = table_of(rows, "paper")
    write_json(out, {**begun, **settings, "rows": [asdict(row) for row in rows]})
    out.with_suffix(".md").write_text(table + "\n", encoding="utf-8")
    plot([row for row in rows if row.reconstruction_psnr is not None], out.with_suffix(".png"))
    print(table)


if __name__ == "__main__":
    main()
