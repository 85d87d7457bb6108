"""Servers with other packs beside ours, and the random weights that their graphs load."""

import os
from pathlib import Path

import pytest

from ..comfyui.installation import find_comfyui, version_of
from ..comfyui.proportions import write_proportions
from ..comfyui.server import Server, run_script
from . import page

SOURCES = os.environ.get("NEIGHBOURS")
MANY = 200
"""So many results are kept: what a graph shares with those before it runs once."""


class Neighbourhood(Server):
    """A server with other packs and random weights. ``info``: its /object_info. ``version``: ComfyUI's."""

    def __init__(self, base, packs, weights, ours):
        super().__init__(base, [Path(SOURCES) / pack.folder for pack in packs], ["--cache-lru", str(MANY)], ours)
        self.version = version_of(self.comfyui)
        for file in weights.rglob("*.*"):
            place = self.base / file.relative_to(weights)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.hardlink_to(file)
        self.info = self.get("/object_info")


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A folder with what goes into ComfyUI's folders models and input."""
    base, comfyui = tmp_path_factory.mktemp("weights"), find_comfyui()
    models, maker = base / "models", Path(__file__).parents[1] / "comfyui" / "random_models.py"
    for kind, folder in (("shallow", "checkpoints"), ("controlnet-shallow", "controlnet")):
        (models / folder).mkdir(parents=True)
        run_script(comfyui, maker, kind, models / folder / "shallow.safetensors")
    checkpoint = models / "checkpoints" / "shallow.safetensors"
    write_proportions(models / "diffusers" / "proportions")
    run_script(comfyui, Path(__file__).with_name("weights.py"), checkpoint, models, base / "input")
    return base


@pytest.fixture(scope="session", autouse=True)
def written():
    """Writes the page when all is measured."""
    yield
    page.write()


@pytest.fixture(scope="session")
def start(tmp_path_factory, weights):
    """Starts a server with packs beside ours."""
    if not SOURCES:
        pytest.skip("set NEIGHBOURS to the folder of the packs' sources")
    return lambda *packs, ours=True: Neighbourhood(tmp_path_factory.mktemp("neighbours"), packs, weights, ours)
