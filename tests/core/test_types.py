"""What travels between the stages: shapes that must agree, other devices, and how it is shown."""

import re
from dataclasses import replace

import pytest
import torch

from nullinv_core import Context, EditSettings, InputError, NullEmbeddings, Pin, Trajectory, batch_edits, plan_edit
from nullinv_core.context import ANY_PRECISION, SAME_TEXT, same_text

from .helpers import tiny_schedule, word_prompt

# holds shapes and no numbers, so what was left behind is seen on any machine
ELSEWHERE = "meta"


def trajectory(steps=3, images=2):
    return Trajectory(torch.rand(steps + 1, images, 4, 5, 7), Context(torch.rand(images, 9, 6)), tiny_schedule(steps))


def null_embeddings(steps=3, images=2, pin=None, losses=0.25):
    each = torch.full((steps, images), losses)
    return NullEmbeddings(Context(torch.rand(steps, images, 9, 6)), tiny_schedule(steps), 6.5, each, each.long(), pin)


@pytest.mark.parametrize("guidance", [None, torch.rand(3, 2, 4, 5, 7)])
def test_all_tensors_go_to_another_device(guidance):
    """Guards runs on a GPU: nothing that the network meets stays behind, and nothing is lost on the way."""
    pin = Pin(Context(torch.rand(2, 9, 6)), guidance)
    moved, of_pin = null_embeddings(pin=pin).to(ELSEWHERE), pin.to(ELSEWHERE)
    for one in (moved.pin, of_pin):
        assert one.null.text.device.type == ELSEWHERE and (one.guidance is None) == (guidance is None)
        assert one.guidance is None or one.guidance.device.type == ELSEWHERE
    assert moved.embeddings.text.device.type == ELSEWHERE and moved.embeddings.shape == (3, 2, 9, 6)
    assert null_embeddings().to(ELSEWHERE).pin is None
    path = trajectory().to(ELSEWHERE)
    assert {path.latents.device.type, path.context.text.device.type} == {ELSEWHERE}
    settings = EditSettings(weights={"dog": 2.0}, focus_from=0.5)
    edits = batch_edits([[plan_edit(word_prompt("a cat"), word_prompt("a dog"), 3, settings)]])
    moved = [value for one in edits.to(ELSEWHERE).attention for value in vars(one).values() if torch.is_tensor(value)]
    assert len(moved) == 9 and all(value.device.type == ELSEWHERE for value in moved)
    assert edits.to(ELSEWHERE).edits == edits.edits


@pytest.mark.parametrize(("images", "plural"), [(1, ""), (2, "s")])
def test_people_are_shown_sizes_and_no_numbers(images, plural):
    """Guards what an error or a notebook prints of tensors of megabytes."""
    assert repr(trajectory(3, images)) == f"Trajectory(3 steps, {images} image{plural}, latents 4×5×7)"
    shown = f"NullEmbeddings(3 steps, {images} image{plural}, 9×6, guidance 6.5, "
    assert repr(null_embeddings(3, images)) == f"{shown}final loss 2.50e-01)"
    assert repr(null_embeddings(3, images, losses=0.0)) == f"{shown}nothing optimized)"
    rising = replace(null_embeddings(3, images), losses=torch.arange(3.0)[:, None].repeat(1, images) + 1)
    assert repr(rising) == f"{shown}final loss 1.00e+00)"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: replace(trajectory(), latents=torch.rand(3, 2, 4, 5, 7)), "(4, B, C, h, w), not (3, 2, 4, 5, 7)"),
        (lambda: replace(trajectory(), latents=torch.rand(4, 4, 5, 7)), "shape (4, B, C, h, w), not (4, 4, 5, 7)"),
        (lambda: replace(trajectory(), context=Context(torch.rand(1, 9, 6))),
         "a context (2, tokens, width), not (1, 9, 6)"),
        (lambda: replace(trajectory(), context=Context(torch.rand(2, 9))), "a context (2, tokens, width), not (2, 9)"),
        (lambda: trajectory().check_context(Context(torch.rand(8, 6)), "text"),
         "a text (8, 6) does not fit this trajectory, whose context (B, tokens, width) is (2, 9, 6)"),
        (lambda: trajectory().check_context(Context(torch.rand(3, 9, 6)), "text"), "a text (3, 9, 6) does not fit"),
        (lambda: replace(null_embeddings(), embeddings=Context(torch.rand(3, 9, 6))),
         "shape (T, B, tokens, width), not (3, 9, 6)"),
        (lambda: replace(null_embeddings(), embeddings=Context(torch.rand(4, 2, 9, 6))),
         "4 null embeddings do not fit 3 steps"),
        (lambda: replace(null_embeddings(), losses=torch.rand(3, 1)), "losses of null embeddings must be (T, B) = (3"),
        (lambda: replace(null_embeddings(), iterations=torch.ones(2, 2)),
         "iterations of null embeddings must be (T, B) = (3, 2)"),
        (lambda: replace(null_embeddings(), guidance=101.0), "guidance must be a number in 0…100, not 101"),
        (lambda: null_embeddings(pin=Pin(Context(torch.rand(1, 9, 6)))),
         "(B, tokens, width) = (2, 9, 6), not (1, 9, 6)"),
        (lambda: null_embeddings(pin=Pin(Context(torch.rand(2, 9, 6)), torch.rand(2, 3, 4, 5, 7))),
         "must begin with (T, B) = (3, 2), not be (2, 3, 4, 5, 7)"),
    ],
)  # fmt: skip
def test_shapes_that_do_not_agree_are_named(make, said):
    """Guards what is put together by hand: the shape that is wanted, and the one that there is."""
    with pytest.raises(InputError, match=re.escape(said)):
        make()


@pytest.mark.parametrize("shape", [(9, 6), (1, 9, 6), (2, 9, 6)])
def test_a_context_may_be_of_all_pictures_of_one_or_of_each(shape):
    """Guards the other side of the check."""
    trajectory().check_context(Context(torch.rand(shape)), "text")


@pytest.mark.parametrize("within", [SAME_TEXT, ANY_PRECISION])
def test_another_word_is_seen_beside_a_token_that_is_far_larger(within):
    """Guards SDXL's encoders, whose first token may drown out the others: another word is another text."""
    text = torch.randn(1, 77, 64)
    text[:, 0] *= 150
    other = text.clone()
    other[:, 3] = torch.randn(64)
    assert same_text(Context(text), Context(text * (1 + 0.5 * within)), within)
    assert not same_text(Context(other), Context(text), within) and not same_text(Context(text[:, 1:]), Context(text))
