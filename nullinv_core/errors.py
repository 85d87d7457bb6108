"""Errors that are meant for people: what is wrong, which input, what to do."""

from __future__ import annotations


class InputError(ValueError):
    """Something the caller gave cannot be used. The message is one sentence that names the way out.

    It stays on one line, and signs that a terminal would act on are replaced, whatever names and texts it quotes.
    """

    # ComfyUI shows it before the message, and names a pack's modules by their whole path
    __module__ = "nullinv_core.errors"

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class NoGradientError(InputError):
    """A prediction does not depend on its context as far as autograd can see."""

    __module__ = "nullinv_core.errors"


class NonFiniteError(ArithmeticError):
    """The network produced NaN or infinity. The message names the step and what to try."""

    __module__ = "nullinv_core.errors"


def printable(text: str) -> str:
    """A text on one line, with a question mark for control characters and half characters."""
    return "".join(sign if sign.isprintable() else "?" for sign in text.replace("\n", " "))


def short(text: str, most: int = 80) -> str:
    """A user's text for a message: on one line, cut where it is longer than ``most`` characters, half ones spelled."""
    line = " ".join(text.encode("utf-8", "backslashreplace").decode().split())
    return line if len(line) <= most else f"{line[: most - 1]}…"
