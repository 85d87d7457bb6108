"""What the demo model is trained with: Muon, and the layout that the UNet is asked for in training."""

import copy

import numpy as np
import pytest
import torch

from nullinv_core.demo.muon import Muon, orthogonalize
from nullinv_core.demo.scenes import SIZE, discs, render, sample_scene
from nullinv_core.demo.shapes import SHAPES
from nullinv_core.demo.train_unet import BATCH, HINTS, batch_rows, hints, new_unet, without_hints
from nullinv_core.demo.training_state import finished_steps, load_module, load_state, save_state


@pytest.mark.parametrize("shape", [(5, 8, 24), (2, 24, 8), (1, 16, 16)])
def test_orthogonalizing_keeps_directions_and_levels_their_strength(shape):
    """Guards Muon's step: singular vectors stay, singular values come near 1, however they were spread."""
    generator = torch.Generator().manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(shape, generator=generator), full_matrices=False)
    values = torch.logspace(0, -1.5, u.shape[-1])
    levelled = orthogonalize(u @ torch.diag(values) @ v)
    inner = u.mT @ levelled @ v.mT
    diagonal = inner.diagonal(dim1=-2, dim2=-1)
    assert float(diagonal.min()) > 0.5 and float(diagonal.max()) < 1.3
    assert float((inner - torch.diag_embed(diagonal)).abs().max()) < 0.05


def test_muon_steps_matrices_and_adamw_the_rest():
    """Guards the split: a matrix moves by the rate times AdamW's usual size in every direction, a bias as in AdamW."""
    torch.manual_seed(0)
    matrix, bias = torch.nn.Parameter(torch.zeros(8, 16)), torch.nn.Parameter(torch.zeros(4))
    reference = torch.nn.Parameter(torch.zeros(4))
    ours = Muon([matrix], [bias])
    adamw = torch.optim.AdamW([reference], betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    for optimizer in (ours, adamw):
        for group in optimizer.param_groups:
            group["lr"] = 0.1
    matrix.grad = torch.randn(8, 16)
    bias.grad = reference.grad = torch.randn(4)
    ours.step()
    adamw.step()
    assert torch.equal(bias, reference)
    values = torch.linalg.svdvals(matrix.detach()) / (0.1 * 0.2 * 16**0.5)
    assert float(values.min()) > 0.5 and float(values.max()) < 1.3
    assert float((matrix.detach() * matrix.grad).sum()) < 0


def test_muon_resumes_where_it_was():
    """Guards resuming: an optimizer restored from its state takes the same next step."""

    def step(parameter, optimizer, seed):
        parameter.grad = torch.randn(6, 6, generator=torch.Generator().manual_seed(seed))
        optimizer.step()

    first = torch.nn.Parameter(torch.ones(6, 6))
    optimizer = Muon([first], [])
    step(first, optimizer, 1)
    second = torch.nn.Parameter(first.detach().clone())
    restored = Muon([second], [])
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step(first, optimizer, 2)
    step(second, restored, 2)
    assert torch.equal(first, second)


@pytest.mark.parametrize("seed", range(5))
def test_hints_point_to_the_objects(seed):
    """Guards the training target: from a cell inside an object its vector leads to the centre, under its shape."""
    scene = sample_scene(seed)
    found = hints(scene)
    assert found.shape == (HINTS, 16, 16)
    for thing in scene.objects:
        row, column = int(thing.y * 16 / SIZE), int(thing.x * 16 / SIZE)
        assert found[list(SHAPES).index(thing.shape), row, column] == 1
        way = found[len(SHAPES) : len(SHAPES) + 2, row, column] * thing.radius
        assert np.allclose(way, [thing.x - (column + 0.5) * 8, thing.y - (row + 0.5) * 8], atol=1e-3)
    outside = discs(scene, 16) == 0
    assert not found[:, outside].any() and render(scene).shape == (SIZE, SIZE, 3)


def test_hints_are_left_out_of_the_finished_unet():
    """Guards the shipped UNet: four channels out, the same noise as with the hints."""
    torch.manual_seed(0)
    trained = new_unet(HINTS).eval()
    plain = without_hints(trained)
    inputs = (torch.randn(1, 4, 16, 16), torch.tensor([300]), torch.randn(1, 7, 128))
    with torch.no_grad():
        assert plain.config.out_channels == 4
        assert torch.allclose(plain(*inputs).sample, trained(*inputs).sample[:, :4], atol=1e-5)


def test_a_finished_stage_is_read_back_alone(tmp_path):
    """Guards resuming between stages: how far a file got, and one module of it, without the optimizer's state."""
    path = tmp_path / "stage.safetensors"
    assert finished_steps(path) == 0
    trained, average = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(trained.parameters())
    trained(torch.ones(3)).sum().backward()
    optimizer.step()
    save_state(path, 7, {"unet": trained, "average": average}, optimizer)
    read = torch.nn.Linear(3, 2)
    load_module(path, "average", read)
    assert finished_steps(path) == 7 and torch.equal(read.weight, average.weight)
    assert load_state(path, {"unet": read}, optimizer) == 7 and torch.equal(read.weight, trained.weight)


@pytest.mark.parametrize(("pairs", "two"), [(0.75, 24), (0.5, 16), (1.0, 32)])
def test_a_batch_has_its_share_of_pairs(pairs, two):
    """Guards what the last cycle learns from: so many scenes with two objects, each scene once."""
    counts = np.random.default_rng(0).integers(1, 3, 200)
    rows = batch_rows(np.random.default_rng(1), counts, pairs)
    assert len(set(rows.tolist())) == BATCH and int((counts[rows] == 2).sum()) == two
    assert batch_rows(np.random.default_rng(1), counts, None).tolist() == (
        np.random.default_rng(1).permutation(200)[:BATCH].tolist()
    )
