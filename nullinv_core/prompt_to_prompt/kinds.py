"""What an edit does, and the settings that suit it: measured in docs/experiments.md, told in docs/editing.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import InputError
from ..settings import KIND, LISTS, OF_EDIT, STRENGTH, EditSettings


@dataclass(frozen=True)
class EditKind:
    """A kind of edit. ``settings``: what suits it. ``steady``: whether what must stay gets no new noise."""

    help: str
    settings: EditSettings
    steady: bool = False


REPLACE, ADD, REMOVE, BACKGROUND = "replace", "add", "remove", "background"
KINDS = {
    REPLACE: EditKind("words stand in for others, as freely as strength says", EditSettings()),
    ADD: EditKind(
        "a thing more (name it in blend_words, and what stays in exclude_words)",
        EditSettings(cross_replace=0.4, self_replace=0.0, fresh_noise=0.8), steady=True,
    ),
    REMOVE: EditKind("a thing less (name it in blend_words)", EditSettings(self_replace=0.0)),
    BACKGROUND: EditKind(
        "another place (name the things that stay in exclude_words, and leave blend_words empty)",
        EditSettings(self_replace=0.0, fresh_noise=0.8, exclude_end=0.8), steady=True,
    ),
}  # fmt: skip
"""By name, the default first."""


def suited(
    kind: str = KIND.default,
    strength: float = STRENGTH.default,
    blend_words: Sequence[str] = (),
    exclude_words: Sequence[str] = (),
    **own: Any,
) -> EditSettings:
    """Settings that suit a kind of edit.

    ``strength``: how freely ``replace`` may change layout and shapes, in 0 (keep everything) … 1; the other kinds have
    windows of their own. ``blend_words``: what changes, comes or goes. ``exclude_words``: what must stay. ``own``:
    other settings by name, which count more than the kind's. Raises InputError for a kind that there is not, a strength
    out of range, blend words where the background changes, and a kind without the words that keep it from drawing the
    whole photo again.
    """
    KIND.check(kind)
    STRENGTH.check(strength)
    if kind == BACKGROUND and blend_words:
        raise InputError(
            "blend words keep the background as it is; to change it, leave them empty and name what stays in the "
            "exclude words"
        )
    wanted = KINDS[kind]
    words = {"blend_words": blend_words, "exclude_words": exclude_words}
    words["steady_words"] = exclude_words if wanted.steady else ()
    windows = {"cross_replace": 1.0 - 0.6 * strength, "self_replace": 0.8 - 0.8 * strength} if kind == REPLACE else {}
    settings = replace(wanted.settings, **{**words, **windows, **own})
    if settings.fresh_noise and kind == ADD and not settings.blend_words:
        raise InputError("name the new thing in the blend words; without them add draws the whole photo again")
    if settings.fresh_noise and kind == BACKGROUND and not (settings.exclude_words or settings.steady_words):
        raise InputError("name what stays in the exclude words; without them background draws the whole photo again")
    return settings


def chosen(given: Mapping[str, Any]) -> EditSettings:
    """Settings that were given by name: what suits a ``kind`` and a ``strength`` among them, and the others on top.

    Without these two the others have their defaults. Raises InputError as ``suited``, and for a strength that the kind
    does not have.
    """
    own = dict(given)
    asked = {name: own.pop(name) for name in (KIND.name, STRENGTH.name) if name in own}
    if not asked:
        return EditSettings(**own)
    if STRENGTH.name in asked and asked.get(KIND.name, REPLACE) in KINDS.keys() - {REPLACE}:
        raise InputError(
            f'strength is for the kind {REPLACE} alone, and the kind is "{asked[KIND.name]}"; leave out one of them'
        )
    return suited(**asked, **own)


def layered(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by name from several places, of which the later count more.

    A kind or a strength of a later place counts more than the numbers of an earlier one, and so does a kind that has no
    strength more than an earlier strength; words stay.
    """
    found: dict[str, Any] = {}
    for layer in layers:
        if KIND.name in layer or STRENGTH.name in layer:
            found = {n: v for n, v in found.items() if n not in OF_EDIT or OF_EDIT[n].kind in LISTS}
        if layer.get(KIND.name, REPLACE) != REPLACE:
            found.pop(STRENGTH.name, None)
        found |= layer
    return found


def hint() -> str:
    """What helps where words came or went, for people who choose each setting by themselves."""
    less, more = KINDS[REMOVE].settings, KINDS[ADD].settings
    return (
        f"If a thing does not go away: self_replace {less.self_replace:g}, and its words as blend_words. If a new "
        f"thing does not come: cross_replace {more.cross_replace:g}, self_replace {more.self_replace:g}, fresh_noise "
        f"{more.fresh_noise:g}, its words as blend_words, and the things that stay as steady_words and exclude_words."
    )
