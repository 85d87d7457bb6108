"""The demo's main job: invert a held-out scene, reconstruct it, edit it, and measure both against the truth."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..backends.diffusers import DiffusersModel
from ..denoiser import Counted
from ..editing import reconstruct
from ..figures import loss_plot, side_by_side
from ..files.atomic_write import whole_file
from ..files.store import Inversion
from ..inversion.invert import invert
from ..null_text.presets import PRESETS
from ..null_text.recipe import Recipe
from ..photo.images import from_pil, psnr, save_image, save_pil, to_pil
from ..pipeline import apply, null_of, optimize, prepare_latents
from ..prompt_to_prompt.kinds import suited
from ..settings import EditSettings
from ..types import Callback, Event, NullEmbeddings, ignore
from .edits import EditCase, sample_edit
from .judge import wrong_edit
from .scenes import render

EDIT_GUIDANCE, PLAIN_EDIT_GUIDANCE = 3.0, 1.5
"""Guidance at which the demo model edits best with the presets ``fast`` and ``paper``; it is reconstructed at 7.5."""
KINDS = ("colour", "object", "content", "background")
"""What the demo edits, by seed."""


@dataclass(frozen=True)
class DemoReport:
    """Figures of one demo run. PSNR in dB against the source unless the name says otherwise; times in seconds.

    The edited picture has the photo's own pixels where it hardly differs, and 8 bits. ``unet_forwards`` and
    ``unet_backwards`` count samples through the network, not calls, of all but the DDIM baseline. Where the source
    branch is not pinned, the edit's guidance has null embeddings of its own: ``seconds_optimize_edit``.
    """

    seed: int
    kind: str
    source_prompt: str
    edit_prompt: str
    steps: int
    guidance: float
    edit_guidance: float
    psnr_autoencoder: float
    psnr_ddim: float
    psnr_null_text: float
    psnr_null_text_vs_autoencoder: float
    background_psnr: float
    changed_region_psnr: float
    changed_region_psnr_of_source: float
    edit_judged_right: bool
    unet_forwards: int
    unet_backwards: int
    seconds_invert: float
    seconds_optimize: float
    seconds_optimize_edit: float
    seconds_edit: float


@dataclass(frozen=True, repr=False)
class DemoPictures:
    """Pictures of one demo run, (128, 128, 3) in 0…1, and the null embeddings behind the reconstruction."""

    source: np.ndarray
    ddim_reconstruction: np.ndarray
    reconstruction: np.ndarray
    edited: np.ndarray
    true_edit: np.ndarray
    null: NullEmbeddings


def demo_case(seed: int) -> EditCase:
    """The held-out scene and edit of a seed."""
    return sample_edit(seed, KINDS[seed % len(KINDS)])


def edit_settings(case: EditCase) -> EditSettings:
    """Attention control for a kind of edit, as ``docs/editing.md`` advises: local blend on what changes, its new name's
    place too, and room where something goes, comes, or is another place. A style or a pose is let through everywhere.
    """
    before, after = ([thing.kind for thing in scene.things] for scene in (case.source, case.target))
    if case.kind in ("style", "pose"):
        return EditSettings()
    if case.kind == "background":
        return suited("background", exclude_words=before)
    if case.kind == "delete":
        return suited("remove", blend_words=_only(before, after))
    if case.kind == "add":
        return suited("add", blend_words=_only(after, before), exclude_words=[k for k in before if after.count(k) == 1])
    pairs = zip(case.source.things, case.target.things, strict=True)
    return EditSettings(blend_words=list(dict.fromkeys(name for a, b in pairs if a != b for name in (a.kind, b.kind))))


def _only(some: list[str], others: list[str]) -> list[str]:
    """What only the first list has; all that it has where both hold toys of one kind."""
    return [name for name in some if name not in others] or list(dict.fromkeys(some))


def suited_guidance(null: NullEmbeddings) -> float:
    """The guidance for the demo model's edits with such embeddings."""
    return EDIT_GUIDANCE if null.pin is not None and null.pin.guidance is not None else PLAIN_EDIT_GUIDANCE


@dataclass(frozen=True)
class DemoSetup:
    """How a case is run. ``guidance``: of the reconstruction. ``edit_guidance``: 0 is what suits the preset.
    ``settings``: None is what suits the edit."""

    steps: int = 50
    guidance: float = 7.5
    preset: str = "fast"
    edit_guidance: float = 0.0
    settings: EditSettings | None = None


def run_case(
    model: DiffusersModel,
    case: EditCase,
    seed: int = 0,
    setup: DemoSetup = DemoSetup(),
    callback: Callback = ignore,
) -> tuple[DemoReport, DemoPictures]:
    """Invert, reconstruct and edit one case; return figures and pictures. ``seed``: of the case, for the figures."""
    counted, clock, recipe = Counted(model.denoiser), _Clock(callback), PRESETS[setup.preset]
    watched, photo = replace(model, counter=counted), torch.from_numpy(render(case.source))[None]
    source_prompt, edit_prompt = case.captions
    latents = model.encode_image(photo)
    inversion, reached = prepare_latents(watched, latents, source_prompt, setup.steps, recipe, setup.guidance, clock)
    clock.note("optimized")
    plain = ddim_reconstruction(model, inversion, recipe, setup.guidance)
    clock.note("resumed")
    null = null_of(inversion)
    guidance = setup.edit_guidance or suited_guidance(null)
    if guidance != setup.guidance and not null.pinned:
        inversion = optimize(watched, inversion, recipe, guidance, callback)
    clock.note("optimized for the edit")
    wanted = setup.settings or edit_settings(case)
    found = apply(watched, inversion, edit_prompt, wanted, guidance, callback=clock)
    autoencoded = model.decode(latents)
    pictures = DemoPictures(
        source=photo[0].numpy(),
        ddim_reconstruction=_picture(model, plain),
        reconstruction=_picture(model, reached),
        edited=from_pil(to_pil(found.keeping(photo, autoencoded).pictures[0]))[0].numpy(),
        true_edit=render(case.target),
        null=null,
    )
    about: dict[str, Any] = {
        "seed": seed,
        "kind": case.kind,
        "source_prompt": source_prompt,
        "edit_prompt": edit_prompt,
    }
    about |= {"steps": setup.steps, "guidance": setup.guidance, "edit_guidance": guidance}
    about |= {"unet_forwards": counted.forwards, "unet_backwards": counted.backwards, **clock.seconds()}
    return DemoReport(**about, **_measured(case, pictures, autoencoded[0])), pictures


def _measured(case: EditCase, pictures: DemoPictures, autoencoded: Tensor) -> dict[str, Any]:
    """Figures of a report that compare pictures; ``autoencoded``: the source after the autoencoder alone."""
    source, changes = pictures.source, case.mask
    return {
        "psnr_autoencoder": psnr(autoencoded, source),
        "psnr_ddim": psnr(pictures.ddim_reconstruction, source),
        "psnr_null_text": psnr(pictures.reconstruction, source),
        "psnr_null_text_vs_autoencoder": psnr(pictures.reconstruction, autoencoded),
        "background_psnr": psnr(pictures.edited, source, ~changes),
        "changed_region_psnr": psnr(pictures.edited, pictures.true_edit, changes),
        "changed_region_psnr_of_source": psnr(source, pictures.true_edit, changes),
        "edit_judged_right": not wrong_edit(pictures.edited, case),
    }


def ddim_reconstruction(model: DiffusersModel, inversion: Inversion, recipe: Recipe, guidance: float) -> Tensor:
    """Latents (1, C, h, w) of the baseline: DDIM inversion, then sampling under the empty prompt."""
    trajectory, (empty,) = inversion.trajectory, model.contexts([model.prompt("")])
    if recipe.inversion != "ddim":
        trajectory = invert(model.denoiser, trajectory.clean, trajectory.context, trajectory.schedule)
    return reconstruct(model.denoiser, trajectory, empty, guidance)


@dataclass
class _Clock:
    """A callback that notes when each phase ended."""

    callback: Callback
    started: float = field(default_factory=time.perf_counter)
    ended: dict[str, float] = field(default_factory=dict)

    def __call__(self, event: Event) -> None:
        self.callback(event)
        self.note(event.phase)

    def note(self, what: str) -> None:
        """Something ended now."""
        self.ended[what] = time.perf_counter()

    def seconds(self) -> dict[str, float]:
        """What a report says of time."""
        at = self.ended
        return {
            "seconds_invert": at["invert"] - self.started,
            "seconds_optimize": at["optimized"] - at["invert"],
            "seconds_optimize_edit": at["optimized for the edit"] - at["resumed"],
            "seconds_edit": at["sample"] - at["optimized for the edit"],
        }


def _picture(model: DiffusersModel, latents: Tensor) -> np.ndarray:
    return model.decode(latents)[0].numpy()


def comparison(report: DemoReport, pictures: DemoPictures) -> Image.Image:
    """All pictures of a run in a row with their names above."""
    return side_by_side(
        {
            "source": pictures.source,
            f"DDIM at {report.guidance:g}": pictures.ddim_reconstruction,
            f"null-text at {report.guidance:g}": pictures.reconstruction,
            f"edited at {report.edit_guidance:g}": pictures.edited,
            "true edit": pictures.true_edit,
        }
    )


def write_demo(out: Path, report: DemoReport, pictures: DemoPictures) -> None:
    """Write the pictures, the loss plot and ``report.json`` to the folder ``out``, which is made if need be."""
    out.mkdir(parents=True, exist_ok=True)
    for name in ("source", "ddim_reconstruction", "reconstruction", "edited", "true_edit"):
        save_image(getattr(pictures, name), out / f"{name}.png")
    save_pil(comparison(report, pictures), out / "comparison.png")
    save_pil(loss_plot(pictures.null), out / "loss.png")
    figures = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(report).items()}
    with whole_file(out / "report.json") as partial:
        partial.write_text(json.dumps(figures, indent=2, allow_nan=False) + "\n", encoding="utf-8")
