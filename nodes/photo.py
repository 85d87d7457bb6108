"""Edit Photo: everything in one node."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .wires import guidance, schema


class EditPhoto(io.ComfyNode):
    """The whole chain for beginners."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See the base class."""
        return schema(
            ["edit image", "null text inversion", "prompt to prompt", "change photo"],
            node_id="NullInvEditPhoto",
            display_name="Edit Photo (Null-Text)",
            description="Edits a photo by its text in one node: invert and edit. With the single nodes a second "
            "edit of the same photo is much faster.",
            inputs=[
                io.Model.Input("model", tooltip="Stable Diffusion 1.x, 2.x or SDXL."),
                io.Clip.Input("clip", tooltip="Its CLIP."),
                io.Vae.Input("vae", tooltip="Its VAE."),
                io.Image.Input("image", tooltip="The photo; transparent parts count as white."),
                io.String.Input("source_text", multiline=True, tooltip="What the photo shows."),
                io.String.Input("edit_text", multiline=True, tooltip="What it shall show instead: change as few words "
                                "as you can. Several lines are several edits."),
                io.Float.Input("strength", default=0.35, min=0.0, max=1.0, step=0.05,
                               tooltip="How freely the edit may change the photo's layout and shapes."),
                io.String.Input("blend_words", default="", tooltip="Only the region of these words may change; "
                                "separated by commas. Empty: the whole picture."),
                io.Int.Input("size", default=512, min=64, max=2048, step=8,
                             tooltip="Shorter side in pixels: what the model was trained at (SDXL: 1024; "
                             "demo model: 128)."),
                io.Int.Input("steps", default=50, min=1, max=999, tooltip="More steps follow the photo more exactly."),
                guidance("cfg", tooltip="Guidance."),
                io.Boolean.Input("keep_pixels", default=True, tooltip="Keep the photo's own pixels wherever the edit "
                                 "hardly differs from it."),
            ],
            outputs=[
                io.Image.Output(display_name="edited", tooltip="The edited photo."),
                io.Image.Output(display_name="before_after", tooltip="Photo and edit side by side."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model: Any, clip: Any, vae: Any, image: Any, source_text: str, edit_text: str, strength: float,
        blend_words: str, size: int, steps: int, cfg: float, keep_pixels: bool,
    ) -> Any:  # fmt: skip
        """See the schema."""
        from ..nullinv_core.backends.comfy_photo import edit_photo
        from ..nullinv_core.prompt_to_prompt.lists import word_list

        return io.NodeOutput(*edit_photo(
            model, clip, vae, image, source_text, edit_text, strength, word_list(blend_words), size, steps, cfg,
            keep_pixels,
        ))  # fmt: skip
