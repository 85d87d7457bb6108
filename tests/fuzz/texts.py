"""Prompts, weights, windows and lists of words as people and attackers write them, up to a plan of edits."""

from contextlib import contextmanager
from types import SimpleNamespace

from transformers import CLIPTokenizer

from nullinv_core import EditSettings, batch_edits
from nullinv_core.backends.diffusers import DEMO_MODEL
from nullinv_core.backends.diffusers.text import TextEncoder
from nullinv_core.families import FAMILIES
from nullinv_core.prompt_to_prompt.alignment import align_tokens, explain
from nullinv_core.prompt_to_prompt.edit import plan_edits
from nullinv_core.prompt_to_prompt.emphasis import MOST_LETTERS, parse, without_marks
from nullinv_core.prompt_to_prompt.lists import take_weights, take_windows, word_list

PIECES = [
    "(", ")", "\\(", "\\)", "\\", ":", ":1.5)", ":-2)", ":nan)", ":1e400)", ":1e39)", "[", "]", "=", "=0.4",
    "=0.2-0.8", "-", ",", ", ", " ", "\n", "\t", "\x1b[2J", "\u202e", "\u0301", "e\u0301", "é",
    "ﬁ", "İ", "ß", "漢字", "🙂", "👩‍👩‍👧", "1", "9999", "٣", "a", "red", "cat",
    "a red cat", "embedding:none", "'s", "n't", "_", "...", "<|endoftext|>", "<|startoftext|>", "</w>", "#",
    "%", "e10",
]  # fmt: skip
NO_TEXT = ["\0", "\ud800"]
WORDS = ["a", "red", "blue", "cat", "dog", "on", "grass", ",", "a red", "zebra", ""]


def text(rng):
    """A text of pieces at random; now and then a very long one, mostly of one piece."""
    if rng.random() < 0.03:
        return rng.choice(PIECES) * rng.choice([300, 3000, MOST_LETTERS, MOST_LETTERS + 1, 10**6])
    if rng.random() < 0.4:
        return " ".join(rng.choices(WORDS, k=rng.randrange(1, 10)))
    pieces = rng.choices(PIECES, k=rng.choice([1, 3, 8, 30]))
    if rng.random() < 0.05:
        pieces.insert(rng.randrange(len(pieces)), rng.choice(NO_TEXT))
    return "".join(pieces)


def mostly(rng, good, *bad):
    """One of the good values; one of the bad ones now and then, or nothing would ever come through."""
    return rng.choice(bad) if rng.random() < 0.04 else rng.choice(good)


def window(rng):
    """A share of the steps, or what is none."""
    number = mostly(rng, [0.2, 0.4, 0.8, 1], -0.1, 0.1, 1.1, float("nan"), float("inf"))
    return rng.choice([number, (0.2, number)])


def settings(rng):
    """Settings of an edit, with lists as the nodes and the command line read them."""
    return EditSettings(
        mode=rng.choice(["auto", "replace", "refine"]), cross_replace=window(rng), self_replace=rng.random(),
        focus_from=rng.random(), fresh_noise=rng.random(), variant=mostly(rng, [0, 1, 2**63 - 1], 2**63, -1),
        word_windows=take_windows(mostly(rng, ["", "", "cat=0.4", "a=0.2-0.8,red=1"], text(rng))),
        weights=take_weights(mostly(rng, ["", "", "cat=2.0"], "red=1e308", text(rng))),
        **{name: word_list(mostly(rng, ["", "", "", "cat", "red, a"], "zebra", text(rng)))
           for name in ("blend_words", "exclude_words", "steady_words")},
    )  # fmt: skip


@contextmanager
def prepare(_):
    """Every text is read alike by all readers, and its edits planned, or a sentence says why not."""
    reader = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=77))
    encoder = TextEncoder(FAMILIES["v1"], (CLIPTokenizer.from_pretrained(DEMO_MODEL / "tokenizer"),), (reader,))

    def case(rng):
        kind = rng.randrange(4)
        if kind == 0:
            one = text(rng)
            pieces = parse(one)
            assert "".join(piece for piece, _ in pieces) == without_marks(one)
            assert all(abs(weight) <= 1000 for _, weight in pieces)
        elif kind == 1:
            one = text(rng)
            words = word_list(one)
            assert all(word and "," not in word and word == word.strip() for word in words)
            assert len(take_windows(one)) <= len(words)
        else:
            source, *edits = (encoder.prompt(text(rng)) for _ in range(rng.choice([2, 2, 3, 5])))
            plans = plan_edits(source, edits, rng.choice([1, 4, 50]), settings(rng))
            batch_edits([plans])
            for prompt in edits:
                assert explain(source, prompt, align_tokens(source, prompt)).count("\n") >= len(prompt.words) - 1

    yield case
