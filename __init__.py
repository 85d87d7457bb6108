"""Entry point that ComfyUI imports: the nodes, their help pages and example workflows."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .nodes import NullTextInversion

WEB_DIRECTORY = "./web"

# an older ComfyUI never calls comfy_entrypoint, so the sentence must come now
if find_spec("comfy") and not (find_spec("comfy_api") and find_spec("comfy_api.latest")):
    raise ImportError("Null-Text Inversion needs ComfyUI 0.3.64 or newer; update ComfyUI")


async def comfy_entrypoint() -> NullTextInversion:
    """What ComfyUI calls to get the nodes."""
    from .nodes import NullTextInversion

    return NullTextInversion()
