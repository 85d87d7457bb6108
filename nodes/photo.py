"""Edit Photo: everything in one node."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io
from comfy_execution.graph_utils import GraphBuilder

from ..nullinv_core.families import supported
from ..nullinv_core.settings import EDIT_PHOTO_FIRST, EDIT_PHOTO_LATER
from .parts import PARTS, inputs_of
from .wires import NullEmbeddings, schema, widgets

if TYPE_CHECKING:
    from torch import Tensor

    from ..nullinv_core.backends.comfy.photo import Wanted
    from ..nullinv_core.backends.comfy.protocols import Clip, Latent, Patcher, Vae
    from ..nullinv_core.files.store import Inversion

PHOTO = ("model", "clip", "vae", "image", "source_text", "size")
WANTED = ("edit_text", "strength", "blend_words", "cfg", "keep_pixels", "kind", "exclude_words", "variant", "full_size")
"""Inputs of Edit Photo that both of its parts have, and those of the edit alone."""


class EditPhoto(io.ComfyNode):
    """The whole chain for beginners."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See the base class."""
        return schema(
            ["edit image", "null text inversion", "prompt to prompt", "change photo"],
            node_id="NullInvEditPhoto",
            display_name="Edit Photo (Null-Text)",
            description="Edits a photo by its text, everything in one node. A second edit of the same photo is "
            "faster, as far as ComfyUI's cache keeps the first.",
            inputs=[
                io.Model.Input("model", tooltip=f"{supported()}."),
                io.Clip.Input("clip", tooltip="The checkpoint's CLIP."),
                io.Vae.Input("vae", tooltip="The checkpoint's VAE."),
                io.Image.Input("image", tooltip="The photo, in any size and shape."),
                io.String.Input("source_text", multiline=True, dynamic_prompts=True, tooltip="What the photo shows."),
                io.String.Input("edit_text", multiline=True, dynamic_prompts=True, tooltip="What it should show "
                                "instead, not an order: change as few words as you can. Each line is an edit of "
                                "its own."),
                *widgets(EDIT_PHOTO_FIRST),
                *widgets(EDIT_PHOTO_LATER, required=False),
            ],
            hidden=[io.Hidden.dynprompt],
            enable_expand=True,
            outputs=[
                io.Image.Output(display_name="edited", tooltip="The edited photo."),
                io.Image.Output(display_name="before_after", tooltip="Photo and edit side by side."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        model: Patcher,
        clip: Clip,
        vae: Vae,
        image: Tensor,
        source_text: str,
        size: int,
        steps: int,
        **wanted: Any,
    ) -> io.NodeOutput:
        """See the schema; ``wanted``: the inputs of ``WANTED``."""
        from ..nullinv_core.backends.comfy.photo import Checkpoint, check_texts, edit_photo, invert_photo

        given, asked = Checkpoint(model, clip, vae), _wanted(**wanted)
        check_texts(given, source_text, asked)
        photo = {"source_text": source_text, "size": size}
        inputs = inputs_of(cls)
        if inputs is None:
            inversion, latent = invert_photo(given, image, size, source_text, steps)
            return io.NodeOutput(*edit_photo(given, image, size, inversion, latent, asked))
        graph, links = GraphBuilder(), {name: inputs[name] for name in ("model", "clip", "vae", "image")}
        if not asked.settings.fresh_noise:
            # it changes nothing there, and ComfyUI may count it up after each run
            wanted["variant"] = 0
        inverted = graph.node("NullInvPartInvertPhoto", **links, **photo, steps=steps)
        edited = graph.node(
            "NullInvPartEditInverted", **links, **photo, **wanted, inversion=inverted.out(0), latent=inverted.out(1)
        )
        return io.NodeOutput(edited.out(0), edited.out(1), expand=graph.finalize())


def _wanted(
    edit_text: str, cfg: float, keep_pixels: bool, variant: int = 0, full_size: bool = False, **chosen: Any
) -> Wanted:  # fmt: skip
    """What the inputs of ``WANTED`` ask for; ``chosen``: those that ``suited`` takes, of its words a text each."""
    from ..nullinv_core.backends.comfy.photo import Wanted
    from ..nullinv_core.prompt_to_prompt.kinds import suited
    from ..nullinv_core.prompt_to_prompt.lists import word_list

    chosen |= {name: word_list(chosen.get(name, "")) for name in ("blend_words", "exclude_words")}
    return Wanted(edit_text, replace(suited(**chosen), variant=variant), cfg, keep_pixels, full_size)


def _inputs_of_edit_photo(*names: str) -> list[io.Input]:
    return [one for one in EditPhoto.define_schema().inputs if one.id in names]


class InvertPhoto(io.ComfyNode):
    """The part of Edit Photo that every edit of a photo shares."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See the base class."""
        return schema(
            [],
            category=PARTS,
            is_dev_only=True,
            node_id="NullInvPartInvertPhoto",
            display_name="Edit Photo: its inversion",
            description="A part of Edit Photo, which ComfyUI keeps for the next edit of the same photo.",
            inputs=_inputs_of_edit_photo(*PHOTO, "steps"),
            outputs=[NullEmbeddings.Output(display_name="inversion"), io.Latent.Output(display_name="latent")],
        )

    @classmethod
    def execute(
        cls, model: Patcher, clip: Clip, vae: Vae, image: Tensor, source_text: str, size: int, steps: int
    ) -> io.NodeOutput:
        """See the schema."""
        from ..nullinv_core.backends.comfy.photo import Checkpoint, invert_photo

        return io.NodeOutput(*invert_photo(Checkpoint(model, clip, vae), image, size, source_text, steps))


class EditInverted(io.ComfyNode):
    """The part of Edit Photo that is the edit."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See the base class."""
        return schema(
            [],
            category=PARTS,
            is_dev_only=True,
            node_id="NullInvPartEditInverted",
            display_name="Edit Photo: its edit",
            description="A part of Edit Photo: the edit of a photo that is inverted.",
            inputs=[
                *_inputs_of_edit_photo(*PHOTO, *WANTED),
                NullEmbeddings.Input("inversion"),
                io.Latent.Input("latent"),
            ],
            outputs=[io.Image.Output(display_name="edited"), io.Image.Output(display_name="before_after")],
        )

    @classmethod
    def execute(
        cls,
        model: Patcher,
        clip: Clip,
        vae: Vae,
        image: Tensor,
        inversion: Inversion,
        latent: Latent,
        source_text: str,
        size: int,
        **wanted: Any,
    ) -> io.NodeOutput:
        """See the schema; ``wanted``: the inputs of ``WANTED``."""
        from ..nullinv_core.backends.comfy.photo import Checkpoint, edit_photo

        given = Checkpoint(model, clip, vae)
        return io.NodeOutput(*edit_photo(given, image, size, inversion, latent, _wanted(**wanted)))
