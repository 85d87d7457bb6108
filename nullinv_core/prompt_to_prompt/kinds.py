"""What an edit does, and the settings that suit it: measured in docs/experiments.md, told in docs/editing.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..settings import KIND, STRENGTH, EditSettings


@dataclass(frozen=True)
class EditKind:
    """A kind of edit. ``settings``: what suits it. ``steady``: whether what must stay gets no new noise."""

    help: str
    settings: EditSettings
    steady: bool = False


REPLACE = "replace"
KINDS = {
    REPLACE: EditKind("words stand in for others: a thing, a colour, a style", EditSettings()),
    "add": EditKind(
        "a thing more", EditSettings(cross_replace=0.4, self_replace=0.0, fresh_noise=0.8), steady=True
    ),
    "remove": EditKind("a thing less", EditSettings(self_replace=0.0)),
    "background": EditKind("another place", EditSettings(self_replace=0.0, fresh_noise=0.8), steady=True),
}  # fmt: skip
"""By name, the default first."""


def suited(
    kind: str = KIND.default,
    strength: float = STRENGTH.default,
    blend_words: Sequence[str] = (),
    exclude_words: Sequence[str] = (),
) -> EditSettings:
    """Settings that suit a kind of edit.

    ``strength``: how freely ``replace`` may change layout and shapes, in 0 (keep everything) … 1; the other kinds have
    windows of their own. ``blend_words``: what changes, comes or goes. ``exclude_words``: what must stay. Raises
    InputError for a kind that there is not, and a strength out of range.
    """
    KIND.check(kind)
    STRENGTH.check(strength)
    chosen = KINDS[kind]
    settings = replace(chosen.settings, blend_words=blend_words, exclude_words=exclude_words)
    if kind == REPLACE:
        settings = replace(settings, cross_replace=1.0 - 0.6 * strength, self_replace=0.8 - 0.8 * strength)
    return replace(settings, steady_words=exclude_words if chosen.steady else ())
