"""The published rows of PIE-Bench: a dry run of every row on small random weights."""

import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from benchmarks import edit_photo, pie_bench
from nullinv_core.null_text.presets import PRESETS
from nullinv_core.scores.score import COLUMNS

from ..published import PACK
from .helpers import tiny_xl_folder


@pytest.fixture
def folder(tmp_path):
    """Two edits in PIE-Bench's layout; the tiny SDXL has no maps for blended words."""
    mapping, (y, x) = {}, np.mgrid[0:512, 0:512]
    for number, blended in enumerate(("red blue", "")):
        path = tmp_path / "data" / "annotation_images" / f"1_change_object_80/{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.stack([x // 2, y // 2, (x + y * (number + 1)) % 256], -1).astype(np.uint8)).save(path)
        mapping[f"{number:03d}"] = {
            "image_path": f"1_change_object_80/{number}.jpg", "original_prompt": "a [red] cat on a table",
            "editing_prompt": "a [blue] cat on a table", "editing_type_id": str(6 + number), "blended_word": blended,
            "mask": [512 * 100, 512 * 100],
        }  # fmt: skip
    (tmp_path / "data" / "mapping_file.json").write_text(json.dumps(mapping))
    return tmp_path / "data"


@pytest.fixture
def command(monkeypatch, capsys):
    """The lines that the command printed."""
    monkeypatch.setattr(edit_photo, "STEPS", 2)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["pie_bench", *map(str, arguments)])
        pie_bench.main()
        return capsys.readouterr().out.splitlines()

    return run


def test_every_row_in_one_command(command, folder, tmp_path, model_folder, clip_folder):
    """Guards the rows: pictures of 512 pixels at the photos' places, the published figures below our own, settings
    below them; a second run goes on where it was, and edits nothing again."""
    out = tmp_path / "out"
    common = ["--model", model_folder, "--pie-bench", folder, "--out", out]
    lines = command(*pie_bench.ROWS, *common, "--clip", clip_folder, "--first", 1)
    made = ["null-text", "null-text", "negative-prompt", "negative-prompt", "direct", "direct", "ours"]
    table = [line.split(" | ") for line in lines if line.count("|") == len(pie_bench.FIGURES) + 4][2:]
    assert [line[0].removeprefix("| ") for line in table] == made
    assert [line[1] for line in table] == ["here", "published"] * 3 + ["here"]
    assert "| null-text | published | 13.44 | 27.03 | 60.67 | 35.86 | 0.8411 | 24.75 | 21.86 | 700 |" in lines
    for row, preset in pie_bench.ROWS.items():
        assert preset in PRESETS and any(line.startswith(f"| {row} | preset {preset}: ") for line in lines)
    pictures = sorted(out.rglob("*.jpg"))
    assert [path.parts[-4] for path in pictures] == sorted(pie_bench.ROWS)
    assert all(Image.open(path).size == (512, 512) for path in pictures)
    times = [path.stat().st_mtime_ns for path in pictures]
    assert "2 of 2" in command("direct", *common, "--batch", 2)
    assert [path.stat().st_mtime_ns for path in pictures] == times
    assert len(list(out.rglob("*.jpg"))) == len(pictures) + 1
    # pictures of one model are not scored under the name of another
    other = shutil.copytree(model_folder, tmp_path / "other")
    weights = other / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({name: value + 1 for name, value in load_file(weights).items()}, weights, {"format": "pt"})
    with pytest.raises(SystemExit, match="holds rows of another run"):
        command("direct", "--model", other, "--pie-bench", folder, "--out", out)


def test_rows_of_sdxl(command, folder, tmp_path):
    """Guards SDXL: the same command; nobody has published such rows, so none stands beside."""
    mapping = json.loads((folder / "mapping_file.json").read_text())
    (folder / "mapping_file.json").write_text(json.dumps({"001": mapping["001"]}))
    model, out = tiny_xl_folder(tmp_path / "xl"), tmp_path / "out"
    lines = command("direct", "--base", "sdxl", "--model", model, "--pie-bench", folder, "--out", out)
    assert any(line.startswith("| SDXL |") for line in lines) and not any("published" in line for line in lines)
    assert [path.relative_to(out).parts[0] for path in out.rglob("*.jpg")] == ["sdxl"]


def test_published_figures_have_a_column_each():
    """Guards the table of the paper: each row has all of its figures, in units that our own have."""
    for figures in pie_bench.PUBLISHED.values():
        assert len(figures) == len(pie_bench.FIGURES)
        _, psnr, _, mse, ssim, *_ = figures
        # a mean of dB is no dB of a mean, but near it
        assert 20 < psnr < 30 and 30 < mse < 60 and 0.8 < ssim < 0.9


def test_the_page_has_the_same_figures_and_settings():
    """Guards docs/scores.md: the published rows and the settings are those of the command."""
    page = (PACK / "docs" / "scores.md").read_text(encoding="utf-8")
    for figures in pie_bench.PUBLISHED.values():
        cells = (f"{value:.{COLUMNS[name].digits}f}" for name, value in zip(pie_bench.FIGURES, figures, strict=True))
        assert f" | {' | '.join(cells)} |" in page
    assert pie_bench.settings_table() in page, "copy what python -m benchmarks.pie_bench prints"
