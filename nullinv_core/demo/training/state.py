"""Resumable training state in one safetensors file: weights, Adam moments, step. Written atomically."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file


def save_state(path: Path, step: int, modules: dict[str, torch.nn.Module], optimizer: torch.optim.Optimizer) -> None:
    """Write weights of ``modules``, the optimizer's moments and ``step`` (finished steps) to ``path``."""
    tensors = {f"{m}/{k}": v for m, module in modules.items() for k, v in module.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{k}": v for k, v in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, partial, {"step": str(step)})
    os.replace(partial, path)


def finished_steps(path: Path) -> int:
    """Steps that the state of a file has behind it; 0 where there is no file."""
    if not path.exists():
        return 0
    with safe_open(path, "pt") as file:
        return int(file.metadata()["step"])


def load_module(path: Path, name: str, module: torch.nn.Module) -> None:
    """Restore one of the modules that ``save_state`` wrote, without the optimizer."""
    module.load_state_dict(_tensors(path, name))


def _tensors(path: Path, name: str) -> dict[str, torch.Tensor]:
    """What a file holds under ``name/``, without that prefix."""
    with safe_open(path, "pt") as file:
        keys = [key for key in file.keys() if key.startswith(f"{name}/")]  # noqa: SIM118 (not a dict)
        return {key.removeprefix(f"{name}/"): file.get_tensor(key) for key in keys}


def load_state(path: Path, modules: dict[str, torch.nn.Module], optimizer: torch.optim.Optimizer) -> int:
    """Restore what ``save_state`` wrote; return the number of finished steps (0 where there is no file)."""
    if not path.exists():
        return 0
    step = finished_steps(path)
    for name, module in modules.items():
        load_module(path, name, module)
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in _tensors(path, "optimizer").items():
        index, key = name.split("/")
        moments.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return step
