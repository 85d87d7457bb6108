"""What of a model decides an inversion, in numbers that every backend computes alike, whatever it calls the weights.

Weights are compared by values, not by a hash: one program keeps them as they are stored, another rounds them to float16
or bfloat16. Layouts name a UNet's weights differently and shape them alike, so for each shape the sums over all weights
of it are kept.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, short
from ..schedule import SAME_LEVEL

SAMPLES = 16
"""Values that are read of each weight."""
GOLDEN = (math.sqrt(5) - 1) / 2
ROUNDING, CLOSEST, COARSEST = 0.625, 1e-5, 5e-3
"""How far the same weights may be apart, in units of their norm: a little more than half the step of the coarser type;
never more than bfloat16 asks for, as weights in eight bits give other results."""
LEVELS = 11
"""Noise levels that are compared."""
PREDICTION_NAMES = {"epsilon": "ε", "v_prediction": "v"}


@dataclass(frozen=True)
class Fingerprint:
    """A model, as far as it decides an inversion.

    ``weights``: of the UNet, by shape ("320x4x3x3"): the root of the sum of squares of the values that are read, then
    the sums over all weights of that shape. ``prediction``: "epsilon", "v_prediction" or another name.
    ``noise_levels``: how many there are, then ᾱ of some. ``changes``: what else was done to the model, by its name
    for people ("LoRA"). ``digest``: what files from before all this hold alone. ``patches``: names of what acts while
    the model runs, which need not change what it predicts; they only explain a difference that was measured.
    """

    weights: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    prediction: str = ""
    noise_levels: tuple[float, ...] = ()
    changes: Mapping[str, str] = field(default_factory=dict)
    step: float = 0.0
    digest: str = ""
    patches: tuple[str, ...] = ()


def fingerprint(
    weights: Iterable[Tensor],
    prediction: str,
    alphas_cumprod: Sequence[float],
    changes: Mapping[str, str] | None = None,
) -> Fingerprint:
    """The fingerprint of a UNet's weights, what it predicts and ᾱ of every training timestep."""
    sums: dict[str, Tensor] = {}
    squares: dict[str, float] = {}
    step = 0.0
    for weight in weights:
        # single numbers are scales of weights in eight bits
        if weight.ndim and weight.numel():
            shape, values = "x".join(map(str, weight.shape)), sampled(weight)
            sums[shape] = sums.get(shape, torch.zeros_like(values)) + values
            squares[shape] = squares.get(shape, 0.0) + float(values.square().sum())
            step = max(step, torch.finfo(weight.dtype).eps if weight.is_floating_point() else 0.0)
    read = {s: tuple(_short(v) for v in (math.sqrt(squares[s]), *sums[s].tolist())) for s in sorted(sums)}
    last = len(alphas_cumprod) - 1
    levels = [float(alphas_cumprod[round(last * i / (LEVELS - 1))]) for i in range(LEVELS)]
    return Fingerprint(read, prediction, (float(last + 1), *map(_short, levels)), dict(changes or {}), step)


def sampled(weight: Tensor) -> Tensor:
    """At most ``SAMPLES`` values of a weight, float64 on the CPU, spread so that no row or column is preferred."""
    flat = _flat(weight)
    if len(flat) > SAMPLES:
        places = (torch.arange(1, SAMPLES + 1, dtype=torch.float64) * GOLDEN % 1 * len(flat)).long()
        flat = flat[places.to(flat.device)]
    return flat.to("cpu", torch.float32).double()


def _flat(weight: Tensor) -> Tensor:
    """The numbers of a weight in a row, as they are kept: packed ones are not unpacked."""
    return weight.detach().as_subclass(Tensor).reshape(-1)


def difference(made_with: Fingerprint, here: Fingerprint) -> str:
    """In words how the model that made an inversion differs from the one at hand; an empty text where it does not."""
    if not made_with.weights:
        other = "it is from an older version, which knew its own models alone, and not this one"
        return "" if made_with.digest == here.digest else other
    if made_with.prediction != here.prediction:
        there, now = (PREDICTION_NAMES.get(model.prediction, short(model.prediction)) for model in (made_with, here))
        return f"that one predicts {there}, this one {now}"
    if not _same(made_with.noise_levels, here.noise_levels, SAME_LEVEL):
        return "its noise levels are others"
    if set(made_with.weights) != set(here.weights):
        return "its UNet is built otherwise"
    rounding = min(max(ROUNDING * max(made_with.step, here.step), CLOSEST), COARSEST)
    if not all(_apart(made_with.weights[shape], here.weights[shape]) <= rounding for shape in here.weights):
        return "its weights are others"
    for name in (*made_with.changes, *here.changes):
        if name not in here.changes:
            return f"with {short(name)} there, without it here"
        if name not in made_with.changes:
            return f"without {short(name)} there, with it here"
        if made_with.changes[name] != here.changes[name]:
            return f"with another {short(name)} there"
    return ""


def other_patches(made_with: Fingerprint, here: Fingerprint) -> str:
    """In words which patches one of two models has alone; an empty text where they have the same."""
    gone = sorted(set(made_with.patches) - set(here.patches))
    new = sorted(set(here.patches) - set(made_with.patches))
    parts = [
        f"{what}: {', '.join(map(short, names))}" for what, names in (("only there", gone), ("only here", new)) if names
    ]
    return "; ".join(parts)


def digest_of(weights: Mapping[str, Tensor], kind: str = "") -> str:
    """SHA-256 over ``kind`` and the names, shapes and 64 spread values of every weight.

    Tells tensors under the same names apart; it is no protection against tampering.
    """
    digest = hashlib.sha256(kind.encode())
    for name in sorted(weights):
        tensor = weights[name]
        flat = _flat(tensor)
        sample = flat[:: max(1, flat.numel() // 64)][:64].to("cpu", torch.float32).contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()


def sha256_of(model: Fingerprint) -> str:
    """SHA-256 of ``to_json``, by which lists of files name a model."""
    return hashlib.sha256(json.dumps(to_json(model), sort_keys=True).encode()).hexdigest()


def to_json(model: Fingerprint) -> Any:
    """What ``from_json`` reads."""
    if not model.weights:
        return model.digest
    return {
        "step": model.step,
        "weights": {shape: list(values) for shape, values in model.weights.items()},
        "prediction": model.prediction,
        "noise_levels": list(model.noise_levels),
        "changes": dict(model.changes),
        **({"patches": list(model.patches)} if model.patches else {}),
    }


def from_json(found: Any) -> Fingerprint:
    """A fingerprint from a file's header; raises InputError where it is none."""
    if isinstance(found, str):
        return Fingerprint(digest=found)
    try:
        weights = {str(shape): _numbers(values) for shape, values in found["weights"].items()}
        changes = {str(name): str(value) for name, value in found["changes"].items()}
        (step,) = _numbers([found["step"]])
        patches = tuple(map(str, found.get("patches", ())))
        levels = _numbers(found["noise_levels"])
        return Fingerprint(weights, str(found["prediction"]), levels, changes, step, patches=patches)
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise InputError("its fingerprint is broken") from error


def _numbers(values: Any) -> tuple[float, ...]:
    if not isinstance(values, list) or not all(type(v) in (int, float) and abs(v) < math.inf for v in values):
        raise InputError("its fingerprint holds something other than numbers")
    return tuple(map(float, values))


def _short(value: float) -> float:
    """Seven digits: what float32 holds."""
    return float(f"{value:.7g}")


def _same(levels: tuple[float, ...], other: tuple[float, ...], tolerance: float) -> bool:
    return len(levels) == len(other) and all(
        math.isclose(a, b, rel_tol=tolerance) for a, b in zip(levels, other, strict=True)
    )


def _apart(values: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Distance of two sums in units of the values that went into them."""
    if len(values) != len(other):
        return math.inf
    norm = max(values[0], other[0])
    return math.dist(values, other) / norm if norm else 0.0
