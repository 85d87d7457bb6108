"""Train the text encoder of the clay world: every token must know the attributes of the toy that it belongs to.

From the last token of a toy's name one can read its colour, material and lid, from "hat" or "left" also whose it is,
from the last word of the place the place, and from the end token how many toys there are and in which style. The
encoder is causal, so a name cannot know what is said after it.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from ...prompt_to_prompt.prompt import split_words
from ..tokenizer import write_tokenizer
from ..train_text import WIDTH, new_text_encoder, token_ids
from ..training_loop import Budget, run_steps, warmup_cosine
from ..training_state import finished_steps, load_module
from .captions import Reading, caption_of, reading_of, sample_wording
from .looks import COLOURS, MATERIALS, STYLES
from .objects import OBJECTS
from .places import PLACES
from .scenes import sample_look, sample_stage

MERGES = 203
STEPS = 900
BATCH = 64
TASKS: dict[str, list[str]] = {
    "kind": list(OBJECTS),
    "colour": list(COLOURS),
    "material": list(MATERIALS),
    "lid": ["closed", "open"],
    "facing": ["left", "right"],
    "pose": ["sitting", "lying"],
    "wears": ["hat", "scarf"],
    "place": list(PLACES),
    "style": list(STYLES),
    "first": list(OBJECTS),
    "second": ["", *OBJECTS],
}
"""What can be read from tokens, and the values."""
SUFFIXES = {
    "left": ("facing", "left"),
    "right": ("facing", "right"),
    "sitting": ("pose", "sitting"),
    "lying": ("pose", "lying"),
    "hat": ("wears", "hat"),
    "scarf": ("wears", "scarf"),
}
"""Words after a name that say more of it."""


def word_counts() -> Counter[str]:
    """How often captions use each word, in 4,000 of them."""
    counts: Counter[str] = Counter()
    for number in range(4_000):
        counts.update(split_words(_caption(number)[1]))
    # the letters of rare words stay apart, so that some words are split in several tokens
    return Counter({word: count for word, count in counts.items() if count > 1})


def tokenizer_of(folder: Path) -> CLIPTokenizer:
    """Write the world's tokenizer to a folder and return it."""
    return write_tokenizer(folder, word_counts(), MERGES)


def _caption(number: int) -> tuple[Reading, str]:
    """A training caption and what it says."""
    rng = np.random.default_rng([number, 8])
    reading = reading_of(sample_look(rng, *sample_stage(rng), "train"))
    return reading, caption_of(reading, sample_wording(rng))


def word_labels(reading: Reading, text: str) -> list[dict[str, str]]:
    """What can be read from each word of a caption, task by task; the end token's last."""
    labels: list[dict[str, str]] = []
    seen = 0
    for word in split_words(text):
        of_word: dict[str, str] = {}
        if word in OBJECTS:
            thing = reading.things[seen]
            seen += 1
            lid = "open" if thing.open else "closed"
            of_word = {"kind": thing.kind, "colour": thing.colour, "material": thing.material, "lid": lid}
        elif seen and word in SUFFIXES:
            thing = reading.things[seen - 1]
            of_word = {"kind": thing.kind, "colour": thing.colour, SUFFIXES[word][0]: SUFFIXES[word][1]}
        labels.append(of_word)
    last = -3 if reading.style == "night" else -1
    labels[last] = {**labels[last], "place": reading.place}
    whole = {"place": reading.place, "style": reading.style, "first": reading.things[0].kind}
    second = reading.things[1].kind if len(reading.things) > 1 else ""
    return [*labels, {**whole, "second": second}]


def targets(tokenizer: CLIPTokenizer, captions: list[tuple[Reading, str]], ids: Tensor) -> dict[str, Tensor]:
    """Class of every token for every task: int64 (captions, 77), -100 where a token says nothing of the task."""
    result = {task: torch.full(ids.shape, -100) for task in TASKS}
    for row, (reading, text) in enumerate(captions):
        tokens = tokenizer.convert_ids_to_tokens(ids[row].tolist())
        ends = [i for i, token in enumerate(tokens) if token.endswith("</w>")]
        places = [*ends, tokens.index(tokenizer.eos_token)]
        for place, of_word in zip(places, word_labels(reading, text), strict=True):
            for task, value in of_word.items():
                result[task][row, place] = TASKS[task].index(value)
    return result


def train(work: Path, tokenizer: CLIPTokenizer, device: str, budget: Budget) -> CLIPTextModel | None:
    """Train up to the last step; return the model, or None when the budget ran out before."""
    torch.manual_seed(1)
    model, path = new_text_encoder(tokenizer), work / "text.safetensors"
    if finished_steps(path) >= STEPS:
        load_module(path, "model", model)
        return model.eval()
    model = model.to(device)
    heads = torch.nn.ModuleDict({task: torch.nn.Linear(WIDTH, len(names)) for task, names in TASKS.items()}).to(device)
    optimizer = torch.optim.AdamW([*model.parameters(), *heads.parameters()], lr=1e-3, weight_decay=0.01)

    def loss_of(step: int) -> Tensor:
        captions = [_caption(i) for i in range(10_000 + step * BATCH, 10_000 + (step + 1) * BATCH)]
        ids = token_ids(tokenizer, [text for _, text in captions])
        wanted = targets(tokenizer, captions, ids)
        # what comes after the end token is not asked for
        used = int((ids != tokenizer.pad_token_id).sum(1).max()) + 1
        with torch.autocast(device, torch.bfloat16):
            hidden = model(ids[:, :used].to(device)).last_hidden_state.float()
        losses = [
            torch.nn.functional.cross_entropy(head(hidden).flatten(0, 1), wanted[task][:, :used].flatten().to(device))
            for task, head in heads.items()
            if bool((wanted[task] >= 0).any())
        ]
        return torch.stack(losses).sum()

    rate = warmup_cosine(1e-3, STEPS, warmup=50)
    modules = {"model": model, "heads": heads}
    done = run_steps(path, modules, optimizer, loss_of, STEPS, rate, budget)
    return model.eval() if done else None
