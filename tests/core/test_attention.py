"""When the attention of a layer is read or edited."""

from types import SimpleNamespace

import pytest
import torch

from nullinv_core import Counted, EditSettings, batch_edits, plan_edit
from nullinv_core.denoiser import Layer, attend, broken_weight
from nullinv_core.prompt_to_prompt.control import StepControl
from nullinv_core.prompt_to_prompt.maps import AttentionMaps

from .helpers import word_prompt

SOURCE, EDIT = word_prompt("a red cat"), word_prompt("a blue cat")


def control(index, **settings):
    """The control of step ``index`` of 10, with maps read at 16×16."""
    edits = batch_edits([[plan_edit(SOURCE, EDIT, 10, EditSettings(**settings))]])
    return StepControl(edits, index, AttentionMaps((16, 16)), slice(2, 4), (64, 64))


@pytest.mark.parametrize(("index", "inside"), [(0, True), (3, True), (4, False), (9, False)])
def test_self_attention_is_replaced_inside_its_window_only(index, inside):
    """Guards the self-replace window (0.4 of the steps) and its limit of 32×32 positions."""
    assert control(index).rewrites(Layer("self", 32 * 32)) is inside
    assert not control(index).rewrites(Layer("self", 32 * 32 + 1))


@pytest.mark.parametrize(("index", "inside"), [(0, True), (7, True), (8, False), (9, False)])
def test_cross_attention_is_touched_inside_its_window_or_where_maps_are_read(index, inside):
    """Guards the fast path: outside of the cross-replace window (0.8) only layers of the map grid are touched."""
    assert control(index).weighs(Layer("cross", 64 * 64)) is inside
    assert control(index).weighs(Layer("cross", 16 * 16))


def test_closed_windows_touch_only_the_map_grid():
    """Guards edits without replacement: every other layer stays untouched."""
    closed = control(0, cross_replace=0.0, self_replace=0.0)
    assert not any(closed.weighs(Layer("cross", n * n)) or closed.rewrites(Layer("self", n * n)) for n in (8, 32, 64))


def test_a_single_word_keeps_its_own_window_open():
    """Guards per-word windows: they count beside the common one."""
    late = control(9, cross_replace=0.0, word_windows={"blue": (0.5, 1.0)})
    assert late.weighs(Layer("cross", 64 * 64)) and not control(0, cross_replace=0.0).weighs(Layer("cross", 64 * 64))


@pytest.mark.parametrize(
    ("size", "replaced", "kept"),
    [
        ((64, 64), 32 * 32, 64 * 64),
        ((64, 96), 32 * 48, 64 * 96),
        ((128, 192), 32 * 48, 64 * 96),
        ((17, 65), 17 * 65, 0),
    ],
)
def test_pictures_of_any_shape_keep_their_layout(size, replaced, kept):
    """Guards self-attention of pictures that are not square: the layers that a square one has replaced are replaced."""
    edits = batch_edits([[plan_edit(SOURCE, EDIT, 10, EditSettings(self_replace=1.0))]])
    step = StepControl(edits, 0, AttentionMaps((16, 16)), slice(0, 2), size)
    assert step.rewrites(Layer("self", replaced)) and (not kept or not step.rewrites(Layer("self", kept)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_attention_is_the_formula_s_in_any_precision(dtype):
    """Guards softmax(q·kᵀ·scale)·v with the probabilities that are asked for, which are never in half precision."""
    generator = torch.Generator().manual_seed(2)
    q, k, v = (torch.randn(2, 3, n, 8, generator=generator).to(dtype) for n in (5, 7, 7))
    seen = []

    def halved(probabilities, layer):
        seen.append(probabilities)
        return probabilities / 2

    found = attend(q, k, v, 0.3, SimpleNamespace(weigh=halved), Layer("cross", 5))
    exact = torch.promote_types(dtype, torch.float32)
    wanted = torch.einsum("bhpd,bhkd->bhpk", q.double(), k.double()).mul(0.3).softmax(-1)
    assert found.dtype == dtype and seen[0].dtype == exact
    assert torch.allclose(seen[0].double(), wanted, rtol=1e-5)
    coarse = {torch.float16: 2e-3, torch.bfloat16: 2e-2}.get(dtype, 1e-5)
    assert torch.allclose(found.double(), wanted / 2 @ v.double(), atol=coarse)


def test_a_counted_network_is_asked_as_any():
    """Guards counting, which hands on all that it is given: attention's control and unconditional rows too."""
    asked = []

    def network(*arguments):
        asked.append(arguments)
        return arguments[0]

    latents, control, counted = torch.zeros(3, 1, 1, 1), object(), Counted(network)
    counted(latents, "level", "context", control, 2)
    counted(latents, "level", "context")
    assert asked == [(latents, "level", "context", control, 2), (latents, "level", "context", None, 0)]
    assert (counted.forwards, counted.backwards) == (6, 0)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float16, torch.bfloat16, torch.float64])
def test_a_broken_weight_is_named_in_any_precision(dtype):
    """Guards models in eight bits, of which PyTorch cannot tell what is finite; whole numbers are left alone."""
    good, bad = torch.ones(2).to(dtype), torch.tensor([1.0, float("nan")]).to(dtype)
    assert broken_weight({"number": torch.tensor(3), "good": good}) is None
    assert broken_weight({"good": good, "bad": bad, "worse": bad}) == "bad"
