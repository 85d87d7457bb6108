"""Half precision on the demo model: gradients, losses and what they reach, beside float32."""

import functools

import pytest
import torch
from torch.nn.functional import cosine_similarity

from nullinv_core import NullTextSettings, invert, optimize_null_text
from nullinv_core.backends.diffusers import load_model
from nullinv_core.demo.captions import caption
from nullinv_core.demo.scenes import render, sample_scene
from nullinv_core.null_text.optimization import LOSS_SCALE
from nullinv_core.photo.images import psnr
from nullinv_core.schedule import ddim_step, guide

STEPS = 6
HALVES = [torch.float16, torch.bfloat16]


@pytest.fixture(scope="module")
def scene():
    return sample_scene(940_000, "held-out", 1)


@pytest.fixture(scope="module")
def prepared(scene):
    """Model, photo's latents, contexts and trajectory by precision; all but the network in float32."""

    @functools.cache
    def of(dtype):
        model = load_model("demo", dtype=dtype)
        # one encoding for all: the text encoder's own rounding is not the matter here
        texts = load_model("demo")
        both = texts.encode_prompts([texts.prompt(caption(scene)), texts.prompt("")])
        context, empty = both[:1], both[1:]
        latents = model.encode_image(torch.from_numpy(render(scene))[None])
        return model, latents, context, empty, invert(model.denoiser, latents, context, model.schedule(STEPS))

    return of


def gradient(prepared, dtype, step):
    """∂loss/∂∅ of a step from its pivot, as the optimizer computes it."""
    trajectory, (model, *_, empty, _) = prepared(torch.float32)[-1], prepared(dtype)
    level, latents = trajectory.schedule.level(step), trajectory.latents[step]
    null = empty.map(lambda tensor: tensor.clone().requires_grad_(True))
    text = model.denoiser(latents, level, trajectory.context)
    epsilon = guide(model.denoiser(latents, level, null), text, 7.5)
    loss = (ddim_step(latents, epsilon, trajectory.schedule, step) - trajectory.latents[step - 1]).square().mean()
    (loss * LOSS_SCALE).backward()
    return null.text.grad / LOSS_SCALE


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("step", [1, STEPS // 2, STEPS])
def test_gradients_point_where_those_of_float32_do(prepared, dtype, step):
    """Guards the backward pass in half precision: nothing vanishes, nothing overflows, the direction stays."""
    half, full = (gradient(prepared, d, step).flatten() for d in (dtype, torch.float32))
    assert cosine_similarity(half, full, 0) > (0.99 if dtype == torch.float16 else 0.95)
    assert half.norm() / full.norm() == pytest.approx(1, abs=0.1)


@pytest.fixture(scope="module")
def reached(prepared):
    """How near to the photo, in dB, the optimization comes by precision, in a loss that falls at every timestep but by
    chance."""

    @functools.cache
    def of(dtype):
        model, latents, _, empty, trajectory = prepared(dtype)
        events = []
        settings = NullTextSettings(inner_steps=4, early_stop=0.0, early_stop_growth=0.0)
        null, end = optimize_null_text(model.denoiser, trajectory, empty, settings, events.append)
        assert null.embeddings.text.dtype == torch.float32 and null.embeddings.text.isfinite().all()
        first, last = ([e.loss[0] for e in events if e.iteration == i] for i in (1, 4))
        assert sum(b < a for a, b in zip(first, last, strict=True)) >= STEPS - 1
        return psnr(model.decode(end)[0], model.decode(latents)[0])

    return of


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_reaches_what_float32_does(reached, dtype):
    """Guards the result: within half a decibel of float32."""
    assert reached(dtype) > reached(torch.float32) - 0.5
