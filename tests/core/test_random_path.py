"""Edits beside random noise of the photo: edit-friendly DDPM inversion with Prompt-to-Prompt."""

from dataclasses import replace
from math import sqrt

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nullinv_core import (
    Counted,
    EditSettings,
    InputError,
    Pin,
    Sampling,
    Trajectory,
    batch_edits,
    edit,
    embed,
    invert,
    plan_edit,
)
from nullinv_core.context import stack
from nullinv_core.drift import Check
from nullinv_core.editing import RANDOM
from nullinv_core.null_text.presets import PRESETS
from nullinv_core.random_path import random_path, step_beside
from nullinv_core.shared_guidance import without_shared

from .helpers import context_of, controlled, empty_context, latents_of, tiny_schedule, tiny_unet, word_prompt

SOURCE, EDIT, OTHER = (word_prompt(f"a {word} cat on grass") for word in ("red", "blue", "green"))
STEPS = 5
FREE = EditSettings(cross_replace=0.0, self_replace=0.0)


@pytest.fixture(scope="module")
def unet():
    return controlled(tiny_unet(torch.float64))


@pytest.fixture
def denoiser(unet):
    return Counted(unet)


def photo(images=1):
    """A trajectory of which only the clean end matters."""
    clean = latents_of(images)
    context = stack([context_of(SOURCE)] * images)
    return Trajectory(clean.expand(STEPS + 1, *clean.shape), context, tiny_schedule(STEPS))


def edited(denoiser, trajectory, edits=(EDIT,), settings=FREE, **options):
    contexts = stack([context_of(one) for one in edits])[None].expand(trajectory.batch, len(edits))
    plans = [[plan_edit(SOURCE, one, STEPS, settings) for one in edits]] * trajectory.batch
    sampling = Sampling(**{"guidance": 1.0, "path": RANDOM, **options})
    return edit(denoiser, trajectory, empty_context(), contexts, batch_edits(plans), sampling)


@given(st.integers(0, 2**31), st.integers(0, 2**31))
def test_every_point_of_the_path_is_the_photo_with_its_own_noise(first, second):
    """Guards eq. 5: unit noise at the schedule's level, another at each step, by the seed alone; the clean end is the
    photo."""
    whole = photo(2)
    path = random_path(whole, [first, second])
    assert torch.equal(path.clean, whole.clean) and path.schedule == whole.schedule
    alphas = torch.tensor(whole.schedule.alphas_cumprod[1:], dtype=torch.float64)[:, None, None, None, None]
    noise = (path.latents[1:] - alphas.sqrt() * whole.clean) / (1 - alphas).sqrt()
    assert 0.7 < float(noise.std()) < 1.3
    assert float((noise[1:] * noise[:-1]).mean().abs()) < 0.3
    alone = random_path(photo(1), [first])
    assert torch.equal(alone.latents[:, 0], path.latents[:, 0])
    assert torch.allclose(noise[:, 0], noise[:, 1]) is (first == second)


def test_an_edit_that_asks_for_nothing_is_the_photo(denoiser):
    """Guards the step: the same text gives the photo back, at any guidance, with steps left out or not."""
    for options in ({}, {"guidance": 7.5}, {"skipped": 0.4}):
        found = edited(denoiser, photo(), (SOURCE, EDIT), **options)
        assert torch.equal(found.source, photo().clean)
        assert torch.allclose(found.latents[:, 0], photo().clean, rtol=0, atol=1e-6)
        assert not torch.allclose(found.latents[:, 1], photo().clean, rtol=0, atol=1e-3)


def by_hand(unet, guidance, skipped):
    """The edit as its authors write it: noise maps of the photo first, then the other prompt along them."""
    schedule = tiny_schedule(STEPS)
    alphas, path = schedule.alphas_cumprod, random_path(photo(), [0]).latents

    def epsilon(latents, step, context):
        return unet(latents, schedule.level(step), context[None])

    def mean(latents, predicted, step):
        alpha, before = alphas[step], alphas[step - 1]
        sigma = sqrt((1 - before) / (1 - alpha)) * sqrt(1 - alpha / before)
        predicted_photo = (latents - sqrt(1 - alpha) * predicted) / sqrt(alpha)
        return sqrt(before) * predicted_photo + sqrt(1 - before - sigma**2) * predicted, sigma

    maps = {}
    for step in range(STEPS, 0, -1):
        at, sigma = mean(path[step], epsilon(path[step], step, context_of(SOURCE)), step)
        maps[step] = (path[step - 1] - at) / sigma
    latents = path[STEPS - skipped]
    for step in range(STEPS - skipped, 0, -1):
        text, null = epsilon(latents, step, context_of(EDIT)), epsilon(latents, step, empty_context())
        of_photo = epsilon(path[step], step, context_of(SOURCE)) - epsilon(path[step], step, empty_context())
        guided = text + (guidance - 1) * without_shared(text - null, of_photo)
        at, sigma = mean(latents, guided, step)
        latents = at + sigma * maps[step]
    return latents


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("skipped", [0, 2])
def test_edits_follow_the_authors_noise_maps(unet, guidance, skipped):
    """Guards the whole against a transcription: noise maps, guidance less the photo's share, steps left out."""
    found = edited(unet, photo(), guidance=guidance, skipped=skipped / STEPS)
    assert torch.allclose(found.latents[:, 0], by_hand(unet, guidance, skipped), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(
    ("guidance", "skipped", "samples"),
    [(1.0, 0.0, STEPS * 3), (7.5, 0.0, STEPS * 6), (1.0, 0.4, (STEPS - 2) * 3), (7.5, 0.95, 6)],
)
def test_its_price_is_the_steps_that_are_taken(denoiser, guidance, skipped, samples):
    """Guards the price: no inversion, at a guidance of 1 nothing under the empty text, no steps that are left out."""
    edited(denoiser, photo(), (EDIT, OTHER), guidance=guidance, skipped=skipped)
    assert denoiser.forwards == samples


def test_a_guidance_of_one_costs_no_empty_text_beside_the_trajectory(denoiser):
    """Guards the same of pinned edits, whose attention is still held."""
    context = context_of(SOURCE)[None]
    trajectory = invert(denoiser.denoiser, latents_of(1), context, tiny_schedule(STEPS))
    plans = batch_edits([[plan_edit(SOURCE, EDIT, STEPS, EditSettings(cross_replace=1.0))]])
    for guidance, samples in ((1.0, 2), (3.0, 3)):
        before = denoiser.forwards
        edit(denoiser, trajectory, Pin(empty_context()), context_of(EDIT)[None, None], plans, guidance)
        assert denoiser.forwards - before == samples * STEPS


def test_blend_words_hold_the_photo_beside_random_noise(denoiser):
    """Guards local blend there, with steps left out in which it would already act but nothing was seen yet."""
    settings = EditSettings(
        cross_replace=0.0, self_replace=0.0, blend_words=["cat"], blend_threshold=0.97, blend_start=0.0
    )
    found = edited(denoiser, photo(), settings=settings, skipped=0.4)
    moved = (found.latents[:, 0] - photo().clean).abs().amax(1) > 1e-9
    assert torch.equal(moved, found.mask[:, 0]) and 0 < int(moved.sum()) < moved.numel()


def test_a_model_that_drifts_is_told_where_steps_are_left_out(denoiser):
    """Guards the check beside the trajectory: nobody looks at the photo there, so the network is asked."""
    trajectory = invert(denoiser, latents_of(1), context_of(SOURCE)[None], tiny_schedule(STEPS))
    told = []
    for context in (SOURCE, OTHER):
        other = replace(trajectory, context=context_of(context)[None])
        edited(denoiser, other, path="trajectory", skipped=0.6, check=Check(told.append), guidance=3.0)
        assert len(told) == (context is OTHER)


def test_what_cannot_be_is_one_sentence(denoiser):
    """Guards the edge: optimized embeddings lead along the trajectory, and settings are checked."""
    trajectory = invert(denoiser, latents_of(1), context_of(SOURCE)[None], tiny_schedule(STEPS))
    null, _ = embed(denoiser, trajectory, empty_context(), PRESETS["negative-prompt"], 3.0)
    plans = batch_edits([[plan_edit(SOURCE, EDIT, STEPS)]])
    with pytest.raises(InputError, match="lead along the photo's trajectory"):
        edit(denoiser, trajectory, null, context_of(EDIT)[None, None], plans, Sampling(3.0, path=RANDOM))
    for wrong, said in (
        ({"path": "straight"}, "path must be one of"), ({"skipped": 1.5}, "skipped must lie in 0…0.95"),
        ({"source_guidance": 2.0}, "has no guidance of its own"),
        ({"skipped": 0.4, "settings": EditSettings(fresh_noise=0.5)}, "set fresh_noise or skipped to 0"),
        ({"skipped": 0.6, "settings": EditSettings(cross_replace=0.3, weights={"blue": 2})}, "acts in no step"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=said):
            edited(denoiser, trajectory, **wrong)
    for window in (0.0, 0.9):
        edited(denoiser, trajectory, skipped=0.6, settings=EditSettings(cross_replace=window, weights={"blue": 2}))


def test_a_step_keeps_the_photos_branch_exactly():
    """Guards rounding: the photo's branch is read, not calculated."""
    latents, epsilon = torch.randn(2, 3, 4, 8, 8), torch.randn(2, 3, 4, 8, 8)
    following = torch.randn(2, 4, 8, 8)
    found = step_beside(latents, epsilon, following, tiny_schedule(STEPS), 3)
    assert torch.equal(found[:, 0], following)
    same = (one[:, :1].expand_as(one) for one in (latents, epsilon))
    assert torch.equal(step_beside(*same, following, tiny_schedule(STEPS), 3)[:, 1], following)
