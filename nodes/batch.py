"""Save Batch Job."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .sources import DEMO
from .wires import Edit, NullEmbeddings, Trajectory, schema


class SaveBatchJob(io.ComfyNode):
    """What was tried on one photo, for a whole folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See the base class."""
        return schema(
            ["batch", "folder", "data set", "export settings"],
            node_id="NullInvSaveBatchJob",
            display_name="Save Batch Job",
            description="Writes this graph's texts, settings and model to a small file in ComfyUI's output folder. On "
            "the command line, python -m nullinv_core batch does the same with a folder of pictures.",
            is_output_node=True,
            inputs=[
                Edit.Input("edit", tooltip="From P2P Edit: both texts and all its settings."),
                Trajectory.Input("trajectory", tooltip="From DDIM Invert: the number of steps and the size."),
                io.String.Input("filename_prefix", default="jobs/edit", tooltip="Folder and beginning of the file's "
                                "name, inside the output folder, as in Save Inversion."),
                NullEmbeddings.Input("null_embeddings", optional=True, tooltip="From Null-Text Optimize: the preset "
                                     "and its cfg."),
            ],
            hidden=[io.Hidden.prompt],
            outputs=[io.String.Output(display_name="file", tooltip="Name of the file in ComfyUI's folder, for --job.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, edit: Any, trajectory: Any, filename_prefix: str, null_embeddings: Any = None) -> Any:
        """See the schema."""
        from ..nullinv_core.backends.comfy.batch_job import save_job

        graph = cls.hidden.prompt
        return io.NodeOutput(save_job(edit, trajectory, null_embeddings, filename_prefix, graph, DEMO))
