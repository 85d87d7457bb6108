"""What a run left in the output folder, and how far two tensors are apart."""

from safetensors.torch import load_file


def newest(comfy, name):
    """The newest file that was saved under a name, in any folder."""
    return max((comfy.base / "output").rglob(f"{name}_*"))


def latent(comfy, name):
    """The newest latent that Save Latent wrote under a name."""
    return load_file(newest(comfy, name))["latent_tensor"]


def relative(ours, theirs):
    """Distance of two tensors in units of the second."""
    return float((ours - theirs).norm() / theirs.norm())


FEW_STEPS = "steps are too few"


def told(comfy, graph, seconds=300, few_steps=False):
    """Run a graph; what our nodes told meanwhile, of ``few_steps`` too: most tests take few, to stay quick."""
    before = len(comfy.text())
    comfy.run(graph, seconds)
    ours = [line for line in comfy.text()[before:].splitlines() if "null-text inversion: " in line]
    return [line for line in ours if few_steps or FEW_STEPS not in line]
