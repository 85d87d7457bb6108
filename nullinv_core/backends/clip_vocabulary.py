"""CLIP's vocabulary: the 48,894 byte-pair merges of OpenAI's tokenizer, and the files that tokenizers are read from.

The merges are those of ``bpe_simple_vocab_16e6.txt`` (https://github.com/openai/CLIP, MIT licence beside the file),
without the ones that CLIP does not use.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MERGES = Path(__file__).with_name("clip_merges.txt.gz")
START_TOKEN, END_TOKEN = "<|startoftext|>", "<|endoftext|>"
LENGTH = 77


def clip_merges() -> list[tuple[str, str]]:
    """CLIP's merges in the order of their rank."""
    lines = gzip.decompress(MERGES.read_bytes()).decode("utf-8").splitlines()
    return [(first, second) for first, _, second in (line.partition(" ") for line in lines)]


def byte_symbols() -> list[str]:
    """The 256 printable stand-ins for bytes that GPT-2's and CLIP's tokenizers use, printable bytes first."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(rest))]


def write_tokenizer_files(folder: Path, merges: Sequence[tuple[str, str]], pad: str = END_TOKEN) -> None:
    """Write vocab.json, merges.txt and the configuration of a CLIP tokenizer with these merges to ``folder``.

    Its tokens are numbered as CLIP's are: bytes, bytes that end a word, merges by rank, start and end of the text.
    """
    symbols = byte_symbols()
    entries = [*symbols, *(s + "</w>" for s in symbols), *("".join(m) for m in merges), START_TOKEN, END_TOKEN]
    vocabulary = {entry: index for index, entry in enumerate(dict.fromkeys(entries))}
    special = {"bos_token": START_TOKEN, "eos_token": END_TOKEN, "unk_token": END_TOKEN, "pad_token": pad}
    write_vocabulary(folder, Vocabulary(vocabulary, merges, special))
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2), encoding="utf-8")


@dataclass(frozen=True)
class Vocabulary:
    """What a CLIP tokenizer is made of: the number of each token; merges by rank; special tokens by their role
    ("pad_token"), and tokens that were added, by number, both as transformers writes them."""

    tokens: Mapping[str, int]
    merges: Sequence[tuple[str, str]]
    special: Mapping[str, Any]
    added: Mapping[str, Any] = field(default_factory=dict)


def write_vocabulary(folder: Path, vocabulary: Vocabulary) -> None:
    """Write vocab.json, merges.txt and tokenizer_config.json to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary.tokens, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(m) for m in vocabulary.merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": LENGTH, "do_lower_case": True}
    added = {"added_tokens_decoder": vocabulary.added} if vocabulary.added else {}
    text = json.dumps({**config, **vocabulary.special, **added}, indent=2)
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
