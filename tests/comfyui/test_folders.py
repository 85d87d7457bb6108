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
from nullinv_core.context import unpack
from nullinv_core.demo.scenes import render, sample_edit
from nullinv_core.demo.tokenizer import write_tokenizer
from nullinv_core.demo.train import write_model
from nullinv_core.demo.train_autoencoder import new_autoencoder
from nullinv_core.demo.train_text import WIDTH, new_text_encoder
from nullinv_core.fingerprint import difference

from ..core.helpers import tiny_xl_folder
from .graphs import Chain, Graph
from .outputs import newest, relative
from .server import error_of

CAPTION = "a red star on a gray background"


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
    g.add("PreviewAny", source=g.add("CLIPTextEncode", clip=load(1), text="a star")())
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
    tokenizer = write_tokenizer(folder / "tokenizer")
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=16, block_out_channels=(64, 96), layers_per_block=1, attention_head_dim=(2, 3),
        down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=WIDTH,
    )  # fmt: skip
    write_model(folder, autoencoder(), unet, new_text_encoder(tokenizer))
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
    trajectory, pooled = saved.trajectory, model.denoiser.pooled
    for ours, theirs in zip(unpack(trajectory.context, pooled), unpack(context, pooled), strict=True):
        assert relative(ours, theirs) < 1e-3
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
    assert '"tokenizer_2" of "no-words" is no CLIP tokenizer' in said_of(comfy, "no-words")


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
