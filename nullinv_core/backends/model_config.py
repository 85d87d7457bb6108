"""What the configurations of a Stable Diffusion folder may say: one table for both backends, in diffusers' words.

Every entry that decides how a part is built has a row: what is allowed, and what its absence means (the libraries' own
defaults). Other entries are not read, so they have no effect. Nothing here builds anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from .. import families
from ..errors import InputError, short
from ..families import Family

MOST_LEVELS, MOST_LAYERS, MOST_TRANSFORMERS = 8, 8, 64
MOST_BLOCKS = 512
"""Transformer blocks of a whole UNet; the largest known has 70."""
WIDEST = 16_384
REQUIRED = object()
"""In place of a default: the entry must be there."""


class Rule(NamedTuple):
    """What a value may be: in words, as a check, and what it is where the entry is missing, or null where null is not
    allowed."""

    words: str
    fits: Callable[[Any], bool]
    default: Any = None

    def or_else(self, default: Any) -> Rule:
        """The same rule with a default."""
        return self._replace(default=default)


def whole(least: int, most: int) -> Rule:
    """An int, no bool."""
    return Rule(f"a whole number from {least} to {most}", lambda v: type(v) is int and least <= v <= most)


def number(least: float, most: float) -> Rule:
    """A finite number, no bool."""
    return Rule(f"a number from {least:g} to {most:g}", lambda v: type(v) in (int, float) and least <= v <= most)


def one_of(*values: Any) -> Rule:
    """One of these texts or numbers; 1 and 1.0 are the same, 1 and true are not."""
    kinds = [v if isinstance(v, str) else "true" if v is True else "false" if v is False else f"{v}" for v in values]
    return Rule(
        " or ".join("missing" if kind == "None" else kind for kind in kinds),
        lambda v: any(v == known and isinstance(v, bool) == isinstance(known, bool) for known in values),
        values[0],
    )


def listed(rule: Rule, most: int = MOST_LEVELS) -> Rule:
    """A list of 1 to ``most`` values that a rule allows."""
    return Rule(
        f"a list of at most {most}, each {rule.words}",
        lambda v: isinstance(v, list | tuple) and 1 <= len(v) <= most and all(map(rule.fits, v)),
    )


def either(*rules: Rule) -> Rule:
    """What any of the rules allows."""
    return Rule(" or ".join(rule.words for rule in rules), lambda v: any(rule.fits(v) for rule in rules))


FLAG = Rule("true or false", lambda v: isinstance(v, bool), False)
ANY_TEXT = Rule("a text", lambda v: isinstance(v, str))
DEPTH = either(whole(0, MOST_TRANSFORMERS), listed(whole(0, MOST_TRANSFORMERS), MOST_LAYERS + 1))
"""Transformers in each layer of a level: one number for all of them, or one for each."""
DEPTHS = ("transformer_layers_per_block", "reverse_transformer_layers_per_block")
MIDDLES = ("UNetMidBlock2DCrossAttn", "UNetMidBlock2D", None)
"""Middles of a UNet; distilled ones have no attention there, or nothing."""
UNET: dict[str, Rule] = {
    "sample_size": either(whole(1, 4096), listed(whole(1, 4096), 2)),
    "in_channels": whole(1, 64).or_else(4),
    "out_channels": whole(1, 64).or_else(4),
    "down_block_types": listed(one_of("CrossAttnDownBlock2D", "DownBlock2D")).or_else(
        ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    ),
    "mid_block_type": one_of(*MIDDLES),
    "up_block_types": listed(one_of("CrossAttnUpBlock2D", "UpBlock2D")).or_else(
        ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    ),
    "block_out_channels": listed(whole(1, 4096)).or_else((320, 640, 1280, 1280)),
    "layers_per_block": either(whole(1, MOST_LAYERS), listed(whole(1, MOST_LAYERS))).or_else(2),
    "norm_num_groups": whole(1, 4096).or_else(32),
    "cross_attention_dim": whole(1, WIDEST).or_else(1280),
    "transformer_layers_per_block": either(whole(1, MOST_TRANSFORMERS), listed(DEPTH)).or_else(1),
    "reverse_transformer_layers_per_block": listed(DEPTH),
    "attention_head_dim": either(whole(1, 1024), listed(whole(1, 1024))).or_else(8),
    "use_linear_projection": FLAG,
    "upcast_attention": FLAG,
    "addition_embed_type": one_of("text_time").or_else(None),
    "addition_time_embed_dim": whole(2, 4096),
    "projection_class_embeddings_input_dim": whole(1, 2**16),
}
UNET_OF_ALL: dict[str, Any] = {
    "center_input_sample": False, "flip_sin_to_cos": True, "freq_shift": 0, "only_cross_attention": False,
    "downsample_padding": 1, "mid_block_scale_factor": 1, "act_fn": "silu", "norm_eps": 1e-5,
    "encoder_hid_dim": None, "encoder_hid_dim_type": None, "num_attention_heads": None, "dual_cross_attention": False,
    "class_embed_type": None, "num_class_embeds": None, "resnet_time_scale_shift": "default",
    "resnet_skip_time_act": False, "resnet_out_scale_factor": 1, "time_embedding_type": "positional",
    "time_embedding_dim": None, "time_embedding_act_fn": None, "timestep_post_act": None, "time_cond_proj_dim": None,
    "conv_in_kernel": 3, "conv_out_kernel": 3, "attention_type": "default", "class_embeddings_concat": False,
    "mid_block_only_cross_attention": False, "cross_attention_norm": None,
}  # fmt: skip
"""What all UNets of these families have in common; another value is another family's."""
KL: dict[str, Rule] = {
    "down_block_types": listed(one_of("DownEncoderBlock2D")).or_else(("DownEncoderBlock2D",)),
    "up_block_types": listed(one_of("UpDecoderBlock2D")).or_else(("UpDecoderBlock2D",)),
    "block_out_channels": listed(whole(1, 4096)).or_else((64,)),
    "layers_per_block": whole(1, MOST_LAYERS).or_else(1),
    "latent_channels": whole(1, 64).or_else(4),
    "norm_num_groups": whole(1, 4096).or_else(32),
    "scaling_factor": number(1e-3, 1e3).or_else(0.18215),
}
KL_OF_ALL: dict[str, Any] = {
    "in_channels": 3, "out_channels": 3, "act_fn": "silu", "shift_factor": None, "latents_mean": None,
    "latents_std": None, "use_quant_conv": True, "use_post_quant_conv": True, "mid_block_add_attention": True,
}  # fmt: skip
TINY: dict[str, Rule] = {
    **dict.fromkeys(
        ("encoder_block_out_channels", "decoder_block_out_channels"), listed(whole(1, 4096)).or_else((64,) * 4)
    ),
    "num_encoder_blocks": listed(whole(1, MOST_LAYERS)).or_else((1, 3, 3, 3)),
    "num_decoder_blocks": listed(whole(1, MOST_LAYERS)).or_else((3, 3, 3, 1)),
    "latent_channels": whole(1, 64).or_else(4),
    "latent_magnitude": number(1e-3, 1e3).or_else(3),
    "latent_shift": number(-1e3, 1e3).or_else(0.5),
    "scaling_factor": number(1e-3, 1e3).or_else(1.0),
}
TINY_OF_ALL: dict[str, Any] = {
    "in_channels": 3, "out_channels": 3, "act_fn": "relu", "upsample_fn": "nearest", "upsampling_scaling_factor": 2,
    "shift_factor": 0,
}  # fmt: skip
CLIP: dict[str, Rule] = {
    "vocab_size": whole(3, 2**18).or_else(49_408),
    "hidden_size": whole(1, WIDEST).or_else(512),
    "intermediate_size": whole(1, 2**16).or_else(2048),
    "projection_dim": whole(1, WIDEST).or_else(512),
    "num_hidden_layers": whole(1, 64).or_else(12),
    "num_attention_heads": whole(1, 256).or_else(8),
    "max_position_embeddings": whole(3, 4096).or_else(77),
    "hidden_act": one_of("quick_gelu", "gelu"),
    "bos_token_id": whole(0, 2**18).or_else(49_406),
    "eos_token_id": whole(0, 2**18).or_else(49_407),
    "pad_token_id": whole(-1, 2**18).or_else(1),
}
CLIP_OF_ALL: dict[str, Any] = {"layer_norm_eps": 1e-5}
BETA = number(1e-8, 0.5)
NOISE: dict[str, Rule] = {
    "beta_start": BETA.or_else(REQUIRED),
    "beta_end": BETA.or_else(REQUIRED),
    "beta_schedule": one_of("linear", "scaled_linear", "squaredcos_cap_v2"),
    "trained_betas": listed(BETA, 10_000),
    "num_train_timesteps": whole(2, 10_000).or_else(1000),
    "prediction_type": one_of("epsilon", "v_prediction"),
    "rescale_betas_zero_snr": FLAG,
}
"""What decides the noise levels and what is predicted, in every scheduler of ``SCHEDULERS``. How a scheduler steps is
not important: we step ourselves."""
TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast")
CLASSES: dict[str, tuple[dict[str, Rule], dict[str, Any]]] = {
    "UNet2DConditionModel": (UNET, UNET_OF_ALL),
    "AutoencoderKL": (KL, KL_OF_ALL),
    "AutoencoderTiny": (TINY, TINY_OF_ALL),
    **dict.fromkeys(("CLIPTextModel", "CLIPTextModelWithProjection"), (CLIP, CLIP_OF_ALL)),
}
"""Entries of each class of network: those that may differ, and those that may not."""
SCHEDULERS = tuple(
    f"{name}Scheduler"
    for name in (
        "DDIM", "DDIMInverse", "DDIMParallel", "DDPM", "DDPMParallel", "DEISMultistep", "DPMSolverMultistep",
        "DPMSolverMultistepInverse", "DPMSolverSDE", "DPMSolverSinglestep", "EulerAncestralDiscrete", "EulerDiscrete",
        "HeunDiscrete", "KDPM2AncestralDiscrete", "KDPM2Discrete", "LCM", "LMSDiscrete", "PNDM", "SASolver", "TCD",
        "UniPCMultistep",
    )
)  # fmt: skip
OF_ALL: dict[str, tuple[tuple[str, str], ...]] = {
    "unet": (("diffusers", "UNet2DConditionModel"),),
    "vae": (("diffusers", "AutoencoderKL"), ("diffusers", "AutoencoderTiny")),
    "scheduler": tuple(("diffusers", name) for name in SCHEDULERS),
}
"""For each part that every family has, the pairs of library and class that an index may name."""


def known_classes(family: Family) -> dict[str, tuple[tuple[str, str], ...]]:
    """For each part of a family's folder the pairs of library and class that an index may name."""
    known = dict(OF_ALL)
    for encoder in family.encoders:
        known[encoder.part] = (("transformers", encoder.kind),)
        known[encoder.tokenizer] = tuple(("transformers", name) for name in TOKENIZERS)
    return known


def class_of(index: Mapping[str, Any], part: str, family: Family, where: str) -> str:
    """The class that an index names for a part; raises InputError for one that the family does not have. ``where``: the
    index, for the message."""
    found, known = index.get(part), known_classes(family)[part]
    if isinstance(found, list) and len(found) == 2 and tuple(map(str, found)) in known:
        return str(found[1])
    if part == "scheduler" and "EDM" in str(found):
        raise families.unknown_noise(f"{where} names {short(str(found))}: the model")
    names = " or ".join(dict.fromkeys(name for _, name in known[:3]))
    raise InputError(
        f'{where} names {short(str(found))} for the part "{part}"; known are {names}{" …" if len(known) > 3 else ""}'
    )


def checked(config: Mapping[str, Any], kind: str, where: str) -> dict[str, Any]:
    """The entries of a part's configuration that decide how it is built, all of them, each as its rule allows.

    ``kind``: a class of ``CLASSES`` or ``SCHEDULERS``. ``where``: the file, for messages. Raises InputError.
    """
    rules, fixed = (NOISE, {}) if kind in SCHEDULERS else CLASSES[kind]
    for name, value in fixed.items():
        _check(config, name, one_of(value), where)
    return {name: _check(config, name, rule, where) for name, rule in rules.items()}


def _check(config: Mapping[str, Any], name: str, rule: Rule, where: str) -> Any:
    """The value of an entry, or its default."""
    value = config.get(name)
    if name in config and rule.fits(value):
        return value
    if value is None and rule.default is not REQUIRED:
        return rule.default
    found = "missing" if value is None else _shown(value)
    raise InputError(f"{where}: {name} is {found}; it must be {rule.words}")


def _shown(value: Any) -> str:
    """A JSON value for a message, cut before it is spelled: it may be huge or deep."""
    if isinstance(value, str):
        return f'"{short(value[:200])}"'
    if isinstance(value, int) and abs(value) > 10**30:
        return "a number of many digits"
    if isinstance(value, dict):
        return f"an object of {len(value)} entries"
    if isinstance(value, list):
        plain = all(not isinstance(one, list | dict) for one in value)
        return short(str(value[:20])) if plain else f"a list of {len(value)}"
    return short(str(value))


def check_together(configs: Mapping[str, Mapping[str, Any]], family: Family, where: Callable[[str], str]) -> None:
    """Raise InputError where entries that ``checked`` let through do not fit each other, or the family.

    ``configs``: by part; ``where``: names a part's file, for messages.
    """
    _check_unet(configs["unet"], family.channels, where("unet"))
    _check_vae(configs["vae"], configs["unet"], where("vae"))
    texts = [encoder.part for encoder in family.encoders]
    for part in texts:
        config = configs[part]
        if config["hidden_size"] % config["num_attention_heads"]:
            raise InputError(f"{where(part)}: hidden_size is not a multiple of num_attention_heads")
    unet = configs["unet"]
    width = sum(configs[part]["hidden_size"] for part in texts)
    if unet["cross_attention_dim"] != width or (unet["addition_embed_type"] is not None) != family.pooled:
        raise InputError(
            f"{where('unet')}: it is built for other text encoders (cross_attention_dim is "
            f"{unet['cross_attention_dim']}, they give {width}); use a complete model of one family"
        )
    if family.pooled:
        told, last = unet["addition_time_embed_dim"], ("first", "second", "third")[len(texts) - 1]
        expected = configs[texts[-1]]["projection_dim"] + len(family.sizes) * (told or 0)
        if told is None or told % 2 or unet["projection_class_embeddings_input_dim"] != expected:
            raise InputError(
                f"{where('unet')}: projection_class_embeddings_input_dim must be the projection_dim of the {last} text "
                f"encoder and {len(family.sizes)} times addition_time_embed_dim, which is even; this is not a plain "
                f"{family.name} model"
            )
    _check_noise(configs["scheduler"], where("scheduler"))


def _check_unet(config: Mapping[str, Any], of_latents: int, where: str) -> None:
    if config["in_channels"] != of_latents:
        raise InputError(
            f"{where}: in_channels is {config['in_channels']} (an inpainting or depth model has more than "
            f"{of_latents}); use the text-to-image model of the family"
        )
    if config["out_channels"] != of_latents:
        raise InputError(f"{where}: out_channels is {config['out_channels']}; it must be {of_latents}")
    channels, down, up = (config[n] for n in ("block_out_channels", "down_block_types", "up_block_types"))
    levels = len(channels)
    for name in ("down_block_types", "up_block_types", "layers_per_block", "attention_head_dim", *DEPTHS):
        if isinstance(config[name], list | tuple) and len(config[name]) != levels:
            raise InputError(f"{where}: {name} has {len(config[name])} entries for {levels} levels")
    heads, groups = per_level(config["attention_head_dim"], levels), config["norm_num_groups"]
    attended = [kind.startswith("CrossAttn") for kind in down]
    if attended != [kind.startswith("CrossAttn") for kind in reversed(up)]:
        raise InputError(f"{where}: down_block_types and up_block_types have attention on different levels")
    for level, (width, number_of_heads) in enumerate(zip(channels, heads, strict=True)):
        if width % groups:
            raise InputError(
                f"{where}: block_out_channels holds {width}, which is not a multiple of norm_num_groups ({groups})"
            )
        if (attended[level] or level == levels - 1) and width % number_of_heads:
            raise InputError(
                f"{where}: block_out_channels holds {width}, which is not a multiple of attention_head_dim "
                f"({number_of_heads})"
            )
    for name, found, layers in zip(DEPTHS, depths_of(config), _layers(config), strict=True):
        if [len(one) for one in found] != layers:
            raise InputError(f"{where}: {name} does not have one number for each level, or one for each of its layers")
    total = sum(map(sum, chain(*depths_of(config))))
    if total > MOST_BLOCKS:
        raise InputError(f"{where}: it has {total} transformer blocks; at most {MOST_BLOCKS} are read")


def _layers(config: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """Layers of each level on the way down, and on the way up."""
    down = per_level(config["layers_per_block"], len(config["block_out_channels"]))
    return down, [layers + 1 for layers in reversed(down)]


def depths_of(config: Mapping[str, Any]) -> tuple[list[list[int]], list[list[int]]]:
    """Transformers in each layer of each level on the way down, and on the way up."""
    depths, reverse = (config[name] for name in DEPTHS)
    down = per_level(depths, len(config["block_out_channels"]))
    sides = zip((down, list(reversed(down)) if reverse is None else reverse), _layers(config), strict=True)
    on_the_way_down, up = ([per_level(d, n) for d, n in zip(side, layers, strict=True)] for side, layers in sides)
    return on_the_way_down, up


def per_level(value: Any, levels: int) -> list[Any]:
    """A setting that is one number for all levels, or one entry for each, as the latter."""
    return [value] * levels if isinstance(value, int) else list(value)


def _check_vae(config: Mapping[str, Any], unet: Mapping[str, Any], where: str) -> None:
    if config["latent_channels"] != unet["in_channels"]:
        raise InputError(
            f"{where}: latent_channels is {config['latent_channels']}, the UNet's in_channels {unet['in_channels']}"
        )
    same_length: tuple[tuple[str, str], ...] = (
        ("num_encoder_blocks", "encoder_block_out_channels"),
        ("num_decoder_blocks", "decoder_block_out_channels"),
        ("encoder_block_out_channels", "decoder_block_out_channels"),
    )
    if "block_out_channels" in config:
        same_length = tuple((name, "block_out_channels") for name in ("down_block_types", "up_block_types"))
        if any(width % config["norm_num_groups"] for width in config["block_out_channels"]):
            raise InputError(f"{where}: block_out_channels are not multiples of norm_num_groups")
    elif len({*config["encoder_block_out_channels"]}) > 1 or len({*config["decoder_block_out_channels"]}) > 1:
        raise InputError(f"{where}: all levels of an AutoencoderTiny must be equally wide")
    for one, other in same_length:
        if len(config[one]) != len(config[other]):
            raise InputError(f"{where}: {one} has {len(config[one])} entries, {other} {len(config[other])}")


def _check_noise(config: Mapping[str, Any], where: str) -> None:
    betas: Sequence[float] | None = config["trained_betas"]
    if betas is not None and len(betas) != config["num_train_timesteps"]:
        raise InputError(f"{where}: trained_betas has {len(betas)} entries, num_train_timesteps is another number")
    if config["beta_start"] > config["beta_end"]:
        raise InputError(f"{where}: beta_start is larger than beta_end")
