"""Pictures in a row, heat maps of words, plots of losses: what is drawn can be read back."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from nullinv_core import InputError, leading_schedule
from nullinv_core.context import Context
from nullinv_core.figures import (
    GRID,
    INK,
    LINE,
    MOST_DRAWN,
    PAPER,
    heat_map,
    heat_maps,
    log_plot,
    loss_plot,
    side_by_side,
    word_maps,
)
from nullinv_core.prompt_to_prompt.maps import WordMaps
from nullinv_core.schedule import scaled_linear_alphas
from nullinv_core.types import NullEmbeddings

from .helpers import word_prompt

BAR = (222, 232, 248)


def of_colour(picture, colour):
    """Where a drawing has exactly this colour (H, W)."""
    return (np.asarray(picture) == np.asarray(colour)).all(-1)


def inked(picture):
    """Where text or an axis is drawn (H, W), soft edges apart."""
    return np.asarray(picture).max(-1) < 128


def runs(marks):
    """The runs of True in a row of marks: (first, last) of each."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], marks.astype(int), [0]])))
    return [(int(first), int(last) - 1) for first, last in zip(edges[::2], edges[1::2], strict=True)]


def test_pictures_stand_in_a_row_under_their_labels():
    """Guards strips: equal heights, own proportions, equal gaps, nothing over another; each label over its picture."""
    colours = {"first": (0.2, 0.4, 0.6), "second": (0.8, 0.2, 0.4), "": (0.0, 1.0, 0.0)}
    shapes = {"first": (8, 8), "second": (10, 20), "": (16, 4)}
    strip = side_by_side({k: np.full((*shapes[k], 3), c) for k, c in colours.items()}, 40)
    left = 8
    rest = np.ones((strip.height, strip.width), bool)
    for label, colour in colours.items():
        width = 40 * shapes[label][1] // shapes[label][0]
        found = of_colour(strip, [round(255 * v) for v in colour])
        assert runs(found.any(0)) == [(left, left + width - 1)] and runs(found.any(1)) == [(30, 69)]
        assert found.sum() == 40 * width
        rest[30:70, left : left + width] = False
        above = inked(strip)[:30, left - 2 : left + width + 6].any(0)
        assert above[:6].any() == bool(label) and above.any() == bool(label)
        left += width + 8
    assert strip.size == (left, 78)
    below = rest.copy()
    below[:30] = False
    assert (np.asarray(strip)[below] == PAPER).all()
    rows = np.flatnonzero(inked(strip)[:30].any(1))
    assert rows.min() >= 7 and rows.max() < 28


def test_pictures_in_a_row_are_256_pixels_high_unless_told_otherwise():
    """Guards the default."""
    assert side_by_side({"a": np.zeros((8, 8, 3))}).size == (272, 294)


@given(st.floats(1e-6, 1e6))
def test_a_heat_map_shows_shares_of_the_maximum(scale):
    """Guards heat maps: dark where nothing looks, reddened where most do, whatever the attention's scale."""
    picture = np.stack([np.full((8, 8), v, np.float32) for v in (0.2, 0.5, 0.8)], -1)
    weights = np.zeros((8, 8), np.float32)
    weights[:, 4:] = 1
    drawn = heat_map(picture, weights * np.float32(scale))
    assert np.allclose(drawn[:, 0], [0.05, 0.125, 0.2], atol=5e-3)
    assert np.allclose(drawn[:, -1], [0.14 + 0.3, 0.35 + 0.05, 0.56], atol=5e-3)
    half = heat_map(picture, np.maximum(weights, 0.5) * np.float32(scale))
    assert np.allclose(half[:, 0], picture[0, 0] * 0.475 + np.asarray([0.15, 0.025, 0]), atol=5e-3)


def test_a_heat_map_of_no_attention_is_dark():
    """Guards words that nothing looks at: no division by zero."""
    picture = torch.full((6, 6, 3), 0.4)
    assert np.allclose(heat_map(picture, np.zeros((2, 2), np.float32)), 0.1)
    assert np.allclose(heat_map(picture, np.full((2, 2), 1e-12, np.float32))[..., 2], 0.28, atol=1e-3)


def test_every_word_has_its_map():
    """Guards the strip of words: the picture, then one map a word, summed over the word's tokens."""
    prompt = word_prompt("a red cat", 8)
    maps = torch.rand(4, 4, 8, generator=torch.Generator().manual_seed(0))
    picture = torch.rand(16, 16, 3, generator=torch.Generator().manual_seed(1))
    tiles = {"picture": picture}
    for index, word in enumerate(prompt.words):
        tokens = prompt.tokens_of_word(index)
        tiles[f"{index + 1} {word}"] = heat_map(picture, sum(maps[..., t] for t in tokens).numpy())
    assert len(tiles) == 4
    assert np.array_equal(np.asarray(word_maps(picture, maps, prompt)), np.asarray(side_by_side(tiles, 128)))


@pytest.fixture(scope="module")
def attention():
    """Maps of a photo and one edit, two images."""
    prompts = (word_prompt("a red cat", 8), word_prompt("a blue cat", 8))
    return WordMaps(torch.rand(2, 2, 4, 4, 8, generator=torch.Generator().manual_seed(2)) + 0.1, prompts)


def test_maps_of_words_are_shares_of_their_own_maximum(attention):
    """Guards masks and drawings: image by image, word by word, of the branch that is asked for."""
    pictures = torch.rand(2, 32, 32, 3, generator=torch.Generator().manual_seed(3))
    drawings, masks = heat_maps(attention, 1, [], pictures)
    words = attention.prompts[1].words
    assert masks.shape == (6, 4, 4) and drawings.shape[0] == 6
    for image in range(2):
        for index, word in enumerate(words):
            tokens = attention.prompts[1].tokens_of_word(index)
            raw = sum(attention.maps[image, 1, ..., t] for t in tokens)
            row = image * 3 + index
            assert torch.allclose(masks[row], raw / raw.max())
            label = f"{index + 1} {word}"
            wanted = side_by_side({label: heat_map(pictures[image], masks[row].numpy())}, 32)
            assert np.array_equal((drawings[row] * 255).round().numpy(), np.asarray(wanted))


def test_named_words_are_drawn_under_their_names(attention):
    """Guards words by name: in the order given, with the same mask as among all; one picture serves all images."""
    everything = heat_maps(attention, 1, [], None)[1]
    picture = torch.rand(1, 24, 40, 3, generator=torch.Generator().manual_seed(4))
    drawings, masks = heat_maps(attention, 1, ["cat", "blue"], picture)
    assert torch.equal(masks, everything[[2, 1, 5, 4]])
    wanted = [
        np.asarray(side_by_side({label: heat_map(picture[0], masks[row].numpy())}, 24))
        for row, label in enumerate(["cat", "blue"] * 2)
    ]
    assert np.array_equal((drawings * 255).round().numpy(), np.stack(wanted))


def test_maps_without_a_picture_are_drawn_on_grey(attention):
    """Guards the missing picture: 256 pixels, grey."""
    found = heat_maps(attention, 0, ["red"], None)[0]
    assert torch.equal(found, heat_maps(attention, 0, ["red"], torch.full((1, 256, 256, 3), 0.6))[0])


def test_a_word_that_nothing_looks_at_has_an_empty_mask(attention):
    """Guards the division by the maximum."""
    dark = WordMaps(torch.zeros(1, 1, 4, 4, 8), attention.prompts[:1])
    assert not heat_maps(dark, 0, ["red"], None)[1].any()


def test_what_cannot_be_drawn_is_said(attention):
    """Guards the edges of word maps: no maps, no such branch, other pictures, more numbers than are drawn at once."""
    with pytest.raises(InputError, match=r"^the model has no cross-attention of the size that maps are read at$"):
        heat_maps(WordMaps(None, attention.prompts), 0, [], None)
    with pytest.raises(InputError, match=r"^there are 1 edits, not 2; 0 is the photo$"):
        heat_maps(attention, 2, [], None)
    with pytest.raises(InputError, match=r"^there are 3 pictures to draw on, and maps of 2$"):
        heat_maps(attention, 0, [], torch.zeros(3, 8, 8, 3))
    pixels = MOST_DRAWN // (3 * 2 * 3)
    with pytest.raises(InputError, match=r"^maps of 3 words would take 2 GB; name some of the words, or draw"):
        heat_maps(attention, 0, [], torch.zeros(1, 1, 1, 3).expand(1, 1, pixels + 1, 3))
    with pytest.raises(InputError, match=r"^maps of 3 words would take 4 GB"):
        heat_maps(attention, 0, [], torch.zeros(1, 1, 1, 3).expand(1, 2, pixels + 1, 3))


def rows_of_decades(plot):
    """The rows of the grid's lines, top to bottom; the lowest lies under the axis."""
    grid = of_colour(plot, GRID)
    marks = grid | of_colour(plot, LINE) | of_colour(plot, BAR)
    rows = np.flatnonzero(grid.any(1) & (marks.sum(1) > 100)).tolist()
    return [*rows, plot.height - 55]


@settings(max_examples=40)
@given(st.lists(st.floats(1e-9, 1e3), min_size=2, max_size=30))
def test_a_plot_can_be_read_back(values):
    """Guards the plot: every value stands over its index, at its height between the decades' lines."""
    plot = log_plot(values, "losses", "step")
    low, high = np.floor(min(np.log10(values))), np.ceil(max(np.log10(values)))
    high += high == low
    rows = np.linspace(50, 305, int(high - low) + 1)
    assert np.allclose(rows_of_decades(plot), rows, atol=1)
    columns = 80 + (np.arange(len(values)) + 0.5) * 530 / len(values)
    line = of_colour(plot, LINE)
    for value, column in zip(values, columns, strict=True):
        row = 50 + (high - np.log10(value)) / (high - low) * 255
        assert line[round(row) - 2 : round(row) + 3, round(column) - 1 : round(column) + 2].any()
    found = np.flatnonzero(line.any(0))
    assert abs(found[0] - columns[0]) <= 2 and abs(found[-1] - columns[-1]) <= 2


def test_a_plot_has_its_words_in_their_places():
    """Guards texts and axes: title above, decades left of the axis, indices below it, the label at the bottom.

    A photo is heavier, see there.
    """
    plot = log_plot([1e-3, 1e-1], "a title", "a label")
    ink, axes = inked(plot), of_colour(plot, INK)
    assert plot.size == (640, 360) and np.asarray(plot).size < 512 * 512 * 3 and tuple(np.asarray(plot)[0, 0]) == PAPER
    assert axes[50:306, 80].all() and axes[305, 80:611].all() and not ink[:, 612:].any()
    assert np.flatnonzero(of_colour(plot, GRID).any(0)).tolist() == list(range(81, 611))
    title = np.argwhere(ink[:42])
    assert title[:, 0].min() >= 16 and title[:, 0].max() < 36 and 78 <= title[:, 1].min() <= 84
    label = np.argwhere(ink[335:])
    assert abs((label[:, 1].min() + label[:, 1].max()) / 2 - 345) <= 2 and 335 + label[:, 0].max() <= 349
    beside = runs(ink[:, :75].any(1))
    assert [round((first + last) / 2) for first, last in beside] == pytest.approx([50, 178, 305], abs=3)
    assert 68 <= np.flatnonzero(ink[:, :75].any(0)).max() <= 71
    below = ink[312:335].any(0)
    for centre in (80 + 530 / 4, 80 + 530 * 3 / 4):
        assert below[round(centre) - 4 : round(centre) + 5].any()
    assert below.sum() < 20 and not np.argwhere(ink[306:312, 82:608]).size


def test_a_plot_of_many_values_names_every_tenth():
    """Guards the indices under the axis: they begin at 1 and do not run into each other."""
    few, many = (inked(log_plot([1.0] * n, "", ""))[311:340] for n in (3, 50))
    for picture, places in ((few, [0, 1, 2]), (many, range(0, 50, 5))):
        width = 530 / (3 if picture is few else 50)
        centres = [80 + (i + 0.5) * width for i in places]
        groups = [np.flatnonzero(picture[:, round(c) - 10 : round(c) + 11].any(0)) for c in centres]
        assert all(len(g) for g in groups) and sum(map(len, groups)) == picture.any(0).sum()
        assert all(abs((g.min() + g.max()) / 2 - 10) <= 2 for g in groups)


@settings(max_examples=30)
@example([1])
@given(st.lists(st.integers(0, 40), min_size=1, max_size=12))
def test_bars_are_as_high_as_their_numbers(bars):
    """Guards the bars: centred, four fifths of a place wide, the highest reaches the top, one unit at least."""
    plot = log_plot([1.0] * len(bars), "", "", bars)
    found, place = of_colour(plot, BAR), 530 / len(bars)
    most = max(1, *bars)
    for index, value in enumerate(bars):
        centre = 80 + (index + 0.5) * place
        column = round(centre + 0.25 * place)
        drawn = found[:, column] | of_colour(plot, GRID)[:, column]
        rows = np.flatnonzero(found[:, column])
        reach = value / most * 255
        assert (rows.min() == pytest.approx(305 - reach, abs=2)) if reach > 3 else (len(rows) <= 4)
        assert not reach > 3 or drawn[round(308 - reach) : 304].all()
        if reach > 10:
            wide = np.flatnonzero(found[round(302 - reach / 2)])
            wide = wide[abs(wide - centre) < place / 2]
            assert wide.max() - centre == pytest.approx(0.4 * place, abs=1.5)
            assert centre - wide.min() == pytest.approx(0.4 * place, abs=1.5)


def test_indices_under_the_axis_begin_at_one():
    """Guards the numbers themselves: three places are named as a plot's first, second and third."""
    font = ImageFont.load_default(13)
    plot = log_plot([1.0] * 3, "", "")
    for index in range(3):
        alone = Image.new("RGB", plot.size, PAPER)
        ImageDraw.Draw(alone).text((80 + (index + 0.5) * 530 / 3, 313), str(index + 1), INK, font, anchor="mt")
        place = np.s_[308:332, round(80 + index * 530 / 3) : round(80 + (index + 1) * 530 / 3)]
        assert np.array_equal(np.asarray(plot)[place], np.asarray(alone)[place])


def test_a_value_of_zero_is_drawn_at_the_bottom():
    """Guards the logarithm of losses that vanished."""
    assert np.array_equal(np.asarray(log_plot([0.0, 1.0], "", "")), np.asarray(log_plot([1e-12, 1.0], "", "")))


def some_null(losses, iterations):
    """Null embeddings with these figures (steps, images)."""
    losses, iterations = torch.tensor(losses), torch.tensor(iterations)
    schedule = leading_schedule(scaled_linear_alphas(), len(losses))
    return NullEmbeddings(Context(torch.zeros(len(losses), losses.shape[1], 2, 3)), schedule, 7.5, losses, iterations)


def test_losses_are_plotted_from_noise_to_clean():
    """Guards what the plot of an optimization shows: the image's own figures, the first step first, a true title."""
    null = some_null([[2e-3, 1.0], [2e-5, 2.0], [2e-4, 3.0]], [[1.0, 5.0], [7.0, 5.0], [3.0, 5.0]])
    title = "last loss (line) and inner iterations (bars, at most 7) per timestep"
    wanted = log_plot([2e-4, 2e-5, 2e-3], title, "step, from noise to clean", [3, 7, 1])
    assert np.array_equal(np.asarray(loss_plot(null)), np.asarray(wanted))
    title = "last loss (line) and inner iterations (bars, at most 5) per timestep"
    wanted = log_plot([3, 2, 1], title, "step, from noise to clean", [5, 5, 5])
    assert np.array_equal(np.asarray(loss_plot(null, 1)), np.asarray(wanted))


@pytest.mark.parametrize(
    ("losses", "guidance", "title"),
    [
        ([2e-4, 2e-3], 7.5, "last loss per timestep; nothing had to be optimized"),
        ([2e-4, 2e-3], 1.0, "last loss per timestep; at cfg 1 nothing can be optimized"),
        ([0.0, 0.0], 7.5, "nothing was optimized, so no loss was measured"),
    ],
)
def test_a_plot_without_iterations_says_why(losses, guidance, title):
    """Guards the titles of what was not optimized."""
    wanted = log_plot(losses[::-1], title, "step, from noise to clean")
    null = replace(some_null([[v] for v in losses], [[0.0], [0.0]]), guidance=guidance)
    assert np.array_equal(np.asarray(loss_plot(null)), np.asarray(wanted))
