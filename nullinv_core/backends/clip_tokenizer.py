"""CLIP tokenizers of a model folder: its words and merges alone are read, and what they make is always CLIP's kind.

A folder's own files may name classes, patterns and other files; a clean copy of what a tokenizer needs is given to
transformers in their place.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..errors import InputError
from .clip_vocabulary import Vocabulary, write_vocabulary
from .model_folder import LARGEST_VOCABULARY, read_config, read_text

ROLES = ("bos_token", "eos_token", "unk_token", "pad_token")
FLAGS = ("lstrip", "normalized", "rstrip", "single_word", "special")
MOST_TOKENS, LONGEST_TOKEN = 2**18, 1000


def load_tokenizer(folder: Path) -> Any:
    """transformers' CLIPTokenizer of a folder such as ``model/tokenizer``. Raises InputError where it is none."""
    from transformers import CLIPTokenizer

    vocabulary = read_vocabulary(folder)
    try:
        with TemporaryDirectory() as clean:
            write_vocabulary(Path(clean), vocabulary)
            return CLIPTokenizer.from_pretrained(clean, local_files_only=True)
    except Exception as error:
        raise _broken(folder, "its words and merges do not fit each other") from error


def read_vocabulary(folder: Path) -> Vocabulary:
    """What the files of a tokenizer say, of any version of the libraries. Raises InputError."""
    names = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
    config, roles, more = (read_config(folder / n) if (folder / n).is_file() else {} for n in names)
    added = config.get("added_tokens_decoder", {})
    if "added_tokens_decoder" not in config:
        # as transformers has it: the older file counts where the newer says nothing
        config = config | roles
        added = {str(number): {"content": word} for word, number in more.items()}
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        tokens: Any = read_config(folder / "vocab.json", LARGEST_VOCABULARY)
        lines = read_text(folder / "merges.txt", LARGEST_VOCABULARY).split("\n")
        merges: Any = [line.strip("\r") for line in lines if line.strip() and not line.startswith("#version")]
    else:
        whole = read_config(folder / "tokenizer.json", LARGEST_VOCABULARY)
        model = whole.get("model")
        if not isinstance(model, dict) or model.get("end_of_word_suffix") != "</w>":
            raise _broken(folder, "tokenizer.json is not of a CLIP tokenizer")
        tokens, merges = model.get("vocab"), model.get("merges")
        added = _numbered(whole.get("added_tokens")) | added if isinstance(added, dict) else added
    special = {role: config[role] for role in ROLES if config.get(role) is not None}
    return _checked(folder, tokens, merges, special, added)


def _numbered(added: Any) -> dict[str, Any]:
    """Added tokens of a tokenizer.json by their number."""
    entries = added if isinstance(added, list) else []
    return {str(one.get("id")): one for one in entries if isinstance(one, dict)}


def _checked(folder: Path, tokens: Any, merges: Any, special: dict[str, Any], added: Any) -> Vocabulary:
    if not isinstance(tokens, dict) or not 1 <= len(tokens) <= MOST_TOKENS or not all(map(_is_token, tokens.items())):
        raise _broken(folder, "its words are not numbered")
    if not isinstance(merges, list) or len(merges) > MOST_TOKENS:
        raise _broken(folder, "it has no list of merges")
    pairs = [tuple(merge.split(" ")) if isinstance(merge, str) else merge for merge in merges]
    if not all(isinstance(p, tuple | list) and len(p) == 2 and all(isinstance(one, str) for one in p) for p in pairs):
        raise _broken(folder, "a merge is not a pair")
    if not isinstance(added, dict) or len(added) > MOST_TOKENS:
        raise _broken(folder, "its added tokens are not numbered")
    if not {"bos_token", "eos_token"} <= set(special):
        raise _broken(folder, "it does not say what begins and ends a text")
    roles = {role: _role(folder, value) for role, value in special.items()}
    more = {number: _flagged(folder, value) for number, value in added.items()}
    if not all(isinstance(number, str) and number.isdecimal() and int(number[:10]) <= MOST_TOKENS for number in more):
        raise _broken(folder, "its added tokens are not numbered")
    return Vocabulary(tokens, [(one[0], one[1]) for one in pairs], roles, more)


def _is_token(entry: tuple[str, Any]) -> bool:
    word, number = entry
    return len(word) <= LONGEST_TOKEN and type(number) is int and 0 <= number < MOST_TOKENS


def _flagged(folder: Path, value: Any) -> dict[str, Any]:
    """A token with its flags, as transformers writes it; a bare text has none."""
    entry = value if isinstance(value, Mapping) else {"content": value}
    content = entry.get("content")
    if not isinstance(content, str) or not 1 <= len(content) <= LONGEST_TOKEN:
        raise _broken(folder, "a special token is not a text")
    return {"content": content, **{flag: entry[flag] for flag in FLAGS if isinstance(entry.get(flag), bool)}}


def _role(folder: Path, value: Any) -> Any:
    token = _flagged(folder, value)
    return {"__type": "AddedToken", **token, "special": True} if isinstance(value, Mapping) else token["content"]


def _broken(folder: Path, why: str) -> InputError:
    return InputError(
        f'"{folder.name}" of "{folder.parent.name}" is not a CLIP tokenizer ({why}); get a complete copy of the model'
    )
