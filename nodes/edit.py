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
            description="Compares the source text with what the photo should show instead, and plans which words keep "
            "the photo's attention (Prompt-to-Prompt).",
            inputs=[
                io.Clip.Input("clip", tooltip="The CLIP that encoded the source text."),
                io.String.Input("source_text", multiline=True, dynamic_prompts=True, tooltip="What the photo shows: "
                                "the same text that CLIP Text Encode got."),
                io.String.Input("edit_text", multiline=True, dynamic_prompts=True, tooltip="What it should show "
                                "instead. Several lines are several edits. (word:2.0) strengthens a word, (word:0.5) "
                                "weakens it; the same weight in both texts changes nothing."),
                io.Combo.Input("mode", options=["auto", "replace", "refine"], default="auto", tooltip="replace: words "
                               "stand in for words; refine: words are added or removed; auto looks at the texts."),
                io.Float.Input("cross_replace", default=0.8, min=0.0, max=1.0, step=0.05, tooltip="Share of the steps "
                               "that keep the photo's layout of words. Less gives the edit more freedom."),
                io.Float.Input("self_replace", default=0.4, min=0.0, max=1.0, step=0.05, tooltip="Share of the steps "
                               "that keep the photo's shapes."),
                io.String.Input("blend_words", default="", tooltip="Only the region of these words may change; "
                                "separated by commas. Empty: the whole picture."),
                io.String.Input("exclude_words", default="", tooltip="The region of these words may not change; "
                                "separated by commas."),
                io.String.Input("word_windows", default="", optional=True, tooltip="Other cross_replace for single "
                                "words: 'hat=0.4' ends it earlier, 'hat=0.2-0.8' starts it later; separated by "
                                "commas."),
                io.Float.Input("fresh_noise", default=0.0, min=0.0, max=1.0, step=0.05, optional=True, tooltip="Share "
                               "of new noise that the edit starts with: room for what the photo has no trace of, as "
                               "another place."),
                io.String.Input("steady_words", default="", optional=True, tooltip="The regions of these words get no "
                                "fresh noise; separated by commas."),
                io.Int.Input("variant", default=0, min=0, max=2**31 - 1, optional=True, control_after_generate=FIXED,
                             tooltip="Which fresh noise: another number, another answer."),
                io.Float.Input("focus_from", default=1.0, min=0.0, max=1.0, step=0.05, optional=True, tooltip="Share "
                               "of the steps after which a word that replaces another draws its own outline, where "
                               "the other word was. 1: never; 0.5 for a new shape."),
            ],
            outputs=[
                Edit.Output(display_name="edit", tooltip="For P2P Edit Sampler."),
                io.Conditioning.Output(display_name="source", tooltip="The source text, encoded, for samplers. To "
                                       "DDIM Invert connect CLIP Text Encode: what comes from here inverts the photo "
                                       "again for every edit text."),
                io.Conditioning.Output(display_name="edited", tooltip="The first edit text, encoded."),
                io.String.Output(display_name="alignment", tooltip="Which words take their attention from which."),
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
            description="Samples the photo and its edits side by side from the end of the trajectory; the edits take "
            "the photo's attention where the words are the same.",
            inputs=[
                io.Model.Input("model", tooltip="The model of DDIM Invert."),
                Trajectory.Input("trajectory", tooltip="From DDIM Invert or Load Inversion."),
                Edit.Input("edit", tooltip="From P2P Edit."),
                guidance("cfg", default=0.0, tooltip="0: the guidance that the null embeddings were optimized for "
                         "(7.5 without them). Another is fine after the presets fast and direct; after the others the "
                         "photo drifts, and the node says so."),
                guidance("source_cfg", default=0.0, tooltip="Another guidance for the photo's own branch, where the "
                         "preset has it sampled. 0: the same."),
                io.Int.Input("end_step", default=0, min=0, max=999, tooltip="Stop after so many steps and keep the "
                             "noise, for a sampler that goes on from there. 0: all steps."),
                NullEmbeddings.Input("null_embeddings", optional=True, tooltip="From Null-Text Optimize. Without them "
                                     "an empty text guides, and the photo drifts."),
                io.Mask.Input("mask", optional=True, tooltip="Where the edit may change the photo."),
                io.Conditioning.Input("source", optional=True, tooltip="The source conditioning of DDIM Invert, where "
                                      "it carries more than text: its ControlNet then guides photo and edits."),
                io.Conditioning.Input("negative", optional=True, tooltip="The negative conditioning of Null-Text "
                                      "Optimize, where it carries more than text (a ControlNet)."),
            ],
            outputs=[
                io.Latent.Output(display_name="edited", tooltip="One latent per photo and edit."),
                io.Latent.Output(display_name="reconstruction", tooltip="What the source branch reached: the photo."),
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
