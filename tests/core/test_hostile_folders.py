"""Folders of strangers: no code of theirs runs, no other file is read, and what is wrong is one sentence."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from nullinv_core import InputError
from nullinv_core.backends.clip_tokenizer import load_tokenizer
from nullinv_core.backends.clip_vocabulary import clip_merges, write_tokenizer_files
from nullinv_core.backends.diffusers import DEMO_MODEL, load_model
from nullinv_core.backends.diffusers.configuration import write_configuration
from nullinv_core.backends.model_config import CLASSES, SCHEDULERS, known_classes
from nullinv_core.backends.model_folder import (
    INDEX,
    LARGEST_CONFIG,
    read_config,
    read_settings,
)
from nullinv_core.families import FAMILIES

from .fuzz_folders import HOOKS, fuzz_folders, put
from .helpers import tiny_xl_folder, with_plain_autoencoder
from .single_file import write_single_file

TEXT = "a red cat on a wooden table"
EVIL = "import pathlib\npathlib.Path({trace!r}).touch()\nclass Evil:\n    pass\n"


@pytest.fixture
def folder(model_folder, tmp_path):
    return shutil.copytree(model_folder, tmp_path / "model")


@pytest.fixture(scope="module")
def folders(tmp_path_factory, model_folder):
    """A whole folder of each kind."""
    return {"v1": model_folder, "xl": tiny_xl_folder(tmp_path_factory.mktemp("xl"))}


def rewrite(path, **changes):
    """Change entries of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def with_code(folder, trace):
    """Put a module that leaves a trace wherever a library might look for one."""
    for place in (folder, *(p for p in folder.iterdir() if p.is_dir())):
        for name in ("None", "evil", "pipeline", "model", "__init__", "unet", "modeling_evil"):
            (place / f"{name}.py").write_text(EVIL.format(trace=str(trace)))
    return folder


INDICES = [
    {"unet": ["evil", "Evil"]},
    {"unet": [None, "Evil"]},
    {"unet": ["unet", "Evil"]},
    {"vae": ["diffusers", "AutoencoderOobleck"]},
    {"text_encoder": ["transformers", "AutoModel"]},
    {"tokenizer": ["transformers", "AutoTokenizer"]},
    {"scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"]},
    {"scheduler": ["os", "system"]},
    {"unet": "diffusers.UNet2DConditionModel"},
    {"unet": None},
]
HARMLESS = [
    {"safety_checker": ["evil", "Evil"], "feature_extractor": ["None", "Evil"], "image_encoder": [None, "Evil"]},
    {"custom": ["evil", "Evil"], "auto_map": {"AutoModel": "evil.Evil"}},
]


@pytest.mark.parametrize("changes", [*INDICES, *HARMLESS])
def test_no_code_of_a_folder_runs(folder, tmp_path, changes):
    """Guards ``None.py`` and ``unet/evil.py``, which diffusers below 0.38 imports: known classes alone are built, and
    for parts that are not loaded the index is not even read."""
    trace = tmp_path / "trace"
    with_code(folder, trace)
    rewrite(folder / INDEX, **changes)
    if changes in INDICES:
        with pytest.raises(InputError, match=f'for the part "{next(iter(changes))}"; known are'):
            load_model(folder)
    else:
        load_model(folder)
    assert not trace.exists()


def test_no_entry_of_a_configuration_brings_in_code_or_other_files(folder, tmp_path, monkeypatch):
    """Guards auto_map, quantization, adapters, kernels and their like: the model is the same with them, and nothing
    outside of it is opened."""
    plain = load_model(folder)
    trace = tmp_path / "trace"
    with_code(folder, trace)
    for file in (*folder.glob("*/*config.json"), *folder.glob("*/special_tokens_map.json")):
        keep = {"tokenizer_class"} if file.name == "special_tokens_map.json" else set()
        rewrite(file, **{name: value for name, value in HOOKS.items() if name not in keep})
    rewrite(folder / INDEX, **{n: v for n, v in HOOKS.items() if n != "_class_name"})
    for part in ("unet", "text_encoder", "vae"):
        (folder / part / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/none"}))
        (folder / part / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "/etc/passwd"}}))
        index = folder / part / "diffusion_pytorch_model.safetensors.index.json"
        index.write_text(json.dumps({"metadata": {}, "weight_map": {"conv_in.weight": "../../x.bin"}}))
    opened = []
    sys.addaudithook(
        lambda event, args: opened.append(str(args[0])) if event == "open" and hasattr(sys, "listening") else None
    )
    with monkeypatch.context() as patch:
        patch.setattr(sys, "listening", True, raising=False)
        model = load_model(folder)
    assert model.fingerprint == plain.fingerprint and model.prompt(TEXT) == plain.prompt(TEXT)
    assert model.encode_prompts([model.prompt(TEXT)]).equals(plain.encode_prompts([plain.prompt(TEXT)]))
    assert not trace.exists() and not any(name in ("/etc/passwd", "/etc/hostname") for name in opened)
    assert not [name for name in opened if "adapter" in name or (name.endswith("index.json") and name[-16:] != INDEX)]
    assert any(name.endswith("tokenizer_config.json") for name in opened), "the hook sees what is opened"


def test_no_code_of_a_configuration_folder_runs(model_folder, tmp_path):
    """Guards --config, whose folder belongs to a stranger as well."""
    pipeline = with_plain_autoencoder(model_folder)
    pipeline.save_pretrained(tmp_path / "config")
    write_single_file(pipeline, tmp_path / "one.safetensors")
    trace, config = tmp_path / "trace", with_code(tmp_path / "config", tmp_path / "trace")
    whole = json.loads((config / INDEX).read_text())
    rewrite(config / INDEX, **HARMLESS[0])
    for name, value in HOOKS.items():
        rewrite(config / "unet/config.json", **{name: value})
        rewrite(config / "tokenizer/tokenizer_config.json", **{name: value})
    load_model(tmp_path / "one.safetensors", config=config)
    for changes in INDICES:
        (config / INDEX).write_text(json.dumps({**whole, **changes}))
        with pytest.raises(InputError, match="known are"):
            load_model(tmp_path / "one.safetensors", config=config)
    (config / INDEX).write_text(json.dumps(whole))
    rewrite(config / "unet/config.json", layers_per_block=100_000_000)
    with pytest.raises(InputError, match="layers_per_block is 100000000; it must be"):
        load_model(tmp_path / "one.safetensors", config=config)
    assert not trace.exists()


@pytest.mark.parametrize("file", ["unet/config.json", INDEX, "tokenizer/merges.txt", "unet/diffusion_pytorch_model"])
@pytest.mark.parametrize("what", ["zero", "pipe", "folder", "large", "loop"])
def test_ordinary_files_alone_are_read(folder, file, what):
    """Guards devices that never end, pipes that nobody writes to, and files that would fill the memory."""
    path = folder / (f"{file}.safetensors" if "model" in Path(file).name and file != INDEX else file)
    path.unlink()
    if what == "large":
        path.touch()
        os.truncate(path, 2**25)
    else:
        put(path, what)
    (folder / "tokenizer/tokenizer.json").unlink(missing_ok=True)
    with pytest.raises(InputError) as refused:
        load_model(folder)
    said = "missing|is not whole|larger than|not an ordinary file|cannot be read"
    assert any(words in str(refused.value) for words in said.split("|")), refused.value


def test_a_pipe_is_not_waited_for(tmp_path):
    """Guards the reader itself, whatever was looked at before it opens a file."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="not an ordinary file"):
        read_config(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    with pytest.raises(InputError, match="not an ordinary file"):
        read_config(tmp_path / "link")
    (tmp_path / "large").write_bytes(b"[" * (LARGEST_CONFIG + 1))
    with pytest.raises(InputError, match="larger than 1 MB"):
        read_config(tmp_path / "large")


def test_a_folder_of_the_hugging_face_cache_loads(model_folder, tmp_path):
    """Guards its layout: every file is a link to a blob beside the snapshots, named by its digest."""
    repository = tmp_path / "models--somebody--model"
    snapshot, blobs = repository / "snapshots" / "0123abcd", repository / "blobs"
    blobs.mkdir(parents=True)
    for number, file in enumerate(p for p in model_folder.rglob("*") if p.is_file()):
        link = snapshot / file.relative_to(model_folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, blobs / f"{number:064x}")
        link.symlink_to(os.path.relpath(blobs / f"{number:064x}", link.parent))
    assert os.readlink(snapshot / "unet/config.json").startswith("../../../blobs/")
    assert load_model(snapshot).fingerprint == load_model(model_folder).fingerprint


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_passes_the_table(name, tmp_path):
    """Guards the table against being stricter than the models that it describes."""
    write_configuration(tmp_path, FAMILIES[name], {})
    folder = read_settings(tmp_path)
    assert folder.kind == FAMILIES[name].pipeline
    for part, config in FAMILIES[name].unet.items():
        assert folder.configs["unet"][part] == (list(config) if isinstance(config, tuple) else config)


def test_folders_of_the_first_libraries_load(folder):
    """Guards published folders of 2022: token numbers of the first transformers, tokens with flags, paths of the
    author's computer, a class of Flax, and a size that diffusers before 0.9 halved."""
    plain = load_model(folder)
    rewrite(folder / "unet/config.json", _class_name="FlaxUNet2DConditionModel", _diffusers_version="0.5.0.dev0")
    rewrite(folder / "text_encoder/config.json", bos_token_id=0, eos_token_id=2, pad_token_id=1, dropout=0.0)
    flags = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    tokens = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    rewrite(
        folder / "tokenizer/tokenizer_config.json", special_tokens_map_file="./special_tokens_map.json",
        **{role: {"__type": "AddedToken", "content": token, **flags} for role, token in tokens.items()},
    )  # fmt: skip
    model = load_model(folder)
    assert (plain.native_size, model.native_size) == (4 * plain.factor, 64 * plain.factor)
    assert model.encode_prompts([model.prompt(TEXT)]).equals(plain.encode_prompts([plain.prompt(TEXT)]))


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_s_own_configuration_passes(folder, name):
    """Guards published folders, which name schedulers of every kind: the noise levels are the same with each."""
    import diffusers

    try:
        kind = getattr(diffusers, name)
        kind(beta_start=0.001, beta_end=0.012, beta_schedule="scaled_linear").save_pretrained(folder / "scheduler")
    except ImportError:
        # needs a package that is not here; its file would look like the others'
        rewrite(folder / "scheduler/scheduler_config.json", _class_name=name, beta_start=0.001)
    rewrite(folder / INDEX, scheduler=["diffusers", name])
    levels = load_model(folder).alphas_cumprod
    assert levels[0] == pytest.approx(0.999, abs=1e-6) and levels[-1] == pytest.approx(0.0040, abs=1e-4)


def test_the_table_knows_the_entries_of_the_libraries(folders):
    """Guards the table against misspelt entries and wrong defaults: a row is an argument of the class that it is of,
    and where an entry is missing, the table takes what the library takes."""
    import inspect

    import diffusers
    import transformers

    for kind, (rules, fixed) in CLASSES.items():
        owner = transformers.CLIPTextConfig if kind.startswith("CLIP") else getattr(diffusers, kind)
        known = owner() if kind.startswith("CLIP") else None
        defaults = {
            name: getattr(known, name) if known else parameter.default
            for name, parameter in inspect.signature(owner.__init__).parameters.items()
            if name not in ("self", "kwargs")
        }
        for name, rule in rules.items():
            found = defaults[name]
            assert found == rule.default or (found is None and rule.default is None), f"{kind}: {name}"
        for name, value in fixed.items():
            assert name not in defaults or defaults[name] in (value, None), f"{kind}: {name}"
    for part, pairs in (pair for family in FAMILIES.values() for pair in known_classes(family).items()):
        for library, name in pairs:
            assert part.startswith("tokenizer") or hasattr({"diffusers": diffusers}.get(library, transformers), name)


@pytest.mark.parametrize(
    ("file", "changes", "said"),
    [
        ("unet/config.json", {"layers_per_block": 100_000_000}, "layers_per_block is 100000000; it must be a whole"),
        ("unet/config.json", {"layers_per_block": True}, "layers_per_block is True"),
        ("unet/config.json", {"block_out_channels": [16] * 9}, "block_out_channels is [16, 16"),
        ("unet/config.json", {"block_out_channels": [16, 30]}, "30, which is not a multiple of norm_num_groups (4)"),
        ("unet/config.json", {"attention_head_dim": [2, 3]}, "32, which is not a multiple of attention_head_dim (3)"),
        ("unet/config.json", {"cross_attention_dim": 17}, "it is built for other text encoders"),
        ("unet/config.json", {"in_channels": 9}, "in_channels is 9 (an inpainting or depth model has more than 4)"),
        ("unet/config.json", {"sample_size": -1}, "sample_size is -1"),
        ("unet/config.json", {"class_embed_type": "timestep"}, 'class_embed_type is "timestep"; it must be missing'),
        ("unet/config.json", {"down_block_types": ["Evil"] * 2}, "down_block_types is ['Evil', 'Evil']; it must be"),
        ("unet/config.json", {"transformer_layers_per_block": 64, "layers_per_block": 8}, "blocks; at most"),
        ("vae/config.json", {"scaling_factor": 0}, "scaling_factor is 0; it must be a number from 0.001 to 1000"),
        ("vae/config.json", {"scaling_factor": float("nan")}, "scaling_factor is nan"),
        ("vae/config.json", {"latent_channels": 16}, "latent_channels is 16, the UNet's in_channels 4"),
        ("text_encoder/config.json", {"num_hidden_layers": 10**400}, "num_hidden_layers is a number of many digits"),
        ("text_encoder/config.json", {"hidden_act": "evil"}, 'hidden_act is "evil"; it must be quick_gelu or gelu'),
        ("text_encoder/config.json", {"num_attention_heads": 3}, "hidden_size is not a multiple of num_attention"),
        ("scheduler/scheduler_config.json", {"beta_start": None}, "beta_start is missing"),
        ("scheduler/scheduler_config.json", {"beta_end": 2}, "beta_end is 2"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**7}, "num_train_timesteps is 10000000"),
        ("scheduler/scheduler_config.json", {"prediction_type": "sample"}, 'prediction_type is "sample"; it'),
        ("scheduler/scheduler_config.json", {"trained_betas": [0.1]}, "trained_betas has 1 entries"),
    ],
)  # fmt: skip
def test_a_wrong_entry_is_named_before_anything_is_built(folder, monkeypatch, file, changes, said):
    """Guards the table: the file, the entry, what it is and what is allowed."""
    monkeypatch.setattr("nullinv_core.backends.diffusers.loading._empty", None)
    rewrite(folder / file, **changes)
    with pytest.raises(InputError) as refused:
        load_model(folder)
    assert str(refused.value).startswith(f'"{folder / file}": ') and said in str(refused.value)


def test_weights_of_another_shape_take_no_memory(folder, monkeypatch):
    """Guards configurations that pass and are not the weights': seen from the headers alone."""
    monkeypatch.setattr("nullinv_core.backends.diffusers.loading._read", None)
    rewrite(folder / "unet/config.json", block_out_channels=[4096, 4096], attention_head_dim=1, layers_per_block=8)
    with pytest.raises(InputError, match=r"the configuration beside it asks for|lacks"):
        load_model(folder)
    rewrite(folder / "text_encoder/config.json", vocab_size=2**18)
    with pytest.raises(InputError):
        load_model(folder)


def test_weights_in_eight_bits_are_refused(folder):
    """Guards files whose numbers mean nothing without a scale that we do not read."""
    path = folder / "vae/diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    save_file({name: weight.to(torch.int8) for name, weight in weights.items()}, path)
    with pytest.raises(InputError, match="asks for plain numbers"):
        load_model(folder)


def test_weights_are_ours_once_they_are_read(folder):
    """Guards against a bus error: a file that is overwritten later changes nothing that was loaded."""
    model = load_model(folder)
    before = model.encode_prompts([model.prompt(TEXT)])
    for file in folder.glob("*/*.safetensors"):
        os.truncate(file, 0)
    assert model.encode_prompts([model.prompt(TEXT)]).equals(before)


@pytest.mark.parametrize(
    "broken",
    [
        {"vocab.json": '{"a": -1}'},
        {"vocab.json": '{"a": 1e9}'},
        {"merges.txt": "a\n"},
        {"merges.txt": "q q\n"},
        {"vocab.json": "{}"},
        {"merges.txt": "\ud800"},
        {"tokenizer_config.json": '{"bos_token": 3}', "special_tokens_map.json": "{}"},
    ],
)
def test_a_broken_tokenizer_is_a_sentence(folder, broken):
    """Guards words without numbers, merges without words, and texts that are none."""
    for name, text in broken.items():
        (folder / "tokenizer" / name).write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(InputError, match=r"is not a CLIP tokenizer|is not a text|is not text"):
        load_model(folder)


def test_added_words_stay(folder):
    """Guards folders with words that were taught later (textual inversion), as any library writes them."""
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    number = len(tokenizer)
    tokenizer.add_tokens(["<my-cat>"])
    shutil.rmtree(folder / "tokenizer")
    tokenizer.save_pretrained(folder / "tokenizer")
    assert load_tokenizer(folder / "tokenizer")("a <my-cat>").input_ids == tokenizer("a <my-cat>").input_ids
    assert number in load_tokenizer(folder / "tokenizer")("a <my-cat>").input_ids
    # as libraries of old wrote it
    old = folder / "old"
    write_tokenizer_files(old, clip_merges())
    (old / "added_tokens.json").write_text(json.dumps({"<my-cat>": 49408}))
    assert load_tokenizer(old)("a <my-cat>").input_ids[1:3] == [320, 49408]


def test_a_clean_copy_of_a_tokenizer_splits_alike(tmp_path):
    """Guards that what we give to transformers is the folder's own tokenizer, on texts of every kind."""
    from transformers import CLIPTokenizer

    write_tokenizer_files(tmp_path, clip_merges())
    theirs = CLIPTokenizer.from_pretrained(tmp_path, local_files_only=True)
    theirs.save_pretrained(tmp_path / "today")
    texts = [TEXT, "## # #! 'll don't", "é 漢字 🙂 ÀB", "<|endoftext|> x", "1234 a_b-c", "  two\tspaces\n", ""]
    for folder in (tmp_path, tmp_path / "today", DEMO_MODEL / "tokenizer"):
        own = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        ours = load_tokenizer(folder)
        assert [ours(text).input_ids for text in texts] == [own(text).input_ids for text in texts]
        assert ours.special_tokens_map == own.special_tokens_map


@pytest.mark.parametrize("kind", ["v1", "xl"])
def test_wrong_folders_end_in_a_sentence_or_a_result(folders, tmp_path, kind):
    """Guards the whole reader: 700 wrong folders of each kind are checked, and built where they pass, one in ten; each
    within seconds and bounded memory."""
    ends = fuzz_folders(folders[kind], tmp_path, 700, seed=os.environ.get("FUZZ_SEED", "0"), every=10)
    assert set(ends) == {"refused", "checked", "loaded"} and ends["refused"] > 250 and ends["loaded"] > 20


def test_the_fuzzer_finds_what_it_is_for(folders, tmp_path):
    """Guards the fuzzer: a loader that lets an error through is told."""

    def trusting(folder):
        raise KeyError(folder)

    with pytest.raises(AssertionError, match="ends in KeyError"):
        fuzz_folders(folders["v1"], tmp_path, 20, load=trusting)
