"""What tells models apart, whatever the precision and the names of their weights."""

import hashlib
import math
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nullinv_core import InputError
from nullinv_core.files.fingerprint import (
    difference,
    digest_of,
    fingerprint,
    from_json,
    other_patches,
    sampled,
    to_json,
)
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


def test_files_are_known_by_later_versions():
    """Guards files that lie about: what is read of a model is written down here, so that no version reads other."""
    places = [61, 23, 85, 47, 9, 70, 32, 94, 56, 18, 79, 41, 3, 65, 27, 88]
    assert sampled(torch.arange(100.0).reshape(4, 25)).tolist() == places
    assert sampled(torch.arange(16.0)).tolist() == list(range(16))
    # of a large weight the places are as exact
    golden, size = (Decimal(5).sqrt() - 1) / 2, 4_000_037
    assert sampled(torch.arange(float(size))).tolist() == [int(i * golden % 1 * size) for i in range(1, 17)]
    found = of([torch.arange(100.0).reshape(4, 25), torch.ones(4, 25), torch.tensor([3.0, 4.0]), torch.tensor(5.0)])
    norm = float(f"{math.sqrt(sum(p**2 for p in places) + 16):.7g}")
    assert found.weights == {"2": (5.0, 3.0, 4.0), "4x25": (norm, *(p + 1.0 for p in places))}
    levels = [LEVELS[i] for i in (0, 100, 200, 300, 400, 500, 599, 699, 799, 899, 999)]
    assert found.noise_levels == (1000.0, *(float(f"{a:.7g}") for a in levels))
    assert found.step == 2.0**-23 and of([torch.ones(2, dtype=torch.int8)]).step == 0


@pytest.mark.parametrize("size", [1, 63, 64, 65, 640, 1000])
def test_a_digest_is_over_names_shapes_and_spread_values(size):
    """Guards digests in files against another program that computes them."""
    tensors = {"b": torch.arange(float(size)), "a": torch.ones(2, 3, dtype=torch.float16)}
    spread = np.arange(size, dtype=np.float32)[:: max(1, size // 64)][:64]
    parts = [b"kind", b"a(2, 3)", np.ones(6, np.float32).tobytes(), f"b({size},)".encode(), spread.tobytes()]
    assert digest_of(tensors, "kind") == hashlib.sha256(b"".join(parts)).hexdigest()
    assert digest_of(tensors) == hashlib.sha256(b"".join(parts[1:])).hexdigest()


def test_weights_of_zero_equal_themselves_alone():
    """Guards norms of 0, in either order."""
    zero, minus = of([torch.zeros(4)]), of([torch.tensor([-1.0, -2.0, -3.0, -4.0])])
    assert difference(zero, zero) == ""
    assert difference(zero, minus) == difference(minus, zero) == "its weights are others"


@pytest.mark.parametrize(("share", "found"), [(1 - 9e-4, ""), (1 - 2e-3, "its noise levels are others")])
def test_noise_levels_may_be_off_by_a_thousandth(share, found):
    """Guards levels that a program has rounded."""
    assert difference(of(weights()), of(weights(), levels=[a * share for a in LEVELS])) == found
