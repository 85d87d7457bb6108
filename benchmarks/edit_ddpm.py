"""Edits along random paths of the photo in place of its DDIM trajectory."""

from __future__ import annotations

from collections.abc import Callable
from math import exp, sqrt

import torch
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, pad

from nullinv_core.context import Context, cat
from nullinv_core.denoiser import check_finite, no_gradients
from nullinv_core.prompt_to_prompt.alignment import align_words
from nullinv_core.prompt_to_prompt.grids import map_grid
from nullinv_core.prompt_to_prompt.maps import AttentionMaps, AttentionReader
from nullinv_core.random_path import mean_and_deviation
from nullinv_core.schedule import guide, predicted_clean, steps_of

from .edit_photo import Photo

SKIPPED = 0.36
"""Edit-friendly inversion: the share of the noisiest steps that is left out; its authors' 36 of 100."""
LEDITS_SKIPPED, MASKED, BY_WORDS = 0.15, 0.75, 800
"""LEDITS++: the same, the quantile above which a concept's guidance counts, and the timestep beyond which the attention
to its words decides alone."""


def noise_maps(photo: Photo, contexts: Context, skipped: float) -> tuple[Tensor, Tensor]:
    """Edit-friendly z_1 … z_S and the noise n_1 … n_S that leads down them (Huberman-Spiegelglas et al. 2023, arXiv
    2304.06140, eq. 5 and 6), (S, B, C, h, w) each, step 1 first, up to the last step that is not ``skipped``.

    Every z_t has its own noise, so that neighbours are far apart and their n_t hold the photo.
    """
    schedule, clean = photo.schedule, photo.latents
    last = schedule.steps - steps_of(skipped, schedule.steps)
    noisy = [
        sqrt(alpha) * clean + sqrt(1 - alpha) * photo.noise(step)
        for step, alpha in enumerate(schedule.alphas_cumprod[1 : last + 1], 1)
    ]
    maps: list[Tensor] = []
    following = clean
    with no_gradients():
        for step, latents in enumerate(noisy, 1):
            level = schedule.level(step)
            epsilon = check_finite(photo.denoiser(latents, level, contexts), level, step)
            mean, deviation = mean_and_deviation(latents, epsilon, schedule, step)
            maps.append((following - mean) / deviation)
            following = latents
    return torch.stack(noisy), torch.stack(maps)


Guided = Callable[[Tensor, int], Tensor]
"""ε of latents at a step."""


def along_noise(photo: Photo, noisy: Tensor, maps: Tensor, guided: Guided) -> Tensor:
    """Clean latents that the noise maps lead to."""
    with no_gradients():
        latents = noisy[-1]
        for step in range(len(maps), 0, -1):
            mean, deviation = mean_and_deviation(latents, guided(latents, step), photo.schedule, step)
            latents = mean + deviation * maps[step - 1]
        return latents


def edit_friendly(photo: Photo, guidance: float) -> Tensor:
    """Edit-friendly DDPM inversion under the source prompt, then the other prompt along the same noise maps."""
    noisy, maps = photo.once("edit-friendly", lambda: noise_maps(photo, photo.source, SKIPPED))
    return along_noise(photo, noisy, maps, lambda latents, step: _guided(photo, latents, step, guidance))


def _guided(photo: Photo, latents: Tensor, step: int, guidance: float) -> Tensor:
    level = photo.schedule.level(step)
    if guidance == 1:
        return check_finite(photo.denoiser(latents, level, photo.asked), level, step)
    contexts = cat([photo.empty.expand(len(photo.asked)), photo.asked])
    predicted = check_finite(photo.denoiser(latents.repeat(2, 1, 1, 1), level, contexts), level, step)
    null, text = predicted.chunk(2)
    return guide(null, text, guidance)


def ledits(photo: Photo, guidance: float) -> Tensor:
    """LEDITS++ (Brack et al. 2023, arXiv 2311.16711, section 4): a concept is added, or taken away, where it is looked
    at and where its guidance is strongest (eq. 6 to 10).

    The concept is the edit's whole caption, as a text model of captions knows no single words, and it is looked at
    where its words that the source lacks are. Where it has none, the source's caption is taken away in the same way.
    Inversion under the empty prompt, as its authors'; by steps of first order, as diffusers' pipeline has it with a
    DDIM scheduler.
    """
    empty = photo.empty.expand(len(photo.source))
    noisy, maps = photo.once("LEDITS++", lambda: noise_maps(photo, empty, LEDITS_SKIPPED))
    added, removed = own_tokens(photo)
    adds = added.any(1)
    concepts = photo.asked.where(adds, photo.source)
    contexts, tokens = cat([empty, concepts]), added.where(adds[:, None], removed)
    sign = torch.where(adds, 1.0, -1.0)[:, None, None, None].to(photo.latents)

    def guided(latents: Tensor, step: int) -> Tensor:
        level, size = photo.schedule.level(step), (latents.shape[-2], latents.shape[-1])
        reader = AttentionReader(AttentionMaps(map_grid(*size)), slice(0, 2 * len(latents)))
        predicted = photo.denoiser(latents.repeat(2, 1, 1, 1), level, contexts, reader)
        null, concept = check_finite(predicted, level, step).chunk(2)
        looked_at = reader.maps.mean()[:, 0].chunk(2)[1]
        inside = implicit_mask(concept - null, looked_at, tokens, size, level.timestep > BY_WORDS)
        return null + sign * guidance * inside * (concept - null)

    return along_noise(photo, noisy, maps, guided)


def own_tokens(photo: Photo) -> tuple[Tensor, Tensor]:
    """Tokens of the edits and of the sources whose words the other prompt lacks: 0 or 1, (B, tokens) each."""
    rows: tuple[list[Tensor], list[Tensor]] = ([], [])
    for plan in photo.plans:
        kept = list(zip(*align_words(plan.source.words, plan.prompt.words).same, strict=True)) or [(), ()]
        for found, prompt, words in zip(rows, (plan.prompt, plan.source), kept[::-1], strict=True):
            tokens = torch.zeros(prompt.length)
            for word in set(range(len(prompt.words))) - set(words):
                tokens[prompt.tokens_of_word(word)] = 1
            found.append(tokens)
    first, second = (torch.stack(found).to(photo.latents) for found in rows)
    return first, second


def implicit_mask(
    asked: Tensor, attention: Tensor, tokens: Tensor, size: tuple[int, int], by_words: bool = False
) -> Tensor:
    """Where a concept acts, 0 or 1, (B, C, h, w): where its tokens are looked at most and its guidance is largest.

    ``attention``: (B, grid h, grid w, tokens). ``by_words``: by the first alone. Nowhere for a picture without tokens.
    """
    looked_at = (attention * tokens[:, None, None]).sum(-1)[:, None]
    looked_at = interpolate(_largest(smoothed(looked_at)), size=size)
    strong = torch.ones_like(looked_at) if by_words else _largest(asked.abs().sum(1, keepdim=True))
    known = tokens.any(1)[:, None, None, None]
    return (looked_at * strong * known).expand_as(asked)


def smoothed(values: Tensor) -> Tensor:
    """Values (B, 1, h, w) blurred over 3×3, with weights e^-1, 1, e^-1 along each side, as diffusers' pipeline does."""
    weights = values.new_tensor([exp(-1), 1, exp(-1)])
    kernel = torch.outer(weights, weights) / weights.sum() ** 2
    return conv2d(pad(values, (1, 1, 1, 1), mode="reflect"), kernel[None, None])


def _largest(values: Tensor) -> Tensor:
    """1 where values (B, 1, h, w) are at least their own quantile, else 0."""
    threshold = values.flatten(1).float().quantile(MASKED, dim=1)[:, None, None, None]
    return (values >= threshold).to(values)


def virtual_inversion(photo: Photo, guidance: float) -> Tensor:
    """InfEdit's virtual inversion (Xu et al. 2023, arXiv 2312.04965, algorithm 2), without its attention control.

    At each level the photo gets fresh noise, the edit the same noise, and their predicted clean latents differ by what
    the prompts say. Its authors ask for a consistency model, whose predictions are sharp at any level; here the
    difference is between blurred ones at first and sharpens as the noise falls.
    """
    schedule, clean, difference = photo.schedule, photo.latents, torch.zeros_like(photo.latents)
    # at a guidance of 1 the empty prompt takes no part
    guides = [photo.asked] if guidance == 1 else [photo.empty.expand(len(photo.asked)), photo.asked]
    contexts = cat([photo.source, *guides])
    with no_gradients():
        for step in range(schedule.steps, 0, -1):
            level = schedule.level(step)
            noisy = sqrt(level.alpha) * clean + sqrt(1 - level.alpha) * photo.noise(step)
            edited = noisy + sqrt(level.alpha) * difference
            predicted = photo.denoiser(torch.cat([noisy, *[edited] * len(guides)]), level, contexts)
            source, *guiding = check_finite(predicted, level, step).chunk(1 + len(guides))
            target = predicted_clean(edited, guide(guiding[0], guiding[-1], guidance), level.alpha)
            difference = target - predicted_clean(noisy, source, level.alpha)
        return clean + difference
