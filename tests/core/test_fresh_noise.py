"""Where edits start: fresh noise, and the regions that it leaves out."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nullinv_core import EditSettings, InputError, NonFiniteError, Trajectory, batch_edits, invert, plan_edit
from nullinv_core.denoiser import Counted, Layer
from nullinv_core.prompt_to_prompt.fresh_noise import MOST_PHOTO, READ_AT, edit_start, word_maps
from nullinv_core.schedule import Schedule

from .helpers import context_of, controlled, latents_of, tiny_schedule, tiny_unet, word_prompt

SOURCE, EDIT = word_prompt("a cat sits here"), word_prompt("a dog sits here")
SIZE = 16


class Seen:
    """A denoiser whose only attention looks, for every token, where it is told to: (tokens, positions)."""

    def __init__(self, maps):
        self.maps, self.forwards = maps, 0

    def __call__(self, latents, level, context, attention=None, unconditional=0):
        self.forwards += len(latents)
        if attention is not None and attention.weighs(Layer("cross", SIZE * SIZE)):
            attention.weigh(self.maps.T.expand(len(latents), 2, -1, -1).double(), Layer("cross", SIZE * SIZE))
        return torch.zeros_like(latents)


def looking(prompt, word, cell, other=(0, 0)):
    """Maps by which a word is seen in one cell, all others in another one."""
    maps = torch.zeros(prompt.length, SIZE, SIZE)
    maps[:, other[0], other[1]] = 1.0
    for token in prompt.tokens_of_word(prompt.words.index(word)):
        maps[token] = 0.0
        maps[token, cell[0], cell[1]] = 1.0
    return maps.flatten(1)


def noisy(batch=1, size=SIZE, seed=7):
    """A trajectory of random latents."""
    latents = torch.stack([latents_of(batch, size, seed=seed + step) for step in range(5)])
    return Trajectory(latents, context_of(SOURCE).expand(batch), tiny_schedule())


def started(denoiser, trajectory, *rows):
    """Starts of edits with such settings, one row of them an image: (B, 1+E, C, h, w)."""
    plans = [[plan_edit(SOURCE, EDIT, 4, settings) for settings in row] for row in rows]
    return edit_start(denoiser, trajectory, batch_edits(plans))


def drawn(seed, like):
    """The fresh noise of a seed."""
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed)).to(like)


def test_without_fresh_noise_every_branch_starts_at_the_photos():
    """Guards the authors' start, to the bit and for nothing, with steady words or without."""
    denoiser, trajectory = Seen(torch.zeros(10, SIZE * SIZE)), noisy(2)
    start = started(denoiser, trajectory, *[[EditSettings(), EditSettings(steady_words=["cat"], variant=3)]] * 2)
    assert torch.equal(start, trajectory.noisiest[:, None].expand_as(start)) and denoiser.forwards == 0


@given(share=st.floats(0, 1), seed=st.integers(0, 2**63 - 1))
def test_fresh_noise_is_mixed_in_by_its_share(share, seed):
    """Guards the mix: the squares of both shares add up to one, so unit noise stays unit noise."""
    trajectory = noisy()
    start = started(Seen(None), trajectory, [EditSettings(fresh_noise=share, variant=seed)])
    angle = math.asin(share)
    wanted = math.cos(angle) * trajectory.noisiest[0] + math.sin(angle) * drawn(seed, trajectory.noisiest[0])
    assert torch.equal(start[:, 0], trajectory.noisiest)
    assert torch.allclose(start[0, 1], wanted, atol=1e-6)


def test_noise_depends_on_its_seed_alone():
    """Guards batches: an edit starts where it would alone, beside whatever other images and edits."""
    trajectory, one, two = noisy(2), EditSettings(fresh_noise=0.5), EditSettings(fresh_noise=0.5, variant=1)
    both = started(Seen(None), trajectory, [one, two], [two, one])
    for row in range(2):
        own = replace(trajectory, latents=trajectory.latents[:, [row]], context=trajectory.context[[row]])
        alone = started(Seen(None), own, [one, two])
        assert torch.equal(both[row, 1:], alone[0, 1:].flip(0) if row else alone[0, 1:])
    assert not torch.equal(both[0, 1], both[0, 2])


def test_steady_words_keep_the_photos_noise():
    """Guards the region: the word's cell and its neighbours start as in the photo, all else does not."""
    trajectory = noisy()
    denoiser = Seen(looking(SOURCE, "cat", (5, 9)))
    start = started(denoiser, trajectory, [EditSettings(fresh_noise=1.0, steady_words=["cat"])])[0, 1]
    same = (start == trajectory.noisiest[0]).all(0)
    wanted = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    wanted[4:7, 8:11] = True
    assert torch.equal(same, wanted) and denoiser.forwards == len(READ_AT)
    assert torch.equal(start[:, ~wanted], drawn(0, start)[:, ~wanted])


def test_a_steady_word_of_the_edit_stands_for_its_counterpart():
    """Guards the other prompt's words: where the photo has a cat for the edit's dog, the cat's region is meant."""
    trajectory, denoiser = noisy(), Seen(looking(SOURCE, "cat", (5, 9)))
    both = [EditSettings(fresh_noise=1.0, steady_words=[word]) for word in ("cat", "dog")]
    start = started(denoiser, trajectory, both)[0]
    assert torch.equal(start[1], start[2])
    with pytest.raises(InputError, match='steady word "bird"'):
        plan_edit(SOURCE, EDIT, 4, EditSettings(steady_words=["bird"]))


def test_the_photo_is_read_along_its_path():
    """Guards the extra look at a real network: a few samples, the mean over layers, heads and steps of all words."""
    denoiser = Counted(controlled(tiny_unet(torch.float64, sample_size=SIZE)))
    schedule, context = tiny_schedule(), context_of(SOURCE)[None]
    trajectory = invert(denoiser, latents_of(1, SIZE), context, schedule)
    denoiser.forwards = 0
    maps = word_maps(denoiser, trajectory)
    assert denoiser.forwards == len({max(1, round(share * schedule.steps)) for share in READ_AT})
    assert maps.shape == (1, SIZE, SIZE, SOURCE.length)
    assert torch.allclose(maps.sum(-1), torch.ones(1, SIZE, SIZE).to(maps))


@pytest.mark.parametrize(
    ("name", "wrong"), [("fresh_noise", 1.1), ("fresh_noise", -0.1), ("variant", -1), ("steady_words", "cat")]
)
def test_wrong_settings_are_refused(name, wrong):
    """Guards the edge."""
    with pytest.raises(InputError, match=name.replace("_", ".")):
        EditSettings(**{name: wrong})


def test_pictures_that_are_not_square_are_looked_at_as_they_are():
    """Guards the sides of regions, and who looks: every row's cross-attention on the pictures' own grid, no other."""
    trajectory = noisy(2)
    latents = torch.cat([trajectory.latents, trajectory.latents.flip(-1)[..., :8]], -1)
    trajectory = replace(trajectory, latents=latents)
    maps = torch.zeros(SOURCE.length, SIZE, 24)
    maps[SOURCE.tokens_of_word(1), 5, 20] = 1.0
    asked = []

    def looking(latents, level, context, attention=None, unconditional=0):
        asked.append(level.timestep)
        assert attention.rows == slice(0, 2) and attention.weighs(Layer("cross", SIZE * 24))
        assert not any(
            attention.weighs(Layer("cross", n)) or attention.rewrites(Layer("self", n))
            for n in (SIZE * SIZE, 24 * 24, 8 * 12)
        )
        attention.weigh(maps.flatten(1).T.expand(2, 3, -1, -1).double(), Layer("cross", SIZE * 24))
        return torch.zeros_like(latents)

    steady, plain = EditSettings(fresh_noise=1.0, steady_words=["cat"]), EditSettings(fresh_noise=1.0)
    start = started(looking, trajectory, *[[steady, plain]] * 2)
    same = (start == trajectory.noisiest[:, None]).all(2)
    wanted = torch.zeros(SIZE, 24, dtype=torch.bool)
    wanted[4:7, 19:22] = True
    assert all(torch.equal(row[1], wanted) and not row[2].any() for row in same)
    schedule = trajectory.schedule
    assert asked == [schedule.timesteps[step - 1] for step in sorted({max(1, round(s * 4)) for s in READ_AT})]
    for bad, step in enumerate(schedule.timesteps.index(timestep) + 1 for timestep in list(asked)):
        asked.clear()

        def broken(latents, *arguments, bad=bad):
            return looking(latents, *arguments) + (math.nan if len(asked) == bad + 1 else 0)

        with pytest.raises(NonFiniteError, match=f"at step {step} "):
            started(broken, trajectory, *[[steady, plain]] * 2)


@pytest.mark.parametrize(("last", "taken"), [(MOST_PHOTO, True), (MOST_PHOTO + 0.01, False)])
def test_fresh_noise_needs_a_path_that_ends_in_noise(last, taken):
    """Guards inversions on half of the levels: the photo would be gone, and nothing would tell what to draw."""
    schedule = Schedule((1.0, 100.0, 200.0, 300.0), (1.0, 0.9, 0.8, 0.7, last))
    trajectory = replace(noisy(), schedule=schedule)
    assert torch.equal(started(Seen(None), trajectory, [EditSettings()])[0, 1], trajectory.noisiest[0])
    if taken:
        started(Seen(None), trajectory, [EditSettings(fresh_noise=0.5)])
    else:
        with pytest.raises(InputError, match=r"stops half way to noise.*invert on all noise levels"):
            started(Seen(None), trajectory, [EditSettings(fresh_noise=0.5)])
