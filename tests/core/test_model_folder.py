"""Folders in diffusers' layout, as yesterday's and today's libraries write them, and folders that are not whole."""

import json
import shutil

import pytest
from diffusers import DiffusionPipeline

from nullinv_core import InputError
from nullinv_core.backends.diffusers import load_model
from nullinv_core.backends.model_folder import parts_of, read_folder, variant_of, weight_files
from nullinv_core.families import of_pipeline, pipelines

from .helpers import tiny_xl_folder

KINDS = pipelines()

TEXT = "a yellow cat on a checkered blue cloth"


def ids_of(folder):
    """Tokens of a text by each of a folder's tokenizers."""
    model = load_model(folder)
    return [tokenizer(TEXT, padding="max_length", max_length=77).input_ids for tokenizer in model.text.tokenizers]


@pytest.fixture(scope="module")
def folders(tmp_path_factory, model_folder):
    """A folder of each kind with every file that any library writes."""
    return {KINDS[0]: model_folder, KINDS[1]: tiny_xl_folder(tmp_path_factory.mktemp("xl"))}


@pytest.fixture
def copy_of(folders, tmp_path):
    return lambda kind=KINDS[0]: shutil.copytree(folders[kind], tmp_path / kind)


def rename_weights(folder, ending):
    for file in folder.glob("*/*.safetensors"):
        file.rename(file.with_name(file.stem + ending))


@pytest.mark.parametrize("kind", KINDS)
def test_every_layout_of_a_tokenizer_is_the_same_one(copy_of, kind):
    """Guards folders of today's libraries (tokenizer.json alone) and of earlier ones (vocab.json alone)."""
    folder = copy_of(kind)
    for tokenizer in folder.glob("tokenizer*"):
        # as the installed transformers writes it
        DiffusionPipeline.from_pretrained(folder, local_files_only=True).components[tokenizer.name].save_pretrained(
            tokenizer
        )
    whole = ids_of(folder)
    today = shutil.copytree(folder, folder.with_name("today"))
    for name in ("vocab.json", "merges.txt", "special_tokens_map.json"):
        for file in today.glob(f"tokenizer*/{name}"):
            file.unlink()
    yesterday = shutil.copytree(folder, folder.with_name("yesterday"))
    for file in yesterday.glob("tokenizer*/tokenizer.json"):
        file.unlink()
    assert ids_of(today) == ids_of(yesterday) == whole
    assert len(set(whole[0])) > 5


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_of_half_precision_copies_loads(copy_of, kind):
    """Guards folders that hold nothing but ``.fp16.safetensors``, and those that hold them for some parts."""
    folder = copy_of(kind)
    before = load_model(folder)
    (folder / "unet/diffusion_pytorch_model.safetensors").rename(
        folder / "unet/diffusion_pytorch_model.fp16.safetensors"
    )
    assert load_model(folder).fingerprint == before.fingerprint
    (folder / "unet/diffusion_pytorch_model.fp16.safetensors").rename(
        folder / "unet/diffusion_pytorch_model.safetensors"
    )
    rename_weights(folder, ".fp16.safetensors")
    after = load_model(folder)
    assert after.fingerprint == before.fingerprint
    context = before.encode_prompts([before.prompt(TEXT)])
    assert after.encode_prompts([after.prompt(TEXT)]).equals(context)


def test_which_copy_is_read(tmp_path):
    """Guards the choice between copies of a part: whole or half as asked, averaged before not averaged."""
    (tmp_path / "unet").mkdir()
    names = ("", ".fp16", ".non_ema", ".fp16.non_ema")
    for name in names:
        (tmp_path / "unet" / f"diffusion_pytorch_model{name}.safetensors").touch()
    assert set(weight_files(tmp_path, "unet")) == {"", "fp16", "non_ema", "fp16.non_ema"}
    assert (variant_of(tmp_path, "unet", half=False), variant_of(tmp_path, "unet", half=True)) == ("", "fp16")
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    assert variant_of(tmp_path, "unet", half=False) == "fp16"
    (tmp_path / "unet" / "diffusion_pytorch_model.fp16.safetensors").unlink()
    assert variant_of(tmp_path, "unet", half=False) == "fp16.non_ema"


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_part_is_named_before_anything_is_loaded(copy_of, kind, monkeypatch):
    """Guards incomplete folders: each part, each of its files; the libraries would make a tokenizer of two words."""
    folder = copy_of(kind)
    assert read_folder(folder).kind == kind
    monkeypatch.setattr("nullinv_core.backends.diffusers.loading._empty", None)
    for part in parts_of(of_pipeline(kind)):
        hidden = (folder / part).rename(folder / "hidden")
        with pytest.raises(InputError, match=f'is not whole: its folder "{part}" has no'):
            load_model(folder)
        hidden.rename(folder / part)
    for part, lost, said in (
        ("tokenizer", ("tokenizer.json", "merges.txt"), "tokenizer.json, nor vocab.json and merges.txt"),
        ("tokenizer", ("tokenizer.json", "vocab.json"), "tokenizer.json, nor vocab.json and merges.txt"),
        ("tokenizer", ("tokenizer_config.json", "special_tokens_map.json"), "tokenizer_config.json, nor special"),
        ("unet", ("config.json",), "config.json"),
        ("scheduler", ("scheduler_config.json",), "scheduler_config.json"),
        ("text_encoder", ("model.safetensors",), "no .safetensors weights"),
        ("vae", ("diffusion_pytorch_model.safetensors",), "no .safetensors weights"),
    ):
        broken = shutil.copytree(folder, folder.with_name("broken"))
        for name in lost:
            (broken / part / name).unlink(missing_ok=True)
        with pytest.raises(InputError, match=said):
            load_model(broken)
        shutil.rmtree(broken)
    assert read_folder(folder).kind == kind


def test_a_missing_piece_is_named(copy_of):
    """Guards weights in pieces: a copy that ended early lacks the last of them."""
    folder = copy_of()
    model = load_model(folder)
    (folder / "unet/diffusion_pytorch_model.safetensors").unlink()
    model.denoiser.unet.save_pretrained(folder / "unet", max_shard_size="100KB")
    assert load_model(folder).fingerprint == model.fingerprint
    pieces = weight_files(folder, "unet")[""]
    assert len(pieces) > 2
    pieces[1].unlink()
    with pytest.raises(InputError, match=f"has no {pieces[1].name}"):
        read_folder(folder)


def test_a_broken_index_is_a_sentence(tmp_path):
    """Guards what cannot be read."""
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(InputError, match=r"model_index.json\" is not a complete JSON file"):
        read_folder(tmp_path)
    (tmp_path / "model_index.json").write_text(json.dumps(["StableDiffusionPipeline"]))
    with pytest.raises(InputError, match="is broken"):
        read_folder(tmp_path)
