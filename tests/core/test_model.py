"""What every backend does where numbers or the memory run out."""

from dataclasses import replace

import pytest
import torch

from nullinv_core import InputError, NonFiniteError, pipeline
from nullinv_core.backends.diffusers import load_model, memory
from nullinv_core.model import Checkpointing, Memory, in_less_memory, in_safer_precision, is_out_of_memory


class Network:
    """A network that overflows in float16, and notes what is done with it."""

    def __init__(self, dtype, broken=False):
        self.compute_dtype, self.broken, self.told = dtype, broken, []

    def check_weights(self):
        if self.broken:
            raise NonFiniteError("the weights hold NaN")

    def compute_in_float32(self):
        self.compute_dtype = torch.float32

    def tell(self, text):
        self.told.append(text)

    def job(self):
        if self.compute_dtype != torch.float32:
            raise NonFiniteError("NaN at step 1")
        return "done"


def test_float16_is_tried_once_more_in_float32():
    """Guards overflow: the second run is in float32, and the user hears of it; others are not run twice."""
    half = Network(torch.float16)
    assert in_safer_precision(half.job, half) == "done" and half.told == ["NaN at step 1; once more in float32"]
    for network, said in ((Network(torch.bfloat16), "NaN at step 1"), (Network(torch.float16, True), "weights hold")):
        with pytest.raises(NonFiniteError, match=said):
            in_safer_precision(network.job, network)
        assert not network.told


def test_memory_that_runs_out_is_saved_once():
    """Guards lack of memory: once more with checkpointing, then a sentence with advice; other errors pass."""
    told, freed, switch = [], [], Checkpointing()
    host = Memory(freed.append, told.append, "buy some")

    def job():
        if not switch.on:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return "done"

    assert in_less_memory(job, switch, host) == "done" and freed == [False] and len(told) == 1

    def never():
        raise torch.cuda.OutOfMemoryError("no room")

    with pytest.raises(InputError, match=r"not enough memory to optimize this picture; .* or buy some"):
        in_less_memory(never, Checkpointing(), host)
    assert freed == [False, False, True] and not is_out_of_memory(RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError) as on_this_cpu:
        torch.empty(10**15)
    assert is_out_of_memory(on_this_cpu.value)

    def other():
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        in_less_memory(other, Checkpointing(), host)


@pytest.mark.parametrize("allowed", [None, False])
def test_a_model_checkpoints_where_memory_ran_out(model_folder, monkeypatch, allowed):
    """Guards the diffusers backend: its second try is with checkpointing, unless that is forbidden."""
    told, seen = [], []
    model = replace(load_model(model_folder), warn=told.append, checkpointing=allowed)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10**12)
    latents = torch.zeros(1, 4, 4, 4)

    def job(denoiser, here):
        seen.append(model.denoiser.unet.is_gradient_checkpointing)
        if not seen[-1]:
            raise RuntimeError("out of memory")
        return here

    if allowed is None:
        assert torch.equal(model.run(job, latents, model.schedule(2), gradients=True), latents)
        assert seen == [False, True] and "once more with gradient checkpointing" in told[0]
    else:
        with pytest.raises(RuntimeError, match="out of memory"):
            model.run(job, latents, model.schedule(2), gradients=True)
        assert seen == [False] and not told


def test_an_inversion_says_what_it_was_computed_in(model_folder):
    """Guards files: the precision is that of the run that succeeded."""
    model = replace(load_model(model_folder, dtype=torch.float16), warn=[].append)
    photo = torch.rand(1, 32, 32, 3)
    assert pipeline.prepare(model, photo, "a cat", 1, "direct").precision == "float16"
    model.compute_in_float32()
    assert pipeline.prepare(model, photo, "a cat", 1, "direct").precision == "float32"
