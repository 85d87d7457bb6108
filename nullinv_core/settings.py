"""Every setting once: its name, type, range, default and a sentence of help.

The command line's options, the nodes' inputs and tooltips, the tables of the help pages and the checks are made from
what stands here. Nothing here loads PyTorch.
"""

# ruff: noqa: RUF009

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import wraps
from typing import Any, Literal, NamedTuple, TypeVar

from .errors import InputError, short
from .prompt_to_prompt.emphasis import MOST_LETTERS, check_weight
from .schedule import GUIDANCE as GUIDANCE_RANGE

T = TypeVar("T")
Mode = Literal["auto", "replace", "refine"]
EditPath = Literal["trajectory", "random"]
Window = float | tuple[float, float]
"""Share of the steps, from the noisiest, in which attention is replaced: an end, or a (start, end) in 0…1."""
Kind = Literal["int", "seed", "float", "bool", "choice", "window", "words", "windows", "weights"]
"""What a setting takes. seed: a number that stands for one of many answers; window: a ``Window``, which people give as
its end; words: a list of words; windows, weights: a window or a factor for each of some words."""
LISTS = ("words", "windows", "weights")
MOST_NAMED = 64
"""Most words that a setting names."""
MOST_SEED = 2**63 - 1
CUSTOM = "custom"
"""What Null-Text Optimize has beside the presets: numbers of one's own."""


class Rule(NamedTuple):
    """What holds of a number wherever it is given, and how that is said behind "must be"."""

    holds: Callable[[float], bool]
    said: str


@dataclass(frozen=True)
class Setting:
    """One setting.

    ``name``: the same in Python, on the command line and, guidance aside, in the nodes. ``help``: whole sentences;
    ``names`` gives what stands in place of its {words}. ``least`` and ``most``: what is allowed; ``rule``: what is
    allowed in Python, where that is more. ``step``: of the nodes' arrows. ``choices``: gives a table of choices, each
    with what it does. ``good``: other values worth trying. ``advanced``: few need it. ``in_node``: whether the nodes
    have it.
    """

    name: str
    kind: Kind
    default: Any
    help: str
    least: float = 0
    most: float = 1
    step: float | None = None
    choices: Callable[[], Mapping[str, str]] | None = None
    names: Callable[[], Mapping[str, str]] | None = None
    rule: Rule | None = None
    good: str = ""
    advanced: bool = False
    in_node: bool = True

    @property
    def widget(self) -> str:
        """Its name in the nodes: guidance is called cfg in all of ComfyUI."""
        return self.name.replace("guidance", "cfg")

    @property
    def text(self) -> str:
        """The help, with what each choice does."""
        said = self.help.format(**self.names()) if self.names else self.help
        choices = {name: text for name, text in (self.choices() if self.choices else {}).items() if text}
        return f"{said} {explained(choices)}." if choices else said

    @property
    def tooltip(self) -> str:
        """The text, with what else to try."""
        return f"{self.text} Try {self.good}." if self.good else self.text

    def check(self, value: Any) -> None:
        """Raise InputError for a value out of range."""
        spoken = self.name.replace("_", " ")
        if self.kind == "choice" and self.choices and (not isinstance(value, str) or value not in self.choices()):
            raise InputError(f'{spoken} must be one of {", ".join(self.choices())}, not "{short(str(value))}"')
        if self.kind == "window":
            _check_window(spoken, value)
        if self.kind in ("int", "seed", "float") and not self.least <= value <= self.most:
            raise InputError(f"{spoken} must lie in {self.least}…{self.most}, not {short(str(value))}")
        if self.kind in LISTS:
            _check_words(spoken, value)
        if self.kind == "windows":
            for word, window in value.items():
                _check_window(f'cross replace of "{short(word)}"', window)
        if self.kind == "weights":
            for word, weight in value.items():
                check_weight(word, weight)

    def check_rule(self, value: float) -> None:
        """Raise InputError for a value that makes no sense, though Python takes more than the nodes offer."""
        if self.rule and not self.rule.holds(value):
            raise InputError(f"{self.name.replace('_', ' ')} must be {self.rule.said}, not {value}")


def explained(choices: Mapping[str, str]) -> str:
    """What each choice does, for people: "fast: …; paper: …"."""
    return "; ".join(f"{name}: {text}" for name, text in choices.items())


def bounds(window: Window) -> tuple[float, float]:
    """(start, end) of a window."""
    return (0.0, float(window)) if isinstance(window, int | float) else (float(window[0]), float(window[1]))


def _check_window(spoken: str, window: Window) -> None:
    # not by bounds(): a whole number may be larger than any float
    start, end = (0, window) if isinstance(window, int | float) else window
    if not 0 <= start <= end <= 1:
        raise InputError(f"{spoken} must lie in 0…1 with its start before its end, not {short(str(window))}")


def _check_words(spoken: str, words: Any) -> None:
    if isinstance(words, str):
        raise InputError(f"{spoken} are lists of words, not one text")
    if len(words) > MOST_NAMED:
        raise InputError(f"the setting {spoken} names {len(words)} words; {MOST_NAMED} at most, so name fewer")
    if sum(map(len, words)) > MOST_LETTERS:
        raise InputError(f"the setting {spoken} names words of more than {MOST_LETTERS} characters; name fewer")
    if not all(word.strip() for word in words):
        raise InputError(f"a word of the setting {spoken} is empty; leave it out")


OLD_NAMES = {
    "blend": "blend_words", "blend_exclude": "exclude_words", "steady": "steady_words", "noise_seed": "variant",
    "word_cross_replace": "word_windows",
}  # fmt: skip
"""Names that settings of an edit had before, and what they are called now."""
OLD_OPTIONS = {name.replace("_", "-"): new.replace("_", "-") for name, new in OLD_NAMES.items()} | {
    "weight": "weights", "keep-photo": "keep-pixels", "no-keep-photo": "no-keep-pixels",
}  # fmt: skip
"""The same for options of the command line."""


def _takes_old_names(kind: type[T]) -> type[T]:
    """A dataclass that also takes its settings by the names of ``OLD_NAMES``, with a DeprecationWarning."""
    create = kind.__init__

    @wraps(create)
    def init(self: T, *values: Any, **named: Any) -> None:
        for old in OLD_NAMES.keys() & named:
            warnings.warn(f"{old} is called {OLD_NAMES[old]} now", DeprecationWarning, stacklevel=2)
            named[OLD_NAMES[old]] = named.pop(old)
        create(self, *values, **named)

    # mypy: a method may be replaced by one that takes more
    setattr(kind, "__init__", init)  # noqa: B010
    return kind


def _modes() -> dict[str, str]:
    return {"auto": "by the texts", "replace": "words stand in for words", "refine": "words are added or removed"}


def _field(kind: Kind, default: Any, help: str, **more: Any) -> Any:
    """A field of ``EditSettings`` with what its ``Setting`` says beside the name."""
    create = {"default_factory": dict} if isinstance(default, dict) else {"default": default}
    return field(**create, metadata={"kind": kind, "default": default, "help": help, **more})


@_takes_old_names
@dataclass(frozen=True)
class EditSettings:
    """Settings of Prompt-to-Prompt; the defaults are the authors'. The first ones are in the order of P2P Edit's
    widgets, so a new one comes behind the last that the node has.

    ``cross_replace`` and ``self_replace`` are ``Window``s. Where ``focus_from`` is below 1, a replaced word draws its
    own outline in the old word's place from there on, whatever the windows say (see ``focus``). ``weights``: words of
    the edit prompt and the factor on their attention. Blend, exclude and steady words may be of either prompt. Local
    blend starts at ``blend_start`` of the steps and takes maps above ``blend_threshold`` of their maximum.
    """

    mode: Mode = _field("choice", "auto", "How the words of both texts are matched.", choices=_modes, advanced=True)
    cross_replace: Window = _field(
        "window", 0.8, "Share of the steps that keep the photo's layout. Less gives the edit more freedom.",
        step=0.05, good="0.4 to 0.9",
    )  # fmt: skip
    self_replace: Window = _field(
        "window", 0.4, "Share of the steps that keep the photo's shapes. Lower it when the shape must change.",
        step=0.05, good="0.2 to 0.6",
    )  # fmt: skip
    blend_words: Sequence[str] = _field(
        "words", (), "Only the region of these words may change; separated by commas. Empty: the whole picture.",
        good="the thing that you edit",
    )  # fmt: skip
    exclude_words: Sequence[str] = _field(
        "words", (), "The region of these words may not change; separated by commas.",
        good="what must stay", advanced=True,
    )  # fmt: skip
    word_windows: Mapping[str, Window] = _field(
        "windows", {}, "Another cross_replace for single words: 'hat=0.4' ends it earlier, 'hat=0.2-0.8' starts it "
        "later; separated by commas.", advanced=True,
    )  # fmt: skip
    fresh_noise: float = _field(
        "float", 0.0, "Share of new noise that the edit starts with: room for something that the photo has no trace "
        "of, such as another place.", step=0.05, good="0.8 with self_replace 0 for a new background", advanced=True,
    )  # fmt: skip
    steady_words: Sequence[str] = _field(
        "words", (), "The region of these words gets no new noise; separated by commas.",
        good="the things that must stay", advanced=True,
    )  # fmt: skip
    variant: int = _field(
        "seed", 0, "Which new noise: another number gives another answer.", most=MOST_SEED, advanced=True
    )
    focus_from: float = _field(
        "float", 1.0, "Share of the steps after which a new word draws its own outline, in the old word's place. 1: "
        "never.", step=0.05, good="0.5 for a new shape", advanced=True,
    )  # fmt: skip
    exclude_end: float = _field(
        "float", 1.0, "From this share of the steps on, exclude words no longer hold their region, so that its edge "
        "blends with what is new around it. 1: they always do.", step=0.05, good="0.8 for a new background",
        advanced=True,
    )  # fmt: skip
    weights: Mapping[str, float] = _field(
        "weights", {}, "WORD=2.0 makes a word twice as strong, as (word:2.0) in the text does.",
        advanced=True, in_node=False,
    )  # fmt: skip
    blend_start: float = _field(
        "float", 0.2, "Share of the steps after which blend words begin to hold the rest of the picture.",
        advanced=True, in_node=False,
    )  # fmt: skip
    blend_threshold: float = _field(
        "float", 0.3, "How strongly a place must belong to a blend word to count as its region. Less: larger regions.",
        most=0.99, advanced=True, in_node=False,
    )  # fmt: skip

    def __post_init__(self) -> None:
        for setting in EDIT:
            setting.check(getattr(self, setting.name))


EDIT = tuple(Setting(one.name, **one.metadata) for one in fields(EditSettings))
"""P2P Edit and ``edit``."""
OF_EDIT = {one.name: one for one in EDIT}
"""The same by name."""


def _paths() -> dict[str, str]:
    return {
        "trajectory": "the photo's own way to the noise, as the paper has it",
        "random": "the photo with new random noise at each step, by the edit's variant (edit-friendly DDPM inversion)",
    }


def _methods() -> dict[str, str]:
    from .inversion.methods import METHODS

    return {name: method.help for name, method in METHODS.items()}


def _presets() -> dict[str, str]:
    from .null_text.presets import CHOICES

    return {name: preset.help for name, preset in CHOICES.items()}


def _presets_by_source() -> dict[str, str]:
    """The presets after which edits sample the photo, and those of them whose embeddings are for one guidance: "A and
    B"."""
    from .null_text.presets import CHOICES

    samples = [name for name, preset in CHOICES.items() if not preset.recipe.pinned]
    optimized = [name for name in samples if CHOICES[name].recipe.optimization]
    return {"samples": _listed([*samples, CUSTOM]), "optimized": _listed([*optimized, CUSTOM])}


def _presets_and_custom() -> dict[str, str]:
    return _presets() | {
        CUSTOM: "like paper, with inner_steps, learning_rate and early_stop of your own, in the model's own scale"
    }


def _rules() -> dict[str, str]:
    from .scores.rules import RULES

    return {name: rule.help for name, rule in RULES.items()}


def _kinds() -> dict[str, str]:
    from .prompt_to_prompt.kinds import KINDS

    return {name: kind.help for name, kind in KINDS.items()}


def _schedulers() -> dict[str, str]:
    names = ("ddim_uniform", "normal", "simple", "sgm_uniform", "karras", "exponential", "beta")
    return dict.fromkeys(names, "")


STEPS = Setting(
    "steps", "int", 50, "More steps follow the photo more closely.", least=1, most=999, good="20 for a quick look"
)
SCHEDULER = Setting(
    "scheduler", "choice", "ddim_uniform", "How the noise is spread over the steps. KSampler must have the same.",
    choices=_schedulers, advanced=True,
)  # fmt: skip
METHOD = Setting(
    "method", "choice", "fixed-point", "How the path to the noise is found.", choices=_methods,
    advanced=True,
)  # fmt: skip
GUIDANCE = Setting(
    "guidance", "float", 7.5, "Guidance: more follows the text, less keeps the photo.",
    *GUIDANCE_RANGE, step=0.1, good="3 to 5 for gentler edits, 3 for the demo model",
)  # fmt: skip


def _listed(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


SAME_GUIDANCE = replace(
    GUIDANCE, default=0.0, good="", names=_presets_by_source, help="0: the guidance that the null embeddings were made "
    "for. After the presets {optimized}, leave it at 0: at another guidance the photo drifts, and a note says so.",
)  # fmt: skip
SOURCE_GUIDANCE = replace(
    GUIDANCE, name="source_guidance", default=0.0, good="", advanced=True, names=_presets_by_source,
    help="Another guidance for the photo itself, after the presets {samples}. 0: the same.",
)  # fmt: skip
PRESET = Setting("preset", "choice", "fast", "How null embeddings are made.", choices=_presets)
INNER_STEPS = Setting(
    "inner_steps", "int", None, "Optimizer rounds for each step, at most; for presets that optimize. By default as the "
    "preset has it.", least=1, most=100, rule=Rule(lambda steps: steps >= 1, "at least 1"), advanced=True,
)  # fmt: skip
KEEP_PIXELS = Setting(
    "keep_pixels", "bool", True, "Keep the photo's own pixels where the edit hardly differs from it.",
    good="off for edits of the whole picture's light or style",
)  # fmt: skip
FULL_SIZE = Setting(
    "full_size", "bool", False, "Give the result the photo's own size, if that is larger: what changed is enlarged, "
    "everything else stays as sharp as it was. Needs keep_pixels.",
)  # fmt: skip
STRENGTH = Setting(
    "strength", "float", 0.35, "For the kind replace: how freely words may change layout and shapes.", step=0.05,
    good="0.2 for a colour, 0.5 for another thing",
)  # fmt: skip
KIND = Setting(
    "kind", "choice", "replace", "What the edit does.", choices=_kinds,
)  # fmt: skip
BY_KIND = (
    replace(KIND, default=None, help="What the edit does. It chooses settings for you; those that you give yourself "
    "count more. Without it, the defaults hold."),
    replace(STRENGTH, default=None, help=f"{STRENGTH.help} With a kind, {STRENGTH.default:g} by default."),
)  # fmt: skip
"""What stands for several settings of an edit, on the command line and in lists."""
SIZE = Setting(
    "size", "int", 512, "Shorter side in pixels: what the model was trained at. The result has this size, unless "
    "full_size is on.", least=64, most=2048, step=8,
    good="1024 for SDXL, 768 for some 2.x models, 128 for the demo model",
)  # fmt: skip
OWN_SIZE = replace(SIZE, default=0, least=0, help="Shorter side in pixels. 0: what the model was trained at.")
ROUNDS = replace(
    INNER_STEPS, default=10, help="For custom: optimizer rounds for each step, at most.",
    good="3 to 5, which is faster and less exact",
)  # fmt: skip
LEARNING_RATE = Setting(
    "learning_rate", "float", 1e-2, "For custom: learning rate of the first step; it falls slowly.", least=0.0001,
    rule=Rule(lambda rate: 0 < rate < math.inf, "positive"), step=0.0001, advanced=True,
)  # fmt: skip
EARLY_STOP = Setting(
    "early_stop", "float", 1e-5, "For custom: the loss at which the first step is good enough; each further step may "
    "have 0.00002 more. A larger one is faster and less exact.", most=0.01, step=0.000001,
    rule=Rule(lambda loss: loss >= 0, "at least 0"), advanced=True,
)  # fmt: skip
OF_CUSTOM = (ROUNDS, LEARNING_RATE, EARLY_STOP)
"""Settings of Null-Text Optimize that presets other than custom have of their own."""
OPTIMIZE_POOLED = Setting(
    "optimize_pooled", "bool", False, "SDXL also reads one vector for the whole text: optimize that of the empty text "
    "too.", advanced=True,
)  # fmt: skip
RULE = Setting("rule", "choice", "default", "How pictures are compared.", choices=_rules, in_node=False)
PATH = Setting("path", "choice", "trajectory", "What holds an edit to the photo.", choices=_paths, advanced=True)
SKIPPED = Setting(
    "skipped", "float", 0.0, "Share of the noisiest steps that edits leave out: they begin at the photo with less "
    "noise and keep more of it. Not together with fresh_noise.", most=0.95, step=0.01, good="0.36 with the path random",
    advanced=True,
)  # fmt: skip
END_STEP = Setting(
    "end_step", "int", 0, "Stop after so many steps and keep the noise, for a sampler that continues. 0: all steps.",
    most=999, advanced=True,
)  # fmt: skip

INVERT = (STEPS, SCHEDULER, METHOD)
"""DDIM Invert."""
OPTIMIZE = (GUIDANCE, replace(PRESET, choices=_presets_and_custom), *OF_CUSTOM)
"""Null-Text Optimize, which has ``OPTIMIZE_POOLED`` too."""
SAMPLE = (SAME_GUIDANCE, SOURCE_GUIDANCE, END_STEP)
SAMPLE_LATER = (PATH, SKIPPED)
"""P2P Edit Sampler; graphs from before the later ones do not have them."""
GUIDER = (
    replace(
        SAME_GUIDANCE, names=None, help="0: the guidance that the null embeddings were made for. With another the "
        "photo drifts, and a note says so.",
    ),
)  # fmt: skip
"""Null-Text Guider."""
EDIT_PHOTO_FIRST = (
    STRENGTH, OF_EDIT["blend_words"], SIZE, replace(STEPS, advanced=True), GUIDANCE, KEEP_PIXELS,
)  # fmt: skip
EDIT_PHOTO_LATER = (
    KIND, replace(OF_EDIT["exclude_words"], advanced=False),
    replace(OF_EDIT["variant"], help=f"For the kinds add and background. {OF_EDIT['variant'].help}"), FULL_SIZE,
)  # fmt: skip
EDIT_PHOTO = EDIT_PHOTO_FIRST + EDIT_PHOTO_LATER
"""Edit Photo; graphs from before a later setting do not have it."""
NODES = {
    "NullInvDDIMInvert": INVERT,
    "NullInvOptimize": (*OPTIMIZE, OPTIMIZE_POOLED),
    "NullInvP2PEdit": EDIT,
    "NullInvP2PSampler": SAMPLE + SAMPLE_LATER,
    "NullInvGuider": GUIDER,
    "NullInvEditPhoto": EDIT_PHOTO,
}
"""Settings by node."""
