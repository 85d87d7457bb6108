"""The resumable training loop that every stage of the demo model shares."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from .training_state import load_state, save_state


@dataclass
class Budget:
    """Wall-clock minutes that a run may take, over all stages."""

    minutes: float = math.inf
    started: float = field(default_factory=time.monotonic)

    def spent(self) -> bool:
        """Whether the minutes are over."""
        return time.monotonic() - self.started > self.minutes * 60


def warmup_cosine(peak: float, total: int, warmup: int) -> Callable[[int], float]:
    """Learning rate by step: linear up to ``peak``, then a cosine to zero at ``total``."""

    def rate(step: int) -> float:
        if step < warmup:
            return peak * (step + 1) / warmup
        return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))

    return rate


def run_steps(
    path: Path,
    modules: dict[str, torch.nn.Module],
    optimizer: torch.optim.Optimizer,
    loss_of: Callable[[int], torch.Tensor],
    total: int,
    rate: Callable[[int], float],
    budget: Budget,
    after_step: Callable[[int], None] = lambda step: None,
    save_seconds: float = 180.0,
) -> bool:
    """Run the steps that are left up to ``total``, saving to ``path``; return whether all are done.

    ``loss_of(step)`` must depend on the step alone (and the weights), so that a resumed run repeats an unbroken one.
    """
    step = load_state(path, modules, optimizer)
    saved, started, first, mean = time.monotonic(), time.monotonic(), step, 0.0
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    while step < total and not budget.spent():
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        loss = loss_of(step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        after_step(step)
        step += 1
        mean += (loss.item() - mean) / min(step - first, 50)
        if step % 50 == 0:
            pace = (time.monotonic() - started) / (step - first)
            print(f"{path.stem} step {step}/{total} loss {mean:.5f} {pace:.2f} s/step", flush=True)
        if time.monotonic() - saved > save_seconds:
            save_state(path, step, modules, optimizer)
            saved = time.monotonic()
    save_state(path, step, modules, optimizer)
    return step >= total
