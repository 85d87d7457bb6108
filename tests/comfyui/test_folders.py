"""Load Diffusers Model: folders of any width and kind, beside the diffusers backend that reads the same ones."""

import json
import shutil

import pytest
import torch
from diffusers import AutoencoderKL, EDMEulerScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from nullinv_core import InputError, invert, load_inversion
from nullinv_core.backends.clip_vocabulary import clip_merges, write_tokenizer_files
from nullinv_core.backends.diffusers import DEMO_MODEL, load_model
from nullinv_core.demo.edits import sample_edit
from nullinv_core.demo.scenes import render
from nullinv_core.demo.training.autoencoder import new_autoencoder
from nullinv_core.demo.training.folder import write_model
from nullinv_core.demo.training.text import WIDTH, new_text_encoder
from nullinv_core.files.fingerprint import difference

from ..core.helpers import demo_tokenizer, tiny_xl_folder
from .graphs import Chain, Graph
from .outputs import newest, relative
from .server import PACK, error_of

CAPTION = "a red cat on a marble table"


def rewrite(path, **changes):
    """Change entries of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def inversion_of(comfy, name, scheduler="ddim_uniform"):
    """What ComfyUI makes of the demo's scene with a folder."""
    chain = Chain(steps=2, optimize=False)
    chain.graph[chain.load()[0]]["inputs"]["model"] = name
    chain.graph[chain.source()[0]]["inputs"]["text"] = CAPTION
    chain.graph[chain.invert()[0]]["inputs"]["scheduler"] = scheduler
    chain.graph.add("NullInvSave", trajectory=chain.invert(1), prompt=CAPTION, filename_prefix=name)
    comfy.run(chain.graph)
    return load_inversion(newest(comfy, name))


def inverted(comfy, name, scheduler="ddim_uniform"):
    """The trajectory of that."""
    return inversion_of(comfy, name, scheduler).trajectory


def said_of(comfy, name):
    """What ComfyUI says of a folder that cannot be loaded."""
    g = Graph()
    load = g.add("NullInvLoadDiffusers", model=name)
    g.add("PreviewAny", source=g.add("CLIPTextEncode", clip=load(1), text="a cat")())
    return error_of(comfy.finish(comfy.queue(g)))


def narrow_autoencoder():
    """Stable Diffusion's kind of autoencoder, an eighth as wide."""
    return AutoencoderKL(
        block_out_channels=(32, 32, 64, 64), layers_per_block=2, latent_channels=4, norm_num_groups=32,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip


@pytest.mark.parametrize("autoencoder", [new_autoencoder, narrow_autoencoder])
def test_a_folder_of_any_width_loads(comfy, autoencoder):
    """Guards Load Diffusers Model: widths that are no multiples of the first; the latents and the trajectory are
    diffusers' own. A folder that lacks a weight is refused."""
    name = f"odd-widths-{autoencoder.__name__}"
    folder = comfy.base / "models" / "diffusers" / name
    tokenizer = demo_tokenizer(folder / "tokenizer")
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=16, block_out_channels=(64, 96), layers_per_block=1, attention_head_dim=(2, 3),
        down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=WIDTH,
    )  # fmt: skip
    write_model(folder, autoencoder(), unet, new_text_encoder(tokenizer), tokenizer)
    demo_tokenizer(folder / "tokenizer")
    saved, model = inverted(comfy, name), load_model(folder)
    context = model.encode_prompts([model.prompt(CAPTION)])
    assert relative(saved.latents, invert(model.denoiser, saved.clean, context, saved.schedule).latents) < 1e-3
    scene = torch.from_numpy(render(sample_edit(0, "colour").source))[None]
    assert relative(saved.clean, model.encode_image(scene)) < 1e-3
    for part in ("vae", "text_encoder", "unet"):
        broken = shutil.copytree(folder, folder.with_name(f"{name}-{part}"))
        path = next((broken / part).glob("*.safetensors"))
        whole = load_file(path)
        save_file({k: v for k, v in whole.items() if k != max(whole)}, path)
        lacking = Graph()
        load = lacking.add("NullInvLoadDiffusers", model=broken.name)
        text = lacking.add("CLIPTextEncode", clip=load(1), text=part)
        lacking.add("NullInvP2PEdit", clip=load(1), source_text=part, edit_text=part)
        lacking.add("PreviewAny", source=text())
        assert "lacks 1 weights" in error_of(comfy.finish(comfy.queue(lacking))), part


def test_a_folder_in_pieces_that_predicts_v_to_pure_noise(comfy):
    """Guards SDXL fine-tunes: weights in several files, v prediction, zero terminal SNR; noise levels and trajectory
    are diffusers' own."""
    name = "pieces-v-zsnr"
    folder = tiny_xl_folder(comfy.base / "models" / "diffusers" / name, pooled=16, time_width=256)
    model = load_model(folder)
    rewrite(folder / "scheduler/scheduler_config.json", prediction_type="v_prediction", rescale_betas_zero_snr=True)
    (folder / "unet/diffusion_pytorch_model.safetensors").unlink()
    model.denoiser.unet.save_pretrained(folder / "unet", max_shard_size="300KB")
    assert len(list((folder / "unet").glob("*-of-*.safetensors"))) > 1
    saved, changed = inverted(comfy, name), load_model(folder)
    schedule = changed.schedule(2)
    noisy = saved.schedule.alphas_cumprod[1:]
    assert noisy == pytest.approx(schedule.alphas_cumprod[1:], rel=1e-4)
    assert noisy != pytest.approx(model.schedule(2).alphas_cumprod[1:], rel=1e-2)
    again = invert(changed.denoiser, saved.clean, saved.context, saved.schedule)
    assert relative(saved.latents, again.latents) < 1e-3
    as_epsilon = invert(model.denoiser, saved.clean, saved.context, saved.schedule)
    assert relative(saved.latents, as_epsilon.latents) > 1e-2
    # other schedulers than the authors' start where nothing of the picture is left
    saved = inverted(comfy, name, "normal")
    assert saved.schedule.alphas_cumprod[-1] < 1e-7
    again = invert(changed.denoiser, saved.clean, saved.context, saved.schedule)
    assert relative(saved.latents, again.latents) < 1e-3


@pytest.mark.parametrize("layout", ["today", "today, half", "yesterday", "no filling token"])
def test_folders_of_every_library_load(comfy, layout):
    """Guards folders that today's libraries write (tokenizer.json alone; weights in ``.fp16.safetensors`` alone) and
    those of earlier ones (vocab.json alone): texts, trajectory and fingerprint are diffusers' own."""
    folder = tiny_xl_folder(comfy.base / "models" / "diffusers" / f"layout {layout}", pooled=16, time_width=256)
    for tokenizer in folder.glob("tokenizer*"):
        if layout == "yesterday":
            (tokenizer / "tokenizer.json").unlink(missing_ok=True)
            continue
        # as the installed transformers writes it
        whole = CLIPTokenizer.from_pretrained(tokenizer)
        for file in tokenizer.iterdir():
            file.unlink()
        whole.save_pretrained(tokenizer)
        assert (tokenizer / "tokenizer.json").exists()
        for name in ("vocab.json", "merges.txt", "special_tokens_map.json"):
            (tokenizer / name).unlink(missing_ok=True)
    if layout == "no filling token":
        path = folder / "tokenizer/tokenizer_config.json"
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "pad_token"}))
    if layout == "today, half":
        for file in folder.glob("*/*.safetensors"):
            file.rename(file.with_name(f"{file.stem}.fp16.safetensors"))
    saved, model = inversion_of(comfy, folder.name), load_model(folder)
    context = model.encode_prompts([model.prompt(CAPTION)])
    trajectory = saved.trajectory
    # ComfyUI keeps text encoders in half precision: up to 0.004 here, another word makes 0.16 and more
    for ours, theirs in zip(trajectory.context.tensors, context.tensors, strict=True):
        assert relative(ours, theirs) < 5e-3
    again = invert(model.denoiser, trajectory.clean, trajectory.context, trajectory.schedule)
    assert relative(trajectory.latents, again.latents) < 1e-3
    assert difference(saved.fingerprint, model.fingerprint) == ""


def test_a_folder_that_is_not_whole_is_one_sentence_in_both(comfy):
    """Guards incomplete folders: both backends name the same lack."""
    folder = tiny_xl_folder(comfy.base / "models" / "diffusers" / "no-words", pooled=16, time_width=256)
    shutil.rmtree(folder / "tokenizer_2")
    with pytest.raises(InputError, match=r"is not whole: its folder \"tokenizer_2\" has no") as refused:
        load_model(folder)
    assert str(refused.value) in said_of(comfy, "no-words")
    (folder / "tokenizer_2").mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / "tokenizer_2" / name).write_text("{}")
    assert '"tokenizer_2" of "no-words" is not a CLIP tokenizer' in said_of(comfy, "no-words")


WRONG = [
    ("unet/config.json", {"layers_per_block": 100_000_000}, "layers_per_block is 100000000; it must be"),
    ("unet/config.json", {"block_out_channels": "x"}, 'block_out_channels is "x"'),
    ("unet/config.json", {"attention_head_dim": 0}, "attention_head_dim is 0"),
    ("unet/config.json", {"cross_attention_dim": 2**40}, "cross_attention_dim is 1099511627776"),
    ("unet/config.json", {"norm_num_groups": 16}, "has groups of 16, which ComfyUI cannot build"),
    ("unet/config.json", {"attention_head_dim": [1, 1]}, ""),
    ("unet/config.json", {"attention_head_dim": [2, 8]}, "has heads of other widths on each level"),
    ("unet/config.json", {"layers_per_block": 2}, "lacks"),
    ("unet/config.json", {"block_out_channels": [32, 96]}, "has heads of other widths"),
    ("unet/config.json", {"transformer_layers_per_block": [1, 1]}, ""),
    ("unet/config.json", {"use_linear_projection": False}, "weights of another shape"),
    ("unet/config.json", {"mid_block_type": None}, ""),
    ("unet/config.json", {"time_cond_proj_dim": 256}, "time_cond_proj_dim is 256; it must be missing"),
    ("vae/config.json", {"scaling_factor": 0}, "scaling_factor is 0"),
    ("vae/config.json", {"latent_channels": [4]}, "latent_channels is [4]"),
    ("vae/config.json", {"block_out_channels": [64] * 4}, "size mismatch"),
    ("vae/config.json", {"norm_num_groups": 8}, "has groups of 8"),
    ("text_encoder/config.json", {"hidden_size": float("nan")}, "hidden_size is nan"),
    ("text_encoder/config.json", {"intermediate_size": 99}, "size mismatch"),
    ("text_encoder/config.json", {"max_position_embeddings": 40}, "reads 40 tokens; ComfyUI gives 77"),
    ("text_encoder/config.json", {"num_hidden_layers": 64}, "lacks"),
    ("text_encoder_2/config.json", {"projection_dim": None}, "must be the projection_dim of the second"),
    ("scheduler/scheduler_config.json", {"beta_end": "x"}, 'beta_end is "x"'),
    ("scheduler/scheduler_config.json", {"num_train_timesteps": -5}, "num_train_timesteps is -5"),
    ("scheduler/scheduler_config.json", {"beta_schedule": "squaredcos_cap_v2"}, "noise levels of its own"),
    ("tokenizer/vocab.json", {"a": "b"}, "is not a CLIP tokenizer"),
    ("tokenizer/tokenizer_config.json", {"bos_token": 3, "added_tokens_decoder": {}}, "is not a CLIP tokenizer"),
    ("model_index.json", {"unet": ["evil", "Evil"]}, "for the part \"unet\"; known are UNet2DConditionModel"),
    ("model_index.json", {"vae": [None, "Evil"]}, "for the part \"vae\"; known are AutoencoderKL"),
]  # fmt: skip


def test_wrong_folders_are_a_sentence(comfy):
    """Guards the queue: entries that no model has are named, whatever is built of the folder; nothing of it is run."""
    root = comfy.base / "models" / "diffusers"
    whole = tiny_xl_folder(root / "wrong", pooled=16, time_width=256)
    names = []
    for number, (file, changes, _) in enumerate(WRONG):
        folder = shutil.copytree(whole, root / f"wrong-{number}")
        (folder / "tokenizer/tokenizer.json").unlink(missing_ok=True)
        rewrite(folder / file, **changes)
        for name in ("None.py", "evil.py", "unet/evil.py"):
            (folder / name).write_text(f"open({str(root / 'trace')!r}, 'w')")
        names.append(folder.name)
    for name, (file, changes, wanted) in zip(names, WRONG, strict=True):
        said = said_of(comfy, name).strip()
        assert bool(said) == bool(wanted) and wanted in said and "\n" not in said, f"{file} {changes}: {said}"
    assert not (root / "trace").exists()


def test_wrong_folders_at_random_end_in_a_sentence_or_a_result(comfy, tmp_path):
    """Guards the whole loader with the seeded generator of tests/core, inside of a ComfyUI."""
    whole = tiny_xl_folder(tmp_path / "whole", pooled=16, time_width=256)
    ends = json.loads(comfy.script("wrong_folders.py", PACK, whole, tmp_path / "work", 100, 0, 3).splitlines()[-1])
    assert set(ends) == {"refused", "checked", "loaded"} and ends["refused"] > 30 and ends["loaded"] > 10


def test_the_shipped_vocabulary_is_comfyui_s(comfy):
    """Guards checkpoints that both backends read: every token and merge of CLIP has ComfyUI's number."""
    folder = comfy.base / "vocabulary"
    write_tokenizer_files(folder, clip_merges())
    own = comfy.comfyui / "comfy" / "sd1_tokenizer"
    for name in ("vocab.json", "merges.txt"):
        ours, theirs = ((root / name).read_text(encoding="utf-8") for root in (folder, own))
        assert ours.split() == theirs.split() if name == "merges.txt" else json.loads(ours) == json.loads(theirs)


def test_a_weight_with_nan_is_named(comfy):
    """Guards the message for a broken file: no other precision is proposed where none would help."""
    folder = shutil.copytree(DEMO_MODEL, comfy.base / "models" / "diffusers" / "nan")
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["conv_in.bias"][:] = torch.nan
    save_file(weights, file, {"format": "pt"})
    chain = Chain(steps=1, optimize=False)
    chain.graph[chain.load()[0]]["inputs"]["model"] = "nan"
    chain.graph.add("SaveLatent", samples=chain.invert(), filename_prefix="nan")
    said = error_of(comfy.finish(comfy.queue(chain.graph)))
    assert "weights hold NaN or infinity (input_blocks.0.0.bias); get another copy" in said


def test_folders_without_noise_levels_are_refused(comfy):
    """Guards the edge, in both backends: EDM folders (Playground)."""
    root = comfy.base / "models" / "diffusers"
    folder = tiny_xl_folder(root / "edm", pooled=16, time_width=256)
    shutil.copytree(folder, root / "no-row")
    (root / "no-row/tokenizer/tokenizer.json").unlink(missing_ok=True)
    vocabulary = root / "no-row/tokenizer/vocab.json"
    vocabulary.write_text(json.dumps(json.loads(vocabulary.read_text()) | {"zebra</w>": 40_000}))
    assert "it knows the token 40000, the encoder has" in said_of(comfy, "no-row")
    EDMEulerScheduler().save_pretrained(folder / "scheduler")
    rewrite(folder / "model_index.json", scheduler=["diffusers", "EDMEulerScheduler"])
    assert "EDM noise levels" in said_of(comfy, "edm")
    with pytest.raises(InputError, match="continuous noise levels"):
        load_model(folder)
