"""Keep Photo."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from .wires import schema

if TYPE_CHECKING:
    from torch import Tensor


class KeepPhoto(io.ComfyNode):
    """The photo's own pixels where the edit hardly differs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See the base class."""
        return schema(
            ["composite", "original pixels", "paste back"],
            node_id="NullInvKeepPhoto",
            display_name="Keep Photo",
            description="Puts the photo's own pixels back where the edit hardly differs from it. Without this, the VAE "
            "softens the whole picture.",
            inputs=[
                # first: the page shows it where this node is bypassed
                io.Image.Input("edited", tooltip="The decoded edit, or several edits of one photo."),
                io.Image.Input("photo", tooltip="The photo that was encoded. Or the same before it was scaled: then "
                               "the result has its size."),
                io.Image.Input("reconstructed", tooltip="The photo after VAE Encode and VAE Decode, so that what the "
                               "VAE does does not count as a difference."),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The edit, with the photo's own pixels around it."),
                io.Mask.Output(display_name="changed", tooltip="1: the pixel is the edit's; 0: the photo's."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, edited: Tensor, photo: Tensor, reconstructed: Tensor) -> io.NodeOutput:
        """See the schema."""
        from ..nullinv_core.photo.composite import keep_photo
        from ..nullinv_core.photo.images import opaque

        return io.NodeOutput(*keep_photo(opaque(photo), opaque(edited), opaque(reconstructed)))
