"""The nodes, as ComfyUI lists them."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .batch import SaveBatchJob
from .edit import P2PEdit, P2PEditSampler
from .inversion import DDIMInvert, NullTextOptimize
from .keep import KeepPhoto
from .photo import EditInverted, EditPhoto, InvertPhoto
from .sampling import ApplyNullText, NullTextGuider
from .show import AttentionMaps
from .sources import DemoScene, LoadDiffusersModel
from .storage import LoadInversion, SaveInversion

NODES: list[type[io.ComfyNode]] = [
    DDIMInvert,
    NullTextOptimize,
    P2PEdit,
    P2PEditSampler,
    NullTextGuider,
    ApplyNullText,
    AttentionMaps,
    KeepPhoto,
    SaveInversion,
    LoadInversion,
    SaveBatchJob,
    LoadDiffusersModel,
    DemoScene,
    EditPhoto,
    InvertPhoto,
    EditInverted,
]


class NullTextInversion(ComfyExtension):
    """What ComfyUI loads."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Every node of the pack."""
        return NODES
