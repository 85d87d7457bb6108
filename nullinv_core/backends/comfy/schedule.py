"""Schedules of ComfyUI's schedulers and SIGMAS, and back."""

from __future__ import annotations

import comfy.samplers
import numpy as np
import torch
from torch import Tensor

from ...schedule import Schedule, doubts
from .checks import check_model
from .notices import tell
from .protocols import Patcher
from .sigmas import alphas_of, check_sigmas, sigma_of

MOST_STEPS = 1000
"""One more than DDIM Invert takes."""


def schedule_of_sigmas(model: Patcher, sigmas: Tensor) -> Schedule:
    """The schedule of ComfyUI's SIGMAS, descending. Raises InputError where no photo can be inverted on them.

    Timesteps lie between those that the model was trained on where its noise levels do.
    """
    check_model(model)
    sampling = model.get_model_object("model_sampling")
    levels = [float(s) for s in sigmas.cpu().double().flip(0)]
    check_sigmas(levels, float(sampling.sigmas[0]), float(sampling.sigmas[-1]))
    trained = sampling.log_sigmas.cpu().double().numpy()
    timesteps = np.interp(np.log(levels[1:]), trained, np.arange(len(trained)))
    return Schedule(tuple(round(float(t), 4) for t in timesteps), alphas_of(levels))


def sigmas_of_schedule(schedule: Schedule) -> Tensor:
    """ComfyUI's SIGMAS of a schedule: float32 (T+1,), descending."""
    return torch.tensor([sigma_of(a) for a in reversed(schedule.alphas_cumprod)], dtype=torch.float32)


def schedule_of(model: Patcher, scheduler: str, steps: int) -> Schedule:
    """The schedule of one of ComfyUI's schedulers."""
    sampling = model.get_model_object("model_sampling")
    return schedule_of_sigmas(model, comfy.samplers.calculate_sigmas(sampling, scheduler, steps))


def schedule_of_node(model: Patcher, scheduler: str, steps: int) -> Schedule:
    """The schedule of DDIM Invert. The user is told where ComfyUI's nodes do not agree on it, and of what
    ``doubts`` says."""
    sampling = model.get_model_object("model_sampling")
    schedule = schedule_of(model, scheduler, steps)

    def agree(count: int) -> bool:
        return len(comfy.samplers.calculate_sigmas(sampling, scheduler, count)) == count + 1

    if schedule.steps > steps:
        close = [next(filter(agree, counts), None) for counts in (range(steps, 0, -1), range(steps, MOST_STEPS))]
        tell(
            f"{scheduler} makes {schedule.steps} steps of {steps}. A KSampler does the same; BasicScheduler leaves the "
            "first out, so give samplers that take SIGMAS those of this node; all agree at "
            f"{' or '.join(map(str, filter(None, close)))} steps"
        )
    if said := doubts(schedule):
        tell(said)
    return schedule
