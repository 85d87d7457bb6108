"""Weights that are written into texts, and texts of unequal length, from the text to the edit."""

import dataclasses
import math
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nullinv_core import (
    EditSettings,
    InputError,
    Inversion,
    Trajectory,
    batch_edits,
    edit,
    invert,
    plan_edit,
    reconstruct,
)
from nullinv_core.backends.diffusers import load_model
from nullinv_core.pipeline import source_prompt
from nullinv_core.prompt_to_prompt.alignment import align_tokens
from nullinv_core.prompt_to_prompt.edit import common_length, plan_edits
from nullinv_core.prompt_to_prompt.emphasis import DEEPEST, carried, emphasized, literal, parse, without_marks

from .helpers import TOKENS, context_of, controlled, empty_context, latents_of, tiny_schedule, tiny_unet, word_prompt

words = st.text("ab c", min_size=1, max_size=6)
numbers = st.sampled_from(["1.5", "0", "-2", ".5", " 2.0 ", "1e1"])


def grouped(inner):
    return st.tuples(st.lists(inner, min_size=1, max_size=3), st.none() | numbers)


trees = st.lists(st.recursive(words, grouped, max_leaves=8), max_size=4)


def written(tree):
    """A tree of words and (parts, weight) as its text."""
    if isinstance(tree, str):
        return tree
    parts, weight = tree
    return f"({''.join(map(written, parts))}{'' if weight is None else f':{weight}'})"


def meant(tree, weight=1.0):
    """Each letter of a tree with its weight: a number in place of those outside of it, brackets alone times 1.1."""
    if isinstance(tree, str):
        return [(letter, weight) for letter in tree]
    parts, number = tree
    inside = weight * 1.1 if number is None else float(number)
    return [pair for part in parts for pair in meant(part, inside)]


@given(trees)
def test_weights_are_read_as_they_are_written(forest):
    """Guards the parser: any nesting of brackets and numbers gives every letter its weight."""
    found = [(letter, weight) for piece, weight in parse("".join(map(written, forest))) for letter in piece]
    assert found == [pair for tree in forest for pair in meant(tree)]


@given(st.text("a(b)\\:1 ", max_size=20))
def test_a_literal_text_has_no_weights(text):
    """Guards brackets of the text: spelled as such, they all stay and weigh nothing."""
    pieces = parse(literal(text))
    assert "".join(piece for piece, _ in pieces) == text and {weight for _, weight in pieces} <= {1.0}


@pytest.mark.parametrize(
    ("text", "plain", "weights"),
    [
        ("a red cat", "a red cat", [1]),
        ("a (red:1.5) cat", "a red cat", [1, 1.5, 1]),
        ("((red))", "red", [1.1 * 1.1]),
        ("((red:1.2):1.5)", "red", [1.2]),
        ("((red) cat:1.5)", "red cat", [1.5 * 1.1, 1.5]),
        ("a [red] cat", "a [red] cat", [1]),
        ("a (red cat", "a (red cat", [1, 1]),
        ("a red) cat", "a red) cat", [1]),
        (r"a cat \(red\)", "a cat (red)", [1]),
        ("(red:)", "red:", [1.1]),
        ("(a:b:2)", "a:b", [2]),
        ("", "", []),
    ],
)
def test_weights_as_comfyui_has_them(text, plain, weights):
    """Guards the forms: nested, escaped, alone, squared, without a number."""
    assert without_marks(text) == plain and [weight for _, weight in parse(text)] == weights


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("caf\udce9", r'"caf\?" has bytes that are not text; .*UTF-8'),
        ("half of a \ud83d", "not text"),
        ("nothing\0", "not text"),
        ("(red:1e9)", r'weight of "red" must be a number in ±1000, not 1000000000'),
        ("(red:nan)", "must be a number in ±1000"),
        (f"(red:{'9' * 400})", "must be a number in ±1000, not inf"),
        ("(" * 100 + "red" + ")" * 100, "more than 64 brackets inside of one another"),
    ],
)
def test_what_is_no_text_is_refused(text, message):
    """Guards prompts in another encoding, and weights that would overflow: one short sentence."""
    with pytest.raises(InputError, match=message) as said:
        parse(text)
    assert len(str(said.value)) < 300 and str(said.value).isprintable()


@pytest.mark.parametrize("text", ["(" * 20_000, ")" * 20_000, "(a)" * 6_666, "(" * 19_999 + ")", "\\(" * 10_000])
def test_long_texts_of_brackets_take_no_time(text):
    """Guards the price of the parser on what was made to be slow."""
    started = time.process_time()
    parse(text)
    assert time.process_time() - started < 2


weights = st.floats(-3, 3).map(lambda x: round(x, 2))


@given(st.lists(weights, min_size=1, max_size=6), weights)
def test_equal_weights_of_both_texts_change_nothing(source, other):
    """Guards the meaning: the same weight in both texts is how the photo is described; another scales attention."""
    pairs = [((i,), (i,)) for i in range(len(source))]
    assert carried(source, source, pairs) == (tuple(source), (1.0,) * len(source))
    strengths, factors = carried(source, [other] * len(source), pairs)
    for mine, strength, factor in zip(source, strengths, factors, strict=True):
        assert math.isclose(strength * factor, other, abs_tol=1e-9)
        assert strength == mine or mine <= 0
    assert carried(source, [other], []) == ((1.0,), (other,))


def test_emphasis_moves_away_from_the_empty_text():
    """Guards the encoding: 1 is the text to the bit, 0 the empty text, 2 twice as far."""
    text, empty = torch.randn(2, 3, 4), torch.randn(1, 3, 4)
    found = emphasized(text, empty, torch.tensor([[1.0, 0.0, 2.0]]).expand(2, -1))
    assert torch.equal(found[:, 0], text[:, 0]) and torch.equal(found[:, 1], empty[:, 1].expand(2, -1))
    assert torch.allclose(found[:, 2] - empty[:, 2], 2 * (text[:, 2] - empty[:, 2]), atol=1e-6)


@pytest.fixture(scope="module")
def model(model_folder):
    return load_model(model_folder)


def test_a_models_prompt_has_the_words_of_the_plain_text(model):
    """Guards tokens: weights change none, and a text without weights is tokenized as its tokenizer does."""
    plain, marked = model.prompt("a red cat on grass"), model.prompt("a (red:1.5) (cat on:0.5) grass")
    tokenizer = model.text.tokenizers[0]
    assert list(plain.token_ids) == tokenizer(plain.text, padding="max_length", max_length=77).input_ids
    assert (marked.token_ids, marked.words) == (plain.token_ids, plain.words)
    assert plain.weights == (1.0,) * 5 and marked.weights == (1.0, 1.5, 0.5, 0.5, 1.0)
    both = model.encode_prompts([plain, marked]).text
    empty = model.encode_prompts([model.prompt("")]).text
    weights = torch.tensor(marked.weight_of_token)[:, None]
    assert torch.allclose(both[1], (both[0] - empty[0]) * weights + empty[0], atol=1e-5)
    assert torch.equal(both[0], model.encode_prompts([plain]).text[0])


def test_marks_of_source_and_edit_meet_in_the_plan(model):
    """Guards edits: a word is encoded as strongly as the one it comes from, and its attention scaled by the rest."""
    source = model.prompt("a (red:1.5) cat on a (marble:2) table")
    edited = model.prompt("a (red:3) dog on a (marble:2) (wooden:0.5) table")
    plan = plan_edit(source, edited, 4)
    assert plan.prompt.weights == (1, 1.5, 1, 1, 1, 2, 1, 1)
    assert [float(plan.equalizer[plan.prompt.tokens_of_word(w)[0]]) for w in range(8)] == [1, 2, 1, 1, 1, 1, 0.5, 1]
    more = plan_edit(source, edited, 4, EditSettings(weights={"red": 2.0}))
    assert float(more.equalizer[plan.prompt.tokens_of_word(1)[0]]) == 4
    same = plan_edit(source, source, 4)
    assert same.prompt == source and bool((same.equalizer == 1).all())


def test_a_weight_is_for_one_place():
    """Guards a word that stands twice: the place that is marked is weighted."""
    twice = word_prompt("a red cat on red grass")
    marked = dataclasses.replace(twice, weights=(1, 1, 1, 1, 3.0, 1))
    plan = plan_edit(twice, marked, 4)
    assert plan.equalizer.nonzero().numel() == TOKENS
    assert [i for i, x in enumerate(plan.equalizer.tolist()) if x == 3.0] == twice.tokens_of_word(4)


SOURCE, EDIT = word_prompt("a red cat on grass"), word_prompt("a blue leopard on grass")
LONGER = word_prompt("a blue leopard on grass near trees and houses", 2 * TOKENS)


def test_texts_of_unequal_length_are_repeated():
    """Guards plans: every copy of a token has its share, rows stay whole, and equal lengths stay as they are."""
    plan = plan_edit(SOURCE, LONGER, 5, EditSettings(mode="replace"))
    assert plan.source.length == plan.prompt.length == 20 and torch.allclose(
        plan.alignment.mapping.sum(1), torch.ones(20)
    )
    assert torch.equal(plan.alignment.mapping, align_tokens(SOURCE, LONGER, "replace").mapping.repeat(2, 1))
    back = plan_edit(LONGER, SOURCE, 5, EditSettings(mode="replace"))
    assert torch.allclose(back.alignment.mapping.sum(1), torch.ones(20))
    assert {p.source.length for p in plan_edits(SOURCE, [EDIT, LONGER, word_prompt("a", 30)], 5, EditSettings())} == {
        60
    }
    with pytest.raises(
        InputError, match="70, 80, 90 tokens cannot be repeated to one length; make them about equally long"
    ):
        common_length([word_prompt("a", length) for length in (70, 80, 90)])


@pytest.mark.parametrize("lengths", [(1, 2), (2, 1), (2, 3)])
def test_a_longer_edit_keeps_the_reconstruction(lengths):
    """Guards unequal texts through the sampler: the source branch stays the reconstruction, and an edit whose own text
    was only repeated is the edit that it was."""
    denoiser = controlled(tiny_unet(torch.float64))
    source, short = (
        word_prompt("a red cat on grass", 10 * lengths[0]),
        word_prompt("a blue cat on grass", 10 * lengths[1]),
    )
    contexts = [context_of(p) for p in (source, short)]
    trajectory = invert(denoiser, latents_of(), contexts[0][None], tiny_schedule())
    wanted = reconstruct(denoiser, trajectory, empty_context(length=10 * lengths[0]), 3.0)
    plan = plan_edit(source, short, 4, EditSettings(blend_words=["cat"], self_replace=0.5))
    tokens = plan.source.length
    text, own, empty = (c.lengthened(tokens) for c in (*contexts, empty_context(length=10 * lengths[0])))
    longer = dataclasses.replace(trajectory, context=text[None])
    result = edit(denoiser, longer, empty, own[None, None], batch_edits([[plan]]), 3.0)
    assert torch.allclose(result.source, wanted, atol=1e-9)
    assert not torch.allclose(result.latents[:, 0], wanted, atol=1e-3)


@pytest.mark.parametrize("settings", [EditSettings(), EditSettings(mode="refine", blend_words=["cat"], focus_from=0.5)])
def test_repeating_both_texts_changes_no_edit(settings):
    """Guards the copies: the edit of texts that were both repeated is that of the texts themselves."""
    denoiser = controlled(tiny_unet(torch.float64))
    trajectory = invert(denoiser, latents_of(), context_of(SOURCE)[None], tiny_schedule())
    results = []
    for times in (1, 2):
        plan = plan_edit(SOURCE, EDIT, 4, settings, tokens=times * TOKENS)
        again = dataclasses.replace(trajectory, context=trajectory.context.lengthened(times * TOKENS))
        text, empty = (one.lengthened(times * TOKENS) for one in (context_of(EDIT), empty_context()))
        results.append(edit(denoiser, again, empty, text[None, None], batch_edits([[plan]]), 3.0))
    assert torch.allclose(results[0].latents, results[1].latents, atol=1e-8)
    assert torch.equal(results[0].mask, results[1].mask)


def test_brackets_of_older_files_stay_what_they_were(model):
    """Guards saved inversions: a text that was inverted with its brackets is read so, a new one by its weights."""
    text = "a (red:1.5) cat"
    prompts = {"weighted": model.prompt(text), "spelled": model.prompt(literal(text))}
    schedule = tiny_schedule(1)
    for prompt in prompts.values():
        trajectory = Trajectory(torch.zeros(2, 1, 4, 4, 4), model.encode_prompts([prompt]), schedule)
        assert source_prompt(Inversion(trajectory, None, (text,), model.fingerprint), model).words == prompt.words


@pytest.mark.parametrize(
    ("source", "edit", "olds", "strength", "factor"),
    [
        ([2.0, 9.0], 5.0, (0,), 2.0, 2.5),
        ([2.0, 3.0], 5.0, (0, 1), 1.0, 5.0),
        ([2.0, 2.0], 5.0, (0, 1), 2.0, 2.5),
        ([2.0, 2.0], 2.0, (0, 1), 2.0, 1.0),
        ([0.0, 9.0], 5.0, (0,), 1.0, 5.0),
        ([-1.0, 9.0], 5.0, (0,), 1.0, 5.0),
        ([-1.0, 9.0], -1.0, (0,), -1.0, 1.0),
        ([2.0, 9.0], 5.0, None, 1.0, 5.0),
    ],
)
def test_a_word_takes_over_the_strength_that_it_comes_from(source, edit, olds, strength, factor):
    """Guards what is encoded and what is left for attention: one origin, several alike or not, none, and none that
    anything could be multiplied by."""
    pairs = [] if olds is None else [(olds, (1,))]
    assert carried(source, [7.0, edit], pairs) == ((1.0, strength), (7.0, factor))


def test_brackets_as_deep_as_is_said():
    """Guards the deepest brackets that are read, and empty ones, which hold no word."""
    for depth in (DEEPEST, DEEPEST + 1):
        text = "(" * depth + "cat" + ":1)" + ":1)" * (depth - 1)
        if depth == DEEPEST:
            assert parse(text) == [("cat", 1.0)]
        else:
            with pytest.raises(InputError, match="more than 64 brackets"):
                parse(text)
    assert without_marks("a () cat") == "a  cat" and without_marks("(") == "("


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_emphasis_keeps_the_precision_of_the_text(dtype):
    """Guards encodings in other precisions than their weights."""
    text, empty = torch.ones(1, 2, 3, dtype=dtype), torch.zeros(1, 2, 3, dtype=dtype)
    found = emphasized(text, empty, torch.tensor([[1.0, 2.5]]))
    assert found.dtype == dtype and found[0, :, 0].tolist() == [1.0, 2.5]
