"""What a message may hold, whatever names and texts it quotes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nullinv_core.errors import InputError, printable, short

# half characters too, which a file's name may hold
texts = st.text(st.characters(), max_size=120)


@given(texts)
def test_a_message_is_one_printable_line(text):
    """Guards terminals: a sign that would move the cursor is a question mark, a new line a space, the rest stays."""
    expected = [sign if sign.isprintable() else " " if sign == "\n" else "?" for sign in text]
    assert printable(text) == str(InputError(text)) == "".join(expected)


@given(texts, st.integers(2, 90))
def test_a_quoted_text_is_cut_where_it_is_longer(text, most):
    """Guards long names: as many signs as are allowed, the last a dot for what is missing; shorter ones are whole."""
    whole, cut = short(text, 10_000), short(text, most)
    assert cut == whole if len(whole) <= most else (len(cut) == most and cut == whole[: most - 1] + "…")
    assert whole.split() == whole.split(" ") or not whole
    if text.isascii():
        assert whole.split() == text.split()


def test_eighty_signs_of_a_text_are_quoted():
    """Guards the usual limit, and how half a character is spelled."""
    assert short("x" * 80) == "x" * 80 and short("x" * 81) == "x" * 79 + "…" and short("a\ud800") == "a\\ud800"


@pytest.mark.parametrize("sign", ["\x1b", "\r", "\u202e", "\ud800", "\x00"])
def test_signs_that_a_terminal_acts_on_are_replaced(sign):
    """Guards colours, returns to the line's start, turned writing and half characters, by example."""
    assert str(InputError(f"a{sign}b")) == "a?b"
