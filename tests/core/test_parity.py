"""The library against the plain transcription in ``reference.py``."""

import pytest
import torch

from nullinv_core import EditSettings, NullTextSettings, batch_edits, invert, optimize_null_text, plan_edit
from nullinv_core.editing import edit, reconstruct
from nullinv_core.images import psnr
from nullinv_core.prompt_to_prompt.attention import map_grid

from . import reference
from .helpers import (
    context_of,
    controlled,
    empty_context,
    latents_of,
    tiny_schedule,
    tiny_unet,
    word_prompt,
)

SOURCE = "a red cat on grass"
STOP = 40.0
"""Loss at which the random network's timesteps end early, so that some do and some do not."""
SETTINGS = EditSettings(weights={"a": 1.5}, blend=["cat"])
EDITS = ("a blue cat on grass", "a red leopard on grass", "a big red cat on grass")


def both_sides(dtype, size=8, steps=5, settings=SETTINGS):
    """Run everything with the library and with the reference; return two dicts of tensors."""
    source, prompts = word_prompt(SOURCE), [word_prompt(t) for t in EDITS]
    context = context_of(source, dtype)[None]
    contexts = torch.stack([context_of(p, dtype) for p in prompts])
    null, latents, schedule = empty_context(dtype), latents_of(1, size, dtype), tiny_schedule(steps)
    plans = [plan_edit(source, p, steps, settings) for p in prompts]

    denoiser = controlled(tiny_unet(dtype))
    trajectory = invert(denoiser, latents, context, schedule)
    nulls, reached = optimize_null_text(denoiser, trajectory, null, NullTextSettings(inner_steps=4, early_stop=STOP))
    result = edit(denoiser, trajectory, nulls, contexts[None], batch_edits([plans]), 7.5)
    ours = {
        "trajectory": trajectory.latents[:, 0],
        "embeddings": nulls.embeddings[:, 0].flip(0),
        "losses": nulls.losses[:, 0].flip(0),
        "iterations": nulls.iterations[:, 0].flip(0),
        "reconstruction": reached[0],
        "edits": torch.cat([result.source, result.latents[0]]),
        "maps": result.maps[0],
    }

    unet = tiny_unet(dtype)
    unet.set_attn_processor(reference.DenseAttention())
    timesteps, alphas = schedule.timesteps, schedule.alphas_cumprod
    pivot = reference.inversion(unet, latents, context, timesteps, alphas)
    embeddings, losses, counts, end = reference.null_text(
        unet, pivot, context, null[None], timesteps, alphas, 7.5, inner=4, epsilon=STOP
    )
    grid = map_grid(size, size)[0]
    controller = reference.Controller(
        [p.alignment.mapping.to(dtype) for p in plans], [p.alignment.keep for p in plans],
        [p.equalizer.to(dtype) for p in plans], 0.8, 0.4, steps, grid**2,
    )  # fmt: skip
    unet.set_attn_processor(reference.DenseAttention(controller))
    words = [_positions(source, settings.blend)] + [_blend_positions(source, p, settings.blend) for p in prompts]
    edited = reference.edit(
        unet, pivot[-1], torch.cat([context, contexts]), embeddings, timesteps, alphas, 7.5, controller,
        (words, 0.2), grid,
    )  # fmt: skip
    count = len(controller.stored) * controller.stored[0].shape[1]
    theirs = {
        "trajectory": torch.cat(pivot),
        "embeddings": torch.cat(embeddings),
        "losses": torch.tensor(losses),
        "iterations": torch.tensor(counts),
        "reconstruction": end[0],
        "edits": edited,
        "maps": controller.maps(grid) / count,
    }
    return ours, theirs


def _positions(prompt, words):
    return [t for i, w in enumerate(prompt.words) if w in words for t in prompt.tokens_of_word(i)]


def _blend_positions(source, prompt, words):
    """The word itself, or what stands at its place (the prompts differ by one word there)."""
    return _positions(prompt, words) or prompt.tokens_of_word(source.words.index(words[0]))


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
    assert set(ours["iterations"].tolist()) == {1, 4}
    edits = ours["edits"]
    assert min((edits[i] - edits[j]).abs().max() for i in range(4) for j in range(i)) > 1e-3


def test_attention_edits_agree_on_grids_beyond_32():
    """Guards the limit of self-attention replacement: 36×36 = 1,296 positions keep their own self-attention."""
    ours, theirs = both_sides(torch.float64, size=36, steps=2)
    assert (ours["edits"] - theirs["edits"]).norm() <= 1e-6 * theirs["edits"].norm()


def test_float32_agrees_to_a_tenth_of_a_decibel(sides64):
    """Guards the everyday precision: float32 reaches the float64 result's quality against the pivot within 0.1 dB."""
    single, _ = both_sides(torch.float32)
    reached, pivot = sides64[0]["reconstruction"], sides64[0]["trajectory"][0]
    scale = pivot.abs().max()
    wanted = psnr(reached / scale, pivot / scale)
    assert abs(psnr(single["reconstruction"].double() / scale, pivot / scale) - wanted) < 0.1


def test_plain_guided_sampling_is_the_ddim_baseline(unet64):
    """Guards the baseline that reports compare with: guided DDIM with the empty prompt."""
    context, null = context_of(word_prompt(SOURCE))[None], empty_context()
    trajectory = invert(controlled(unet64), latents_of(), context, tiny_schedule())
    ours = reconstruct(controlled(unet64), trajectory, null, 7.5)
    schedule, latents = trajectory.schedule, trajectory.noisiest
    for i in range(schedule.steps, 0, -1):
        free = unet64(latents, torch.tensor(schedule.timesteps[i - 1]), null[None]).sample
        text = unet64(latents, torch.tensor(schedule.timesteps[i - 1]), context).sample
        noise = free + 7.5 * (text - free)
        latents = reference.ddim(latents, noise, schedule.alphas_cumprod[i], schedule.alphas_cumprod[i - 1])
    assert torch.allclose(ours, latents, rtol=1e-9, atol=1e-9)
