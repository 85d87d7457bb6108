"""Ways to edit pictures by their prompts, each a function of photos and a guidance that returns clean latents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from nullinv_core import NullEmbeddings, Sampling, Schedule, Trajectory, edit, plan_edit, reconstruct
from nullinv_core.context import Context
from nullinv_core.denoiser import Denoiser
from nullinv_core.editing import RANDOM
from nullinv_core.null_text.presets import PRESETS
from nullinv_core.prompt_to_prompt.control import batch_edits

from .edit_attention import masactrl, plug_and_play
from .edit_ddpm import SKIPPED, edit_friendly, ledits, virtual_inversion
from .edit_guidance import Blended, Proximal
from .edit_inversions import aidi, spd
from .edit_photo import Photo

Method = Callable[[Photo, float], Tensor]
"""Clean latents (B, C, h, w) of the edited pictures."""


def prompt_to_prompt(preset: str) -> Method:
    """Ours: a preset's embeddings, then Prompt-to-Prompt."""

    def run(photo: Photo, guidance: float) -> Tensor:
        trajectory = photo.trajectory(PRESETS[preset].inversion)
        return _edited(photo, trajectory, photo.null(preset, guidance), guidance)

    return run


def ddim_prompt_to_prompt(photo: Photo, guidance: float) -> Tensor:
    """DDIM inversion, then Prompt-to-Prompt under the empty prompt (Hertz et al. 2022, section 4)."""
    return _edited(photo, photo.trajectory("ddim"), photo.empty[0], guidance)


def proximal(photo: Photo, guidance: float) -> Tensor:
    """Proximal negative-prompt inversion with Prompt-to-Prompt (Han et al. 2023, arXiv 2306.05414)."""
    return _proximal(photo, photo.trajectory("ddim"), guidance)


def spd_prompt_to_prompt(photo: Photo, guidance: float) -> Tensor:
    """SPDInv (Li et al. 2024, arXiv 2403.11105), then Prompt-to-Prompt with proximal guidance, as its authors do."""
    return _proximal(photo, photo.once("spd", lambda: spd(photo)), guidance)


def aidi_prompt_to_prompt(photo: Photo, guidance: float) -> Tensor:
    """AIDI (Pan et al. 2023, arXiv 2309.04907), then Prompt-to-Prompt with blended guidance (section 3.3)."""
    trajectory = photo.once("aidi", lambda: aidi(photo))
    return _edited(photo, trajectory, photo.empty[0], guidance, Blended(photo.denoiser), source_guidance=1.0)


def _proximal(photo: Photo, trajectory: Trajectory, guidance: float) -> Tensor:
    # the source prompt in place of the empty one: where both branches agree nothing is guided
    return _edited(photo, trajectory, trajectory.context, guidance, Proximal(photo.denoiser, trajectory))


def _edited(
    photo: Photo, trajectory: Trajectory, null: NullEmbeddings | Context, guidance: float,
    denoiser: Denoiser | None = None, source_guidance: float | None = None,
) -> Tensor:  # fmt: skip
    sampling = Sampling(guidance, source_guidance)
    found = edit(denoiser or photo.denoiser, trajectory, null, photo.edited[:, None], photo.batch, sampling)
    return found.latents[:, 0]


def beside_random_noise(photo: Photo, guidance: float) -> Tensor:
    """Edit-friendly inversion with Prompt-to-Prompt's local blend alone: its noise holds the photo, so no attention is
    replaced and none of the noise is new."""
    steps = photo.schedule.steps
    trajectory = Trajectory(photo.latents.expand(steps + 1, *photo.latents.shape), photo.source, photo.schedule)
    free = [replace(plan.settings, cross_replace=0.0, self_replace=0.0, fresh_noise=0.0) for plan in photo.plans]
    plans = [[plan_edit(p.source, p.prompt, steps, own)] for p, own in zip(photo.plans, free, strict=True)]
    sampling = Sampling(guidance, path=RANDOM, skipped=SKIPPED)
    found = edit(photo.denoiser, trajectory, photo.empty[0], photo.asked[:, None], batch_edits(plans), sampling)
    return found.latents[:, 0]


def ddim_prompt_swap(photo: Photo, guidance: float) -> Tensor:
    """DDIM inversion, then sampling with the other prompt."""
    return reconstruct(photo.denoiser, photo.trajectory("ddim"), photo.empty[0], guidance, photo.asked)


def null_text_prompt_swap(photo: Photo, guidance: float) -> Tensor:
    """The authors' null embeddings, then sampling with the other prompt, without attention control."""
    null = photo.null("paper", guidance)
    return reconstruct(photo.denoiser, photo.trajectory("ddim"), null, guidance, photo.asked)


def sdedit(strength: float) -> Method:
    """SDEdit (Meng et al. 2022, arXiv 2108.01073): noise up to a share of the steps, then the other prompt."""

    def run(photo: Photo, guidance: float) -> Tensor:
        steps, whole = round(strength * photo.schedule.steps), photo.schedule
        schedule = Schedule(whole.timesteps[:steps], whole.alphas_cumprod[: steps + 1])
        alpha = schedule.alphas_cumprod[-1]
        noisy = alpha**0.5 * photo.latents + (1 - alpha) ** 0.5 * photo.noise()
        return _sampled(photo, noisy, schedule, guidance)

    return run


def from_noise(photo: Photo, guidance: float) -> Tensor:
    """The other prompt from random noise: the floor."""
    return _sampled(photo, photo.noise(), photo.schedule, guidance)


def _sampled(photo: Photo, noisy: Tensor, schedule: Schedule, guidance: float) -> Tensor:
    trajectory = Trajectory(noisy.expand(schedule.steps + 1, *noisy.shape), photo.asked, schedule)
    return reconstruct(photo.denoiser, trajectory, photo.empty[0], guidance)


def unchanged(photo: Photo, guidance: float) -> Tensor:
    """No edit at all, only the autoencoder: the ceiling of what a decoded picture can keep."""
    return photo.latents


DEFAULT = "fast"
UNGUIDED = ("unchanged",)
"""Methods without a guidance."""
METHODS: dict[str, Method] = {
    DEFAULT: prompt_to_prompt("fast"),
    "paper": prompt_to_prompt("paper"),
    "direct": prompt_to_prompt("direct"),
    "negative-prompt": prompt_to_prompt("negative-prompt"),
    "proximal": proximal,
    "AIDI": aidi_prompt_to_prompt,
    "SPDInv": spd_prompt_to_prompt,
    "MasaCtrl": masactrl,
    "plug-and-play": plug_and_play,
    "edit-friendly": edit_friendly,
    "random path": beside_random_noise,
    "LEDITS++": ledits,
    "virtual inversion": virtual_inversion,
    "DDIM + P2P": ddim_prompt_to_prompt,
    "DDIM + prompt": ddim_prompt_swap,
    "null-text + prompt": null_text_prompt_swap,
    "SDEdit 0.4": sdedit(0.4),
    "SDEdit 0.6": sdedit(0.6),
    "SDEdit 0.8": sdedit(0.8),
    "random noise": from_noise,
    "unchanged": unchanged,
}
"""By name, those of the literature by the name that it has there."""
