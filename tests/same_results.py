"""Whether two checkouts give the same bytes: ``python -m tests.same_results BEFORE AFTER``, a folder each.

Both run the command line on the demo model and on narrow Stable Diffusion 2 and SDXL models with random weights.
Tensors of the saved inversions and pixels of all pictures are compared; exit status 1 where one differs.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors import safe_open

from nullinv_core.backends.diffusers import DEMO_MODEL
from nullinv_core.demo.captions import caption
from nullinv_core.demo.scenes import render, sample_scene

from .core.helpers import tiny_vae_folder, tiny_xl_folder

STEPS = "6"
PRESETS = {"fast": (), "paper": ("--inner-steps", "2"), "negative-prompt": (), "direct": ()}
SCENE = 900_001
TARGET = "a photo of a red wooden car on snow"
EDITS = {
    "plain": (),
    "replace": ("--mode", "replace", "--cross-replace", "0.6", "--self-replace", "0.3", "--focus-from", "0.5"),
    "blend": ("--blend", "car", "--weight", "red=2"),
    "fresh": ("--fresh-noise", "0.5", "--steady", "car", "--noise-seed", "3", "--cross-replace", "0.2"),
}
"""Options of ``edit`` by name."""
WITH_MAPS = ("blend", "fresh")
"""Edits that read word maps, for which the narrow SDXL model has no layer."""
CHILD = """
import json, sys
from nullinv_core.__main__ import main
for command in json.load(sys.stdin):
    sys.argv = ["nullinv", *command]
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
"""


def models(work):
    """Model folders by name: the demo model, and narrow ones of both other families with random weights."""
    second = tiny_vae_folder(work / "v2")
    settings = second / "scheduler" / "scheduler_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "prediction_type": "v_prediction"}))
    return {"demo": DEMO_MODEL, "v2": second, "xl": tiny_xl_folder(work / "xl")}


def commands(folders, photo, prompt, out):
    """What to run: argument lists of the command line that write below ``out``."""
    for (name, folder), (preset, options) in ((m, p) for m in folders.items() for p in PRESETS.items()):
        here = out / name / preset
        here.mkdir(parents=True)
        saved = here / "inversion.safetensors"
        model = ("--model", folder, "--device", "cpu", "--dtype", "float32")
        yield ("invert", *model, "--image", photo, "--prompt", prompt, "--out", saved, "--steps", STEPS,
               "--preset", preset, *options)  # fmt: skip
        yield "reconstruct", *model, "--inversion", saved, "--out", here / "reconstruction.png"
        for edit in (e for e in EDITS if name != "xl" or e not in WITH_MAPS):
            yield ("edit", *model, "--inversion", saved, "--prompt", TARGET, "--out", here / f"{edit}.png",
                   "--reference", photo, *EDITS[edit])  # fmt: skip


def run(checkout, wanted):
    """Run the command line of a checkout, all commands in one process; ends the program where one fails."""
    texts = json.dumps([[str(part) for part in command] for command in wanted])
    alone = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", CHILD], cwd=checkout, input=texts, text=True, check=False, env=alone,
                          capture_output=True)  # fmt: skip
    if done.returncode:
        sys.exit(f"{checkout}:\n{done.stdout[-500:]}{done.stderr[-2000:]}")


def difference(before, after):
    """In words how two files differ; empty where they do not."""
    if before.suffix == ".png":
        pictures = [np.asarray(Image.open(path)) for path in (before, after)]
        return "" if np.array_equal(*pictures) else "other pixels"
    with safe_open(before, "pt") as one, safe_open(after, "pt") as other:
        if set(one.keys()) != set(other.keys()):
            return "other tensors"
        differ = [key for key in sorted(one.keys()) if not one.get_tensor(key).equal(other.get_tensor(key))]
        return f"differs in {', '.join(differ)}" if differ else ""


def main():
    """Compare; print a line for each file that differs, and how many were compared."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path, help="folder of a checkout")
    parser.add_argument("after", type=Path, help="folder of the other")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        scene = sample_scene(SCENE, "all", 1)
        photo = work / "photo.png"
        Image.fromarray((render(scene) * 255 + 0.5).astype(np.uint8)).save(photo)
        folders = models(work)
        for name in ("before", "after"):
            run(getattr(chosen, name).resolve(), list(commands(folders, photo, caption(scene), work / name)))
        made = sorted(p.relative_to(work / "before") for p in (work / "before").rglob("*.*"))
        differ = {path: difference(work / "before" / path, work / "after" / path) for path in made}
    for path, what in differ.items():
        if what:
            print(f"{path}: {what}")
    print(f"{len(made)} files compared, {sum(map(bool, differ.values()))} differ")
    sys.exit(any(differ.values()))


if __name__ == "__main__":
    main()
