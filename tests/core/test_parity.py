"""The library against the plain transcription in ``benchmarks/reference.py``."""

import dataclasses

import pytest
import torch

from benchmarks import reference
from nullinv_core import EditSettings, NullTextSettings, batch_edits, invert, optimize_null_text, plan_edit
from nullinv_core.context import stack
from nullinv_core.editing import edit, reconstruct

from .helpers import (
    context_of,
    controlled,
    empty_context,
    latents_of,
    tiny_schedule,
    tiny_unet,
    word_prompt,
)

# tokens of the source: start, a, red, cat, on, grass, end, three padding
SOURCE = "a red cat on grass"
EDITS = ("a blue cat on grass", "a red leopard on grass", "a big red cat on grass")
# what each edit's tokens take from the source, written by hand: (source token, edit token, share)
PAIRS = (
    [(i, i, 1.0) for i in range(10)],
    [(0, 0, 1.0), (1, 1, 1.0), (2, 2, 1.0), (3, 3, 0.5), (3, 4, 0.5), (4, 5, 1.0), (5, 6, 1.0), (6, 7, 1.0),
     (7, 8, 1.0), (8, 9, 1.0), (9, 9, 1.0)],
    [(0, 0, 1.0), (1, 1, 1.0), (2, 3, 1.0), (3, 4, 1.0), (4, 5, 1.0), (5, 6, 1.0), (6, 7, 1.0), (7, 8, 1.0),
     (8, 9, 1.0)],
)  # fmt: skip
CAT = ([3], [3], [3, 4], [4])
GRASS = ([5], [5], [6], [6])
ON = (4, 5, 5)
STOP, GROWTH = 10.0, 25.0
"""Loss under which the random network's timesteps end early, and its growth, so that some do and some do not."""
SETTINGS = EditSettings(
    weights={"a": 1.5}, blend_words=["cat"], exclude_words=["grass"], word_windows={"on": (0.2, 0.6)}
)


def windows_by_hand(steps):
    """Edit tokens whose window is open, per edit and step: the first 0.8 of the steps, "on" from 0.2 to 0.6."""
    return [
        [
            [j for j in range(10) if (int(0.2 * steps) <= i < int(0.6 * steps) if j == on else i < int(0.8 * steps))]
            for i in range(steps)
        ]
        for on in ON
    ]


def ours_of(denoiser, context, contexts, null, latents, schedule, settings, guidance=7.5):
    """Everything by the library."""
    source, prompts = word_prompt(SOURCE), [word_prompt(t) for t in EDITS]
    plans = [plan_edit(source, p, schedule.steps, settings) for p in prompts]
    trajectory = invert(denoiser, latents, context, schedule)
    nulls, reached = optimize_null_text(
        denoiser,
        trajectory,
        null,
        NullTextSettings(guidance=guidance, inner_steps=4, early_stop=STOP, early_stop_growth=GROWTH),
    )
    result = edit(denoiser, trajectory, nulls, contexts[None], batch_edits([plans]), guidance)
    return {
        "trajectory": trajectory.latents[:, 0],
        "embeddings": nulls.embeddings.text[:, 0].flip(0),
        "losses": nulls.losses[:, 0].flip(0),
        "iterations": nulls.iterations[:, 0].flip(0),
        "reconstruction": reached[0],
        "edits": torch.cat([result.source, result.latents[0]]),
        "maps": result.maps[0],
    }


def theirs_of(unet, context, contexts, null, latents, schedule, self_end, grid, guidance=7.5):
    """Everything by the transcription."""
    unet.set_attn_processor(reference.DenseAttention())
    timesteps, alphas = schedule.timesteps, schedule.alphas_cumprod
    pivot = reference.inversion(unet, latents, context.text, timesteps, alphas)
    embeddings, losses, counts, end = reference.null_text(
        unet, pivot, context.text, null.text[None], timesteps, alphas, guidance, inner=4, epsilon=STOP, growth=GROWTH
    )
    controller = reference.Controller(PAIRS, [{1: 1.5}] * 3, windows_by_hand(len(timesteps)), self_end, grid**2)
    unet.set_attn_processor(reference.DenseAttention(controller))
    edited = reference.edit(
        unet, pivot[-1], torch.cat([context.text, contexts.text]), embeddings, timesteps, alphas, guidance, controller,
        (CAT, GRASS, 0.2), grid,
    )  # fmt: skip
    return {
        "trajectory": torch.cat(pivot),
        "embeddings": torch.cat(embeddings),
        "losses": torch.tensor(losses),
        "iterations": torch.tensor(counts),
        "reconstruction": end[0],
        "edits": edited,
        "maps": controller.maps(grid) / (len(controller.stored) * controller.stored[0].shape[1]),
    }


def both_sides(dtype, size=8, steps=5, settings=SETTINGS, self_end=2, grid=8):
    """Run everything with the library and with the reference; return two dicts of tensors."""
    given = (
        context_of(word_prompt(SOURCE), dtype)[None],
        stack([context_of(word_prompt(t), dtype) for t in EDITS]),
        empty_context(dtype),
        latents_of(1, size, dtype),
        tiny_schedule(steps),
    )
    ours = ours_of(controlled(tiny_unet(dtype)), *given, settings)
    return ours, theirs_of(tiny_unet(dtype), *given, self_end, grid)


@pytest.fixture(scope="module")
def sides64():
    return both_sides(torch.float64)


@pytest.mark.parametrize(
    "what", ["trajectory", "embeddings", "losses", "iterations", "reconstruction", "edits", "maps"]
)
def test_float64_equals_the_transcription(sides64, what):
    """Guards every stage of the algorithm: 1e-6 relative against code that shares nothing with it."""
    ours, theirs = (side[what].double() for side in sides64)
    assert (ours - theirs).norm() <= 1e-6 * theirs.norm()


def test_the_edits_of_the_parity_case_really_differ(sides64):
    """Guards the parity test itself: the optimization moved, the edits are neither the source nor each other."""
    ours = sides64[0]
    # the last step ends early only because the threshold has grown
    assert ours["iterations"].tolist() == [1, 2, 4, 4, 1] and ours["losses"][-1] > STOP
    edits = ours["edits"]
    assert min((edits[i] - edits[j]).abs().max() for i in range(4) for j in range(i)) > 1e-3


def test_attention_edits_agree_on_grids_beyond_32():
    """Guards the limit of self-attention replacement: 36×36 = 1,296 positions keep their own self-attention."""
    settings = dataclasses.replace(SETTINGS, self_replace=1.0)
    ours, theirs = both_sides(torch.float64, size=36, steps=2, settings=settings, self_end=2, grid=18)
    assert (ours["edits"] - theirs["edits"]).norm() <= 1e-6 * theirs["edits"].norm()
    without = both_sides(torch.float64, size=36, steps=2, settings=SETTINGS, self_end=0, grid=18)[0]
    assert (ours["edits"] - without["edits"]).abs().max() > 1e-3


def test_plain_guided_sampling_is_the_ddim_baseline(unet64):
    """Guards the baseline that reports compare with: guided DDIM with the empty prompt."""
    context, null = context_of(word_prompt(SOURCE))[None], empty_context()
    trajectory = invert(controlled(unet64), latents_of(), context, tiny_schedule())
    ours = reconstruct(controlled(unet64), trajectory, null, 7.5)
    schedule, latents = trajectory.schedule, trajectory.noisiest
    for i in range(schedule.steps, 0, -1):
        free = unet64(latents, torch.tensor(schedule.timesteps[i - 1]), null.text[None]).sample
        text = unet64(latents, torch.tensor(schedule.timesteps[i - 1]), context.text).sample
        noise = free + 7.5 * (text - free)
        latents = reference.ddim(latents, noise, schedule.alphas_cumprod[i], schedule.alphas_cumprod[i - 1])
    assert torch.allclose(ours, latents, rtol=1e-9, atol=1e-9)
