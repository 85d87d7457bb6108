"""``nullinv score``: the figures against independent statements of the published rule, and what strangers may send."""

import csv
import json
import os
import sys
from itertools import product
from math import inf, isinf, isnan
from shutil import copyfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure
from torchmetrics.regression import MeanSquaredError

from nullinv_core.cli import main
from nullinv_core.cli import score as command_of_score
from nullinv_core.errors import InputError
from nullinv_core.scores.networks import clip_measures
from nullinv_core.scores.pictures import picture_of, read_edited, read_photo
from nullinv_core.scores.pie_bench import MOST_LETTERS, decode_mask, pie_edits
from nullinv_core.scores.pixels import gain, kept_measures, truth_measures
from nullinv_core.scores.rules import DEFAULT, PNP, RULES, SIDE
from nullinv_core.scores.score import COLUMNS, Scored, named_folders
from nullinv_core.scores.statistics import DRAWS, EXACT, holm, interval, paired_p, sign_p
from nullinv_core.scores.tables import as_csv, as_jsonl, as_latex, differences, tables

from ..published import PACK

ENTRY = {
    "image_path": "1_change_object_80/1.png",
    "original_prompt": "a [cat] on grass",
    "editing_prompt": "a [dog] on grass",
    "editing_instruction": "",
    "editing_type_id": "1",
    "blended_word": "cat dog",
    "mask": [1024, 3],
}
MASKS = ([SIDE * 20 + 30, 180, SIDE * 100, SIDE * 250], [0, SIDE * SIDE], [])


def scene(number):
    """A photo and two edits of it, uint8 (512, 512, 3), the same on every machine."""
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    photo = np.stack([(x * (number + 1)) // 3 % 256, (x * y) // 97 % 256, (y * 2 + 31 * number) % 256], -1)
    first = np.where((x // 64 + y // 48) % 3 == 0, 255 - y // 2, x // 2)[..., None] // 4 + photo * 3 // 4
    second = (photo + (x * 7 + y * 13)[..., None] % (9 + number)).clip(0, 255)
    return [one.astype(np.uint8) for one in (photo, first, second)]


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """A folder of PIE-Bench's layout with true answers, and the pictures of two methods; those of the first are strips
    of four, as PnPInversion writes them. The second method's first picture is the photo itself."""
    folder = tmp_path_factory.mktemp("bench")
    mapping = {}
    for number, mask in enumerate(MASKS):
        photo, first, second = scene(number)
        path = f"{number}_kind/{number:012d}.png"
        strip = np.concatenate([255 - photo, photo, photo, first], 1)
        for place, picture in (
            ("annotation_images", photo), ("true_images", second), ("strips/annotation_images", strip),
            ("plain", photo if number == 0 else second),
        ):  # fmt: skip
            (folder / place / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(folder / place / path)
        mapping[f"{number:012d}"] = {**ENTRY, "image_path": path, "mask": mask, "editing_type_id": str(number)}
    (folder / "mapping_file.json").write_text(json.dumps(mapping))
    return folder


@pytest.fixture
def command(monkeypatch, capsys):
    """Exit status, what was printed and what was said of a call of the command."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["nullinv", "score", *map(str, arguments)])
        status = 0
        try:
            main()
        except SystemExit as stop:
            status = int(stop.code or 0)
        return status, *capsys.readouterr()

    return run


PUBLISHED = {
    ("strips", 0): (22.935834884643555, 0.0050864689983427525, 0.9406011700630188),
    ("strips", 2): (20.389570236206055, 0.009142032824456692, 0.892464816570282),
    ("second", 0): (inf, 0.0, 1.0),
    ("second", 2): (32.81015396118164, 0.0005235817516222596, 0.8916783332824707),
}
"""What PnPInversion's own evaluate.py says of these pictures (commit 07f97f4, torchmetrics 1.9): PSNR, MSE and SSIM of
the unedited part, by method and number; "nan" for those left out."""


def by_the_rule(photo, picture, runs):
    """PSNR, MSE and SSIM of the unedited part, as evaluate.py states them, in torchmetrics' own classes."""
    mask = np.zeros(SIDE * SIDE)
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        mask[start : start + length] = 1
    mask = mask.reshape(SIDE, SIDE)
    mask[0], mask[-1], mask[:, 0], mask[:, -1] = 1, 1, 1, 1
    if (1 - mask).sum() == 0:
        return None
    kept = (1 - mask)[..., None].astype(np.float32)
    a, b = (torch.tensor(one.astype(np.float32) / 255 * kept).permute(2, 0, 1)[None] for one in (photo, picture))
    return (
        float(PeakSignalNoiseRatio(data_range=1.0)(a, b)),
        float(MeanSquaredError()(a[0].contiguous(), b[0].contiguous())),
        float(StructuralSimilarityIndexMeasure(data_range=1.0)(a, b)),
    )


def test_the_published_rule_gives_the_published_figures(bench, command, tmp_path):
    """Guards --rule pnp from the files on: within 1e-4 of evaluate.py's own figures and of its rule stated anew, the
    last part of a strip, no figure where everything may change, an infinite PSNR and so mean of equal pictures."""
    status, out, err = command(
        bench / "strips", f"second={bench / 'plain'}", "--against", bench, "--rule", "pnp", "--out", tmp_path
    )
    assert status == 0, err
    first, *rows = map(json.loads, (tmp_path / "scores.jsonl").read_text().splitlines())
    assert first["rule"] == "pnp" and first["choices"] == PNP.choices and len(rows) == 6
    for row in rows:
        number, (photo, *pictures) = int(row["edit"]), scene(int(row["edit"]))
        picture = pictures[0] if row["method"] == "strips" else photo if number == 0 else pictures[1]
        wanted = by_the_rule(photo, picture, MASKS[number])
        figures = row["figures"]
        if wanted is None:
            assert not figures
            continue
        decibels = inf if figures["PSNR, kept"] is None else figures["PSNR, kept"]
        own = decibels, figures["MSE, kept"] / 10_000, figures["SSIM, kept"]
        for known in (wanted, PUBLISHED[row["method"], number]):
            assert own == pytest.approx(known, abs=1e-4)
        assert isinf(own[0]) == (row["method"] == "second" and number == 0)
    line = next(line for line in out.splitlines() if line.startswith("| second |"))
    assert "| inf |" in line and line.endswith("| 3 |")
    assert (tmp_path / "scores.md").read_text() == out and r"\toprule" in (tmp_path / "scores.tex").read_text()
    lines = list(csv.DictReader((tmp_path / "scores.csv").open()))
    assert {one["method"] for one in lines} == {"strips", "second"} and all(one["rule"] == "pnp" for one in lines)


def test_the_default_rule_and_the_truth(bench, command):
    """Guards the default: equal pictures count as 60 dB, the truth itself is nearest to the truth, kinds have lines."""
    status, out, err = command(bench / "strips", bench / "plain", "--against", bench, "--against-truth")
    assert status == 0, err
    head = next(line for line in out.splitlines() if line.startswith("| method |"))
    assert "PSNR, kept dB ↑" in head and "gain dB ↑" in head
    assert "inf" not in out and "| change object | plain |" in out and "| strips | plain | PSNR, kept dB ↑ |" in out
    row = next(line for line in out.splitlines() if line.startswith("| random | plain |"))
    assert "| 60.00 |" in row
    truths = [line.split("|") for line in out.splitlines() if "| plain | " in line and line.startswith("| change")]
    assert truths and " 60.00 " in truths[0]


@settings(max_examples=25)
@given(arrays(np.float32, (12, 12, 3), elements=st.floats(0, 1, width=32)), arrays(bool, (12, 12)), st.integers(0, 9))
def test_what_may_change_does_not_count_where_it_should_not(other, changes, seed):
    """Guards the default: PSNR and MSE of what is kept depend on kept pixels alone, and by the published rule a larger
    black part makes both better."""
    rng = np.random.default_rng(seed)
    photo, picture = rng.random((2, 12, 12, 3), np.float32)
    asked = SimpleNamespace(source=photo, changes=changes, truths=())
    elsewhere = np.where(changes[..., None], other, picture)
    for rule, name in product((DEFAULT, PNP), ("PSNR, kept", "MSE, kept")):
        measure = kept_measures(rule)[name]
        value = measure(picture, asked)
        assert (value is None) == bool(changes.all())
        assert value is None or measure(elsewhere, asked) == pytest.approx(value, rel=1e-6)
    if not changes.all():
        share = 1 - changes.mean()
        default, published = (kept_measures(rule)["MSE, kept"](picture, asked) for rule in (DEFAULT, PNP))
        assert published == pytest.approx(default * share, rel=1e-4)


@given(st.lists(st.tuples(st.integers(0, 150), st.integers(0, 300)), max_size=12))
def test_a_mask_is_read_as_evaluate_does(runs):
    """Guards masks: runs may overlap and exceed the picture; the border may change."""
    flat = [number for pair in runs if pair[0] <= 144 for number in pair]
    wanted = np.zeros(144)
    for start, length in zip(flat[::2], flat[1::2], strict=True):
        for place in range(start, min(start + length, 144)):
            wanted[place] = 1
    wanted = wanted.reshape(12, 12).astype(bool)
    wanted[0], wanted[-1], wanted[:, 0], wanted[:, -1] = True, True, True, True
    assert (decode_mask(flat, 12) == wanted).all()


def written(path, entry, name="000"):
    """A folder of one entry."""
    (path / "annotation_images").mkdir(exist_ok=True)
    (path / "mapping_file.json").write_text(json.dumps({name: entry}))
    return path


STRANGE = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 2**70), st.floats(), st.text(max_size=6),
    st.lists(st.integers(-2, 2**65)),
    st.sampled_from(["../x.png", "/etc/passwd", "a\\..\\b", "..", "", "C:/x", "a\0b", "x" * 5000, "\ud800", "٣"]),
    st.dictionaries(st.text(max_size=2), st.none(), max_size=2),
)  # fmt: skip


def test_a_picture_is_named_from_its_folder(tmp_path):
    """Guards scores: a method's picture under a full path would be the photo itself, and perfect."""
    (tmp_path / "annotation_images").mkdir()
    inside = str(tmp_path / "annotation_images" / "x.png")
    with pytest.raises(InputError, match="is not one of PIE-Bench"):
        list(pie_edits(written(tmp_path, {**ENTRY, "image_path": inside})))


@settings(max_examples=50)
@given(st.sampled_from(sorted(ENTRY)), STRANGE)
def test_a_stranger_s_entry_is_read_or_named(tmp_path_factory, key, value):
    """Guards the mapping: any value of any field ends in an edit whose picture lies inside, or in one sentence."""
    folder = written(tmp_path_factory.mktemp("strange"), {**ENTRY, key: value})
    try:
        (edit,) = pie_edits(folder)
    except InputError as error:
        said = str(error)
    else:
        said = ""
    if said:
        assert '"000"' in said and said.isprintable() and len(said) < 600
        return
    photos = (folder / "annotation_images").resolve()
    assert (photos / edit.picture).resolve().is_relative_to(photos) and ".." not in edit.picture.parts
    assert edit.changes.shape == (SIDE, SIDE) and edit.kind


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, "3", '{"a": 1}', '{"../a": {}}', '{"": {}}'])
def test_a_stranger_s_mapping_is_refused(tmp_path, text):
    """Guards the mapping: whatever it is instead of one, a sentence says so."""
    (tmp_path / "mapping_file.json").write_text(text)
    with pytest.raises(InputError, match="mapping"):
        list(pie_edits(tmp_path))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_a_mapping_that_is_no_file_is_not_waited_for(tmp_path):
    """Guards time: nobody may ever write to a pipe."""
    os.mkfifo(tmp_path / "mapping_file.json")
    with pytest.raises(InputError, match="no file"):
        list(pie_edits(tmp_path))


def test_an_entry_may_not_cost_more_than_its_file(tmp_path):
    """Guards time: a million runs over the whole picture are read at once; a prompt of megabytes is refused."""
    assert decode_mask([0, SIDE * SIDE] * 500_000).all()
    with pytest.raises(InputError, match="characters"):
        list(pie_edits(written(tmp_path, {**ENTRY, "editing_prompt": "a" * (MOST_LETTERS + 1)})))


def test_each_rule_says_all_that_it_chooses():
    """Guards the printed choices: the same names for every rule, and rules that differ say so."""
    assert len({tuple(rule.choices) for rule in RULES.values()}) == 1
    assert len({tuple(rule.choices.values()) for rule in RULES.values()}) == len(RULES) == 3


def test_the_page_has_every_choice():
    """Guards docs/scores.md: what it says of each choice is what the rules say."""
    page = (PACK / "docs" / "scores.md").read_text(encoding="utf-8")
    for name, text in PNP.choices.items():
        own = DEFAULT.choices[name]
        assert f"\n| {name} | {text} | {'the same' if own == text else own} |" in page, name


def test_sizes_and_strips_are_read_by_the_rule(tmp_path):
    """Guards pictures: the last square of a strip, other sizes scaled or refused, a wide photo's wide edit whole."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8))
    strip = Image.new("RGB", (128, 64))
    strip.paste(small, (64, 0))
    small.save(tmp_path / "small.png"), strip.save(tmp_path / "strip.png")
    wanted = read_photo(tmp_path / "small.png", DEFAULT)
    assert wanted.shape == (SIDE, SIDE, 3) and wanted.dtype == np.float32
    assert (read_edited(tmp_path / "strip.png", (512, 512), DEFAULT) == wanted).all()
    assert (read_edited(tmp_path / "strip.png", (1024, 512), DEFAULT) != wanted).any()
    for file in ("small.png", "strip.png"):
        with pytest.raises(InputError, match="--rule default"):
            read_edited(tmp_path / file, (512, 512), PNP)


def test_methods_and_their_pictures_are_found(tmp_path):
    """Guards where pictures may lie: by the photo's place, by the edit's name, with another suffix; and names."""
    (edit,) = pie_edits(written(tmp_path, ENTRY))
    method = tmp_path / "a=b"
    assert picture_of(method, edit) is None
    for place in ("000.webp", "1_change_object_80/1.jpg", "annotation_images/000.png"):
        (method / place).parent.mkdir(parents=True, exist_ok=True)
        (method / place).touch()
        assert picture_of(method, edit) == method / place
    assert named_folders([str(method), f"x={method}"]) == {"a=b": method, "x": method}
    for texts, said in (([str(method)] * 2, "two methods"), (["x=nowhere"], "no folder")):
        with pytest.raises(InputError, match=said):
            named_folders(texts)


def test_what_is_missing_is_said(bench, command, tmp_path, monkeypatch):
    """Guards the edges of the command: a missing picture, folder or package, and what --partial leaves out."""
    some = tmp_path / "some"
    (some / "2_kind").mkdir(parents=True)
    copyfile(bench / "plain" / "2_kind" / f"{2:012d}.png", some / "2_kind" / f"{2:012d}.png")
    (some / "0_kind").mkdir()
    (some / "0_kind" / f"{0:012d}.png").write_bytes(b"no picture")
    status, _, err = command(some, "--against", bench)
    assert status == 2 and "cannot be read as an image" in err and "--partial leaves such edits out" in err
    status, out, err = command(some, bench / "plain", "--against", bench, "--partial", "--format", "csv")
    assert status == 0 and err.count("left out:") == 2 and err.count("has no picture of edit") == 1
    assert {line["pictures"] for line in csv.DictReader(out.splitlines())} == {"1"}
    status, _, err = command(tmp_path / "none", "--against", bench)
    assert status == 2 and "there is no folder" in err
    status, _, err = command(some, "--against", tmp_path)
    assert status == 2 and "there is no file" in err and "mapping_file.json" in err
    monkeypatch.setattr(command_of_score, "find_spec", lambda name: None)
    status, _, err = command(some, "--against", bench)
    assert status == 2 and err.startswith("error: score needs torchmetrics")


def test_clip_sees_no_part_where_nothing_may_change(clip_folder):
    """Guards the empty mask: no similarity of the edited part by default, that of the border by the published rule,
    which has none below 0."""
    border = decode_mask([], 32)
    asked = SimpleNamespace(source=None, edit_prompt="a cat", changes=border, truths=())
    picture = np.random.default_rng(0).random((32, 32, 3))
    by_rule = {rule.name: clip_measures(clip_folder, rule=rule) for rule in (DEFAULT, PNP)}
    assert by_rule["default"]["CLIP, edited part"](picture, asked) is None
    assert by_rule["pnp"]["CLIP, edited part"](picture, asked) >= 0
    similarity = by_rule["default"]["CLIP"](picture, asked)
    assert by_rule["pnp"]["CLIP"](picture, asked) == max(0, similarity)


def test_the_gain_is_how_much_nearer_the_truth_is():
    """Guards the truth's figures: none without a truth, none of the photo itself, and up to 60 dB."""
    rng = np.random.default_rng(0)
    photo, truth = rng.random((2, 32, 32, 3))
    asked = SimpleNamespace(source=photo, changes=np.ones((32, 32), bool), truths=(truth,))
    measures = truth_measures()
    assert gain(photo, asked) == pytest.approx(0) and measures["PSNR to truth"](truth, asked) == 60
    assert measures["SSIM to truth"](truth, asked) == pytest.approx(1) and measures["gain"](truth, asked) > 40
    # where the photo is right already, nothing can be won
    asked.truths = (photo,)
    assert gain(photo, asked) == 0 and -60 < gain(truth, asked) < -40
    asked.truths = ()
    assert all(measure(truth, asked) is None for measure in measures.values())


@given(st.lists(st.integers(-9, 9).map(lambda n: n / 8), max_size=7))
def test_the_sign_flip_test_is_what_its_definition_says(values):
    """Guards the paired test against all assignments of signs, its symmetry, and its bounds."""
    seen = abs(sum(values))
    flips = [
        abs(sum(s * v for s, v in zip(signs, values, strict=True))) for signs in product((-1, 1), repeat=len(values))
    ]
    assert paired_p(values) == pytest.approx(np.mean([flip >= seen for flip in flips]))
    assert paired_p([-value for value in values]) == paired_p(values) and 0 < paired_p(values) <= 1


def test_the_random_sign_flips_agree_with_all_of_them():
    """Guards long samples: near the normal limit of the same statistic, 1 where there is no sign, never 0."""
    values = np.random.default_rng(0).normal(0.3, 1, EXACT + 20)
    z = abs(values.sum()) / np.sqrt((values**2).sum())
    normal = 1 - torch.special.erf(torch.tensor(z / 2**0.5)).item()
    assert paired_p(values) == pytest.approx(normal, abs=0.02) and paired_p(values) == paired_p(values)
    assert paired_p(np.ones(100)) == 1 / (1 + DRAWS) and paired_p([]) == paired_p([inf, 1]) == 1


@given(st.integers(0, 7), st.integers(0, 7))
def test_the_sign_test_is_the_sign_flip_test_of_ones(first, second):
    """Guards the exact p-value of counts against all assignments of signs."""
    assert sign_p(first, second) == pytest.approx(paired_p([1.0] * first + [-1.0] * second))
    assert sign_p(3, 2) == 1 and sign_p(4, 2) == 0.6875 and sign_p(30, 0) == 2**-29


@given(st.lists(st.floats(0, 1), max_size=8))
def test_corrected_p_values_keep_their_order(p_values):
    """Guards Holm's correction: the least one is multiplied by their number, none shrinks, and order stays."""
    found = holm(p_values)
    assert all(p <= corrected <= 1 for p, corrected in zip(p_values, found, strict=True))
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(found)[order]) >= 0).all()
    assert not p_values or min(found) == pytest.approx(min(1, len(p_values) * min(p_values)))
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


ROWS = [
    Scored(method, str(edit), kind, {"MSE, kept": value, "SSIM, kept": 0.5})
    for method, shift in (("a_1 & b|c", 0.0), ("d", 1.0))
    for edit, kind, value in (
        (0, "x", 2.0 + shift), (1, "y", 4.0 + 2 * shift), (2, "y", inf), (3, "y", inf if shift else 1.0),
    )
]  # fmt: skip


def test_tables_have_every_mean_and_difference():
    """Guards tables: means by method and kind, differences over the pictures that both have, signs that would break
    a format are escaped, and an infinite figure says so."""
    assert isnan(interval([1.0, inf])[1]) and set(ROWS[0].figures) <= set(COLUMNS)
    lines = list(csv.DictReader(as_csv(ROWS, DEFAULT).splitlines()))
    (mean,) = [one for one in lines if (one["method"], one["kind"], one["figure"]) == ("d", "x", "MSE, kept")]
    assert float(mean["mean"]) == 3 and mean["pictures"] == "1"
    (pair,) = [one for one in differences(ROWS) if one.figure == "MSE, kept"]
    # where both are infinite they are alike, where one is they differ infinitely
    assert pair.mean == -1 and pair.count == 3 and pair.p == 0.5 and pair.p_holm == 1
    _, *kept = [json.loads(line, parse_constant=pytest.fail) for line in as_jsonl(ROWS, DEFAULT, {}).splitlines()]
    assert [row["figures"]["MSE, kept"] for row in kept] == [2, 4, None, 1, 3, 6, None, None]
    latex = as_latex(tables(ROWS, DEFAULT))
    assert r"a\_1 \& b|c" in latex and r"MSE, kept $\times$10$^4$ $\downarrow$" in latex and "↓" not in latex
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 4
