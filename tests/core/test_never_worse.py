"""Null-text optimization never ends above its start, whatever the network, and knows the scale of its context."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nullinv_core import NullTextSettings, Trajectory, optimize_null_text
from nullinv_core.context import Context
from nullinv_core.null_text.presets.fast import FAST
from nullinv_core.null_text.settings import PAPER
from nullinv_core.null_text.units import units_of
from nullinv_core.schedule import ddim_step, guide

from .helpers import tiny_schedule

STEPS, TOKENS, WIDTH, GUIDANCE = 5, 3, 6, 7.5
CUSTOM = NullTextSettings(inner_steps=4, keep_best=True, relative=True)
seeds = st.integers(0, 2**31)


class Random:
    """A small random network that is anything but smooth; it reads contexts divided by ``scale``."""

    def __init__(self, seed, roughness=3.0, scale=1.0):
        draw = torch.Generator().manual_seed(seed)
        self.mix, self.read = (torch.randn(n, 8, generator=draw).double() for n in (4, WIDTH))
        self.out = torch.randn(8, 4, generator=draw).double()
        self.roughness, self.scale = roughness, scale

    def __call__(self, latents, level, context, attention=None, unconditional=0):
        text = (context.text.double() / self.scale).mean(1) @ self.read
        hidden = torch.einsum("bchw,cd->bdhw", latents.double(), self.mix) + self.roughness * text[..., None, None]
        return torch.einsum("bdhw,dc->bchw", hidden.sin(), self.out).to(latents)


def case(seed, scale=1.0, batch=2):
    draw = torch.Generator().manual_seed(seed + 1)
    latents = torch.randn(STEPS + 1, batch, 4, 3, 3, generator=draw).double()
    context = scale * torch.randn(batch, TOKENS, WIDTH, generator=draw).double()
    empty = scale * torch.randn(TOKENS, WIDTH, generator=draw).double()
    return Trajectory(latents, Context(context), tiny_schedule(STEPS)), Context(empty)


def walked(network, trajectory, null):
    """Losses (T, B) of ∅_t and of some others, each at the latents to which the embeddings lead; step 1 first."""
    schedule, latents, found = trajectory.schedule, trajectory.noisiest, {"own": [], "before": [], "source": []}
    before = None
    for step in range(schedule.steps, 0, -1):
        level, target = schedule.level(step), trajectory.latents[step - 1]
        text = network(latents, level, trajectory.context)

        def follow(context, text=text, latents=latents, level=level, step=step):
            epsilon = guide(network(latents, level, context), text, GUIDANCE)
            return ddim_step(latents, epsilon, schedule, step)

        for name, context in (("own", null.at(step)), ("before", before), ("source", trajectory.context)):
            if context is not None:
                found[name].insert(0, (follow(context) - target).square().mean((1, 2, 3)))
        latents, before = follow(null.at(step)), null.at(step)
    return {name: torch.stack(rows) for name, rows in found.items()}


@given(seed=seeds, roughness=st.floats(0.1, 30), settings=st.sampled_from([FAST, replace(FAST, budget=3), CUSTOM]))
def test_no_timestep_ends_above_its_start(seed, roughness, settings):
    """Guards rough networks, on which Adam overshoots: ∅_t is no worse than ∅_{t+1} is there, nor than the source."""
    network, (trajectory, empty) = Random(seed, roughness), case(seed)
    null, _ = optimize_null_text(network, trajectory, empty, settings)
    losses = walked(network, trajectory, null)
    assert torch.allclose(losses["own"], null.losses.double(), rtol=1e-6)
    assert (losses["own"][:-1] <= losses["before"] * (1 + 1e-9)).all()
    if settings.start == "source":
        assert (losses["own"] <= losses["source"] * (1 + 1e-9)).all()


def test_without_it_some_do():
    """Guards the test above: the authors' last iterate does end above its start."""
    worse = 0
    for seed in range(5):
        network, (trajectory, empty) = Random(seed, 30.0), case(seed)
        null, _ = optimize_null_text(network, trajectory, empty, replace(PAPER, learning_rate=0.1))
        losses = walked(network, trajectory, null)
        worse += int((losses["own"][:-1] > losses["before"]).sum())
    assert worse > 0


@given(seed=seeds, settings=st.sampled_from([FAST, CUSTOM]))
def test_a_batch_equals_its_single_runs(seed, settings):
    """Guards the best of each image, and its units, against its neighbours."""
    # a smooth network, for a rough one magnifies what is rounded
    network, (trajectory, empty) = Random(seed, 0.3), case(seed)
    both, reached = optimize_null_text(network, trajectory, empty, settings)
    for row in range(2):
        alone = replace(trajectory, latents=trajectory.latents[:, [row]], context=trajectory.context[[row]])
        null, z = optimize_null_text(network, alone, empty, settings)
        assert torch.allclose(null.embeddings.text[:, 0], both.embeddings.text[:, row], rtol=1e-6, atol=1e-9)
        assert torch.allclose(z[0], reached[row], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("settings", [FAST, CUSTOM])
@pytest.mark.parametrize("scale", [2.0**-7, 2.0**7])
def test_a_context_in_other_units_gives_the_same_embeddings_in_them(settings, scale):
    """Guards the learning rate and Adam's own constant: what is the same but for a power of two ends the same."""
    (trajectory, empty), (scaled, scaled_empty) = case(3), case(3, scale)
    here, _ = optimize_null_text(Random(3, 1.0), trajectory, empty, settings)
    there, _ = optimize_null_text(Random(3, 1.0, scale), scaled, scaled_empty, settings)
    assert torch.equal(there.iterations, here.iterations)
    assert torch.allclose(there.embeddings.text / scale, here.embeddings.text, rtol=1e-9)
    assert torch.allclose(there.losses, here.losses, rtol=1e-9)


@pytest.mark.parametrize("scale", [0.01, 100.0])
def test_a_context_a_hundred_times_larger_or_smaller_ends_alike(scale):
    """Guards models whose text encodings have another size: the same photo is followed about as well."""
    ends = []
    for factor in (1.0, scale):
        total = 0.0
        for seed in range(8):
            network, (trajectory, empty) = Random(seed, 0.3, factor), case(seed, factor)
            null, _ = optimize_null_text(network, trajectory, empty, replace(CUSTOM, inner_steps=10))
            total += float(null.losses.log().mean())
        ends.append(total / 8)
    assert ends[1] == pytest.approx(ends[0], abs=0.1)


def test_units_are_one_at_stable_diffusions_scales():
    """Guards the authors' numbers: at about unit scale nothing is multiplied, and what has no scale has that."""
    trajectory, _ = case(0)
    assert units_of(trajectory).latents == units_of(trajectory).context == (1.0, 1.0)
    larger = replace(trajectory, latents=4.1 * trajectory.latents, context=trajectory.context.map(torch.zeros_like))
    assert units_of(larger).latents == (4.0, 4.0) and units_of(larger).context == (1.0, 1.0)
    outlier = torch.ones_like(trajectory.context.text)
    outlier[:, 0] *= 500
    assert units_of(replace(trajectory, context=Context(outlier))).context == (1.0, 1.0)
