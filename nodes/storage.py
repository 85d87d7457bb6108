"""Save Inversion and Load Inversion."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from comfy_api.latest import io

from .sources import DEMO
from .wires import FileName, NullEmbeddings, Trajectory, schema

if TYPE_CHECKING:
    from ..nullinv_core.files.store import Inversion


class SaveInversion(io.ComfyNode):
    """An inversion as one file in the output folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See the base class."""
        return schema(
            ["save", "export"],
            node_id="NullInvSave",
            display_name="Save Inversion",
            description="Writes the slow part to one .safetensors file in ComfyUI's output folder, for later edits of "
            "the same photo.",
            is_output_node=True,
            inputs=[
                Trajectory.Input("trajectory", tooltip="From DDIM Invert."),
                io.String.Input("prompt", multiline=True, tooltip="The source text; Load Inversion gives it back."),
                io.String.Input("filename_prefix", default="inversions/photo", tooltip="Folder and beginning of the "
                                "file's name, inside the output folder. %date:yyyy-MM-dd%, %year%, %width% and so on "
                                "are filled in, as in Save Image."),
                NullEmbeddings.Input("null_embeddings", optional=True, tooltip="From Null-Text Optimize."),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
            outputs=[FileName.Output(display_name="file", tooltip="Name of the file, for Load Inversion.")],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, trajectory: Inversion, prompt: str, filename_prefix: str, null_embeddings: Inversion | None = None
    ) -> io.NodeOutput:
        """See the schema."""
        from ..nullinv_core.backends.comfy.batch_job import model_behind
        from ..nullinv_core.backends.comfy.files import save

        model = trajectory.model or model_behind(cls.hidden.prompt or {}, str(cls.hidden.unique_id), DEMO)
        return io.NodeOutput(save(replace(trajectory, model=model), null_embeddings, prompt, filename_prefix))


class LoadInversion(io.ComfyNode):
    """A saved inversion."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See the base class."""
        from ..nullinv_core.backends.comfy.files import saved_files

        return schema(
            ["load", "import"],
            node_id="NullInvLoad",
            display_name="Load Inversion",
            description="Reads what Save Inversion wrote, from ComfyUI's output or input folder.",
            inputs=[
                io.Combo.Input("file", options=saved_files(), tooltip="A file of the output or input folder, or the "
                               "one that Save Inversion writes."),
            ],
            outputs=[
                Trajectory.Output(display_name="trajectory", tooltip="For P2P Edit Sampler and Null-Text Optimize."),
                NullEmbeddings.Output(display_name="null_embeddings", tooltip="Empty if none were saved: then leave it "
                                      "open."),
                io.String.Output(display_name="prompt", tooltip="The source text that was saved with it."),
            ],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, file: str | None) -> float | None:
        """The file's age, so that a new one under the same name is read again; None where the name comes by a link, of
        Save Inversion: it never writes to one name twice."""
        from ..nullinv_core.backends.comfy.files import age

        return None if file is None else age(file)

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        """See the schema."""
        from ..nullinv_core.backends.comfy.files import load
        from ..nullinv_core.backends.comfy.notices import show
        from ..nullinv_core.files.summary import in_words

        inversion = load(file)
        show(in_words(inversion))
        return io.NodeOutput(inversion, inversion, inversion.prompts[0])
