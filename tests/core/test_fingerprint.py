"""What tells models apart, whatever the precision and the names of their weights."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nullinv_core import InputError
from nullinv_core.fingerprint import difference, fingerprint, from_json, other_patches, to_json
from nullinv_core.schedule import scaled_linear_alphas

LEVELS = scaled_linear_alphas()
SHAPES = [(320, 32), (320, 32), (32, 4, 3, 3), (64,), (64,), (64,), (3, 5), ()]


def weights(seed=0, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    return [(torch.randn(shape, generator=g) * 0.05).to(dtype) for shape in SHAPES]


def of(tensors, prediction="epsilon", levels=LEVELS, **changes):
    return fingerprint(tensors, prediction, levels, changes)


@given(st.permutations(range(len(SHAPES))), st.integers(0, 3))
@settings(max_examples=20)
def test_names_and_their_order_do_not_count(order, seed):
    """Guards files that travel: diffusers and ComfyUI call and order the same weights differently."""
    ours = weights(seed)
    assert difference(of(ours), of([ours[i] for i in order])) == ""


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("seed", range(4))
def test_precision_does_not_count(dtype, seed):
    """Guards files that travel: one program keeps float32 weights, another rounds them when it loads them."""
    exact, rounded = weights(seed), [w.to(dtype) for w in weights(seed)]
    assert difference(of(exact), of(rounded)) == difference(of(rounded), of(exact)) == ""
    assert of([w.float() for w in rounded]).weights == of(rounded).weights


@pytest.mark.parametrize("which", range(len(SHAPES) - 1))
@pytest.mark.parametrize(("share", "dtype"), [(1e-3, torch.float32), (5e-3, torch.float16), (0.05, torch.bfloat16)])
def test_a_changed_weight_counts(which, share, dtype):
    """Guards against other models: a LoRA merged into one layer alone is seen, as finely as the type allows."""
    ours = weights()
    noise = torch.randn(SHAPES[which], generator=torch.Generator().manual_seed(9)) * 0.05 * share
    theirs = [w + noise * (i == which) if i == which else w for i, w in enumerate(ours)]
    found = difference(of([w.to(dtype) for w in ours]), of([w.to(dtype) for w in theirs]))
    assert found == "its weights are others"


def test_weights_in_eight_bits_are_others():
    """Guards against results that differ: float8 rounds by more than a few thousandths."""
    eight = [w.to(torch.float8_e4m3fn).float() for w in weights()]
    assert difference(of(weights()), of(eight)) == "its weights are others"
    assert difference(of([w.to(torch.float8_e4m3fn) for w in weights()]), of(eight)) == ""


def test_what_differs_is_named():
    """Guards the message: prediction, noise levels, build, patches."""
    ours = of(weights())
    zero = [a * 0.9 for a in LEVELS]
    assert difference(of(weights(), "v_prediction"), ours) == "that one predicts v, this one ε"
    assert difference(ours, of(weights(), "X0")) == "that one predicts ε, this one X0"
    assert difference(ours, of(weights(), levels=zero)) == "its noise levels are others"
    assert difference(ours, of(weights(), levels=LEVELS[::2])) == "its noise levels are others"
    assert difference(ours, of(weights()[:-2])) == "its UNet is built otherwise"
    one = of(weights(), LoRA="a", **{"LoRA strength": "1"})
    assert difference(one, ours) == "with LoRA there, without it here"
    assert difference(ours, one) == "without LoRA there, with it here"
    assert difference(of(weights(), LoRA="b", **{"LoRA strength": "1"}), one) == "with another LoRA there"
    assert difference(of(weights(), LoRA="a", **{"LoRA strength": "2"}), one) == "with another LoRA strength there"
    assert difference(one, one) == ""


def test_weights_that_are_no_numbers_are_nobodys():
    """Guards a broken model, which equals none, not even itself."""
    broken = [torch.full((4,), float("nan"))]
    assert difference(of(broken), of(broken)) == "its weights are others"


def test_a_fingerprint_comes_back_from_a_file():
    """Guards the format."""
    ours = of(weights(), LoRA="a")
    assert from_json(to_json(ours)) == ours
    patched = replace(ours, patches=("FreeU", "IPAdapter"))
    assert from_json(to_json(patched)) == patched
    with pytest.raises(InputError, match="fingerprint is broken"):
        from_json({**to_json(ours), "patches": 5})


def test_patches_only_explain():
    """Guards patches, which need not change a prediction: by themselves they are no difference."""
    ours = of(weights())
    one, other = (replace(ours, patches=names) for names in (("FreeU", "Wrap"), ("Wrap", "IPAdapter")))
    assert difference(one, other) == "" and other_patches(one, one) == ""
    assert other_patches(one, other) == "only there: FreeU; only here: IPAdapter"
    assert other_patches(ours, other) == "only here: IPAdapter, Wrap"


def test_old_files_are_held_to_their_digest():
    """Guards files of version 1: the program that made them knows its model; no other passes."""
    old, here = from_json("f" * 64), of(weights())
    assert difference(old, replace(here, digest="f" * 64)) == ""
    assert "older version" in difference(old, replace(here, digest="0" * 64))
