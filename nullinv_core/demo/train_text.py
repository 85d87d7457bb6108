"""Train the demo's text encoder: every token must know the attributes of the thing it belongs to.

A small CLIP text model, taught on captions alone before the UNet sees it. From the last token of a shape's name one
can read its colour and size, from "background" the colour and texture, from the end token how many things there are.
Words are so bound to their things before the first picture is drawn, which is what two-object scenes need most.
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ..backends.clip_vocabulary import LENGTH
from ..prompt_to_prompt.prompt import split_words
from .scenes import COLOURS, RADII, TEXTURES, Scene, sample_scene
from .shapes import SHAPES
from .training_loop import Budget, run_steps, warmup_cosine

WIDTH = 128
STEPS = 350
BATCH = 64
TASKS = {"shape": list(SHAPES), "colour": list(COLOURS), "size": list(RADII), "texture": list(TEXTURES)}


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


def labels(scene: Scene) -> list[tuple[str, dict[str, str]]]:
    """(word, its attributes) in the order in which a scene's caption names its things."""
    things = [(o.shape, {"shape": o.shape, "colour": o.colour, "size": o.size}) for o in scene.objects]
    return [*things, ("background", {"colour": scene.background.colour, "texture": scene.background.texture})]


def targets(tokenizer: CLIPTokenizer, scenes: list[Scene], ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """Class of every token for every task: int64 (scenes, 77), -100 where a token says nothing of the task."""
    result = {task: torch.full(ids.shape, -100) for task in TASKS}
    for row, scene in enumerate(scenes):
        ends = _last_tokens(tokenizer, ids[row].tolist())
        words = split_words(scene.caption)
        start = 0
        for word, attributes in labels(scene):
            start = words.index(word, start) + 1
            for task, value in attributes.items():
                result[task][row, ends[start - 1]] = TASKS[task].index(value)
    return result


def _last_tokens(tokenizer: CLIPTokenizer, ids: list[int]) -> list[int]:
    return [i for i, token in enumerate(tokenizer.convert_ids_to_tokens(ids)) if token.endswith("</w>")]


def train(work: Path, tokenizer: CLIPTokenizer, device: str, budget: Budget) -> CLIPTextModel | None:
    """Train up to the stage's last step; return the model, or None when the budget ran out before."""
    torch.manual_seed(1)
    model = new_text_encoder(tokenizer).to(device)
    heads = torch.nn.ModuleDict({task: torch.nn.Linear(WIDTH, len(names)) for task, names in TASKS.items()}).to(device)
    optimizer = torch.optim.AdamW([*model.parameters(), *heads.parameters()], lr=1e-3, weight_decay=0.01)

    def loss_of(step: int) -> torch.Tensor:
        scenes = [sample_scene(i) for i in range(step * BATCH, (step + 1) * BATCH)]
        ids = token_ids(tokenizer, [s.caption for s in scenes])
        wanted = targets(tokenizer, scenes, ids)
        with torch.autocast(device, torch.bfloat16):
            hidden = model(ids.to(device)).last_hidden_state
        losses = [
            torch.nn.functional.cross_entropy(head(hidden.float()).flatten(0, 1), wanted[task].flatten().to(device))
            for task, head in heads.items()
        ]
        return torch.stack(losses).sum()

    rate = warmup_cosine(1e-3, STEPS, warmup=50)
    modules = {"model": model, "heads": heads}
    done = run_steps(work / "text.safetensors", modules, optimizer, loss_of, STEPS, rate, budget)
    return model.eval() if done else None
