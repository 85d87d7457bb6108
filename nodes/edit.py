"""P2P Edit and P2P Edit Sampler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..nullinv_core.settings import EDIT, PATH, SAMPLE, SAMPLE_LATER, SKIPPED
from .wires import Attention, Edit, NullEmbeddings, Trajectory, schema, widgets

if TYPE_CHECKING:
    from torch import Tensor

    from ..nullinv_core.backends.comfy.protocols import Clip, Conditioning, Patcher
    from ..nullinv_core.backends.comfy.text import EditRequest
    from ..nullinv_core.files.store import Inversion
    from ..nullinv_core.settings import EditPath


class P2PEdit(io.ComfyNode):
    """What should change, in words."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See the base class."""
        return schema(
            ["prompt to prompt", "attention control", "edit words"],
            node_id="NullInvP2PEdit",
            display_name="P2P Edit",
            description="Says what should change. Compares both texts, and plans which words keep the photo's "
            "attention (Prompt-to-Prompt).",
            inputs=[
                io.Clip.Input("clip", tooltip="The CLIP that encoded the source text."),
                io.String.Input("source_text", multiline=True, dynamic_prompts=True, tooltip="What the photo shows: "
                                "the same text that CLIP Text Encode got."),
                io.String.Input("edit_text", multiline=True, dynamic_prompts=True, tooltip="What it should show "
                                "instead. Each line is an edit of its own. (word:2.0) strengthens a word, (word:0.5) "
                                "weakens it; the same weight in both texts changes nothing."),
                *widgets(EDIT, required=False),
            ],
            outputs=[
                Edit.Output(display_name="edit", tooltip="For P2P Edit Sampler."),
                io.Conditioning.Output(display_name="source", tooltip="The source text, encoded, for samplers. For "
                                       "DDIM Invert use CLIP Text Encode: from here, every edit text would invert the "
                                       "photo again."),
                io.Conditioning.Output(display_name="edited", tooltip="The first edit text, encoded."),
                io.String.Output(display_name="alignment", tooltip="Which word takes its place from which."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, clip: Clip, source_text: str, edit_text: str, **settings: object) -> io.NodeOutput:
        """See the schema."""
        from ..nullinv_core.backends.comfy.text import explain_edits, plan_request
        from ..nullinv_core.prompt_to_prompt.lists import read_settings

        request = plan_request(clip, source_text, edit_text, read_settings(settings))
        return io.NodeOutput(request, request.source_conditioning, request.conditionings[0], explain_edits(request))


class P2PEditSampler(io.ComfyNode):
    """The edit itself."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See the base class."""
        return schema(
            ["prompt to prompt", "edit photo", "null text edit"],
            node_id="NullInvP2PSampler",
            display_name="P2P Edit Sampler",
            description="Makes the edits: samples photo and edits side by side, and the edits keep the photo's "
            "attention where the words are the same.",
            inputs=[
                io.Model.Input("model", tooltip="The model of DDIM Invert."),
                Trajectory.Input("trajectory", tooltip="From DDIM Invert or Load Inversion."),
                Edit.Input("edit", tooltip="From P2P Edit."),
                *widgets(SAMPLE),
                NullEmbeddings.Input("null_embeddings", optional=True, tooltip="From Null-Text Optimize. Without them "
                                     "the photo drifts, and a cfg of 0 is 7.5."),
                io.Mask.Input("mask", optional=True, tooltip="White: the edit may change the photo there. "
                              "Scale and crop it like the photo."),
                io.Conditioning.Input("source", optional=True, tooltip="Only for a ControlNet: the source conditioning "
                                      "of DDIM Invert, so that it guides photo and edits."),
                io.Conditioning.Input("negative", optional=True, tooltip="Only for a ControlNet: the negative "
                                      "conditioning of Null-Text Optimize."),
                *widgets(SAMPLE_LATER, required=False),
            ],
            outputs=[
                io.Latent.Output(display_name="edited", tooltip="One latent for each photo and edit."),
                io.Latent.Output(display_name="reconstruction", tooltip="The photo as this run gives it back."),
                io.Mask.Output(display_name="blend_mask", tooltip="Where the edit was let through."),
                Attention.Output(display_name="attention", tooltip="Where each word looked, for Attention Maps."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        model: Patcher,
        trajectory: Inversion,
        edit: EditRequest,
        cfg: float,
        source_cfg: float,
        end_step: int,
        null_embeddings: Inversion | None = None,
        mask: Tensor | None = None,
        source: Conditioning | None = None,
        negative: Conditioning | None = None,
        path: EditPath = PATH.default,
        skipped: float = SKIPPED.default,
    ) -> io.NodeOutput:
        """See the schema."""
        from ..nullinv_core.backends.comfy.jobs import sample_edit
        from ..nullinv_core.pipeline import Sampling

        sampling = Sampling(cfg, source_cfg or None, mask, end_step or None, path, skipped)
        return io.NodeOutput(*sample_edit(model, trajectory, null_embeddings, edit, sampling, source, negative))
