"""The settings that suit a kind of edit, in the node, the demo and the benchmark alike."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nullinv_core.demo.edits import KINDS as TRUE_KINDS
from nullinv_core.demo.edits import sample_edit
from nullinv_core.demo.run import edit_settings
from nullinv_core.errors import InputError
from nullinv_core.prompt_to_prompt.kinds import KINDS, chosen, suited
from nullinv_core.settings import EDIT_PHOTO, KIND, EditSettings


@given(st.floats(0.01, 1), st.sampled_from(sorted(KINDS)))
def test_words_mean_the_same_in_every_kind(strength, kind):
    """Guards the node's promise: blend words may change, excluded ones may not; strength is for ``replace`` alone."""
    changes = [] if kind == "background" else ["mug"]
    found = suited(kind, strength, changes, ["cat"])
    assert (found.blend_words, found.exclude_words) == (changes, ["cat"])
    assert (found == suited(kind, 0.0, changes, ["cat"])) == (kind != "replace")
    # only where new noise comes is there something to keep it from
    assert found.steady_words == (["cat"] if found.fresh_noise else ())


def test_strength_goes_from_keeping_everything_to_freedom():
    """Guards ``replace``: windows as the help page has them, the authors' at a third or so."""
    ends = [suited("replace", strength) for strength in (0.0, 1.0)]
    assert [(s.cross_replace, s.self_replace) for s in ends] == [(1.0, 0.8), (pytest.approx(0.4), 0.0)]
    assert suited(KIND.default, 1 / 3).cross_replace == pytest.approx(EditSettings().cross_replace)


def test_mistakes_are_one_sentence():
    """Guards Python's edge, where no widget keeps the values in range."""
    with pytest.raises(InputError, match='kind must be one of replace, add, remove, background, not "move"'):
        suited("move")
    with pytest.raises(InputError, match="strength must lie in 0…1, not 2"):
        suited("add", 2.0)
    for kind, words in ("add", "blend"), ("background", "exclude"):
        # new noise would be everywhere
        with pytest.raises(InputError, match=f"in the {words} words; without them {kind} draws the whole photo again"):
            suited(kind)
    with pytest.raises(InputError, match="to change it, leave them empty"):
        suited("background", blend_words=["cat"])
    # without new noise nothing is drawn again
    assert not chosen({"kind": "background", "fresh_noise": 0.0}).fresh_noise
    with pytest.raises(InputError, match="in the blend words; without them add"):
        chosen({"kind": "add", "self_replace": 0.1})
    assert [one for one in EDIT_PHOTO if one.name == "kind"] == [KIND]


@pytest.mark.parametrize("kind", TRUE_KINDS)
def test_every_edit_of_the_clay_world_has_settings(kind):
    """Guards the benchmark: words that an edit's settings name are in its texts, and none must change and stay too."""
    for seed in range(12):
        case = sample_edit(seed, kind)
        found, texts = edit_settings(case), " ".join(case.captions).split()
        named = [*found.blend_words, *found.exclude_words, *found.steady_words]
        assert all(part in texts for word in named for part in word.split()), (kind, named)
        assert not set(found.blend_words) & set(found.exclude_words)
        assert bool(found.blend_words) == (kind not in ("style", "pose", "background"))
