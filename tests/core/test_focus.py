"""Replaced words that draw their own outline in the old word's place."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nullinv_core import EditSettings, InputError, batch_edits, edit, invert, plan_edit
from nullinv_core.denoiser import Layer
from nullinv_core.prompt_to_prompt.attention_edits.focus import BLUR, MOST_GAIN, focus
from nullinv_core.prompt_to_prompt.control import StepControl, needs_source
from nullinv_core.prompt_to_prompt.grids import layer_grid
from nullinv_core.prompt_to_prompt.maps import AttentionMaps

from .helpers import context_of, controlled, latents_of, tiny_schedule, tiny_unet, word_prompt

SOURCE, EDIT = word_prompt("a red cat on grass"), word_prompt("a red dog on grass")
DOG = EDIT.tokens_of_word(2)
GRIDS = st.tuples(st.integers(2, 12), st.integers(2, 12))


def maps_of(grid, seed, columns=2):
    """Random attention (1, positions, columns)."""
    return torch.rand(1, grid[0] * grid[1], columns, generator=torch.Generator().manual_seed(seed)).double()


def by_hand(source, own, grid):
    """``focus`` of one column (positions,), from the formula, cell by cell."""
    height, width = grid
    sigma = BLUR * math.sqrt(height * width)
    reach = math.ceil(3 * sigma)
    bell = {d: math.exp(-(d**2) / (2 * sigma**2)) for d in range(-reach, reach + 1)}
    total = sum(bell.values())
    where = [
        sum(
            float(source[v * width + u]) * bell[v - y] * bell[u - x] / total**2
            for v in range(height) for u in range(width) if abs(v - y) <= reach and abs(u - x) <= reach
        )
        for y in range(height) for x in range(width)
    ]  # fmt: skip
    weighed = [float(o) * w / max(where) for o, w in zip(own, where, strict=True)]
    gain = min(MOST_GAIN, float(own.sum()) / sum(weighed))
    return torch.tensor([w * gain for w in weighed], dtype=own.dtype)


@given(grid=GRIDS, seed=st.integers(0, 99))
def test_a_focused_map_is_the_formula_s(grid, seed):
    """Guards the blur, the weighing and the scale, on grids of any shape."""
    source, own = maps_of(grid, seed), maps_of(grid, seed + 100)
    found = focus(source, own, grid)
    for column in range(2):
        assert torch.allclose(found[0, :, column], by_hand(source[0, :, column], own[0, :, column], grid), atol=1e-12)


@given(y=st.integers(0, 15), x=st.integers(0, 15), seed=st.integers(0, 99))
def test_a_word_keeps_its_weight_and_comes_to_the_old_word_s_place(y, x, seed):
    """Guards what focus is for: most of what a word does happens near the old word, and it does no more than before."""
    source = torch.zeros(16, 16)
    source[y, x] = 1.0
    own = maps_of((16, 16), seed, 1)
    found = focus(source.flatten()[None, :, None], own, (16, 16))
    assert found.min() >= 0 and found.sum() <= own.sum() * (1 + 1e-9)
    rows, columns = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    far = ((rows - y).abs() > 5) | ((columns - x).abs() > 5)
    assert found[0, :, 0][far.flatten()].sum() < 0.01 * found.sum()
    uniform = torch.ones(1, 256, 1)
    assert torch.allclose(focus(uniform * 0, own, (16, 16)), own * 0), "nothing where the old word was nowhere"


def test_half_precision_neither_overflows_nor_vanishes():
    """Guards the sums over a large layer, and maps as small as half precision has them."""
    for scale in (1.0, 1e-6):
        maps = (torch.ones(1, 128 * 128, 1) * scale).half()
        found = focus(maps, maps, (128, 128))
        assert found.dtype == torch.float16 and torch.isfinite(found).all()
        assert found.float().sum() == pytest.approx(maps.float().sum().item(), rel=0.1)


@given(size=st.tuples(st.integers(1, 200), st.integers(1, 200)), halvings=st.integers(0, 4))
def test_layers_are_found_by_their_positions(size, halvings):
    """Guards latents of any size: a UNet's layers halve them, rounding up."""
    grid = size
    for _ in range(halvings):
        grid = ((grid[0] + 1) // 2, (grid[1] + 1) // 2)
    found = layer_grid(size, grid[0] * grid[1])
    assert found[0] * found[1] == grid[0] * grid[1]
    assert found == grid or 1 in grid, "only rows of single cells can be mistaken"


def test_a_layer_of_another_size_is_refused():
    """Guards against blurring rows of the wrong length where another pack rescales layers."""
    with pytest.raises(InputError, match=r"1000 positions.*\(64×96\).*focus_from to 1"):
        layer_grid((64, 96), 1000)


def test_only_words_that_replace_others_are_focused():
    """Guards the choice of words: not those that stayed, nor those that refine mode leaves to themselves."""
    plan = plan_edit(SOURCE, EDIT, 10, EditSettings(focus_from=0.5))
    assert plan.focus_window.nonzero().tolist() == [[step, token] for step in range(5, 10) for token in DOG]
    assert not plan_edit(SOURCE, EDIT, 10).focus_window.any()
    refined = word_prompt("a red dog on green grass")
    assert not plan_edit(SOURCE, refined, 10, EditSettings(focus_from=0.0)).focus_window.any()
    with pytest.raises(InputError, match="focus from"):
        EditSettings(focus_from=1.1)


def control(index, **settings):
    """The control of step ``index`` of 10 on latents of 16×24."""
    edits = batch_edits([[plan_edit(SOURCE, EDIT, 10, EditSettings(cross_replace=0.5, **settings))]])
    return StepControl(edits, index, AttentionMaps((16, 24)), slice(2, 4), (16, 24))


def test_a_step_focuses_the_word_and_nothing_else():
    """Guards the control: the focused column is ``focus`` times the word's weight, the others are as without it."""
    both = torch.rand(2, 3, 16 * 24, SOURCE.length, dtype=torch.float64).softmax(-1)
    for index in (4, 6):
        found = control(index, focus_from=0.4, weights={"dog": 2.0}).weigh(both, Layer("cross", 16 * 24))
        without = control(index, weights={"dog": 2.0}).weigh(both, Layer("cross", 16 * 24))
        others = [k for k in range(SOURCE.length) if k not in DOG]
        assert torch.equal(found[0], both[0]) and torch.equal(found[..., others], without[..., others])
        expected = 2.0 * focus(both[0][..., DOG], both[1][..., DOG], (16, 24))
        assert torch.allclose(found[1][..., DOG], expected)
        assert not torch.allclose(found[1][..., DOG], without[1][..., DOG])


def test_focused_steps_look_at_the_source():
    """Guards pinned sources: they are sampled as long as a word is focused, after the last window too."""
    late, never = control(9, focus_from=0.4), control(9)
    assert needs_source(late.edits, 9) and not needs_source(never.edits, 9)
    assert late.weighs(Layer("cross", 64 * 64)) and not never.weighs(Layer("cross", 64 * 64))


def test_edits_of_a_batch_are_focused_each_by_itself():
    """Guards edits that share a run: one that is focused leaves its neighbour, and itself, as they are alone."""
    denoiser = controlled(tiny_unet(torch.float64))
    steps = 4
    trajectory = invert(denoiser, latents_of(1), context_of(SOURCE)[None], tiny_schedule(steps))
    settings = (EditSettings(focus_from=0.25), EditSettings())
    plans = [plan_edit(SOURCE, EDIT, steps, s) for s in settings]
    null, text = context_of(word_prompt("")), context_of(EDIT)[None, None]
    alone = [edit(denoiser, trajectory, null, text, batch_edits([[p]]), 7.5).latents[0, 0] for p in plans]
    shared = edit(denoiser, trajectory, null, text.expand(1, 2), batch_edits([plans]), 7.5).latents[0]
    assert torch.allclose(shared[0], alone[0]) and torch.allclose(shared[1], alone[1])
    assert not torch.allclose(alone[0], alone[1], rtol=1e-3)
