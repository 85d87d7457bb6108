"""Null embeddings for ComfyUI's own samplers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..nullinv_core.settings import GUIDER
from .wires import NullEmbeddings, schema, widgets

if TYPE_CHECKING:
    from ..nullinv_core.backends.comfy.protocols import Conditioning, Patcher
    from ..nullinv_core.files.store import Inversion


class NullTextGuider(io.ComfyNode):
    """A guider for SamplerCustomAdvanced."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See the base class."""
        return schema(
            ["guider", "null text"],
            node_id="NullInvGuider",
            display_name="Null-Text Guider",
            description="A guider for SamplerCustomAdvanced that uses the matching null embedding at each step, so "
            "that the photo comes back.",
            inputs=[
                io.Model.Input("model", tooltip="The model of DDIM Invert."),
                io.Conditioning.Input("conditioning", tooltip="The source text gives the photo back; another text "
                                      "edits it."),
                NullEmbeddings.Input("null_embeddings", tooltip="From Null-Text Optimize."),
                *widgets(GUIDER),
                io.Conditioning.Input("negative", optional=True, tooltip="Only for a ControlNet: the negative "
                                      "conditioning of Null-Text Optimize."),
            ],
            outputs=[io.Guider.Output(display_name="guider", tooltip="For SamplerCustomAdvanced.")],
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        model: Patcher,
        conditioning: Conditioning,
        null_embeddings: Inversion,
        cfg: float,
        negative: Conditioning | None = None,
    ) -> io.NodeOutput:
        """See the schema."""
        from ..nullinv_core.backends.comfy.model import check_made_with
        from ..nullinv_core.backends.comfy.sampling import null_text_guider

        check_made_with(model, null_embeddings)
        return io.NodeOutput(null_text_guider(model, conditioning, null_embeddings, cfg, negative))


class ApplyNullText(io.ComfyNode):
    """A MODEL for any KSampler."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See the base class."""
        return schema(
            ["null text", "ksampler"],
            node_id="NullInvApply",
            display_name="Apply Null-Text",
            description="A MODEL for any KSampler that uses the matching null embedding at each step, in place of your "
            "negative prompt.",
            inputs=[
                io.Model.Input("model", tooltip="The model of DDIM Invert."),
                NullEmbeddings.Input("null_embeddings", tooltip="From Null-Text Optimize."),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="Sample it at the cfg of Null-Text Optimize.")],
        )

    @classmethod
    def execute(cls, model: Patcher, null_embeddings: Inversion) -> io.NodeOutput:
        """See the schema."""
        from ..nullinv_core.backends.comfy.model import check_made_with
        from ..nullinv_core.backends.comfy.sampling import apply_null_text

        check_made_with(model, null_embeddings)
        return io.NodeOutput(apply_null_text(model, null_embeddings))
