"""The training loop of the clay world: one step as a function, captured as a CUDA graph where there is a GPU."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from .state import load_state, save_state

REPORT = 200
"""Steps between two lines of the log."""


@dataclass
class Clock:
    """How far a training is: by steps, and by the time of day where it has to end, so that it ends in time anywhere.

    ``total``: steps of a whole training; ``deadline``: seconds of ``time.time()``, the learning rate falls with them
    from ``peak``. ``save_seconds``: how often it is saved.
    """

    total: int
    peak: float
    deadline: float = math.inf
    save_seconds: float = 180.0
    started: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        if math.isnan(self.deadline):
            raise ValueError("the deadline of a training must be a time, not NaN")

    def progress(self, step: int) -> float:
        """Share in 0…1 that is done."""
        return min(1.0, max(step / self.total, (time.time() - self.started) / max(1.0, self.deadline - self.started)))


def cosine(progress: float, step: int, peak: float, warmup: int = 100) -> float:
    """Learning rate: linear up to ``peak`` in ``warmup`` steps, then a cosine to zero at the end."""
    return peak * min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * progress))


def run(
    path: Path,
    modules: dict[str, torch.nn.Module],
    optimizer: torch.optim.Optimizer,
    loss_of: Callable[[int], Tensor],
    clock: Clock,
    before_step: Callable[[int, float], None] = lambda step, progress: None,
    captured: bool = True,
) -> None:
    """Train until ``clock`` says it is done, saving to ``path``; an interrupted run goes on from there.

    ``loss_of(step)`` draws its randomness from PyTorch's default generator, which is seeded by the step on a CPU. On a
    GPU a step is captured once (unless not ``captured``), so the loss must not look at its number there, and must read
    what changes from tensors that stay where they are.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    on_gpu = parameters[0].is_cuda
    step = load_state(path, modules, optimizer)
    rate = torch.zeros((), device=parameters[0].device) if on_gpu else 0.0
    for group in optimizer.param_groups:
        group["lr"] = rate

    def train_step(step: int) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        return loss.detach()

    once = _captured(train_step) if on_gpu and captured else train_step
    clock.started = time.time()
    saved = started = time.monotonic()
    first, total = step, torch.zeros((), device=parameters[0].device)
    while (progress := clock.progress(step)) < 1:
        before_step(step, progress)
        value = cosine(progress, step, clock.peak)
        if isinstance(rate, Tensor):
            rate.fill_(value)
        else:
            torch.manual_seed(step)
            for group in optimizer.param_groups:
                group["lr"] = value
        total += once(step)
        step += 1
        if step % REPORT == 0:
            pace = (time.monotonic() - started) / (step - first)
            print(f"{path.stem} step {step} ({progress:.0%}) loss {float(total) / REPORT:.5f} {pace:.4f} s", flush=True)
            total.zero_()
        if time.monotonic() - saved > clock.save_seconds:
            save_state(path, step, modules, optimizer)
            saved = time.monotonic()
    save_state(path, max(step, clock.total), modules, optimizer)


def _captured(step: Callable[[int], Tensor]) -> Callable[[int], Tensor]:
    """The step as a CUDA graph: thousands of small kernels started at once. Runs it three times at rate 0."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step(0)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            loss = step(0)
    except RuntimeError as error:
        print(f"the step cannot be captured, which makes it several times slower: {error}", flush=True)
        return step

    def replay(_: int) -> Tensor:
        graph.replay()
        return loss

    return replay
