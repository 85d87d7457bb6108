"""What an edit's prompts and settings become: tables, windows, words of several edits, and what is refused."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nullinv_core import EditSettings, InputError, plan_edit
from nullinv_core.denoiser import Layer
from nullinv_core.prompt_to_prompt.attention_edit import Here
from nullinv_core.prompt_to_prompt.attention_edits.replace import Replace
from nullinv_core.prompt_to_prompt.attention_edits.reweight import Reweight
from nullinv_core.prompt_to_prompt.control import batch_edits, needs_source
from nullinv_core.prompt_to_prompt.edit import MOST_EDITS, plan_edits
from nullinv_core.prompt_to_prompt.emphasis import MOST_LETTERS
from nullinv_core.prompt_to_prompt.grids import map_grid
from nullinv_core.prompt_to_prompt.local_blend import blend_mask, region, uses_blend
from nullinv_core.prompt_to_prompt.maps import AttentionMaps
from nullinv_core.prompt_to_prompt.prompt import END, LISTED, START, Prompt, check_tokens, find_phrase
from nullinv_core.schedule import steps_of
from nullinv_core.settings import MOST_NAMED, OF_EDIT

from .helpers import word_prompt

SOURCE, EDIT = word_prompt("a red cat on grass"), word_prompt("a blue cat on grass")
seeds = st.integers(0, 2**31)


@given(st.integers(1, 200), st.integers(1, 200))
def test_maps_are_read_where_they_are_small_and_not_too_small(height, width):
    """Guards the grid: halved twice at most, rounding up, while it has 16×16 positions and two a side to halve."""
    grids = [(math.ceil(height / 2**k), math.ceil(width / 2**k)) for k in range(3)]
    halved = [grid for grid, before in zip(grids, [(2, 2), *grids], strict=False) if min(before) > 1]
    enough = [grid for grid in halved if grid[0] * grid[1] >= 256]
    assert map_grid(height, width) == (enough[-1] if enough else (height, width))


@given(seed=seeds)
def test_cross_attention_is_edited_by_the_formula(seed):
    """Guards every number of the edit against loops over pictures, edits, heads, positions and tokens."""
    draw = np.random.default_rng(seed)
    source, own, mapping = draw.random((2, 1, 2, 3, 4)), draw.random((2, 2, 2, 3, 5)), draw.random((2, 2, 4, 5))
    keep, equalizer = draw.integers(0, 2, (2, 2, 1, 1, 5)).astype(float), draw.uniform(-2, 2, (2, 2, 1, 1, 5))
    window = draw.integers(0, 2, (2, 2, 1, 1, 5)).astype(bool)
    wanted = own.copy()
    for b, e, h, p, token in np.ndindex(own.shape):
        place = b, e, 0, 0, token
        if window[place]:
            taken = sum(source[b, 0, h, p, k] * mapping[b, e, k, token] for k in range(4))
            wanted[b, e, h, p, token] = (taken if keep[place] else own[b, e, h, p, token]) * equalizer[place]
    source, own, mapping, keep, equalizer, window = map(
        torch.from_numpy, (source, own, mapping, keep, equalizer, window)
    )
    here = Here(Layer("cross", 3), (1, 3), window)
    replaced = Replace(window, mapping, keep).rewrite(source, own, own, here)
    found = Reweight(window, equalizer).rewrite(source, own, replaced, here)
    assert np.allclose(found.numpy(), wanted)


def by_hand(maps, tokens, scale, threshold, pool):
    """``region`` of each branch, from its description: (h, w, K) and (K,), cells of ``scale`` pixels a side."""
    found = []
    for own, chosen in zip(maps, tokens, strict=True):
        total = own[..., chosen > 0].sum(-1)
        if pool:
            total = np.lib.stride_tricks.sliding_window_view(np.pad(total, 1), (3, 3)).max((-2, -1))
        found.append(np.kron(total > threshold * total.max(), np.ones((scale, scale))) > 0)
    return found


@given(
    seed=seeds, scale=st.integers(1, 3), threshold=st.sampled_from([0.0, 0.3, 0.8, OF_EDIT["blend_threshold"].most]),
    words=st.sets(st.sampled_from(["cat", "grass", "red"]), max_size=2),
    others=st.sets(st.sampled_from(["on", "a"]), max_size=2),
)  # fmt: skip
def test_a_mask_is_where_its_words_are_seen(seed, scale, threshold, words, others):
    """Guards local blend: the regions of source and edit together, each by its own maximum, less what is excluded,
    whose regions are not widened; everywhere where no word is named."""
    draw = np.random.default_rng(seed)
    maps = draw.random((2, 4, 5, SOURCE.length)) ** 3 * np.array([1.0, 0.1])[:, None, None, None]
    plan = plan_edit(SOURCE, SOURCE, 4, EditSettings(
        blend_words=sorted(words), exclude_words=sorted(others), blend_threshold=threshold))  # fmt: skip
    inside = np.ones((4 * scale, 5 * scale), bool)
    if words:
        inside = np.any(by_hand(maps, plan.blend.numpy(), scale, threshold, pool=True), 0)
    if others:
        inside = inside & ~np.any(by_hand(maps, plan.exclude.numpy(), scale, threshold, pool=False), 0)
    found = blend_mask(torch.from_numpy(maps), plan, (4 * scale, 5 * scale))
    assert np.array_equal(found[0].numpy(), inside) and uses_blend(plan) == bool(words or others)
    # whatever the threshold, something may change where nothing is excluded
    assert bool(found.any()) or others


@given(steps=st.integers(1, 60), start=st.floats(0, 1), end=st.floats(0, 1), words=st.booleans(), others=st.booleans())
def test_blend_and_exclude_words_act_in_their_steps(steps, start, end, words, others):
    """Guards both windows, and pinned sources: they are looked at until the last step that blends, and no longer."""
    settings = EditSettings(
        cross_replace=0.0, self_replace=0.0, blend_start=start, exclude_end=end,
        blend_words=["cat"] * words, exclude_words=["grass"] * others,
    )  # fmt: skip
    plan = plan_edit(SOURCE, EDIT, steps, settings)
    first = min(steps_of(start, steps), steps - (start < 1))
    # a window that opens has a step at least
    last = max(steps_of(end, steps), first + 1) if start < end else 0
    excluded = [others and first <= index < last for index in range(steps)]
    blended = [words and first <= index for index in range(steps)]
    assert plan.exclude_window.tolist() == excluded
    assert plan.blend_window.tolist() == [a or b for a, b in zip(excluded, blended, strict=True)]
    edits = batch_edits([[plan]])
    looked_at = [needs_source(edits, index) for index in range(steps)]
    assert looked_at == [any(excluded[index:] + blended[index:]) for index in range(steps)]


@given(steps=st.integers(1, 60), ends=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted))
def test_a_window_that_opens_has_a_step(steps, ends):
    """Guards short windows: a weight that is not in the encoding must act somewhere."""
    window = tuple(ends)
    settings = EditSettings(cross_replace=0.0, self_replace=window, weights={"blue": 3}, word_windows={"blue": window})
    plan = plan_edit(SOURCE, EDIT, steps, settings)
    (token,) = find_phrase(plan.prompt, "blue")
    opens = window[0] < window[1]
    assert bool(plan.cross_window[:, token].any()) == bool(plan.self_window.any()) == opens
    assert (plan.equalizer[token] == 3) == opens and (plan.prompt.weight_of_token[token] == 3) != opens


@given(st.floats(0, 1), st.none() | st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted).map(tuple))
def test_a_weight_is_in_the_encoding_where_no_window_opens(cross_replace, window):
    """Guards weights where attention is never rewritten: the word is encoded as strongly instead, and no other is."""
    settings = EditSettings(
        cross_replace=cross_replace, weights={"blue": 3.0}, word_windows={"blue": window} if window else {}
    )
    start, end = window or (0, cross_replace)
    plan = plan_edit(SOURCE, EDIT, 10, settings)
    (token,) = find_phrase(plan.prompt, "blue")
    strength, factor = plan.prompt.weight_of_token, plan.equalizer.tolist()
    assert (strength[token], factor[token]) == ((1, 3) if start < end else (3, 1))
    assert [*strength, *factor].count(1) == 2 * plan.prompt.length - 1


def test_a_weight_stays_where_focus_rewrites_attention():
    """Guards focused words, whose attention is rewritten whatever the windows are; and the most that is encoded."""
    plan = plan_edit(SOURCE, EDIT, 10, EditSettings(cross_replace=0.0, focus_from=0.5, weights={"blue": 3.0}))
    (token,) = find_phrase(plan.prompt, "blue")
    assert (plan.prompt.weight_of_token[token], plan.equalizer[token]) == (1, 3)
    strong = replace(EDIT, weights=tuple(900.0 if word == "blue" else 1.0 for word in EDIT.words))
    with pytest.raises(InputError, match="weight of"):
        plan_edit(SOURCE, strong, 10, EditSettings(cross_replace=0.0, weights={"blue": 900.0}))


def test_a_word_that_is_not_in_a_text_is_nowhere():
    """Guards maps of nothing, which have no maximum, and a value that is the threshold itself."""
    maps = torch.tensor([[[[0.5, 0.0], [1.0, 0.0]]]])
    first, second = (region(maps, torch.tensor([row]), (1, 2), 0.5, pool=False) for row in ([1.0, 0], [0, 1.0]))
    assert first.tolist() == [[[[False, True]]]] and not second.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_maps_are_the_mean_over_layers_and_heads(dtype):
    """Guards running sums, which half precision would lose: layers with other numbers of heads count by head."""
    layers = [torch.rand(2, 3, heads, 6, 4).to(dtype) for heads in (1, 5, 2)]
    maps = AttentionMaps((2, 3))
    for layer in layers:
        maps.add(layer)
    wanted = torch.cat(layers, 2).float().mean(2).unflatten(2, (2, 3))
    assert maps.mean().dtype == torch.float32 and torch.allclose(maps.mean(), wanted, atol=1e-6)
    with pytest.raises(InputError, match="no cross-attention on a 2×3 grid"):
        AttentionMaps((2, 3)).mean()


def test_several_edits_take_the_words_that_concern_them():
    """Guards shared settings: a weight or window is for edits that have the word, a region for the source's words too;
    what no text has is refused."""
    source, edits = word_prompt("a cat on grass"), [word_prompt("a dog on grass"), word_prompt("a cat on snow")]
    words = {"cat": [1], "dog": [0], "snow": [1], "on": [0, 1]}
    settings = EditSettings(
        weights=dict.fromkeys(words, 2.0), word_windows=dict.fromkeys(words, 0.5), blend_words=list(words),
        exclude_words=[*words, "grass"], steady_words=list(words),
    )  # fmt: skip
    plans = plan_edits(source, edits, 4, settings)
    for e, plan in enumerate(plans):
        own = [word for word, those in words.items() if e in those]
        assert list(plan.settings.weights) == list(plan.settings.word_windows) == own
        regions = [word for word in words if word in own or word == "cat"]
        assert plan.settings.blend_words == plan.settings.steady_words == regions
        assert plan.settings.exclude_words == [*regions, "grass"]
        same = plan_edit(source, edits[e], 4, plan.settings)
        assert torch.equal(plan.equalizer, same.equalizer) and torch.equal(plan.cross_window, same.cross_window)
        assert torch.equal(plan.blend, same.blend) and plan.prompt == same.prompt
    for name, wrong in (
        ("weight word", EditSettings(weights={"bird": 2.0})), ("blend word", EditSettings(blend_words=["bird"])),
        ("word with a replace window", EditSettings(word_windows={"bird": 0.5})),
        ("exclude word", EditSettings(exclude_words=["bird"])), ("steady word", EditSettings(steady_words=["bird"])),
    ):  # fmt: skip
        with pytest.raises(InputError, match=f'^{name} "bird" is .*words are: a, '):
            plan_edits(source, edits, 4, wrong)


@pytest.mark.parametrize(
    ("word", "source", "edit"), [("red", "red", "blue"), ("blue", "red", "blue"), ("on", "on", "on")]
)
@pytest.mark.parametrize("what", ["blend_words", "exclude_words", "steady_words"])
def test_a_word_of_one_text_stands_for_its_counterpart(what, word, source, edit):
    """Guards regions by a word that only one text has: in the other it is the word in its place."""
    plan = plan_edit(SOURCE, EDIT, 4, EditSettings(**{what: [word]}))
    found = getattr(plan, what.removesuffix("_words"))
    rows = [SOURCE.tokens_of_word(SOURCE.words.index(source)), EDIT.tokens_of_word(EDIT.words.index(edit))]
    assert [row.nonzero().flatten().tolist() for row in found] == rows


@pytest.mark.parametrize(("mode", "strength", "factor"), [("replace", 1.5, 2.0), ("refine", 1.0, 3.0)])
def test_a_weight_is_carried_where_a_word_takes_the_place_of_another(mode, strength, factor):
    """Guards marks: a replaced word is encoded as strongly as the one before; with attention of its own, as any."""
    source, edit = replace(SOURCE, weights=(1, 1.5, 1, 1, 1)), replace(EDIT, weights=(1, 3.0, 1, 1, 1))
    plan = plan_edit(source, edit, 4, EditSettings(mode=mode))
    assert plan.prompt.weights == (1, strength, 1, 1, 1)
    assert plan.equalizer[EDIT.tokens_of_word(1)].tolist() == [factor] * len(EDIT.tokens_of_word(1))
    assert (plan.equalizer != 1).sum() == len(EDIT.tokens_of_word(1))


SHARES = {"blend_start": "blend start", "fresh_noise": "fresh noise", "focus_from": "focus from",
          "exclude_end": "exclude end"}  # fmt: skip
WINDOWS = {"cross_replace": "cross replace", "self_replace": "self replace"}


@pytest.mark.parametrize(
    ("allowed", "beyond", "message"),
    [
        *(({name: end}, {name: off}, f"^{said} must lie in 0…1, not {off}")
          for name, said in SHARES.items() for end, off in ((0.0, -0.01), (1.0, 1.01))),
        *(({name: end}, {name: off}, f"^{said} must lie in 0…1 with its start before its end")
          for name, said in WINDOWS.items()
          for end, off in ((0.0, -0.01), (1.0, 1.01), ((0.5, 0.5), (0.5, 0.4)), ((0.0, 1.0), (-0.1, 1.0)))),
        # at 1 no place would be left to change
        ({"blend_threshold": 0.99}, {"blend_threshold": 1.0}, "^blend threshold must lie in 0…0.99, not 1"),
        ({"word_windows": {"a": 1}}, {"word_windows": {"a": 1.01}}, '^cross replace of "a" must lie'),
        ({"variant": 0}, {"variant": -1}, f"^variant must lie in 0…{2**63 - 1}, not -1"),
        ({"variant": 2**63 - 1}, {"variant": 2**63}, f"^variant must lie in 0…{2**63 - 1}, not {2**63}"),
        ({"weights": {"a": 1000}}, {"weights": {"a": 1000.1}}, 'the weight of "a" must be a number in ±1000'),
        ({"weights": {"a": -1000}}, {"weights": {"a": -1000.1}}, 'the weight of "a" must be a number in ±1000'),
        ({"blend_words": ["a"] * MOST_NAMED}, {"blend_words": ["a"] * (MOST_NAMED + 1)}, "names 65 words; 64 at most"),
        ({"steady_words": ["a" * MOST_LETTERS]}, {"steady_words": ["a" * MOST_LETTERS, "a"]},
         "more than 20000 characters"),
        ({"blend_words": []}, {"blend_words": [" "]}, "is empty; leave it out"),
        ({"steady_words": []}, {"steady_words": [""]}, "is empty; leave it out"),
        ({"exclude_words": []}, {"exclude_words": "cat"}, "^exclude words are lists of words, not one text"),
    ],
)  # fmt: skip
def test_the_ends_of_what_is_allowed_are_allowed(allowed, beyond, message):
    """Guards the limits of every setting: the last that is taken, and what is said of the next."""
    EditSettings(**allowed)
    with pytest.raises(InputError, match=message):
        EditSettings(**beyond)


def test_so_many_edits_and_no_more():
    """Guards the most edits of a run."""
    assert len(plan_edits(SOURCE, [EDIT] * MOST_EDITS, 1, EditSettings())) == MOST_EDITS
    with pytest.raises(InputError, match="there are 65 edits; 64 at most"):
        plan_edits(SOURCE, [EDIT] * (MOST_EDITS + 1), 1, EditSettings())


@pytest.mark.parametrize(
    ("words", "phrase", "places"),
    [
        (("a", "1", "0", "m", "²", "room"), "m²", [3, 4]),
        (("a", "1", "0", "m", "²", "room"), "10 m² room", [1, 2, 3, 4, 5]),
        (("οδοσ", "x"), "ΟΔΟΣ", [0]),
        (("黑", "猫", "and", "黑", "猫"), "黑猫", [0, 1, 3, 4]),
        (("not", "able"), "no table", None),
        (("a", "head", "of", "lettuce"), "ahead", None),
        (("not", "able"), "ota", None),
        (("cat", "s"), "", None),
    ],
)
def test_words_are_found_however_a_tokenizer_parts_them(words, phrase, places):
    """Guards phrases that the tokenizer splits in another way: every piece between spaces is a run of whole words."""
    text = "".join(word if word in "²1猫0" else f" {word}" for word in words)
    prompt = Prompt(text, tuple(range(len(words) + 2)), words, (START, *range(len(words)), END))
    if places is None:
        with pytest.raises(InputError, match="is not in the prompt"):
            find_phrase(prompt, phrase)
    else:
        assert find_phrase(prompt, phrase) == [place + 1 for place in places]


def test_a_learned_word_is_found_whole():
    """Guards words that a text would split: an embedding's name is one word of the prompt, whatever case it has."""
    prompt = Prompt("a embedding:my-cat", (0, 5, 6, 7, 9), ("a", "embedding:my-cat"), (START, 0, 1, 1, END))
    assert find_phrase(prompt, "Embedding:My-Cat") == [2, 3] and find_phrase(prompt, "A") == [1]
    with pytest.raises(InputError, match=r'^word "cat" is not in the prompt "a embedding:my-cat"'):
        find_phrase(prompt, "cat")
    many = [f"w{number}" for number in range(500)]
    long = Prompt(" ".join(many), tuple(range(500)), tuple(many), tuple(range(500)))
    with pytest.raises(InputError) as told:
        find_phrase(long, "cat")
    listed = str(told.value).partition("words are: ")[2]
    assert len(listed) == LISTED and listed.startswith("w0, w1, ") and listed.endswith("…")
    with pytest.raises(InputError, match=r"words are: \(none\)$"):
        find_phrase(Prompt("", (0, 1), (), (START, END)), "cat")


@pytest.mark.parametrize("wrong", [((0, 1), ("a",), (0,), ()), ((0,), ("a",), (0,), (1.0, 2.0))])
def test_a_prompt_says_of_each_token_and_word_what_it_is(wrong):
    """Guards prompts that other programs put together."""
    with pytest.raises(InputError, match="one word index for each token and one weight for each word"):
        Prompt("a", *wrong)


def test_the_last_token_of_an_encoder_is_one():
    """Guards tokenizers of other models, by the first token that the encoder does not have."""
    check_tokens(48, 49)
    with pytest.raises(InputError, match="knows the token 49, the encoder has 49 tokens"):
        check_tokens(49, 49)
