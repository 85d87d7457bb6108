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
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ...backends.clip_vocabulary import LENGTH
from ...prompt_to_prompt.prompt import split_words
from ..captions import Reading, caption_of, reading_of, sample_wording
from ..looks import COLOURS, MATERIALS, STYLES
from ..objects import OBJECTS
from ..places import PLACES
from ..scenes import sample_look, sample_stage
from .state import finished_steps, load_module
from .steps import Clock, run
from .tokenizer import write_tokenizer

WIDTH = 128
MERGES = 203
STEPS = 900
RATE = 1e-3
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


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A CLIP text model of three layers, 128 wide, with its special tokens taken from the tokenizer."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=LENGTH,
            hidden_act="quick_gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def token_ids(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Padded token ids: int64 (texts, 77)."""
    return tokenizer(texts, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt").input_ids


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


def train(work: Path, tokenizer: CLIPTokenizer, device: str) -> CLIPTextModel:
    """Train to the end; return the model."""
    torch.manual_seed(1)
    model, path = new_text_encoder(tokenizer), work / "text.safetensors"
    if finished_steps(path) >= STEPS:
        load_module(path, "model", model)
        return model.eval()
    model = model.to(device)
    heads = torch.nn.ModuleDict({task: torch.nn.Linear(WIDTH, len(names)) for task, names in TASKS.items()}).to(device)
    optimizer = torch.optim.AdamW([*model.parameters(), *heads.parameters()], lr=RATE, weight_decay=0.01)

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

    run(path, {"model": model, "heads": heads}, optimizer, loss_of, Clock(STEPS, RATE), captured=False)
    return model.eval()
