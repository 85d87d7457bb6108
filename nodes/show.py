"""Attention Maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from .wires import Attention, schema

if TYPE_CHECKING:
    from torch import Tensor

    from ..nullinv_core.prompt_to_prompt.maps import WordMaps


class AttentionMaps(io.ComfyNode):
    """Where the words looked."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See the base class."""
        return schema(
            ["heat map", "cross attention"],
            node_id="NullInvAttentionMaps",
            display_name="Attention Maps",
            description="A heat map for each word: where it looked. Blend words select by these maps.",
            inputs=[
                Attention.Input("attention", tooltip="From P2P Edit Sampler."),
                io.String.Input("words", default="", tooltip="Words to show, separated by commas. Empty: all of them."),
                io.Int.Input("edit", default=0, min=0, max=64, tooltip="0: the photo; 1, 2, …: that edit."),
                io.Image.Input("image", optional=True, tooltip="A picture to draw the maps on."),
            ],
            outputs=[
                io.Image.Output(display_name="maps", tooltip="One picture for each photo and word."),
                io.Mask.Output(display_name="masks", tooltip="The same as masks, 1 where a word looked most."),
            ],
        )

    @classmethod
    def execute(cls, attention: WordMaps, words: str, edit: int, image: Tensor | None = None) -> io.NodeOutput:
        """See the schema."""
        from ..nullinv_core.figures import heat_maps
        from ..nullinv_core.photo.images import opaque
        from ..nullinv_core.prompt_to_prompt.lists import word_list

        drawn = heat_maps(attention, edit, word_list(words), None if image is None else opaque(image))
        return io.NodeOutput(*drawn)
