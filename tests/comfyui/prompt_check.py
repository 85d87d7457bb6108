"""Compare our reading of texts with ComfyUI's: ``prompt_check.py PACK FILE``, run by its Python through launch.py.

Prints JSON: how many random texts our parser reads otherwise than ComfyUI's; words and weights of marked texts; whether
the source's encoding is CLIP Text Encode's to the bit; factors and encodings of edits. The encodings go to FILE.
"""

import json
import random
import sys

ARGUMENTS, sys.argv = sys.argv[1:], [sys.argv[0], "--cpu"]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import torch  # noqa: E402
from comfy.sd1_clip import escape_important, token_weights, unescape_important  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

# behind ComfyUI's own folder, which has a "nodes" too
sys.path.append(ARGUMENTS[0])

from nullinv_core import EditSettings  # noqa: E402
from nullinv_core.backends.comfy.files import DEMO_MODEL  # noqa: E402
from nullinv_core.backends.comfy.loading.models import load_folder  # noqa: E402
from nullinv_core.backends.comfy.text import plan_request, prompt_of  # noqa: E402
from nullinv_core.errors import InputError  # noqa: E402
from nullinv_core.prompt_to_prompt.emphasis import parse  # noqa: E402

PIECES = ["(", ")", "(", ")", "\\", "\\(", "\\)", ":", ":1.5", ":.5)", ":-2)", "a", "red cat", " ", "[", "1"]
TEXTS = ["a (red:1.5) cat", "((red)) cat", "a ((red:1.2):1.5) (cat on:0.5) grass", "a red) cat", "a (red cat"]
rng = random.Random(0)


def otherwise(text):
    """Whether ComfyUI reads a text otherwise; what we refuse, it reads as a weight that is too large."""
    theirs = [(unescape_important(piece), weight) for piece, weight in token_weights(escape_important(text), 1.0)]
    try:
        return parse(text) != theirs
    except InputError:
        return all(abs(weight) <= 1000 for _, weight in theirs)


random_texts = ["".join(rng.choices(PIECES, k=rng.randint(1, 16))) for _ in range(5000)]
with torch.inference_mode():
    clip = load_folder(DEMO_MODEL)[1]
    prompts = [prompt_of(clip, text) for text in TEXTS]
    theirs = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in TEXTS]
    requests = [plan_request(clip, text, text + "\n" + text.replace("cat", "dog"), EditSettings()) for text in TEXTS]
    other = plan_request(clip, "a (red:1.5) cat", "a (red:3) cat", EditSettings())
equal = [torch.equal(r.source_conditioning[0][0], c[0][0]) for r, c in zip(requests, theirs, strict=True)]
save_file({text: c[0][0].clone().contiguous() for text, c in zip(TEXTS, theirs, strict=True)}, ARGUMENTS[1])
sys.stdout.write(json.dumps({
    "otherwise": [text for text in random_texts if otherwise(text)],
    "texts": TEXTS,
    "words": [p.words for p in prompts],
    "weights": [p.weights for p in prompts],
    "source as ComfyUI": equal,
    "same text, same encoding": [torch.equal(r.conditionings[0][0][0], r.source_conditioning[0][0]) for r in requests],
    "factors": [p.equalizer.unique().tolist() for r in requests for p in r.plans(4)],
    "factors of another weight": other.plans(4)[0].equalizer.unique().tolist(),
    "encoding of another weight": torch.equal(other.conditionings[0][0][0], theirs[0][0][0]),
}) + "\n")  # fmt: skip
