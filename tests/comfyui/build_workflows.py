"""Write the example workflows: ``python -m tests.comfyui.build_workflows``.

Each is a graph that is defined once and built for the demo model and for Stable Diffusion 1.5. With a running ComfyUI
every demo graph is run and its picture becomes the thumbnail of both.
"""

import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from nullinv_core.demo.edits import sample_edit
from nullinv_core.demo.run import EDIT_GUIDANCE

from .graphs import DEMO, Graph
from .server import PACK, Server
from .workflow import ui_format

FOLDER = PACK / "workflows"
CHECKPOINT = "v1-5-pruned-emaonly-fp16.safetensors"
PHOTO_TEXT = "a drawing of a girl in a pink dress on a green hill"
"""What ComfyUI's own example.png shows."""
STEPS = 50
THUMBNAIL, GAP = 256, 4
"""Height of a thumbnail, and between the pictures of one, in pixels."""


@dataclass
class Photo:
    """A graph under construction: the model, the picture and its text. ``titles``: names of nodes by id."""

    graph: Graph
    model: list
    clip: list
    vae: list
    image: list
    text: list
    edit_text: list | None
    caption: str
    guidance: float
    titles: dict = field(default_factory=dict)

    def add(self, title, kind, **inputs):
        """A node with a title of its own."""
        node = self.graph.add(kind, **inputs)
        if title:
            self.titles[node()[0]] = title
        return node

    def write(self, title, text):
        """A box with a text."""
        return self.add(title, "PrimitiveStringMultiline", value=text)()

    def invert(self):
        """Encode picture and text, invert."""
        self.source = self.add("What the photo shows", "CLIPTextEncode", clip=self.clip, text=self.text)
        self.empty = self.add("Empty text", "CLIPTextEncode", clip=self.clip, text="")
        self.latent = self.add(None, "VAEEncode", pixels=self.image, vae=self.vae)
        self.inverted = self.add(
            None, "NullInvDDIMInvert", model=self.model, source=self.source(), latent=self.latent(), steps=STEPS,
            method="fixed-point",
        )  # fmt: skip

    def optimize(self, preset="fast"):
        """Null-text optimization."""
        self.optimized = self.add(
            None, "NullInvOptimize", model=self.model, source=self.source(), negative=self.empty(),
            trajectory=self.inverted(1), cfg=self.guidance, preset=preset,
        )  # fmt: skip

    def edit(self, text, **options):
        """P2P Edit and its sampler."""
        self.plan = self.add(None, "NullInvP2PEdit", clip=self.clip, source_text=self.text, edit_text=text, **options)
        self.edited = self.add(
            None, "NullInvP2PSampler", model=self.model, trajectory=self.inverted(1), edit=self.plan(), cfg=0.0,
            null_embeddings=self.optimized(),
        )  # fmt: skip

    def show(self, title, samples, name):
        """Decode a latent and save it."""
        picture = self.add(None, "VAEDecode", samples=samples, vae=self.vae)
        return self.add(title, "SaveImage", images=picture(), filename_prefix=f"null-text/{name}")

    def native(self, title, model, name, cfg, latent=None):
        """KSampler (Advanced) without noise of its own."""
        sampled = self.add(
            title, "KSamplerAdvanced", model=model, steps=STEPS, cfg=cfg, positive=self.source(),
            negative=self.empty(), latent_image=latent or self.inverted(0),
        )  # fmt: skip
        return self.show(f"Result at cfg {cfg:g}", sampled(), name)


def demo(seed, kind, guidance=EDIT_GUIDANCE):
    """A demo scene."""
    graph = Graph()
    load = graph.add("NullInvLoadDiffusers", model=DEMO)
    scene = graph.add("NullInvDemoScene", seed=seed, edit=kind)
    graph.add("PreviewImage", images=scene(0))
    caption = sample_edit(seed, kind).captions[0]
    return Photo(graph, load(0), load(1), load(2), scene(0), scene(1), scene(2), caption, guidance)


def sd15(guidance=7.5):
    """A photo from disk, cropped at the centre to 512×512."""
    graph = Graph()
    load = graph.add("CheckpointLoaderSimple", ckpt_name=CHECKPOINT)
    file = graph.add("LoadImage", image="example.png")
    image = graph.add("ImageScale", image=file(), upscale_method="lanczos", width=512, height=512, crop="center")
    graph.add("PreviewImage", images=image())
    text = graph.add("PrimitiveStringMultiline", value=PHOTO_TEXT)
    photo = Photo(graph, load(0), load(1), load(2), image(), text(), None, PHOTO_TEXT, guidance)
    photo.titles |= {
        file()[0]: "Your photo", image()[0]: "Cropped to 512×512 at the centre", text()[0]: "What the photo shows",
    }  # fmt: skip
    return photo


def edit_photo(photo):
    """Texts stand in the node itself, and nothing gives a picture out before it: ComfyUI's default cache would let go
    of the inversion there."""
    kinds = ("CheckpointLoaderSimple", "LoadImage", "NullInvLoadDiffusers", "NullInvDemoScene")
    photo.graph = Graph({key: node for key, node in photo.graph.items() if node["class_type"] in kinds})
    photo.titles = {key: title for key, title in photo.titles.items() if key in photo.graph}
    (picture,) = (key for key, node in photo.graph.items() if node["class_type"] in ("LoadImage", "NullInvDemoScene"))
    demo, (seed, kind) = photo.edit_text is not None, SCENES["edit-photo"][1:]
    texts = sample_edit(seed, kind).captions if demo else (PHOTO_TEXT, PHOTO_TEXT.replace("pink", "blue"))
    edited = photo.add(
        None, "NullInvEditPhoto", model=photo.model, clip=photo.clip, vae=photo.vae, image=[picture, 0],
        source_text=texts[0], edit_text=texts[1], strength=0.2, blend_words="cat" if demo else "dress",
        size=128 if demo else 512, steps=STEPS, cfg=photo.guidance, keep_pixels=True,
    )  # fmt: skip
    photo.add("The edit", "SaveImage", images=edited(0), filename_prefix="null-text/edited")
    photo.add("Photo and edit", "SaveImage", images=edited(1), filename_prefix="null-text/before-after")


def invert_and_reconstruct(photo):
    photo.guidance = 7.5
    photo.invert()
    photo.native("Without null embeddings, at cfg 7.5", photo.model, "plain-reconstruction", 7.5)
    photo.optimize()
    photo.add("Loss per step", "PreviewImage", images=photo.optimized(2))
    photo.show("The photo, back at cfg 7.5", photo.optimized(1), "reconstruction")


def replace_a_word(photo):
    text = photo.edit_text or photo.write("What it should show", PHOTO_TEXT.replace("pink", "blue"))
    photo.invert()
    photo.optimize()
    # as the editing guide has it: the demo's is another thing, the photo's another colour
    if photo.edit_text:
        photo.edit(text, cross_replace=0.7, self_replace=0.4, blend_words="cat, dog")
    else:
        photo.edit(text, cross_replace=0.9, self_replace=0.6, blend_words="dress")
    photo.show("Edited", photo.edited(0), "edited")
    photo.add("Which word looks where", "PreviewAny", source=photo.plan(3))
    maps = photo.add(None, "NullInvAttentionMaps", attention=photo.edited(3), words="", edit=0, image=photo.image)
    photo.add("Where each word looked", "PreviewImage", images=maps())


def add_a_word(photo):
    text = photo.edit_text or photo.write("What it should show", PHOTO_TEXT.replace("hill", "hill with flowers"))
    photo.invert()
    photo.optimize()
    word = "hat" if photo.edit_text else "hill"
    photo.edit(text, mode="refine", blend_words=word)
    photo.show("Edited, only where the blend word is", photo.edited(0), "added")
    edited, before = (photo.add(None, "VAEDecode", samples=photo.edited(i), vae=photo.vae) for i in (0, 1))
    kept = photo.add(None, "NullInvKeepPhoto", photo=photo.image, edited=edited(), reconstructed=before())
    photo.add("With the photo's own pixels", "SaveImage", images=kept(0), filename_prefix="null-text/added-kept")
    mask = photo.add(None, "MaskToImage", mask=photo.edited(2))
    photo.add("Where the edit was let through", "PreviewImage", images=mask())


def reweight(photo):
    word = "scarf" if photo.edit_text else "pink"
    weighted = [photo.caption.replace(word, f"({word}:{weight})") for weight in ("0.0", "2.5")]
    photo.invert()
    photo.optimize()
    for title, line in zip(("less", "more"), weighted, strict=True):
        text = photo.write(f"{title.capitalize()} of it", line)
        photo.edit(text, cross_replace=1.0, self_replace=0.8)
        photo.show(f"{title.capitalize()} of it", photo.edited(0), f"weight-{title}")


def several_edits(photo):
    if photo.edit_text:
        edits = [photo.caption.replace(*pair) for pair in SEVERAL]
    else:
        edits = [
            PHOTO_TEXT.replace("pink", "blue"),
            PHOTO_TEXT.replace("green hill", "snowy hill"),
            f"{PHOTO_TEXT} in the rain",
        ]
    text = photo.write("One edit a line", "\n".join(edits))
    photo.invert()
    photo.optimize()
    photo.edit(text)
    photo.show("One picture an edit", photo.edited(0), "several")


def native_samplers(photo):
    photo.guidance = 7.5
    photo.invert()
    photo.optimize()
    photo.native("cfg 1: the noise alone gives the photo back", photo.model, "ksampler-cfg-1", 1.0)
    applied = photo.add(None, "NullInvApply", model=photo.model, null_embeddings=photo.optimized())
    photo.native("cfg 7.5 with Apply Null-Text", applied(), "ksampler-cfg-7.5", 7.5)
    guider = photo.add(
        None, "NullInvGuider", model=photo.model, conditioning=photo.source(), null_embeddings=photo.optimized(),
        cfg=0.0,
    )  # fmt: skip
    sampled = photo.add(
        None, "SamplerCustomAdvanced", noise=photo.add(None, "DisableNoise")(), guider=guider(),
        sigmas=photo.inverted(2), sampler=photo.add(None, "KSamplerSelect", sampler_name="euler")(),
        latent_image=photo.inverted(0),
    )  # fmt: skip
    photo.show("cfg 7.5 with Null-Text Guider", sampled(), "guider")


def _saved(photo):
    """Name of the file of an inversion: each model's has its own, so that neither example loads the other's."""
    return "photo-demo" if photo.edit_text else "photo-sd15"


def save_an_inversion(photo):
    photo.invert()
    photo.optimize()
    photo.add(
        None, "NullInvSave", trajectory=photo.inverted(1), prompt=photo.text, null_embeddings=photo.optimized(),
        filename_prefix=f"inversions/{_saved(photo)}",
    )  # fmt: skip
    photo.show("Check: the photo is back", photo.optimized(1), "saved")


def edit_a_saved_inversion(photo):
    """Load where there is no photo: the graph keeps the model alone."""
    graph = Graph({"1": photo.graph["1"]})
    photo.graph, photo.titles = graph, {}
    load = photo.add(None, "NullInvLoad", file=f"output/inversions/{_saved(photo)}_00001.safetensors")
    text = photo.write("What it should show", EDITED_AGAIN[photo.edit_text is None])
    photo.text, photo.inverted, photo.optimized = load(2), lambda slot: load(0), lambda: load(1)
    photo.edit(text)
    photo.show("Edited in seconds", photo.edited(0), "edited-again")


SEVERAL = (
    ("cat", "rabbit"),
    ("cat", "cat wearing a hat"),
    ("a brick floor", "grass"),
    ("a photo", "a pencil drawing"),
)
"""What the edits of the scene replace by what."""
SCENES = {
    "edit-photo": (edit_photo, 5, "colour"),
    "invert-and-reconstruct": (invert_and_reconstruct, 30, "content"),
    "replace-a-word": (replace_a_word, 5, "object"),
    "add-a-word": (add_a_word, 34, "content"),
    "reweight": (reweight, 31, "colour"),
    "several-edits": (several_edits, 5, "colour"),
    "native-samplers": (native_samplers, 30, "content"),
    "save-an-inversion": (save_an_inversion, 5, "colour"),
    "edit-a-saved-inversion": (edit_a_saved_inversion, 5, "colour"),
}
"""Builder, and seed and edit of the demo scene."""
EDITED_AGAIN = (sample_edit(5, "colour").captions[1], PHOTO_TEXT.replace("pink", "blue"))
NOTES = {
    "edit-photo": "**Everything in one node.** The upper text says what the photo shows, the lower one what it should "
    "show: change a word there, and run again. A second edit of the same photo is faster. The other examples do the "
    "same with single nodes.",
    "invert-and-reconstruct": "Sampled at cfg 7.5, the inverted photo comes back changed. With null embeddings it "
    "comes back as it was. Look at both pictures, and at the loss.",
    "replace-a-word": "**Change one word.** The first text says what the photo shows, the second what it should show. "
    "*blend_words* names what may change: the old thing and the new one. Lower *self_replace* when the shape must "
    "change. A new edit text runs the edit alone.",
    "add-a-word": "**Add a word, keep the rest.** *blend_words* names the region that may change; the mask shows it. "
    "*Keep Photo* puts the photo's own pixels back where the edit hardly differs. To add a thing where nothing was, "
    "see docs/editing.md.",
    "reweight": "**More or less of a word:** `(word:2.5)` strengthens it, a number below 1 weakens it, `(word:0)` "
    "takes it out. *cross_replace* at 1 and *self_replace* at 0.8 keep everything else.",
    "several-edits": "**Every line is an edit.** All of them run side by side, on one inversion.",
    "native-samplers": "**ComfyUI's own samplers.** The noise goes into KSampler (Advanced) with add_noise off; Apply "
    "Null-Text and Null-Text Guider bring the photo back at cfg 7.5. For edits take "
    "P2P Edit Sampler, which keeps more of the photo.",
    "save-an-inversion": "**The slow part, once.** The file goes to output/inversions. Then load *edit a saved "
    "inversion*.",
    "edit-a-saved-inversion": "**First run *save an inversion*,** which makes the file. With it, no photo and no "
    "optimization are needed. Press R to see new files in the list of *Load Inversion*. Use the model that made the "
    "file.",
}
ABOUT = {
    "demo": "Runs as it is: the model and the scene come with the nodes. The model is small, so a CPU will do.",
    "sd15": "Needs a checkpoint of Stable Diffusion 1.5; 2.x and SDXL work too. Choose your photo; it is cropped at "
    "the centre to 512×512 (set 1024×1024 for SDXL, 768×768 for some 2.x; other multiples of 8 work too). Describe it "
    "in one plain sentence that names whatever you want to change. A GPU is much faster than a CPU.",
}
IN_ONE = {
    "demo": ABOUT["demo"],
    "sd15": "Needs a Stable Diffusion 1.5 checkpoint; one of 2.x or SDXL works too, with *size* as it was trained "
    "(1024, or 768 for some 2.x). Turn on *full_size* to get the result as large as your photo. Choose your photo and "
    "describe it in one plain sentence that names whatever you want to change.",
}
"""The same for the workflow with one node."""
AGAIN = {
    "demo": "The model comes with the nodes. It is small, so a CPU will do.",
    "sd15": "Needs the checkpoint that made the file.",
}
"""The same for the workflow that loads what another saved."""


def photo_of(name, kind):
    """The finished graph of a workflow for a kind of model."""
    build, seed, edit = SCENES[name]
    photo = demo(seed, edit) if kind == "demo" else sd15()
    build(photo)
    return photo


def documents(info):
    """(file name without suffix, UI-format document) of every workflow; ``info``: ComfyUI's /object_info."""
    for number, name in enumerate(SCENES, 1):
        for kind in ("demo", "sd15"):
            photo = photo_of(name, kind)
            about = {"edit-a-saved-inversion": AGAIN, "edit-photo": IN_ONE}.get(name, ABOUT)
            yield f"{number}-{name}-{kind}", ui_format(photo.graph, info, photo.titles, (NOTES[name], about[kind]))


def thumbnail(server, name):
    """The pictures that a demo workflow saves, beside the scene that it started from."""
    graph = photo_of(name, "demo").graph
    outputs = server.run(graph, seconds=1200)["outputs"]
    scenes = [key for key, node in graph.items() if node["class_type"] == "PreviewImage"][:1]
    saved = [key for key, node in graph.items() if node["class_type"] == "SaveImage"]
    # one of Edit Photo's has photo and edit side by side
    shown = saved[-1:] if name == "edit-photo" else scenes + saved
    images = [image for key in shown for image in outputs[key]["images"]]
    pictures = [Image.open(server.base / i["type"] / i["subfolder"] / i["filename"]).convert("RGB") for i in images]
    strip = Image.new("RGB", (sum(p.width + GAP for p in pictures) - GAP, pictures[0].height), "white")
    left = 0
    for picture in pictures:
        strip.paste(picture, (left, 0))
        left += picture.width + GAP
    return strip.resize((THUMBNAIL * strip.width // strip.height, THUMBNAIL), Image.Resampling.BICUBIC)


def main():
    """Write every workflow and thumbnail."""
    FOLDER.mkdir(exist_ok=True)
    server = Server(Path(tempfile.mkdtemp()))
    try:
        for name, document in documents(server.get("/object_info")):
            (FOLDER / f"{name}.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
        for number, name in enumerate(SCENES, 1):
            picture = thumbnail(server, name)
            for kind in ("demo", "sd15"):
                picture.save(FOLDER / f"{number}-{name}-{kind}.jpg", quality=88)
    finally:
        server.stop()


if __name__ == "__main__":
    main()
