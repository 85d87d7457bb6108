"""What the user should know though a node goes on."""

from __future__ import annotations

import logging

from comfy_execution.utils import get_executing_context

LOG = logging.getLogger("nullinv_core")
LOG.setLevel(logging.WARNING)
"""With a level of its own: some packs silence the root logger while their samplers run."""


def log(text: str) -> None:
    """Write a sentence to ComfyUI's log."""
    LOG.warning("null-text inversion: %s", text)


def tell(text: str) -> None:
    """Write a sentence to ComfyUI's log and, in the page, under the node that runs."""
    log(text)
    node = get_executing_context()
    if node is not None:
        from server import PromptServer

        # a part of a node has that node's id, a dot and more
        PromptServer.instance.send_progress_text(text, node.node_id.partition(".")[0])
