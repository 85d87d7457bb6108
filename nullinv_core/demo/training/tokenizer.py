"""The demo's CLIP tokenizer: byte-level BPE with a vocabulary small enough that some words split in several tokens."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

from transformers import CLIPTokenizer

from ...backends.clip_vocabulary import write_tokenizer_files


def learn_merges(counts: Counter[str], number: int) -> list[tuple[str, str]]:
    """Byte-pair merges (Sennrich et al. 2016) of the most frequent pairs, in order."""
    words = {w: [*w[:-1], w[-1] + "</w>"] for w in sorted(counts)}
    merges: list[tuple[str, str]] = []
    while len(merges) < number:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in words.items():
            for pair in pairwise(parts):
                pairs[pair] += counts[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = {w: _merge(parts, best) for w, parts in words.items()}
    return merges


def _merge(parts: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for part in parts:
        if merged and (merged[-1], part) == pair:
            merged[-1] += part
        else:
            merged.append(part)
    return merged


def write_tokenizer(folder: Path, counts: Counter[str], number: int) -> CLIPTokenizer:
    """Write vocab.json, merges.txt and the configuration to ``folder``; return the tokenizer they make.

    It knows ``number`` merges learned from how often each word is used.
    """
    write_tokenizer_files(folder, learn_merges(counts, number))
    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
