"""A node made of others, which ComfyUI's cache keeps one by one: what did not change is not done again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io
from comfy_execution.graph_utils import is_link
from comfy_execution.utils import get_executing_context

if TYPE_CHECKING:
    from ..nullinv_core.backends.comfy.protocols import Graph, Inputs

PARTS = "null-text inversion/parts"
"""Category of nodes that others are made of."""


def inputs_of(node: type[io.ComfyNode]) -> Inputs | None:
    """The running node's inputs as its graph has them, links unread; its schema must ask for the hidden dynprompt.

    None where a list may come through a link: ComfyUI runs a node for each entry, but a part for all of them each time.
    """
    prompt, context = node.hidden.dynprompt, get_executing_context()
    if prompt is None or context is None:
        return None
    inputs: Inputs = prompt.get_node(context.node_id)["inputs"]
    return None if _from_a_list(prompt, inputs) else inputs


def _from_a_list(prompt: Graph, inputs: Inputs) -> bool:
    """Whether any node that comes before gives out lists."""
    # inside of ComfyUI this name is its own module's
    from nodes import NODE_CLASS_MAPPINGS

    seen: set[str] = set()
    waiting = [inputs]
    while waiting:
        for key in {value[0] for value in waiting.pop().values() if is_link(value)} - seen:
            seen.add(key)
            node = prompt.get_node(key)
            if any(getattr(NODE_CLASS_MAPPINGS[node["class_type"]], "OUTPUT_IS_LIST", None) or ()):
                return True
            waiting.append(node["inputs"])
    return False
