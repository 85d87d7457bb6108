"""The model that ships: its size, its parts, and one real run of the whole chain."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from benchmarks.demo_scenes import summary
from nullinv_core.backends.diffusers import DEMO_MODEL, load_model
from nullinv_core.demo.evaluate import generate, round_trip
from nullinv_core.demo.judge import is_right
from nullinv_core.demo.run import demo_case, run_case, write_demo
from nullinv_core.demo.scenes import render, sample_scene
from nullinv_core.images import psnr


@pytest.fixture(scope="module")
def model():
    return load_model("demo")


def test_it_is_small_and_only_safetensors():
    """Guards the download and security: at most 40 MB, no pickle among the files."""
    files = [p for p in DEMO_MODEL.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) <= 40e6
    assert {p.suffix for p in files} <= {".safetensors", ".json", ".txt", ".md", ".png"}


def test_it_is_made_of_standard_parts():
    """Guards that other tools can load it: the classes of the index and the TAESD layout."""
    index = json.loads((DEMO_MODEL / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    assert [index[k][1] for k in ("unet", "vae", "text_encoder", "tokenizer", "scheduler")] == [
        "UNet2DConditionModel", "AutoencoderTiny", "CLIPTextModel", "CLIPTokenizer", "DDIMScheduler",
    ]  # fmt: skip
    vae = json.loads((DEMO_MODEL / "vae" / "config.json").read_text())
    assert vae["latent_channels"] == 4 and vae["encoder_block_out_channels"] == [64] * 4


def test_some_words_take_several_tokens(model):
    """Guards the tokenizer: alignment meets words of one and of several tokens."""
    prompt = model.prompt("a red triangle on a striped blue background")
    counts = {word: len(prompt.tokens_of_word(i)) for i, word in enumerate(prompt.words)}
    assert counts["triangle"] > 1 and counts["red"] == 1


def test_the_autoencoder_keeps_scenes(model):
    """Guards the autoencoder on held-out scenes: 32 dB, latents at unit scale, judged right."""
    scenes = [sample_scene(900_000 + i, "held-out") for i in range(8)]
    decoded = round_trip(model, scenes)
    assert np.median([psnr(d, render(s)) for d, s in zip(decoded, scenes, strict=True)]) >= 32
    assert sum(is_right(d, s) for d, s in zip(decoded, scenes, strict=True)) == 8
    import torch

    latents = model.encode_image(torch.from_numpy(np.stack([render(s) for s in scenes])))
    assert 0.8 < float(latents.std()) < 1.2


def test_it_draws_what_captions_say(model):
    """Guards the generator: most of a few held-out captions come out right in 20 steps."""
    scenes = [sample_scene(910_000 + i, "held-out", 1) for i in range(8)]
    pictures = generate(model, scenes, steps=20, guidance=5.0)
    assert sum(is_right(p, s) for p, s in zip(pictures, scenes, strict=True)) >= 6


def test_the_main_job(model, tmp_path):
    """Guards the promise: at 7.5 DDIM falls apart, null-text gives the picture back; all files of the demo appear."""
    report, pictures = run_case(model, demo_case(0), seed=0, steps=25)
    assert report.psnr_null_text_vs_autoencoder >= 33
    assert report.psnr_null_text >= report.psnr_ddim + 6
    assert report.unet_backwards >= 25 and report.unet_forwards >= 25 * 4 + report.unet_backwards
    write_demo(tmp_path / "out", report, pictures)
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {
        "source.png", "reconstruction.png", "ddim_reconstruction.png", "edited.png", "true_edit.png",
        "comparison.png", "loss.png", "report.json",
    }  # fmt: skip
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == asdict(report)
    assert summary([report])["scenes"] == 1
