"""DDIM Invert and Null-Text Optimize."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from comfy_api.latest import io
from comfy_execution.graph_utils import GraphBuilder

from ..nullinv_core.families import supported
from ..nullinv_core.settings import CUSTOM, INVERT, OF_CUSTOM, OPTIMIZE, OPTIMIZE_POOLED
from .parts import inputs_of
from .wires import NullEmbeddings, Trajectory, schema, widgets

if TYPE_CHECKING:
    from torch import Tensor

    from ..nullinv_core.backends.comfy.protocols import Conditioning, Latent, Patcher
    from ..nullinv_core.files.store import Inversion


class DDIMInvert(io.ComfyNode):
    """Photo to noise, along the path that sampling will take back."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See the base class."""
        return schema(
            ["unsampler", "inversion", "null text", "ddim inversion"],
            node_id="NullInvDDIMInvert",
            display_name="DDIM Invert",
            description="Turns a photo into noise step by step, along the path that sampling takes back, and keeps "
            "every step of it (the trajectory).",
            inputs=[
                io.Model.Input("model", tooltip=f"{supported()}, with any LoRAs that the edit should use."),
                io.Conditioning.Input("source", tooltip="What the photo shows, from CLIP Text Encode. (From P2P Edit, "
                                      "every edit text would invert the photo again.)"),
                io.Latent.Input("latent", tooltip="The photo, from VAE Encode."),
                *widgets(INVERT),
                io.Sigmas.Input("sigmas", optional=True, tooltip="Noise levels of your own, in place of steps and "
                                "scheduler: down to 0, where the photo is."),
            ],
            outputs=[
                io.Latent.Output(display_name="noise", tooltip="For KSampler (Advanced) with add_noise off: at cfg 1 "
                                 "and with the same steps it gives the photo back. It has no noise mask, which would "
                                 "leave noise in the photo."),
                Trajectory.Output(display_name="trajectory", tooltip="Every step from the photo to the noise."),
                io.Sigmas.Output(display_name="sigmas", tooltip="The same noise levels, for SamplerCustom and "
                                 "SamplerCustomAdvanced."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        model: Patcher,
        source: Conditioning,
        latent: Latent,
        steps: int,
        scheduler: str,
        method: str,
        sigmas: Tensor | None = None,
    ) -> io.NodeOutput:
        """See the schema."""
        from ..nullinv_core.backends.comfy.jobs import invert_latent
        from ..nullinv_core.backends.comfy.schedule import schedule_of_node, schedule_of_sigmas, sigmas_of_schedule

        schedule = schedule_of_node(model, scheduler, steps) if sigmas is None else schedule_of_sigmas(model, sigmas)
        inversion, noise = invert_latent(model, source, latent, schedule, method)
        return io.NodeOutput(noise, inversion, sigmas_of_schedule(schedule))


def ignored_of(preset: str) -> dict[str, object]:
    """Inputs of Null-Text Optimize that a preset does not use, each with the value that stands for all: the node that
    has those is asked for the result, and ComfyUI's cache knows it."""
    from ..nullinv_core.null_text.presets import PRESETS

    if preset == CUSTOM:
        return {}
    unused = OF_CUSTOM if PRESETS[preset].optimization else (*OF_CUSTOM, OPTIMIZE_POOLED)
    return {setting.name: setting.default for setting in unused}


class NullTextOptimize(io.ComfyNode):
    """The unconditional embeddings under which guided sampling gives the photo back."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See the base class."""
        return schema(
            ["null text inversion", "pivotal tuning", "reconstruct"],
            node_id="NullInvOptimize",
            display_name="Null-Text Optimize",
            description="Finds what guidance needs at each step (a \"null embedding\") to give the photo back almost "
            "exactly. Once per photo.",
            inputs=[
                io.Model.Input("model", tooltip="The model of DDIM Invert."),
                io.Conditioning.Input("source", tooltip="The source text of DDIM Invert."),
                io.Conditioning.Input("negative", tooltip="An empty text. Edits are guided away from it; with paper, "
                                      "the optimization starts from it."),
                Trajectory.Input("trajectory", tooltip="From DDIM Invert."),
                *widgets(OPTIMIZE),
                *widgets([OPTIMIZE_POOLED], required=False),
            ],
            hidden=[io.Hidden.dynprompt],
            enable_expand=True,
            outputs=[
                NullEmbeddings.Output(display_name="null_embeddings", tooltip="One for each step."),
                io.Latent.Output(display_name="reconstruction", tooltip="The photo as guided sampling now gives it "
                                 "back. Look at it before you edit."),
                io.Image.Output(display_name="loss_plot", tooltip="Last loss and iterations per step; one per photo."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        model: Patcher,
        source: Conditioning,
        negative: Conditioning,
        trajectory: Inversion,
        cfg: float,
        preset: str,
        inner_steps: int,
        learning_rate: float,
        early_stop: float,
        optimize_pooled: bool = False,
    ) -> io.NodeOutput:
        """See the schema."""
        import torch

        from ..nullinv_core.backends.comfy.jobs import optimize
        from ..nullinv_core.figures import loss_plot
        from ..nullinv_core.null_text.presets import PRESETS
        from ..nullinv_core.null_text.recipe import Recipe
        from ..nullinv_core.null_text.settings import NullTextSettings
        from ..nullinv_core.photo.images import from_pil
        from ..nullinv_core.pipeline import null_of

        ignored = ignored_of(preset)
        given = {"inner_steps": inner_steps, "learning_rate": learning_rate, "early_stop": early_stop,
                 "optimize_pooled": optimize_pooled}  # fmt: skip
        inputs = inputs_of(cls) if any(given[name] != value for name, value in ignored.items()) else None
        if inputs is not None:
            same = {name: ignored.get(name, value) for name, value in inputs.items()}
            graph = GraphBuilder()
            node = graph.node("NullInvOptimize", **same)
            return io.NodeOutput(*(node.out(slot) for slot in range(3)), expand=graph.finalize())
        settings = NullTextSettings(cfg, inner_steps, learning_rate, early_stop, keep_best=True, relative=True)
        custom = Recipe("ddim", settings, pinned=False)
        recipe = custom if preset == CUSTOM else PRESETS[preset]
        if recipe.optimization:
            recipe = replace(recipe, optimization=replace(recipe.optimization, optimize_pooled=optimize_pooled))
        inversion, reconstruction = optimize(model, source, negative, trajectory, recipe, cfg)
        null = null_of(inversion)
        plots = [from_pil(loss_plot(null, image)) for image in range(inversion.trajectory.batch)]
        return io.NodeOutput(inversion, reconstruction, torch.cat(plots))
