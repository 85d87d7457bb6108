"""Null embeddings for ComfyUI's own samplers."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .wires import NullEmbeddings, guidance, schema


class NullTextGuider(io.ComfyNode):
    """A guider for SamplerCustomAdvanced."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See the base class."""
        return schema(
            ["guider", "null text"],
            node_id="NullInvGuider",
            display_name="Null-Text Guider",
            description="Guidance for SamplerCustomAdvanced whose unconditional branch has the null embedding of each "
            "noise level.",
            inputs=[
                io.Model.Input("model", tooltip="The model of DDIM Invert."),
                io.Conditioning.Input("conditioning", tooltip="The source text gives the photo back; another edits."),
                NullEmbeddings.Input("null_embeddings", tooltip="From Null-Text Optimize."),
                guidance("cfg", default=0.0, tooltip="0: the guidance that the embeddings were optimized for."),
                io.Conditioning.Input("negative", optional=True, tooltip="The negative conditioning of Null-Text "
                                      "Optimize, where it carries more than text (a ControlNet)."),
            ],
            outputs=[io.Guider.Output(display_name="guider", tooltip="For SamplerCustomAdvanced.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, model: Any, conditioning: Any, null_embeddings: Any, cfg: float, negative: Any = None) -> Any:
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
            description="A MODEL whose unconditional branch has the null embedding of each noise level, whatever the "
            "negative prompt says. For any KSampler.",
            inputs=[
                io.Model.Input("model", tooltip="The model of DDIM Invert."),
                NullEmbeddings.Input("null_embeddings", tooltip="From Null-Text Optimize."),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="Sample it at the guidance of the embeddings.")],
        )

    @classmethod
    def execute(cls, model: Any, null_embeddings: Any) -> Any:
        """See the schema."""
        from ..nullinv_core.backends.comfy.model import check_made_with
        from ..nullinv_core.backends.comfy.sampling import apply_null_text

        check_made_with(model, null_embeddings)
        return io.NodeOutput(apply_null_text(model, null_embeddings))
