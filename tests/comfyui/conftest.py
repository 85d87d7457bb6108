"""One real ComfyUI for all tests of this folder."""

import warnings

import numpy as np
import pytest
from PIL import Image

from .server import Server, find_comfyui


@pytest.fixture(scope="session")
def comfy(tmp_path_factory):
    if find_comfyui() is None:
        warnings.warn("NO COMFYUI FOUND: the node tests are skipped; set COMFYUI_PATH", stacklevel=1)
        pytest.skip("no ComfyUI; set COMFYUI_PATH")
    server = Server(tmp_path_factory.mktemp("comfyui"))
    yield server
    server.stop()


@pytest.fixture
def picture(comfy):
    """Reads the newest picture that was saved under a name: (H, W, 3) in 0…1."""

    def read(name):
        newest = max((comfy.base / "output").glob(f"{name}_*.png"))
        return np.asarray(Image.open(newest).convert("RGB"), np.float64) / 255

    return read
