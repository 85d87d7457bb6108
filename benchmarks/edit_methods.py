"""Ways to edit a picture by its prompt, each a function of a photo and a guidance that returns clean latents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from zlib import crc32

import torch
from torch import Tensor

from nullinv_core import NullEmbeddings, Schedule, Trajectory, edit, invert, plan_edit, reconstruct
from nullinv_core.backends.diffusers import DiffusersModel
from nullinv_core.demo.run import EDIT_GUIDANCE
from nullinv_core.inversion import InversionMethod
from nullinv_core.presets import PRESETS, PresetName, embed
from nullinv_core.prompt_to_prompt.attention import batch_edits
from nullinv_core.prompt_to_prompt.edit import Edit
from nullinv_core.prompt_to_prompt.marks import literal

from .edit_cases import EditTask

STEPS = 50


@dataclass(frozen=True)
class Photo:
    """An encoded picture with its prompts, (1, tokens, width) each, and what methods have made of it so far.

    ``reconstructed``: (1, H, W, 3), decoded as it is.
    """

    model: DiffusersModel
    task: EditTask
    latents: Tensor
    reconstructed: Tensor
    source: Tensor
    edited: Tensor
    empty: Tensor
    schedule: Schedule
    plan: Edit
    made: dict[tuple[str, float], NullEmbeddings] = field(default_factory=dict)
    trajectories: dict[InversionMethod, Trajectory] = field(default_factory=dict)

    def trajectory(self, method: InversionMethod) -> Trajectory:
        """The photo's trajectory, made once."""
        if method not in self.trajectories:
            made = invert(self.model.denoiser, self.latents, self.source, self.schedule, method=method)
            self.trajectories[method] = made
        return self.trajectories[method]

    def null(self, preset: PresetName, guidance: float) -> NullEmbeddings:
        """Its null embeddings for a guidance, made once; a pinned source holds for any."""
        recipe = PRESETS[preset]
        key = (preset, 0.0 if recipe.pinned else guidance)
        if key not in self.made:
            trajectory = self.trajectory(recipe.inversion)
            self.made[key], _ = embed(self.model.denoiser, trajectory, self.empty, recipe, guidance)
        return self.made[key]


def photo_of(model: DiffusersModel, task: EditTask) -> Photo:
    """A task's picture, ready for the methods."""
    # the authors' texts know no weights: a bracket is a bracket
    prompts = [model.prompt(literal(text)) for text in (task.source_prompt, task.edit_prompt, "")]
    source, edited, empty = model.encode_prompts(prompts).split(1)
    latents = model.encode_image(torch.from_numpy(task.source)[None])
    plan = plan_edit(prompts[0], prompts[1], STEPS, task.settings)
    return Photo(model, task, latents, model.decode(latents), source, edited, empty, model.schedule(STEPS), plan)


Method = Callable[[Photo, float], Tensor]
"""Clean latents (1, C, h, w) of the edited picture."""


def prompt_to_prompt(preset: PresetName) -> Method:
    """Ours: a preset's embeddings, then Prompt-to-Prompt."""

    def run(photo: Photo, guidance: float) -> Tensor:
        return _edited(photo, photo.plan, PRESETS[preset].inversion, photo.null(preset, guidance), guidance)

    return run


def ddim_prompt_to_prompt(photo: Photo, guidance: float) -> Tensor:
    """DDIM inversion, then Prompt-to-Prompt under the empty prompt (Hertz et al. 2022, section 4)."""
    return _edited(photo, photo.plan, "ddim", photo.empty[0], guidance)


def _edited(
    photo: Photo, plan: Edit, inversion: InversionMethod, null: NullEmbeddings | Tensor, guidance: float
) -> Tensor:
    batch = batch_edits([[plan]])
    trajectory = photo.trajectory(inversion)
    return edit(photo.model.denoiser, trajectory, null, photo.edited[None], batch, guidance).latents[0]


def ddim_prompt_swap(photo: Photo, guidance: float) -> Tensor:
    """DDIM inversion, then sampling with the other prompt."""
    return reconstruct(photo.model.denoiser, photo.trajectory("ddim"), photo.empty[0], guidance, photo.edited)


def null_text_prompt_swap(photo: Photo, guidance: float) -> Tensor:
    """The authors' null embeddings, then sampling with the other prompt, without attention control."""
    null = photo.null("paper", guidance)
    return reconstruct(photo.model.denoiser, photo.trajectory("ddim"), null, guidance, photo.edited)


def sdedit(strength: float) -> Method:
    """SDEdit (Meng et al. 2022, arXiv 2108.01073): noise up to a share of the steps, then the other prompt."""

    def run(photo: Photo, guidance: float) -> Tensor:
        steps = round(strength * STEPS)
        whole = photo.schedule
        schedule = Schedule(whole.timesteps[:steps], whole.alphas_cumprod[: steps + 1])
        alpha = schedule.alphas_cumprod[-1]
        noisy = alpha**0.5 * photo.latents + (1 - alpha) ** 0.5 * _noise(photo)
        return _sampled(photo, noisy, schedule, guidance)

    return run


def from_noise(photo: Photo, guidance: float) -> Tensor:
    """The other prompt from random noise: the floor."""
    return _sampled(photo, _noise(photo), photo.schedule, guidance)


def _noise(photo: Photo) -> Tensor:
    # a seed for each photo: a run gives the same pictures whichever methods and photos it leaves out
    seed = crc32(photo.task.name.encode())
    return torch.randn(photo.latents.shape, generator=torch.Generator().manual_seed(seed)).to(photo.latents)


def _sampled(photo: Photo, noisy: Tensor, schedule: Schedule, guidance: float) -> Tensor:
    trajectory = Trajectory(noisy.expand(schedule.steps + 1, *noisy.shape), photo.edited, schedule)
    return reconstruct(photo.model.denoiser, trajectory, photo.empty[0], guidance)


def unchanged(photo: Photo, guidance: float) -> Tensor:
    """No edit at all, only the autoencoder: the ceiling of what a decoded picture can keep."""
    return photo.latents


DEFAULT = "fast"
METHODS: dict[str, tuple[Method, float]] = {
    DEFAULT: (prompt_to_prompt("fast"), EDIT_GUIDANCE),
    "paper": (prompt_to_prompt("paper"), 2.0),
    "direct": (prompt_to_prompt("direct"), 2.0),
    "negative-prompt": (prompt_to_prompt("negative-prompt"), 1.5),
    "DDIM + P2P": (ddim_prompt_to_prompt, 2.0),
    "DDIM + prompt": (ddim_prompt_swap, 3.0),
    "null-text + prompt": (null_text_prompt_swap, 2.0),
    "SDEdit 0.4": (sdedit(0.4), 5.0),
    "SDEdit 0.6": (sdedit(0.6), 3.0),
    "SDEdit 0.8": (sdedit(0.8), 1.5),
    "random noise": (from_noise, 3.0),
    "unchanged": (unchanged, 1.0),
}
"""By name: how, and at which guidance most tuning edits were right; of equals, the best gain."""
