"""Run a script of ComfyUI where torchvision's and torchaudio's compiled operators do not fit a CPU-only torch.

For ComfyUI's own Python: ``python launch.py COMFYUI_FOLDER SCRIPT [arguments of the script]``.
"""

import importlib.machinery
import importlib.util
import os
import runpy
import sys
import types

import torch


def stand_in(name):
    """An empty module under ``name``."""
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
    module.__path__ = []
    sys.modules[name] = module


try:
    import torchvision  # noqa: F401
except ImportError:
    pass
except RuntimeError as error:
    # it registers fake kernels for these, and fails where its compiled part does not fit and so did not declare them
    if "torchvision::nms does not exist" not in str(error):
        raise
    for part in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[part]
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
try:
    import torchaudio  # noqa: F401
except (ImportError, OSError):
    for part in ("torchaudio", "torchaudio.transforms", "torchaudio.functional"):
        stand_in(part)

folder = os.path.abspath(sys.argv[1])
os.chdir(folder)
sys.path.insert(0, folder)
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
