"""The demo model's card: figures, pictures and how it was made, as the README of the model's folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ..images import to_pil
from .run import EDIT_GUIDANCE

if TYPE_CHECKING:
    from .evaluate import Quality

TEXT = """# Demo model

A small text-to-image latent diffusion model that was trained on nothing but the synthetic scenes of
`nullinv_core/demo/scenes.py`: one or two shapes on a plain, striped or dotted background, 128×128 pixels. It exists so
that null-text inversion can be tried, tested and measured against the truth without a download. It draws such scenes
and nothing else.

![Pictures generated from held-out captions](generated.png)

*The first twelve one-object and the first twelve two-object captions of the evaluation, not chosen.*

| measured on held-out combinations of attributes | figure | target |
|---|---|---|
| autoencoder PSNR, median | {q.autoencoder_psnr:.1f} dB | ≥ 32 dB |
| one object: every attribute right | {q.one_object_right:.1%} of {half} | ≥ 95 % |
| two objects: every attribute right | {q.two_objects_right:.1%} of {half} | ≥ 85 % |
| judge: right on true scenes after the autoencoder | {q.judge_right_on_true:.1%} of {q.captions} | ≥ 99 % |
| judge: false accepts, one attribute wrong | {q.judge_false_accepts:.1%} of {q.captions} | ≤ 2 % |

Generated with DDIM, {q.steps} steps, guidance {q.guidance:g}; measured on {machine} by
`python -m nullinv_core.demo.evaluate`. The judge (`judge.py`) reads pictures by palette and template and uses no
trained model. One of eight combinations of shape, colour and background colour is held out: training shows none
of them, every scene of the evaluation holds one.

**Recommended guidance:** {edit:g} for edits, 7.5 for reconstruction.

**Parts:** `UNet2DConditionModel` (ε-prediction, scaled-linear betas), `AutoencoderTiny` (TAESD architecture, 4 latent
channels at unit scale), `CLIPTextModel` (128 wide) and a `CLIPTokenizer` with a small byte-level vocabulary that
splits some words in several tokens. fp16 safetensors, a diffusers folder.

**Training:** `python -m nullinv_core.demo.train`; resumable, seeded. Licence: Apache-2.0.

<details><summary>Scenes that came out wrong</summary>

{mistakes}

</details>
"""


@dataclass(frozen=True)
class ModelCard:
    """Text and picture sheet of a card."""

    text: str
    sheet: Image.Image

    def write(self, folder: Path) -> None:
        """Write README.md and generated.png."""
        (folder / "README.md").write_text(self.text, encoding="utf-8")
        self.sheet.save(folder / "generated.png")


def model_card(quality: Quality, pictures: np.ndarray, machine: str) -> ModelCard:
    """The card of measured figures; ``pictures`` (24, 128, 128, 3) in 0…1."""
    rows = [np.concatenate(list(pictures[i : i + 8]), axis=1) for i in range(0, len(pictures), 8)]
    mistakes = "\n".join(f"- {m}" for m in quality.mistakes) or "None."
    text = TEXT.format(q=quality, half=quality.captions // 2, machine=machine, mistakes=mistakes, edit=EDIT_GUIDANCE)
    return ModelCard(text, to_pil(np.concatenate(rows)))
