"""The table of model families: a row is all that a new family takes."""

import json
from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from nullinv_core import PRESETS, InputError, batch_edits, edit, embed, families, invert, plan_edit, reconstruct
from nullinv_core.backends.diffusers import load_model
from nullinv_core.backends.model_folder import parts_of
from nullinv_core.backends.words import Chunk, Token, read_words
from nullinv_core.demo.training.folder import scheduler
from nullinv_core.families import FAMILIES, SIZES, Family, TextEncoder, WordMark
from nullinv_core.prompt_to_prompt.prompt import END, PAD, START

from .helpers import demo_tokenizer

CHANNELS, POOLED, WIDTH, TOLD = 6, 16, 16, 8
TOY = Family(
    "Toy", "ToyPipeline", ("ToyNetwork", "SDXL"),
    (TextEncoder("toy", {}, part="text_encoder_9", tokenizer="tokenizer_9", kind="CLIPTextModelWithProjection",
                 layer=-2, pooled=True),),
    side=4, unet={}, channels=CHANNELS, predictions=("epsilon",), sizes=SIZES,
)  # fmt: skip
"""One text encoder with a pooled vector and latents of six channels: no family here is like it."""


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """The folder of a model of a family that is known by a row alone."""
    monkeypatch.setitem(FAMILIES, "toy", TOY)
    tokenizer = demo_tokenizer(tmp_path / "tokenizer_9")
    torch.manual_seed(0)
    text = CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=3,
            num_attention_heads=2, projection_dim=POOLED, bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )  # fmt: skip
    unet = UNet2DConditionModel(
        in_channels=CHANNELS, out_channels=CHANNELS, sample_size=4, block_out_channels=(16, 32), layers_per_block=1,
        norm_num_groups=4, down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=WIDTH, attention_head_dim=2, addition_embed_type="text_time",
        addition_time_embed_dim=TOLD, projection_class_embeddings_input_dim=POOLED + 6 * TOLD,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8,) * 4, norm_num_groups=4, latent_channels=CHANNELS,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    parts = {"text_encoder_9": text, "unet": unet, "vae": vae, "scheduler": scheduler()}
    for name, part in parts.items():
        part.save_pretrained(tmp_path / name)
    index = {
        "_class_name": "ToyPipeline", "tokenizer_9": ["transformers", "CLIPTokenizer"],
        "text_encoder_9": ["transformers", "CLIPTextModelWithProjection"],
        **{name: ["diffusers", type(parts[name]).__name__] for name in ("unet", "vae", "scheduler")},
    }  # fmt: skip
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    return tmp_path


def test_a_row_is_all_that_a_family_takes(toy):
    """Guards the table: a model of a made-up family is read, checked, inverted, reconstructed and edited."""
    model = load_model(toy)
    assert model.family is TOY and parts_of(TOY) == ("unet", "scheduler", "text_encoder_9", "tokenizer_9", "vae")
    prompts = [model.prompt(text) for text in ("a red cat", "a red dog", "")]
    source, edited, empty = model.contexts(prompts)
    latents = model.encode_image(torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(1)))
    assert latents.shape == (1, CHANNELS, 4, 4) and model.native_size == 32
    assert (source.text.shape, source.pooled.shape) == ((1, 77, WIDTH), (1, POOLED)) and model.sizes_of(latents) == (
        32,
        32,
        0,
        0,
        32,
        32,
    )
    trajectory = invert(model.denoiser, latents, source, model.schedule(4))
    null, _ = embed(model.denoiser, trajectory, empty, PRESETS["paper"], 3.0)
    again = reconstruct(model.denoiser, trajectory, null, 3.0)
    plain = reconstruct(model.denoiser, trajectory, empty, 3.0)
    assert (again - latents).norm() < (plain - latents).norm()
    plan = plan_edit(*prompts[:2], 4)
    found = edit(model.denoiser, trajectory, null, edited[None], batch_edits([[plan]]), 3.0).latents
    assert found.shape == (1, 1, CHANNELS, 4, 4) and model.decode(found[0]).shape == (1, 32, 32, 3)


def test_a_row_is_as_strict_as_the_others(toy):
    """Guards loading: what the row does not allow is named, by the same checks as for every family."""
    assert families.supported().endswith("SDXL or Toy")
    for file, changes, said in (
        ("unet/config.json", {"in_channels": 4}, r"in_channels is 4 \(an inpainting or depth model has more than 6"),
        ("unet/config.json", {"out_channels": 4}, "out_channels is 4; it must be 6"),
        ("unet/config.json", {"addition_time_embed_dim": 10}, "this is not a plain Toy model"),
        ("scheduler/scheduler_config.json", {"prediction_type": "v_prediction"}, "supported are epsilon"),
        ("model_index.json", {"text_encoder_9": ["transformers", "CLIPTextModel"]}, "known are CLIPTextModelWith"),
    ):
        before = (toy / file).read_text()
        (toy / file).write_text(json.dumps(json.loads(before) | changes))
        with pytest.raises(InputError, match=said):
            load_model(toy)
        (toy / file).write_text(before)


def test_comfyui_s_names_lead_to_a_row(monkeypatch):
    """Guards the ComfyUI backend's way into the table: the nearest class counts, and all text encoders."""
    monkeypatch.setitem(FAMILIES, "toy", TOY)
    assert families.of_comfy(["ToyNetwork", "SDXL", "BaseModel"]) is TOY
    assert families.of_comfy(["Other", "SDXL", "BaseModel"]) is FAMILIES["xl_base"]
    assert families.of_comfy(["SD3", "BaseModel"]) is FAMILIES["v1"] and families.of_comfy(["nn.Module"]) is None
    names = {name: [encoder.comfy for encoder in family.encoders] for name, family in FAMILIES.items()}
    assert names == {"v1": ["l"], "v2": ["h"], "v2, v prediction": ["h"], "xl_base": ["l", "g"], "toy": ["toy"]}
    for name in ("v1", "v2", "xl_base", "toy"):
        assert families.of_encoders(reversed(names[name])) is FAMILIES[name]
    assert families.of_encoders(["g"]) is None
    one = replace(TOY, encoders=())
    assert not one.pooled and TOY.pooled and FAMILIES["xl_base"].pooled and not FAMILIES["v2"].pooled


@pytest.mark.parametrize(
    ("mark", "pieces"),
    [
        (WordMark("</w>"), ["a</w>", "ye", "llow</w>", "cat</w>", ",</w>"]),
        (WordMark("▁", starts=True), ["▁a", "▁ye", "llow", "▁cat", "▁,"]),
    ],
)
def test_words_are_read_by_the_mark_of_their_family(mark, pieces):
    """Guards tokenizers that mark where words end, as CLIP's, or where they begin, as T5's; groups part words too."""
    numbers = range(10, 10 + len(pieces))
    tokens = [Token(n, piece, weight=1 + i / 10) for i, (n, piece) in enumerate(zip(numbers, pieces, strict=True))]

    def decode(some):
        return "".join(pieces[n - 10].replace(mark.text, " ") for n in some)

    prompt = read_words("a yellow cat,", [Chunk(1, tokens, [2, 2, 2])], mark, decode)
    assert prompt.words == ("a", "yellow", "cat", ",") and prompt.token_ids == (1, *numbers, 2, 2, 2)
    assert prompt.word_of_token == (START, 0, 1, 1, 2, 3, END, PAD, PAD) and prompt.weights == (1.0, 1.1, 1.3, 1.4)
    apart = [*tokens[:2], replace(tokens[2], group=1)]
    learned = Token(-1, "", group=2, learned="embedding:x")
    two = read_words("", [Chunk(1, apart, []), Chunk(1, [learned, learned], [2])], mark, decode)
    # a word that the end of a chunk parts is one word
    pair = [Chunk(1, tokens[:2], []), Chunk(1, tokens[2:], [2]), Chunk(1, [], [2]), Chunk(1, [learned] * 2, [])]
    whole = read_words("", [*pair, Chunk(1, [learned], [2])], mark, decode)
    assert whole.words == ("a", "yellow", "cat", ",", "embedding:x") and whole.tokens_of_word(1) == [2, 4]
    assert len(whole.tokens_of_word(4)) == 3
    assert two.words == ("a", "ye", "llow", "embedding:x") and two.word_of_token == (START, 0, 1, 2, START, 3, 3, END)
