"""The diffusers backend: attention processor, loading, refusals."""

import json
import shutil
import socket
from dataclasses import replace

import huggingface_hub
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import AttnProcessor2_0
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from nullinv_core import InputError, Inversion, NonFiniteError, invert, optimize_null_text
from nullinv_core.backends.diffusers import check_inversion, load_model, wrap_pipeline
from nullinv_core.backends.diffusers.attention import ControlledAttention
from nullinv_core.backends.diffusers.configuration import write_configuration
from nullinv_core.backends.diffusers.loading import _current_name, marked_prediction, predicts_v
from nullinv_core.backends.model_folder import check_files, parts_of
from nullinv_core.context import Context
from nullinv_core.denoiser import AttentionControl
from nullinv_core.families import FAMILIES
from nullinv_core.files.fingerprint import Fingerprint
from nullinv_core.model import in_safer_precision
from nullinv_core.null_text.settings import NullTextSettings
from nullinv_core.schedule import NoiseLevel

from .helpers import (
    context_of,
    controlled,
    demo_tokenizer,
    latents_of,
    tiny_unet,
    tiny_vae_folder,
    with_plain_autoencoder,
    word_prompt,
)
from .single_file import write_single_file

LEVEL = NoiseLevel(500.0, 0.3)
TEXT_BIAS = "cond_stage_model.transformer.text_model.final_layer_norm.bias"
PARTS = ("unet", "vae", "text_encoder")


class Passive(AttentionControl):
    """A control that looks at everything and changes nothing."""

    def __init__(self, rows):
        self.rows, self.seen = rows, []

    def rewrites(self, layer):
        return layer.part == "self"

    def weighs(self, layer):
        return layer.part == "cross"

    def rewrite(self, query, key, value, layer):
        self.seen.append(("self", tuple(query.shape)))
        return query.clone(), key.clone(), value

    def weigh(self, probabilities, layer):
        self.seen.append(("cross", tuple(probabilities.shape)))
        assert torch.allclose(probabilities.sum(-1), torch.ones_like(probabilities[..., 0]))
        return probabilities


def test_without_control_the_unet_is_untouched():
    """Guards the fast path: our processor equals diffusers' own."""
    unet, context = tiny_unet(torch.float64), context_of(word_prompt("a cat"))[None]
    unet.set_attn_processor(AttnProcessor2_0())
    theirs = unet(latents_of(), torch.tensor(500.0), context.text).sample
    assert torch.allclose(controlled(unet)(latents_of(), LEVEL, context), theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rows", [slice(0, 3), slice(1, 3), slice(0, 2)])
def test_a_passive_control_sees_every_layer_and_changes_nothing(rows):
    """Guards the controlled path: dense and fast attention agree, and only the chosen rows are shown."""
    denoiser, context = controlled(tiny_unet(torch.float64)), context_of(word_prompt("a cat"))[None].expand(3)
    control = Passive(rows)
    plain = denoiser(latents_of(3), LEVEL, context)
    assert torch.allclose(denoiser(latents_of(3), LEVEL, context, control), plain, rtol=1e-9, atol=1e-12)
    layers = sum(isinstance(p, ControlledAttention) for p in denoiser.unet.attn_processors.values())
    assert len(control.seen) == layers == 14
    assert {shape[0] for _, shape in control.seen} == {rows.stop - rows.start}
    assert {kind for kind, _ in control.seen} == {"self", "cross"}


def test_untouched_layers_stay_on_the_fast_path(monkeypatch):
    """Guards speed: a control that wants nothing leaves every layer to scaled_dot_product_attention."""
    calls = []
    real = torch.nn.functional.scaled_dot_product_attention

    def counting(*args, **kwargs):
        calls.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr("nullinv_core.backends.diffusers.attention.scaled_dot_product_attention", counting)
    control = Passive(slice(0, 1))
    control.rewrites = control.weighs = lambda layer: False
    context = context_of(word_prompt("a cat"))[None]
    controlled(tiny_unet(torch.float64))(latents_of(), LEVEL, context, control)
    assert len(calls) == 14 and control.seen == []


def test_v_prediction_becomes_epsilon():
    """Guards SD 2.x: the denoiser turns v into the ε of the same point."""
    unet, context, z = tiny_unet(torch.float64), context_of(word_prompt("a cat"))[None], latents_of()
    raw = controlled(unet)(z, LEVEL, context)
    expected = LEVEL.alpha**0.5 * raw + (1 - LEVEL.alpha) ** 0.5 * z
    assert torch.allclose(controlled(unet, "v_prediction")(z, LEVEL, context), expected)


def test_half_precision_networks_return_the_latents_dtype():
    """Guards precision at the border: a bf16 UNet takes and gives float32, and a gradient reaches the context."""
    denoiser = controlled(tiny_unet(torch.bfloat16))
    context = context_of(word_prompt("a cat"), torch.float32).text[None].requires_grad_(True)
    epsilon = denoiser(latents_of(dtype=torch.float32), LEVEL, Context(context))
    assert epsilon.dtype == torch.float32
    epsilon.square().mean().backward()
    assert context.grad.dtype == torch.float32 and context.grad.abs().sum() > 0


@pytest.fixture(scope="module")
def model(model_folder):
    return load_model(model_folder)


def test_the_pipeline_gives_the_same_noise_prediction(model_folder, model):
    """Guards loading: contexts and ε equal those of diffusers' own pipeline from the same folder."""
    pipeline = StableDiffusionPipeline.from_pretrained(model_folder, local_files_only=True).to(dtype=torch.float32)
    text = "a yellow cat, on a checkered blue cloth"
    embedded, _ = pipeline.encode_prompt(text, "cpu", 1, False)
    context = model.encode_prompts([model.prompt(text)])
    assert torch.allclose(context.text, embedded, atol=1e-6)
    z = latents_of(size=4, dtype=torch.float32)
    theirs = pipeline.unet(z, torch.tensor(500), embedded).sample
    assert torch.allclose(model.denoiser(z, LEVEL, context), theirs, atol=1e-5)


def test_images_go_to_latents_and_back_in_shape(model):
    """Guards the autoencoder's border: (B, H, W, 3) in 0…1 to (B, 4, h, w) float32 and back."""
    latents = model.encode_image(torch.rand(2, 32, 48, 3))
    assert latents.shape == (2, 4, 4, 6) and latents.dtype == torch.float32
    image = model.decode(latents)
    assert image.shape == (2, 32, 48, 3) and image.min() >= 0 and image.max() <= 1
    assert (model.factor, model.native_size) == (8, 32)


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        (torch.randint(0, 255, (1, 32, 32, 3), dtype=torch.uint8), "divide 8-bit values by 255"),
        (torch.rand(1, 32, 32, 3) * 255, "scale or clamp it"),
        (torch.rand(1, 32, 32, 3) * 2 - 1, "scale or clamp it"),
        (torch.full((1, 32, 32, 3), torch.nan), "NaN"),
        (torch.rand(1, 3, 32, 32), r"the shape \(B, H, W, 3\)"),
        (torch.rand(32, 32, 3), r"the shape \(B, H, W, 3\)"),
        (torch.rand(1, 32, 32, 4), r"the shape \(B, H, W, 3\)"),
    ],
)
def test_other_pictures_are_not_encoded(model, pictures, message):
    """Guards what a user of the library has in hand: another range or order of axes is not taken for a photo."""
    with pytest.raises(InputError, match=message):
        model.encode_image(pictures)


def test_a_tokenizer_of_another_encoder_is_named(model_folder, tmp_path):
    """Guards folders put together from two models, whose tokens lie beyond the encoder's table."""
    folder = shutil.copytree(model_folder, tmp_path / "mixed")
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder")
    encoder.resize_token_embeddings(300, mean_resizing=False)
    encoder.save_pretrained(folder / "text_encoder")
    model = load_model(folder)
    with pytest.raises(InputError, match=r"tokenizer is not the text encoder's: it knows the token .*has 300 tokens"):
        model.encode_prompts([model.prompt("a cat")])


@pytest.mark.parametrize(
    ("part", "first"), [("unet", "conv_in"), ("text_encoder", "embeddings"), ("vae", "encoder"), ("vae", "decoder")]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_broken_weights_are_blamed_on_the_file(model_folder, tmp_path, part, first, dtype):
    """Guards the message for a file with NaN: in float32 no other precision is proposed; the part and the weight are
    named."""
    folder = shutil.copytree(model_folder, tmp_path / "broken")
    (file,) = (folder / part).glob("*.safetensors")
    weights = load_file(file)
    name = next(n for n in sorted(weights) if first in n)
    weights[name][...] = torch.nan
    save_file(weights, file, {"format": "pt"})
    model = load_model(folder, dtype=dtype)
    said = []

    def run():
        context = model.encode_prompts([model.prompt("a cat")])
        latents = model.encode_image(torch.rand(1, 32, 32, 3))
        invert(model.denoiser, latents, context, model.schedule(1))
        return model.decode(latents)

    with pytest.raises(NonFiniteError) as error:
        in_safer_precision(run, replace(model, warn=said.append))
    half = dtype == torch.float16 and part != "vae"
    assert f"({part}." in str(error.value) and first in str(error.value) and not said
    assert str(error.value).endswith("load it in float32" if half else "get another copy of the model's file")


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12))
@settings(max_examples=60)
def test_prompts_of_any_text_are_split_whole(tokenizer_model, text):
    """Guards the tokenizer and the word table: any text, every inner token belongs to a word, in order."""
    prompt = tokenizer_model.prompt(text)
    inner = [w for w in prompt.word_of_token if w >= 0]
    assert prompt.length == 77 and inner == sorted(inner)
    assert set(inner) == set(range(len(prompt.words)))


@pytest.fixture(scope="module")
def tokenizer_model(model):
    return model


def test_words_of_several_tokens_are_kept_together(model):
    """Guards words that the small vocabulary splits."""
    prompt = model.prompt("A yellow zebra, on grass")
    assert prompt.words == ("a", "yellow", "zebra", ",", "on", "grass")
    assert len(prompt.tokens_of_word(2)) > 1


def test_a_prompt_that_is_too_long_is_refused(model):
    """Guards silent truncation."""
    with pytest.raises(InputError, match="takes 100 tokens, but the model reads 75"):
        model.prompt("a " * 100)


def test_an_inversion_of_another_model_or_schedule_is_refused(model, tmp_path):
    """Guards reuse: fingerprint and noise levels must be this model's; what fits passes unchanged."""
    context = model.encode_prompts([model.prompt("a cat")])
    trajectory = invert(model.denoiser, latents_of(size=4, dtype=torch.float32), context, model.schedule(2))
    null, _ = optimize_null_text(model.denoiser, trajectory, context[0], NullTextSettings(inner_steps=1))
    good = Inversion(trajectory, null, ("a cat",), model.fingerprint, "m")
    assert check_inversion(good, model)[1].embeddings.equals(null.embeddings)
    other = replace(model.fingerprint, prediction="v_prediction")
    with pytest.raises(InputError, match=r'another model \("m"\) than ".*": that one predicts v, this one ε;'):
        check_inversion(Inversion(trajectory, null, ("a cat",), other, "m"), model)
    old = [Inversion(trajectory, null, ("a cat",), Fingerprint(digest=d)) for d in (model.fingerprint.digest, "0" * 64)]
    assert check_inversion(old[0], model)[1].embeddings.equals(null.embeddings)
    with pytest.raises(InputError, match="older version"):
        check_inversion(old[1], model)
    with pytest.raises(InputError, match="no null embeddings"):
        check_inversion(Inversion(trajectory, None, ("a cat",), model.fingerprint), model)
    object.__setattr__(trajectory.schedule, "alphas_cumprod", (0.999, 0.99, 0.5))
    with pytest.raises(InputError, match="another noise schedule"):
        check_inversion(good, model)


def test_other_kinds_of_models_are_refused(model_folder, tmp_path):
    """Guards the edge: Flux and SD3 folders, inpainting UNets, folders without an index, missing weights."""
    with pytest.raises(InputError, match="there is no model"):
        load_model(tmp_path / "none")
    with pytest.raises(InputError, match=r"model_index.json is missing"):
        load_model(tmp_path)
    for kind in ("FluxPipeline", "StableDiffusion3Pipeline"):
        (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": kind}))
        with pytest.raises(InputError, match=f"holds a {kind}"):
            load_model(tmp_path)
    broken = tmp_path / "broken"
    shutil.copytree(model_folder, broken)
    (broken / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"garbage")
    with pytest.raises(InputError, match="cannot be read"):
        load_model(broken)


def test_an_inpainting_unet_is_refused(model_folder):
    """Guards models with more input channels than latents have."""
    pipeline = StableDiffusionPipeline.from_pretrained(model_folder, local_files_only=True)
    pipeline.unet = UNet2DConditionModel.from_config({**pipeline.unet.config, "in_channels": 9})
    with pytest.raises(InputError, match="9 input channels"):
        wrap_pipeline(pipeline, "inpaint", "cpu", torch.float32)


def test_pickles_are_never_read(model_folder, tmp_path):
    """Guards security: .ckpt files and folders that hold only .bin weights are refused."""
    (tmp_path / "model.ckpt").write_bytes(b"\x80\x04.")
    with pytest.raises(InputError, match=r"not a \.safetensors file"):
        load_model(tmp_path / "model.ckpt")
    (tmp_path / "zero.safetensors").symlink_to("/dev/zero")
    with pytest.raises(InputError, match=r"not a \.safetensors file"):
        load_model(tmp_path / "zero.safetensors")
    folder = tmp_path / "bin"
    shutil.copytree(model_folder, folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(InputError, match="other formats can run code"):
        load_model(folder)


@pytest.mark.parametrize("part", ["unet", "text_encoder", "vae"])
def test_missing_weights_are_never_made_up(model_folder, tmp_path, part):
    """Guards incomplete copies: the libraries would fill a gap with random numbers and go on."""
    folder = tmp_path / "gap"
    shutil.copytree(model_folder, folder)
    (file,) = (folder / part).glob("*.safetensors")
    weights = load_file(file)
    lost = sorted(weights)[len(weights) // 2]
    del weights[lost]
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(InputError, match=r"lacks 1 weights \(" + part):
        load_model(folder)


def test_weights_under_older_names_are_found():
    """Guards published folders: names of attention weights and text encoders changed over the years."""
    old = "decoder.mid_block.attentions.0.query.weight"
    assert _current_name(old) == "decoder.mid_block.attentions.0.to_q.weight"
    assert _current_name(old.replace("query", "proj_attn")) == "decoder.mid_block.attentions.0.to_out.0.weight"
    assert _current_name("text_model.encoder.layers.0.fc.weight") == "encoder.layers.0.fc.weight"


def test_a_single_file_gives_the_same_model_as_its_folder(model_folder, tmp_path):
    """Guards single-file checkpoints: read offline with a folder's configuration, they predict the same noise."""
    pipeline = with_plain_autoencoder(model_folder)
    pipeline.save_pretrained(tmp_path / "folder")
    write_single_file(pipeline, tmp_path / "one.safetensors")
    folder = load_model(tmp_path / "folder")
    single = load_model(tmp_path / "one.safetensors", config=tmp_path / "folder")
    context = folder.encode_prompts([folder.prompt("a red cat")])
    assert single.encode_prompts([single.prompt("a red cat")]).equals(context)
    z = latents_of(size=4, dtype=torch.float32)
    assert torch.allclose(single.denoiser(z, LEVEL, context), folder.denoiser(z, LEVEL, context), atol=1e-5)
    assert torch.allclose(single.decode(z), folder.decode(z), atol=1e-5)
    assert single.fingerprint == folder.fingerprint
    written = load_file(tmp_path / "one.safetensors")
    for part in ("model.diffusion_model.out.2.bias", "first_stage_model.decoder.conv_out.bias", TEXT_BIAS):
        save_file({k: v for k, v in written.items() if k != part}, tmp_path / "gap.safetensors")
        with pytest.raises(InputError, match="lacks 1 weights"):
            load_model(tmp_path / "gap.safetensors", config=tmp_path / "folder")


@pytest.fixture
def no_network(monkeypatch):
    """Nothing can be reached, and whoever tries fails the test, even where the error goes no further."""
    asked = []

    def refuse(*args, **kwargs):
        asked.append(args)
        raise OSError("the network was asked")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    # without a network the look-up of a name fails before anything connects
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    # the library's own switch, which may be set where tests run, would hide the rest
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    yield asked
    assert not asked


def test_who_asks_the_network_is_noticed(no_network):
    """Guards the fixture: a name that is looked up counts, and so does a connection, by whomever."""
    for ask in (lambda: huggingface_hub.hf_hub_download("nobody/nothing", "a.json"),
                lambda: socket.create_connection(("127.0.0.1", 9), timeout=1)):  # fmt: skip
        with pytest.raises(OSError):  # noqa: PT011 (which one is the library's own matter)
            ask()
        assert no_network
        no_network.clear()
    with socket.socket() as plain, pytest.raises(OSError, match="the network was asked"):
        plain.connect(("127.0.0.1", 9))
    assert no_network.pop()


def test_files_that_hold_no_whole_model_are_refused(tmp_path, no_network):
    """Guards against LoRAs, single parts and garbage; no socket is opened."""
    names = ["model.diffusion_model.x", "first_stage_model.x", "cond_stage_model.x"]
    for lost, said in zip(names, ("UNet", "autoencoder", "text encoder"), strict=True):
        save_file({n: torch.zeros(3) for n in names if n != lost}, tmp_path / "x.safetensors")
        with pytest.raises(InputError, match=f"has no {said}"):
            load_model(tmp_path / "x.safetensors")
    (tmp_path / "y.safetensors").write_bytes(b"garbage")
    with pytest.raises(InputError, match="cannot be read as a Stable Diffusion"):
        load_model(tmp_path / "y.safetensors")


def test_a_single_file_alone_is_enough(model_folder, tmp_path, monkeypatch, no_network):
    """Guards checkpoints without a configuration folder, offline: Stable Diffusion 1.x's own, here narrower."""
    family = FAMILIES["v1"]
    monkeypatch.setitem(FAMILIES, "v1", replace(
        family, vae={"block_out_channels": (32, 32, 32, 32)},
        unet={**family.unet, "block_out_channels": (32, 32, 64, 64), "cross_attention_dim": 16},
        encoders=(replace(family.encoders[0], build={
            "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        }),),
    ))  # fmt: skip
    write_configuration(tmp_path / "folder", FAMILIES["v1"], {})
    torch.manual_seed(0)
    config = {part: json.loads((tmp_path / "folder" / part / "config.json").read_text()) for part in PARTS}
    pipeline = StableDiffusionPipeline(
        AutoencoderKL.from_config(config["vae"]), CLIPTextModel(CLIPTextConfig(**config["text_encoder"])),
        CLIPTokenizer.from_pretrained(tmp_path / "folder" / "tokenizer"),
        UNet2DConditionModel.from_config(config["unet"]), DDIMScheduler.from_pretrained(tmp_path / "folder/scheduler"),
        None, None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(tmp_path / "whole")
    write_single_file(pipeline, tmp_path / "one.safetensors")
    folder, single = load_model(tmp_path / "whole"), load_model(tmp_path / "one.safetensors")
    assert single.fingerprint.weights == folder.fingerprint.weights and single.native_size == 512
    prompt = single.prompt("a photo of a cat")
    assert prompt.token_ids[:8] == (49406, 320, 1125, 539, 320, 2368, 49407, 49407) and prompt.length == 77
    context = single.encode_prompts([prompt])
    assert context.equals(folder.encode_prompts([folder.prompt("a photo of a cat")]))
    z = latents_of(dtype=torch.float32)
    assert torch.allclose(single.denoiser(z, LEVEL, context), folder.denoiser(z, LEVEL, context), atol=1e-5)
    assert torch.allclose(single.decode(z), folder.decode(z), atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_s_configuration_is_whole(name, tmp_path):
    """Guards the table: the folder has every part; heads, layers and contexts fit each other at full size."""
    write_configuration(tmp_path, FAMILIES[name], {})
    family = FAMILIES[name]
    for part in parts_of(family):
        check_files(tmp_path, part)
    unet, *texts = (
        json.loads((tmp_path / p / "config.json").read_text()) for p in ("unet", *(e.part for e in family.encoders))
    )
    with torch.device("meta"):
        network = UNet2DConditionModel.from_config(unet)
    assert network.config.cross_attention_dim == sum(text["hidden_size"] for text in texts)
    assert {block.attn2.heads for block in network.modules() if hasattr(block, "attn2")} == {
        "v1": {8}, "v2": {5, 10, 20}, "v2, v prediction": {5, 10, 20}, "xl_base": {10, 20},
    }[name]  # fmt: skip
    assert sum(p.numel() for p in network.parameters()) == {
        "v1": 859_520_964, "v2": 865_910_724, "v2, v prediction": 865_910_724, "xl_base": 2_567_463_684,
    }[name]  # fmt: skip


def test_what_a_2x_file_predicts_is_read_from_a_bias():
    """Guards 2.x, whose files do not say it: ComfyUI's own guess."""
    name = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
    spread = torch.tensor([-1.0, 1.0]).repeat(160)
    assert [predicts_v({name: (spread * share).half()}) for share in (0.08, 0.1)] == [False, True]
    assert not predicts_v({})


def test_a_file_says_itself_that_it_predicts_v():
    """Guards fine-tunes of SDXL, whose family's configuration says ε: ComfyUI's own marks."""
    assert marked_prediction({"model.x": 0}) == {}
    for folder in (False, True):
        config = EulerDiscreteScheduler(rescale_betas_zero_snr=folder).config
        for names, zero in (({"v_pred": 0}, folder), ({"v_pred": 0, "ztsnr": 0}, True)):
            scheduler = EulerDiscreteScheduler.from_config(config, **marked_prediction(names))
            assert scheduler.config.prediction_type == "v_prediction"
            assert scheduler.config.rescale_betas_zero_snr is zero


def test_pure_noise_has_a_level(model_folder):
    """Guards zero terminal SNR: the last of 500 steps lies on it, where 0 would divide."""
    pipeline = StableDiffusionPipeline.from_pretrained(model_folder, local_files_only=True)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, rescale_betas_zero_snr=True)
    assert pipeline.scheduler.alphas_cumprod[-1] == 0
    model = wrap_pipeline(pipeline, "zero", "cpu", torch.float32)
    assert model.schedule(500).timesteps[-1] == 999 and 0 < model.schedule(500).alphas_cumprod[-1] < 1e-7


def test_loading_says_nothing(model_folder, caplog, capfd):
    """Guards what people see: the libraries' own warnings look like a broken model."""
    for dtype in (torch.float32, torch.float16):
        load_model(model_folder, dtype=dtype)
    assert not caplog.records and not "".join(capfd.readouterr()).strip()


def test_the_tokenizer_reads_what_it_wrote(tmp_path):
    """Guards reproducibility: writing the tokenizer twice gives the same files."""
    demo_tokenizer(tmp_path / "a")
    demo_tokenizer(tmp_path / "b")
    for name in ("vocab.json", "merges.txt"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_tokenizer_that_names_no_length_is_held_to_the_encoder_s(model_folder, tmp_path):
    """Guards folders whose tokenizer would pad a prompt to any length."""
    folder = tmp_path / "endless"
    shutil.copytree(model_folder, folder)
    path = folder / "tokenizer" / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_max_length": 8192}))
    model = load_model(folder)
    assert model.encode_prompts([model.prompt("a red cat")]).shape[1] == 77
    with pytest.raises(InputError, match="takes 100 tokens, but the model reads 75"):
        model.prompt("a " * 100)


@pytest.mark.parametrize(("channels", "least"), [((32, 64), 32), ((64, 64), 16), ((32, 32, 64), 64), ((64, 32), 32)])
def test_the_smallest_size_that_passes_can_be_predicted(tmp_path, channels, least):
    """Guards sizes: what passes runs, also where a level has a channel a group, which one position cannot feed."""
    model = load_model(tiny_vae_folder(tmp_path / "model"))
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=4, block_out_channels=channels, layers_per_block=1, norm_num_groups=32, cross_attention_dim=16,
        attention_head_dim=2, down_block_types=("CrossAttnDownBlock2D",) * len(channels),
        up_block_types=("CrossAttnUpBlock2D",) * len(channels),
    ).eval()  # fmt: skip
    model = replace(model, denoiser=controlled(unet))
    with pytest.raises(InputError, match="size must be a multiple"):
        model.check_size(least - 8)
    side = model.check_size(least) // 8
    context = model.encode_prompts([model.prompt("a cat")])
    latents = torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert model.denoiser(latents, model.schedule(2).level(2), context).isfinite().all()


def test_convolutions_are_exact_while_the_network_runs(model):
    """Guards GPUs, where PyTorch rounds convolutions to ten bits by default: for as long as the network, encoder or
    decoder runs they are exact, and afterwards as they were."""
    backend, seen = torch.backends.cudnn, []

    def flags(*_):
        seen.append((backend.allow_tf32, backend.deterministic, backend.enabled))

    before = backend.allow_tf32, backend.deterministic, backend.enabled
    hooks = [part.register_forward_hook(flags) for part in (model.denoiser.unet, model.vae.encoder, model.vae.decoder)]
    try:
        latents = model.encode_image(torch.rand(1, 32, 32, 3))
        model.decode(latents)
        text = model.contexts([model.prompt("a cat")])[0]
        schedule = model.schedule(4)
        model.run(lambda denoiser, here: denoiser(here, schedule.level(1), text), latents, schedule)
    finally:
        for hook in hooks:
            hook.remove()
    assert seen == [(False, True, before[2])] * 3 and before[0]
    assert (backend.allow_tf32, backend.deterministic, backend.enabled) == before
