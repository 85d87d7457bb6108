"""What the user should know though a node goes on."""

from __future__ import annotations

import logging
from contextvars import ContextVar

from comfy_execution.utils import get_executing_context

LOG = logging.getLogger("nullinv_core")
LOG.setLevel(logging.WARNING)
"""With a level of its own: some packs silence the root logger while their samplers run."""
SPEAKER = "null-text inversion: "
"""Who says it, under other packs' nodes too; by it the page knows what to take away when a node runs again."""
HARMLESS = str.maketrans("<>", "‹›")
"""Some pages put a note in as HTML, and it may quote a text of somebody else's workflow."""
Told = tuple[str, dict[str, tuple[str, ...]]]
"""A run of ComfyUI's, and the sentences that each of its nodes was told."""
TOLD: ContextVar[Told] = ContextVar("nullinv_told", default=("", {}))
"""Of the run at hand. ComfyUI runs each in a context of its own."""


def log(text: str) -> None:
    """Write a sentence to ComfyUI's log."""
    LOG.warning("%s%s", SPEAKER, text)


def tell(text: str) -> None:
    """Write a sentence to ComfyUI's log and, as ``show``, in the page."""
    log(text)
    show(text)


def show(text: str) -> None:
    """Write a sentence in the page, under the node that runs, below what it was told before."""
    running = get_executing_context()
    if running is not None:
        from server import PromptServer

        # a part of a node has that node's id, a dot and more
        node = running.node_id.partition(".")[0]
        sentences = _with(running.prompt_id, node, text)
        shown = SPEAKER + "\n".join(sentences)
        PromptServer.instance.send_progress_text(shown.translate(HARMLESS), node)


def _with(run: str, node: str, text: str) -> tuple[str, ...]:
    """All that a node was told in a run, this sentence with it: the page shows the last text alone."""
    of_run, told = TOLD.get()
    told = told if of_run == run else {}
    sentences = tuple(dict.fromkeys((*told.get(node, ()), text)))
    TOLD.set((run, {**told, node: sentences}))
    return sentences
