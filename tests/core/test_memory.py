"""Gradient checkpointing in the diffusers backend: the same gradients in less memory, chosen where memory is short."""

import pytest
import torch

from nullinv_core.backends.diffusers import load_model
from nullinv_core.backends.diffusers import memory as memory
from nullinv_core.context import Context
from nullinv_core.demo.captions import caption
from nullinv_core.demo.scenes import render, sample_scene


@pytest.fixture(scope="module")
def model():
    return load_model("demo")


@pytest.fixture(scope="module")
def photo(model):
    scene = sample_scene(940_000, "held-out", 1)
    return model.encode_image(torch.from_numpy(render(scene))[None]), model.encode_prompts(
        [model.prompt(caption(scene))]
    )


def gradient(model, latents, context):
    context = Context(context.text.clone().requires_grad_(True))
    model.denoiser(latents, model.schedule(4).level(2), context).square().sum().backward()
    return context.text.grad


def test_checkpointing_keeps_the_gradient_and_saves_memory(model, photo):
    """Guards the option: equal gradients, less than half of the saved bytes."""
    level = model.schedule(4).level(2)
    try:
        plain, kept = gradient(model, *photo), memory.saved_bytes(model.denoiser, photo[0], level, photo[1])
        memory.checkpoint(model, True)
        less, fewer = gradient(model, *photo), memory.saved_bytes(model.denoiser, photo[0], level, photo[1])
    finally:
        memory.checkpoint(model, False)
    assert torch.allclose(plain, less, rtol=1e-5, atol=1e-7) and float(plain.abs().max()) > 0
    assert fewer < kept / 2


def test_memory_grows_with_the_area(model, photo):
    """Guards the estimate from a small probe: within a third of the count at full size."""
    level = model.schedule(4).level(2)
    latents = photo[0].repeat_interleave(2, 2).repeat_interleave(2, 3)
    small, large = (memory.saved_bytes(model.denoiser, z, level, photo[1]) for z in (photo[0], latents))
    assert abs(4 * small / large - 1) < 1 / 3


@pytest.mark.parametrize(("free", "on"), [(10**5, True), (10**12, False), (None, False)])
def test_it_is_chosen_by_free_memory(model, photo, monkeypatch, free, on):
    """Guards the choice."""
    monkeypatch.setattr(memory, "free_bytes", lambda device: free)
    try:
        assert memory.checkpoint_if_needed(model, *photo) is on
        assert model.denoiser.unet.is_gradient_checkpointing is on
    finally:
        memory.checkpoint(model, False)
