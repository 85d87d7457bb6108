"""Token alignment under random word edits."""

import itertools
import time
import unicodedata

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nullinv_core.errors import InputError
from nullinv_core.prompt_to_prompt.alignment import align_tokens, align_words, choose_mode, explain, kept_words
from nullinv_core.prompt_to_prompt.prompt import END, PAD, START, Prompt, find_phrase, split_words

from .helpers import word_prompt

LENGTH = 40
WORDS = ["cat", "dog", "leopard", "red", "yellowish", "on", "grass", "a", "elephant", "tree", "near", "beautiful"]
texts = st.lists(st.sampled_from(WORDS), max_size=10).map(" ".join)
distinct = st.lists(st.sampled_from(WORDS), min_size=2, max_size=10, unique=True)


few = st.lists(st.sampled_from(["a", "red", "red", "cat", "of", ",", "."]), max_size=5).map(tuple)
repeats = st.lists(st.sampled_from(["a", "red", "cat", "1", "9", ",", ".", '"']), min_size=1, max_size=12).map(tuple)


def mode_of(source, edit):
    return choose_mode(source, edit, align_words(source, edit))


def common_subsequences(source, edit, i=0, j=0):
    """Every common subsequence, slowly."""
    yield ()
    for a in range(i, len(source)):
        for b in range(j, len(edit)):
            if source[a] == edit[b]:
                yield from (((a, b), *rest) for rest in common_subsequences(source, edit, a + 1, b + 1))


def merit(source, edit, pairs):
    """What makes one common subsequence better than another: words of meaning, small ones, words without an opposite,
    words in gaps of equal length."""
    weights = [word in {*["a", "of", ",", "."]} for word in (source[i] for i, _ in pairs)]
    corners = [(-1, -1), *pairs, (len(source), len(edit))]
    alone = even = 0
    for (a, c), (b, d) in itertools.pairwise(corners):
        signs = [[word in ",." for word in words] for words in (source[a + 1 : b], edit[c + 1 : d])]
        # signs stand in for signs, in the order of the text
        alone += len(signs[0]) + len(signs[1]) - 2 * longest_common(*map(tuple, signs))
        even += len(signs[0]) if signs[0] == signs[1] else 0
    return weights.count(False), weights.count(True), -alone, even


def longest_common(a, b):
    if not a or not b:
        return 0
    tail = longest_common(a[1:], b[1:]) + (a[0] == b[0])
    return max(tail, longest_common(a[1:], b), longest_common(a, b[1:]))


def prompts(*texts):
    return [word_prompt(t, LENGTH) for t in texts]


@given(texts, texts)
def test_replace_keeps_every_source_row_whole(a, b):
    """Guards that no attention is lost or made in replace mode: rows sum to 1, padding and removed words included."""
    mapping = align_tokens(*prompts(a, b), "replace").mapping
    assert torch.allclose(mapping.sum(1), torch.ones(LENGTH), atol=1e-6)
    assert (mapping >= 0).all()


@given(distinct, st.data(), st.sampled_from(["replace", "refine"]))
def test_kept_words_map_to_themselves(words, data, mode):
    """Guards kept words: after words were taken out and new ones put in, the rest map token to token."""
    keep = data.draw(st.lists(st.booleans(), min_size=len(words), max_size=len(words)))
    changed = [w for w, kept in zip(words, keep, strict=True) if kept]
    for _ in range(data.draw(st.integers(0, 3))):
        changed.insert(data.draw(st.integers(0, len(changed))), data.draw(st.sampled_from(["new", "strangest"])))
    source, edit = prompts(" ".join(words), " ".join(changed))
    alignment = align_tokens(source, edit, mode)
    for i, word in enumerate(words):
        if word in changed:
            columns = edit.tokens_of_word(changed.index(word))
            block = alignment.mapping[source.tokens_of_word(i)][:, columns]
            assert torch.equal(block, torch.eye(len(columns))) and bool((alignment.keep[columns] == 1).all())


@given(texts, st.sampled_from(["auto", "replace", "refine"]))
def test_the_same_prompt_maps_by_identity(text, mode):
    """Guards that an edit that changes nothing changes nothing."""
    alignment = align_tokens(*prompts(text, text), mode)
    assert torch.equal(alignment.mapping, torch.eye(LENGTH)) and bool((alignment.keep == 1).all())


@given(distinct, st.data())
def test_a_moved_word_takes_from_its_source_column(words, data):
    """Guards moves: one word taken out and put elsewhere still attends where it did."""
    start = data.draw(st.integers(0, len(words) - 1))
    rest = words[:start] + words[start + 1 :]
    stop = data.draw(st.integers(0, len(rest)))
    moved = [*rest[:stop], words[start], *rest[stop:]]
    source, edit = prompts(" ".join(words), " ".join(moved))
    for mode in ("replace", "refine"):
        mapping = align_tokens(source, edit, mode).mapping
        for i, word in enumerate(words):
            columns = edit.tokens_of_word(moved.index(word))
            assert torch.equal(mapping[source.tokens_of_word(i)][:, columns], torch.eye(len(columns)))


@given(distinct, st.data(), st.sampled_from(["replace", "refine"]))
def test_a_word_may_move_while_another_changes(words, data, mode):
    """Guards moves beside other edits: every word of both prompts still attends where it did."""
    moved = list(words)
    word = moved.pop(data.draw(st.integers(0, len(words) - 1)))
    place = data.draw(st.integers(0, len(moved)))
    what = data.draw(st.sampled_from(["insert", "replace", "remove"]))
    if what == "insert":
        moved.insert(place, "strangest")
    else:
        moved[place : place + 1] = ["strangest"] if what == "replace" else []
    moved.insert(data.draw(st.integers(0, len(moved))), word)
    source, edit = prompts(" ".join(words), " ".join(moved))
    mapping = align_tokens(source, edit, mode).mapping
    for kept in set(words) & set(moved):
        columns = edit.tokens_of_word(moved.index(kept))
        assert torch.equal(mapping[source.tokens_of_word(words.index(kept))][:, columns], torch.eye(len(columns)))


@given(texts, texts, st.sampled_from(["replace", "refine"]))
def test_special_tokens_and_padding_keep_their_order(a, b, mode):
    """Guards the frame: start to start, end to end, the k-th padding token to the k-th."""
    source, edit = prompts(a, b)
    mapping = align_tokens(source, edit, mode).mapping
    assert mapping[source.positions(START)[0], edit.positions(START)[0]] == 1
    assert mapping[source.positions(END)[0], edit.positions(END)[0]] == 1
    pads = list(zip(source.positions(PAD), edit.positions(PAD), strict=False))
    for old, new in pads[:-1]:
        assert mapping[old, new] == 1
    first = [int(mapping[:, new].nonzero()[0]) for new in edit.positions(PAD)]
    assert first == sorted(first)


@pytest.mark.parametrize("mode", ["replace", "refine"])
def test_padding_that_only_one_side_has_meets_the_others_last(mode):
    """Guards texts of other lengths: what is left over of the source goes to the edit's last one, or is dropped; what
    is left over of the edit shares the source's last one, or has it whole."""
    short, long = prompts("a", "a red cat on grass")
    few_, many = long.positions(PAD), short.positions(PAD)
    shrunk, grown = (align_tokens(*pair, mode).mapping for pair in ((short, long), (long, short)))
    extra = many[len(few_) :]
    assert extra and bool((shrunk[extra, few_[-1]] == (mode == "replace")).all())
    assert shrunk[extra].sum() == (len(extra) if mode == "replace" else 0)
    share = 1 / (len(extra) + 1) if mode == "replace" else 1.0
    assert torch.allclose(grown[few_[-1], many[len(few_) - 1 :]], torch.full((len(extra) + 1,), share))


@given(texts, texts)
def test_refine_takes_each_column_from_at_most_one_token(a, b):
    """Guards refine mode: columns are copied whole; those without a source keep their own attention."""
    alignment = align_tokens(*prompts(a, b), "refine")
    assert set(alignment.mapping.unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(alignment.keep, (alignment.mapping.sum(0) > 0).float())
    assert alignment.mapping.sum(0).max() <= 1


@given(texts, texts)
@settings(max_examples=50)
def test_prompts_without_padding_align_too(a, b):
    """Guards prompts that fill the encoder: shapes and row sums hold where one side has no padding."""
    longest = max(word_prompt(t, LENGTH).positions(END)[0] + 1 for t in (a, b))
    source, edit = word_prompt(a, longest), word_prompt(b, longest)
    mapping = align_tokens(source, edit, "replace").mapping
    assert torch.allclose(mapping.sum(1), torch.ones(longest), atol=1e-6)


def test_a_word_of_two_tokens_shares_the_attention_of_one():
    """Guards the authors' rule for words of different token counts: 1/m to each new token."""
    source, edit = prompts("a cat", "a leopard")
    mapping = align_tokens(source, edit, "replace").mapping
    assert mapping[2, 2] == mapping[2, 3] == 0.5


@pytest.mark.parametrize(
    ("a", "b", "mode"),
    [
        ("a red cat", "a blue cat", "replace"),
        ("a red cat", "a red fluffy cat", "refine"),
        ("a red cat", "a cat", "refine"),
        ("a red cat near a blue dog", "a blue cat near a red dog", "replace"),
        ("a cat", "two dogs", "replace"),
    ],
)
def test_the_mode_chooses_itself(a, b, mode):
    """Guards the automatic choice: replace for words that stand in for words, else refine."""
    assert mode_of(tuple(a.split()), tuple(b.split())) == mode


def test_swapped_colours_are_replaced_in_place():
    """Guards swaps: the new word at a place attends where the old word of that place did."""
    source, edit = prompts("a red cat near a big dog", "a big cat near a red dog")
    mapping = align_tokens(source, edit).mapping
    assert mapping[2, 2] == 1 and mapping[6, 6] == 1 and mapping[2, 6] == 0


@pytest.mark.parametrize(
    ("a", "b", "word"),
    [
        ("a cat", "cat with a hat", "cat"),
        ("a photo of a cat", "cat on a mat", "cat"),
        ("a house on a hill", "a hill with a house", "house"),
        ("a house on a hill", "a hill with a house", "hill"),
    ],
)
def test_meaning_outweighs_articles(a, b, word):
    """Guards rewritten prompts: a noun of both keeps its attention, whatever articles stand around it."""
    source, edit = prompts(a, b)
    mapping = align_tokens(source, edit).mapping
    old, new = (p.tokens_of_word(p.words.index(word))[0] for p in (source, edit))
    assert mapping[old, new] == 1


@given(few, few)
def test_the_kept_words_are_the_best_common_subsequence(source, edit):
    """Guards the alignment against all common subsequences: as much meaning as can be, then the most opposites."""
    best = max(merit(source, edit, pairs) for pairs in common_subsequences(source, edit))
    assert merit(source, edit, tuple(kept_words(source, edit))) == best
    assert merit(edit, source, tuple(kept_words(edit, source))) == best


@given(st.one_of(few, repeats), st.one_of(few, repeats))
def test_every_word_has_one_fate(source, edit):
    """Guards that none is forgotten or counted twice: each stays, is replaced, or comes or goes."""
    words = align_words(source, edit)
    olds = [i for i, _ in words.same] + [i for pair, _ in words.replaced for i in pair] + [*words.removed]
    news = [j for _, j in words.same] + [j for _, pair in words.replaced for j in pair] + [*words.added]
    assert sorted(olds) == list(range(len(source))) and sorted(news) == list(range(len(edit)))
    assert all(source[i] == edit[j] for i, j in words.same)


@given(repeats, st.data(), st.sampled_from(["2", "tiger", "blue", "a", "red"]))
def test_one_word_that_changes_is_replaced(source, data, word):
    """Guards words beside repeats of themselves: whatever stands around it, the one that changed is replaced."""
    places = [i for i, old in enumerate(source) if old != word and old not in ',."']
    if places:
        i = data.draw(st.sampled_from(places))
        edit = (*source[:i], word, *source[i + 1 :])
        words = align_words(source, edit)
        assert words.replaced == (((i,), (i,)),) and not words.removed and not words.added
        assert mode_of(source, edit) == "replace"


@pytest.mark.parametrize(
    ("a", "b", "replaced"),
    [
        ("11 cats", "12 cats", [("1", "2")]),
        ("a 1980s car", "a 1990s car", [("8", "9")]),
        ("a red red dress", "a red blue dress", [("red", "blue")]),
        ("a cat sitting next to a mirror", "a tiger sitting next to a mirror.", [("cat", "tiger")]),
        ("a photo of a cat", "a photo of a tiger.", [("cat", "tiger")]),
        ("a cat, a dog", "a tiger a dog", [("cat", "tiger")]),
        ('"a cat" on grass', "a tiger on grass", [("cat", "tiger")]),
    ],
)
def test_replaced_beside_repeats_and_signs(a, b, replaced):
    """Guards texts as people write them: the changed word is replaced, and a sign of one text alone decides nothing."""
    source, edit = (tuple(split_words(text)) for text in (a, b))
    words = align_words(source, edit)
    assert [(source[i], edit[j]) for (i,), (j,) in words.replaced] == replaced
    assert mode_of(source, edit) == "replace"


@given(repeats, st.data())
def test_signs_that_one_text_has_keep_every_row_whole(source, data):
    """Guards added and removed signs: in auto the mode is replace, no attention is lost, and a new sign has its own."""
    edit = tuple(w for w in source if w not in ',."' or data.draw(st.booleans())) + (".",) * data.draw(
        st.integers(0, 2)
    )
    for a, b in ((source, edit), (edit, source)):
        both = prompts(" ".join(a), " ".join(b))
        alignment = align_tokens(*both)
        assert alignment.mode == "replace"
        assert torch.allclose(alignment.mapping.sum(1), torch.ones(LENGTH), atol=1e-6)


def test_long_texts_align_in_seconds():
    """Guards the price: 2,000 words against as many others, and a refusal in words of more."""
    words = ["a", "red", "cat", "dog", "on", "grass", ","]
    source, edit = (tuple(words[(i * i + k * i) % 7] for i in range(2000)) for k in (1, 3))
    started = time.process_time()
    align_words(source, edit)
    assert time.process_time() - started < 6
    with pytest.raises(InputError, match="2001 words is too long to compare; 2000 at most"):
        align_words(("a",) * 2_001, ("a",))


def test_unknown_modes_are_refused():
    """Guards the edge."""
    with pytest.raises(InputError, match="auto, replace or refine"):
        align_tokens(*prompts("a", "a"), "swap")


def test_missing_words_are_listed():
    """Guards the message for a blend or weight word that is not there: it lists the prompt's words."""
    with pytest.raises(InputError, match=r'blend word "zebra" is not in the prompt "a red cat"; .*a, red, cat'):
        find_phrase(word_prompt("a red cat"), "zebra", "blend word")


def test_phrases_and_repeated_words_are_found_everywhere():
    """Guards phrases: several words in a row, every occurrence, all of their tokens."""
    prompt = word_prompt("a leopard near a leopard", 12)
    assert find_phrase(prompt, "a leopard") == [1, 2, 3, 5, 6, 7]
    assert find_phrase(prompt, "leopard") == [2, 3, 6, 7]


@given(
    st.lists(st.sampled_from(["Würfel", "café", "año", "ñandú", "Ångström", "cat"]), min_size=1, max_size=4), st.data()
)
def test_accents_are_found_however_they_are_written(words, data):
    """Guards words from other systems: an accent as a letter's own or as a sign after it, in either case of letters."""
    prompt = word_prompt(unicodedata.normalize("NFC", " ".join(words)).lower(), LENGTH)
    word = data.draw(st.sampled_from(words))
    form, case = data.draw(st.sampled_from(["NFC", "NFD"])), data.draw(st.sampled_from([str.lower, str.upper, str]))
    wanted = [t for i, one in enumerate(words) if one == word for t in prompt.tokens_of_word(i)]
    assert find_phrase(prompt, unicodedata.normalize(form, case(word))) == wanted


def test_the_explanation_names_sources():
    """Guards the text for people."""
    source, edit = prompts("a red cat", "a red fluffy dog")
    alignment = align_tokens(source, edit, "refine")
    assert explain(source, edit, alignment).splitlines()[:3] == [
        "a <- a",
        "red <- red",
        "fluffy <- (its own attention)",
    ]


def test_the_explanation_says_what_helps_where_things_come_or_go():
    """Guards the hint: for a thing removed or added, not for words that stand in for words, nor for a sign."""
    for a, b, left, hint in [
        ("a cat and a dog", "a cat", "left out: and a dog", True),
        ("a cat", "a cat and a dog", "", True),
        ("a cat", "a dog .", "", False),
    ]:
        source, edit = prompts(a, b)
        said = explain(source, edit, align_tokens(source, edit))
        assert left in said and ("left out" in said) == bool(left) and ("steady_words" in said) == hint


@given(st.text("ab c\n\t", max_size=200), st.text("ab c\n\t", max_size=200))
def test_messages_are_one_line(phrase, text):
    """Guards what the page shows: whatever a prompt or a phrase holds, of whatever length."""
    prompt = Prompt(text, (0, 1), tuple(text.split()), (START, END))
    with pytest.raises(InputError) as said:
        find_phrase(prompt, f"zebra {phrase}", "blend word")
    assert "\n" not in str(said.value) and len(str(said.value)) < 600
