"""Load Diffusers Model and Demo Scene."""

from __future__ import annotations

from comfy_api.latest import io

from ..nullinv_core.families import supported
from .wires import schema

DEMO = "demo model (ships with the nodes)"


class LoadDiffusersModel(io.ComfyNode):
    """A diffusers folder, or the demo model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See the base class."""
        from ..nullinv_core.backends.comfy.files import model_folders

        return schema(
            ["checkpoint", "diffusers", "demo model"],
            node_id="NullInvLoadDiffusers",
            display_name="Load Diffusers Model",
            description=f"Loads a diffusers folder of {supported()} from models/diffusers, or the small demo "
            "model, which needs no download.",
            inputs=[
                io.Combo.Input("model", options=[DEMO, *model_folders()], default=DEMO, tooltip="A folder of "
                               "models/diffusers, or the demo model."),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="For our nodes and any sampler."),
                io.Clip.Output(display_name="clip", tooltip="For CLIP Text Encode and P2P Edit."),
                io.Vae.Output(display_name="vae", tooltip="For VAE Encode and VAE Decode."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, model: str) -> io.NodeOutput:
        """See the schema."""
        from ..nullinv_core.backends.comfy.files import model_folder
        from ..nullinv_core.backends.comfy.loading.models import load_folder

        return io.NodeOutput(*load_folder(model_folder(None if model == DEMO else model)))


class DemoScene(io.ComfyNode):
    """A picture whose right edit is known."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See the base class."""
        from ..nullinv_core.demo.edits import KINDS

        return schema(
            ["example", "test picture"],
            node_id="NullInvDemoScene",
            display_name="Demo Scene",
            description="A picture of clay toys that the demo model never saw, its text, an edit text, and the perfect "
            "edit. Nothing to download.",
            inputs=[
                io.Int.Input("seed", default=0, min=0, max=2**31 - 1, tooltip="Which scene; each edit has its own."),
                io.Combo.Input("edit", options=list(KINDS), default="object", tooltip="What changes. object: the "
                               "toy; add, delete: a second toy comes or goes; content: a hat, a scarf or a lid; swap: "
                               "two toys change their colours."),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The scene."),
                io.String.Output(display_name="source_text", tooltip="What it shows."),
                io.String.Output(display_name="edit_text", tooltip="What it should show instead."),
                io.Image.Output(display_name="true_edit", tooltip="The perfect edit."),
                io.Mask.Output(display_name="may_change", tooltip="Where the perfect edit changes the picture."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, seed: int, edit: str) -> io.NodeOutput:
        """See the schema."""
        import torch

        from ..nullinv_core.demo.edits import sample_edit
        from ..nullinv_core.demo.scenes import render

        case = sample_edit(seed, edit)
        source, target = (torch.from_numpy(render(scene))[None] for scene in (case.source, case.target))
        mask = torch.from_numpy(case.mask).float()[None]
        return io.NodeOutput(source, *case.captions, target, mask)
