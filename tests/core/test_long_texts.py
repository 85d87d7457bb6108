"""Texts as long as somebody can send: refused in words beyond a limit, and up to it work that grows with the text."""

import time
import tracemalloc
from contextlib import suppress

import pytest

from nullinv_core import EditSettings, InputError, Prompt, load_inversion, plan_edit, save_inversion
from nullinv_core.figures import heat_maps
from nullinv_core.prompt_to_prompt.alignment import MOST_WORDS, align_tokens, align_words
from nullinv_core.prompt_to_prompt.edit import MOST_CELLS, MOST_EDITS, plan_edits
from nullinv_core.prompt_to_prompt.emphasis import MOST_LETTERS, parse
from nullinv_core.prompt_to_prompt.lists import take_windows, word_list
from nullinv_core.prompt_to_prompt.maps import WordMaps
from nullinv_core.prompt_to_prompt.prompt import END, START, find_phrase, split_words
from nullinv_core.settings import MOST_NAMED

from .test_store import replace, some_inversion, torch

SHAPES = {
    "digits in a weight": lambda n: f"(a:{'1' * (n - 4)})",
    "spaces": lambda n: f"a{' ' * (n - 2)}b",
    "spaces before =": lambda n: f"a{' ' * (n - 6)}=0.4x",
    "digits of a window": lambda n: f"a={'1' * (n - 3)}x",
    "opening": lambda n: "(" * n,
    "closing": lambda n: ")" * n,
    "weights": lambda n: "(a:1.5) " * (n // 8),
    "nested": lambda n: ("(" * 60 + "a" + ")" * 60) * (n // 121),
    "escapes": lambda n: "\\(" * (n // 2),
    "colons": lambda n: "(" + ":" * (n - 2) + ")",
    "commas": lambda n: "a," * (n // 2),
    "equals": lambda n: "=" * n,
    "quotes": lambda n: "'" * n,
    "accents": lambda n: "a" + "\u0301" * (n - 1),
    "embeddings": lambda n: "embedding:" * (n // 10),
}
"""Texts of n characters that make a careless pattern or parser slow."""


def prompt(*words, tokens=0):
    """A prompt of one token per word, or of so many tokens for the last of them."""
    places = [*range(len(words)), *[len(words) - 1] * max(0, tokens - len(words) - 2)]
    return Prompt(" ".join(words), tuple(range(len(places) + 2)), words, (START, *places, END))


def seconds(work, *arguments):
    """Least processor time of three runs; a refusal counts as done."""

    def once():
        started = time.process_time()
        with suppress(InputError):
            work(*arguments)
        return time.process_time() - started

    return min(once() for _ in range(3))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("work", [parse, word_list, take_windows, split_words])
def test_time_grows_with_the_text_alone(work, shape):
    """Guards every reader of texts: ten times the letters take no hundred times as long."""
    assert seconds(work, shape(20_000)) < 40 * seconds(work, shape(2_000)) + 0.05


@pytest.mark.parametrize("kind", ["one word", "few words", "removed", "moved"])
def test_a_plan_of_many_words_costs_no_more_than_its_table(kind):
    """Guards edits of long texts, with as many named words as there may be: four times the words, sixteen times the
    table, in 50 MB."""

    def plan(n):
        few = ["a", "cat", "red", "on", ","]
        texts = {
            "one word": (["a"] * n, ["a"] * n),
            "few words": ([few[i * i % 5] for i in range(n)], [few[(i * i + i) % 5] for i in range(n)]),
            "removed": ([*map(str, range(2 * n))], [*map(str, range(0, 2 * n, 2))]),
            "moved": ([*map(str, range(n))], [*map(str, reversed(range(n)))]),
        }
        source, edit = (prompt(*words) for words in texts[kind])
        named = [" ".join(edit.words[i : i + 12]) for i in range(MOST_NAMED)]
        settings = EditSettings(mode="replace", blend_words=named, exclude_words=named, steady_words=named)
        return source, [edit], 1, settings

    small, large = plan(250), plan(1000)
    assert seconds(plan_edits, *large) < 40 * seconds(plan_edits, *small) + 0.2
    tracemalloc.start()
    try:
        align_words(large[0].words, large[1][0].words)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (lambda: parse("a" * (MOST_LETTERS + 1)), "a text has 20001 characters; 20000 at most"),
        (lambda: word_list("a," * MOST_LETTERS), "a text has 40000 characters"),
        (lambda: take_windows("a=1," * MOST_LETTERS), "a text has 80000 characters"),
        (lambda: EditSettings(blend_words=["a"] * (MOST_NAMED + 1)), "names 65 words; 64 at most"),
        (lambda: EditSettings(weights={"a" * MOST_LETTERS: 1, "b": 2}), "more than 20000 characters"),
        (lambda: plan_edit(*[prompt(*["a"] * (MOST_WORDS + 1))] * 2, 1), "a text of 2001 words"),
        (lambda: plan_edits(prompt("a"), [prompt("a")] * (MOST_EDITS + 1), 1, EditSettings()), "are 65 edits; 64 at"),
        (
            lambda: plan_edits(prompt("a", tokens=1025), [prompt("a", tokens=1025)] * 16, 1, EditSettings()),
            "take 1025 tokens; for so many edits 1024 at most",
        ),
    ],
)
def test_beyond_a_limit_there_is_a_sentence(work, message):
    """Guards memory and time before anything is done: each limit says what it is."""
    with pytest.raises(InputError, match=message) as said:
        work()
    assert len(str(said.value)) < 300


def test_at_the_limit_of_cells_a_plan_is_made():
    """Guards the other side of the limit."""
    source = prompt("a", "cat", tokens=1024)
    plans = plan_edits(source, [prompt("a", "dog", tokens=1024)] * 16, 1, EditSettings())
    assert sum(plan.alignment.mapping.numel() for plan in plans) == MOST_CELLS


def test_words_are_found_as_by_looking_everywhere():
    """Guards the index of words and tokens, by the plain search that it stands for."""
    one = prompt("a", "red", "a", "red", "a", "cat", tokens=12)
    for words in (["a"], ["a", "red"], ["red", "a"], ["a", "red", "a"], ["cat"], ["red", "cat"], ["b"], []):
        wanted = [i for i in range(6) if words and list(one.words[i : i + len(words)]) == words]
        assert one.places(words) == wanted
    for word in range(-3, 7):
        assert one.tokens_of_word(word) == one.positions(word)
        assert one.tokens_of_word(word) == [i for i, w in enumerate(one.word_of_token) if w == word]
    one.tokens_of_word(0).append(99)
    assert one.tokens_of_word(0) == [1] and find_phrase(one, "a red a") == [1, 2, 3, 4, 5]


def test_what_a_removed_word_saw_goes_to_the_next_that_stays():
    """Guards heirs in a long row of removed words, with and without one behind them."""
    source, edit = prompt("a", "big", "old", "red", "cat", "here", "now"), prompt("a", "cat")
    mapping = align_tokens(source, edit, "replace").mapping
    heirs = [int(row.nonzero()[0]) for row in mapping[1:8]]
    assert heirs == [1, 2, 2, 2, 2, 3, 3] and torch.equal(mapping.sum(1), torch.ones(9))


@pytest.mark.parametrize(
    ("text", "windows"),
    [
        ("cat=0.4", {"cat": 0.4}), (" red cat = 0.2 - 0.8 ,a=1", {"red cat": (0.2, 0.8), "a": 1.0}),
        ("a=b=0.4", {"a=b": 0.4}), ("==0.5", {"=": 0.5}), ("", {}), (" , ,", {}),
    ],
)  # fmt: skip
def test_windows_are_read(text, windows):
    """Guards the forms of windows."""
    assert take_windows(text) == windows


@pytest.mark.parametrize("text", ["a", "a=", "=0.4", "a=x", "a=0.2-", "a=-0.2", "a=1-2-3", "a=1e3", "a=.5", "a=0 1"])
def test_what_is_no_window_is_refused(text):
    """Guards the edges of the form."""
    with pytest.raises(InputError, match="is not a window for a word"):
        take_windows(text)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (("a", "x" * (MOST_LETTERS + 1)), "20001 characters"),
        (("a", "\ud800"), "not text"),
        (("🙂" * MOST_LETTERS,) * 2, "too long for one file"),
    ],
)
def test_texts_that_could_not_be_read_again_are_not_written(tmp_path, prompts, message):
    """Guards saving: what loading refuses, it refuses first."""
    with pytest.raises(InputError, match=message):
        save_inversion(tmp_path / "x.safetensors", replace(some_inversion(), prompts=prompts))
    assert not any(tmp_path.iterdir())
    long = replace(some_inversion(), prompts=("🙂" * (MOST_LETTERS // 2), "é" * MOST_LETTERS))
    save_inversion(tmp_path / "x.safetensors", long)
    assert load_inversion(tmp_path / "x.safetensors").prompts == long.prompts


def test_maps_of_many_words_are_refused_before_they_are_drawn():
    """Guards memory of Attention Maps: thousands of words on a large picture."""
    many = prompt(*map(str, range(1000)))
    attention = WordMaps(torch.zeros(1, 2, 4, 4, many.length), (many, many))
    with pytest.raises(InputError, match="maps of 1000 words would take 47 GB; name some of the words"):
        heat_maps(attention, 0, [], torch.zeros(1, 1, 1, 3).expand(1, 2048, 2048, 3))


def test_commas_of_any_script_separate_words():
    """Guards lists that people write with the keyboard of their language."""
    assert word_list("猫，狗、a red mug, كلب، 鳥,") == ["猫", "狗", "a red mug", "كلب", "鳥"]
