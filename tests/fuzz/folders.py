"""Wrong model folders: all are checked, and of those that pass one in ten is built and tried."""

from contextlib import contextmanager

from nullinv_core.backends.diffusers import load_model
from nullinv_core.backends.model_folder import read_folder

from ..core.fuzz_folders import break_folder, restore, use
from ..core.helpers import tiny_vae_folder, tiny_xl_folder


@contextmanager
def prepare(work):
    """A broken folder is loaded and used, or refused by a sentence."""
    wholes = [tiny_vae_folder(work / "v1"), tiny_xl_folder(work / "xl")]

    def case(rng):
        whole = rng.choice(wholes)
        folder = work / f"wrong-{whole.name}"
        restore(whole, folder)
        break_folder(folder, rng)
        read_folder(folder)
        if rng.random() < 0.1:
            use(load_model(folder))

    yield case
