"""The nodes, as ComfyUI lists them: every class of this folder's files that is one."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from ..nullinv_core.discovery import modules_of


class NullTextInversion(ComfyExtension):
    """What ComfyUI loads."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Every node of the pack."""
        found = [(module.__name__, one) for module in modules_of(__name__, __path__) for one in vars(module).values()]
        return [
            one
            for module, one in found
            if isinstance(one, type) and issubclass(one, io.ComfyNode) and one.__module__ == module
        ]
