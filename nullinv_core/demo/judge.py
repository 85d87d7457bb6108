"""A judge that says what a picture shows: a small classifier, trained on renderings and no part of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from .captions import Reading, Said, reading_of
from .edits import EditCase
from .looks import COLOURS, MATERIALS, STYLES
from .objects import OBJECTS
from .places import PLACES

TOY: dict[str, list[str]] = {
    "kind": [*OBJECTS, ""],
    "colour": [*COLOURS, ""],
    "material": [*MATERIALS, ""],
    "facing": ["", "left", "right"],
    "pose": ["", "lying"],
    "wears": ["", "hat", "scarf"],
    "open": ["", "open"],
}
"""What is read of each of two toys from left to right, and the values; where there is no second one all are empty."""
WHOLE: dict[str, list[str]] = {"place": list(PLACES), "style": list(STYLES)}
HEADS = {
    **{f"{name}-{slot}": values for slot in (0, 1) for name, values in TOY.items()},
    **WHOLE,
}
COLOURLESS = ("pencil", "monochrome")
"""Styles in which no colour can be read, and hardly a material or a place."""


JUDGE = Path(__file__).parent / "model" / "judge.safetensors"


@cache
def load_judge(file: Path = JUDGE) -> Judge:
    """The judge that ships with the demo model, or that of another file."""
    judge = Judge()
    judge.load_state_dict(load_file(file))
    return judge.eval()


class Judge(nn.Module):
    """Pictures (n, 3, 128, 128) in 0…1 to the logits of every head: dict of (n, values)."""

    def __init__(self, widths: Sequence[int] = (32, 64, 96, 128)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, width in zip((3, *widths), widths, strict=False):
            layers += [_block(before, width, 2), _block(width, width, 1)]
        self.features = nn.Sequential(*layers)
        # what lies to the left and what to the right matters more than how high it lies
        pooled = nn.Sequential(nn.AvgPool2d((4, 1)), nn.Flatten())
        self.hidden = nn.Sequential(pooled, nn.Linear(widths[-1] * 16, 384), nn.ReLU(), nn.Dropout(0.1))
        self.heads = nn.ModuleDict({name: nn.Linear(384, len(values)) for name, values in HEADS.items()})

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """See the class."""
        hidden = self.hidden(self.features(pictures * 2 - 1))
        return {name: head(hidden) for name, head in self.heads.items()}


def _block(before: int, after: int, stride: int) -> nn.Module:
    convolution = nn.Conv2d(before, after, 3, stride, 1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU(inplace=True))


def classes(reading: Reading) -> dict[str, int]:
    """The right class of every head; -100 where a style does not show it."""
    result = {name: values.index(getattr(reading, name)) for name, values in WHOLE.items()}
    for slot in (0, 1):
        said = reading.things[slot] if slot < len(reading.things) else Said("", "", "")
        for name, values in TOY.items():
            value = getattr(said, name)
            result[f"{name}-{slot}"] = values.index({True: "open", False: ""}.get(value, value))
        if reading.style in COLOURLESS and said.kind:
            result[f"colour-{slot}"] = -100
    return result


def loss_of(logits: dict[str, Tensor], wanted: Tensor, kinds: float = 1.0) -> Tensor:
    """Sum over heads of the mean cross entropy, that of the kinds of toys times ``kinds``.

    ``wanted``: int64 (n, heads), each row ``classes``' values.
    """
    losses = []
    for column, (name, values) in enumerate(logits.items()):
        target, weight = wanted[:, column], kinds if name.startswith("kind") else 1.0
        asked = (target >= 0).sum().clamp_min(1)
        losses.append(weight * nn.functional.cross_entropy(values.float(), target, reduction="sum") / asked)
    return torch.stack(losses).sum()


@dataclass(frozen=True)
class Verdict:
    """What a picture shows beside what it should, by the judge; ``wrong`` in words, empty when all is right."""

    seen: Reading
    wrong: tuple[str, ...]


def read(judge: Judge, pictures: Tensor) -> list[Reading]:
    """What pictures (n, 128, 128, 3) in 0…1 show."""
    with torch.no_grad():
        parts = [judge(part.permute(0, 3, 1, 2)) for part in pictures.split(64)]
    found = {name: torch.cat([p[name] for p in parts]).argmax(1).tolist() for name in HEADS}
    return [_reading({name: HEADS[name][found[name][row]] for name in HEADS}) for row in range(len(pictures))]


def _reading(values: dict[str, str]) -> Reading:
    things = []
    for slot in (0, 1):
        said = {name: values[f"{name}-{slot}"] for name in TOY}
        if said["kind"]:
            things.append(Said(**{**said, "open": said["open"] == "open"}))  # type: ignore[arg-type]
    return Reading(tuple(things), values["place"], values["style"])


def verdicts(judge: Judge, pictures: Tensor, asked: Sequence[Reading]) -> list[Verdict]:
    """What is wrong with pictures (n, 128, 128, 3): toys, their colours and the place, as captions name them."""
    return [
        Verdict(seen, tuple(_wrong(seen, wanted))) for seen, wanted in zip(read(judge, pictures), asked, strict=True)
    ]


def wrong_edit(picture: np.ndarray, case: EditCase, judge: Judge | None = None) -> list[str]:
    """What is wrong with an edited picture (128, 128, 3) in 0…1, in words: as ``verdicts``, and whatever the edit asks
    for; by the judge that ships, unless another is given."""
    source, target = reading_of(case.source), reading_of(case.target)
    seen = read(judge or load_judge(), torch.from_numpy(picture)[None])[0]
    wrong = _wrong(seen, target)
    if wrong or len(source.things) != len(target.things):
        return wrong
    for found, before, after in zip(seen.things, source.things, target.things, strict=True):
        for name in ("material", "facing", "pose", "wears", "open"):
            asked = getattr(after, name)
            if asked != getattr(before, name) and getattr(found, name) != asked:
                wrong.append(f"{after.kind}: {name} is {getattr(found, name) or 'none'}, not {asked or 'none'}")
    return wrong


def _wrong(seen: Reading, wanted: Reading) -> list[str]:
    wrong = [] if seen.place == wanted.place or wanted.style == "pencil" else [f"{seen.place}, not {wanted.place}"]
    if seen.style != wanted.style:
        wrong.append(f"{seen.style}, not {wanted.style}")
    if len(seen.things) != len(wanted.things):
        return [*wrong, f"{len(seen.things)} toys, not {len(wanted.things)}"]
    for found, said in zip(seen.things, wanted.things, strict=True):
        if found.kind != said.kind:
            wrong.append(f"{found.kind}, not {said.kind}")
        elif wanted.style not in COLOURLESS and found.colour != said.colour:
            wrong.append(f"{found.colour} {said.kind}, not {said.colour}")
    return wrong
