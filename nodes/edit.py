"""P2P Edit and P2P Edit Sampler."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .wires import FIXED, Attention, Edit, NullEmbeddings, Trajectory, guidance, schema


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
                io.Combo.Input("mode", options=["auto", "replace", "refine"], default="auto", tooltip="replace: words "
                               "stand in for words; refine: words are added or removed; auto looks at the texts."),
                io.Float.Input("cross_replace", default=0.8, min=0.0, max=1.0, step=0.05, tooltip="Share of the steps "
                               "that keep the photo's layout. Less gives the edit more freedom."),
                io.Float.Input("self_replace", default=0.4, min=0.0, max=1.0, step=0.05, tooltip="Share of the steps "
                               "that keep the photo's shapes. Lower it when the shape must change."),
                io.String.Input("blend_words", default="", tooltip="Only the region of these words may change; "
                                "separated by commas. Empty: the whole picture."),
                io.String.Input("exclude_words", default="", tooltip="The region of these words may not change; "
                                "separated by commas."),
                io.String.Input("word_windows", default="", optional=True, tooltip="Another cross_replace for single "
                                "words: 'hat=0.4' ends it earlier, 'hat=0.2-0.8' starts it later; separated by "
                                "commas."),
                io.Float.Input("fresh_noise", default=0.0, min=0.0, max=1.0, step=0.05, optional=True, tooltip="Share "
                               "of new noise that the edit starts with: room for something new, such as another "
                               "place."),
                io.String.Input("steady_words", default="", optional=True, tooltip="The region of these words gets no "
                                "new noise; separated by commas."),
                io.Int.Input("variant", default=0, min=0, max=2**31 - 1, optional=True, control_after_generate=FIXED,
                             tooltip="Which new noise: another number gives another answer."),
                io.Float.Input("focus_from", default=1.0, min=0.0, max=1.0, step=0.05, optional=True, tooltip="Share "
                               "of the steps after which a new word draws its own outline, in the old word's place. 1: "
                               "never; 0.5 for a new shape."),
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
    def execute(
        cls, clip: Any, source_text: str, edit_text: str, mode: Any, cross_replace: float, self_replace: float,
        blend_words: str, exclude_words: str, word_windows: str = "", fresh_noise: float = 0.0, steady_words: str = "",
        variant: int = 0, focus_from: float = 1.0,
    ) -> Any:  # fmt: skip
        """See the schema."""
        from ..nullinv_core import EditSettings
        from ..nullinv_core.backends.comfy.text import explain_edits, plan_request
        from ..nullinv_core.prompt_to_prompt.lists import take_windows, word_list

        settings = EditSettings(
            mode=mode, cross_replace=cross_replace, self_replace=self_replace,
            blend=word_list(blend_words), blend_exclude=word_list(exclude_words),
            word_cross_replace=take_windows(word_windows), fresh_noise=fresh_noise, steady=word_list(steady_words),
            noise_seed=variant, focus_from=focus_from,
        )  # fmt: skip
        request = plan_request(clip, source_text, edit_text, settings)
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
                guidance("cfg", default=0.0, tooltip="0: the guidance that the null embeddings were made for (7.5 "
                         "without them). Any other works after the presets fast and direct; after the others the photo "
                         "drifts, and a note says so."),
                guidance("source_cfg", default=0.0, tooltip="Another guidance for the photo itself, after the presets "
                         "paper, negative-prompt and custom. 0: the same."),
                io.Int.Input("end_step", default=0, min=0, max=999, tooltip="Stop after so many steps and keep the "
                             "noise, for a sampler that continues. 0: all steps."),
                NullEmbeddings.Input("null_embeddings", optional=True, tooltip="From Null-Text Optimize. Without them "
                                     "the photo drifts."),
                io.Mask.Input("mask", optional=True, tooltip="Where the edit may change the photo."),
                io.Conditioning.Input("source", optional=True, tooltip="Only for a ControlNet: the source conditioning "
                                      "of DDIM Invert, so that it guides photo and edits."),
                io.Conditioning.Input("negative", optional=True, tooltip="Only for a ControlNet: the negative "
                                      "conditioning of Null-Text Optimize."),
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
        cls, model: Any, trajectory: Any, edit: Any, cfg: float, source_cfg: float, end_step: int,
        null_embeddings: Any = None, mask: Any = None, source: Any = None, negative: Any = None,
    ) -> Any:  # fmt: skip
        """See the schema."""
        from ..nullinv_core.backends.comfy.jobs import sample_edit
        from ..nullinv_core.pipeline import Sampling

        sampling = Sampling(cfg, source_cfg or None, mask, end_step or None)
        return io.NodeOutput(*sample_edit(model, trajectory, null_embeddings, edit, sampling, source, negative))
