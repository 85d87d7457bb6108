"""How a graph of ours is wired with other nodes in it: our whole chain, and three ways to put a node in."""

from ..comfyui.graphs import Chain, Graph
from ..comfyui.workflow import WIDGETS

STEPS, INNER_STEPS = 5, 1


class Whole(Chain):
    """The chain with its edit and a KSampler behind Apply Null-Text, each kept as a latent.

    ``saved``: links to them by name. ``models``: a link to a MODEL that another loader gives in place of ours.
    """

    def __init__(self, preset="custom", edit="colour", steps=STEPS):
        super().__init__(steps, INNER_STEPS, edit=edit)
        g = self.graph
        g[self.optimize()[0]]["inputs"]["preset"] = preset
        self.plan, self.sampler = self.edit()
        # theirs, whatever a node in between calls it
        g[self.sampler()[0]]["inputs"]["cfg"] = 0.0
        self.apply = g.add("NullInvApply", model=self.load(), null_embeddings=self.optimize())
        self.last = self.ksampler(self.apply(), 7.5)
        self.saved = {
            "photo": self.latent(), "noise": self.invert(0), "reconstruction": self.optimize(1),
            "source": self.sampler(1), "edited": self.sampler(0), "ksampler": self.last(),
        }  # fmt: skip

    def reroute(self, link, to, but=(), among=None):
        """Whatever reads the output ``link`` reads ``to``: in the nodes ``among``, or in all, never in ``but``."""
        for key, node in self.graph.items():
            if key not in but and (among is None or key in among):
                node["inputs"].update({name: to for name, value in node["inputs"].items() if value == link})
        if among is None:
            self.saved = {name: to if value == link else value for name, value in self.saved.items()}

    def splice(self, link, node, takes="model", gives=0, among=None, **inputs):
        """Put a node between the output ``link`` and what reads it; returns its outputs. ``gives``: the number of the
        output that is read in place of it."""
        added = self.graph.add(node, **{takes: link}, **inputs)
        self.reroute(link, added(gives), but=added()[:1], among=among)
        return added

    def swap(self, kind, node, names=None, gives=0, drop=(), **inputs):
        """Every node of a kind becomes another one. ``names``: what that one calls its inputs. ``drop``: inputs that
        it has not."""
        for key, old in self.graph.items():
            if old["class_type"] == kind:
                old["class_type"] = node
                kept = {(names or {}).get(k, k): v for k, v in old["inputs"].items() if k not in drop}
                old["inputs"] = kept | inputs
                self.reroute([key, 0], [key, gives])

    def set(self, node, **inputs):
        """Set inputs of a node."""
        self.graph[node()[0]]["inputs"].update(inputs)

    def save(self, name):
        """Save every latent as ``name``-what."""
        for part, samples in self.saved.items():
            self.graph.add("SaveLatent", samples=samples, filename_prefix=f"{name}-{part}")


class Theirs(Whole):
    """A graph without any node of ours, with the places that a pack's node is put in; ``last`` is the KSampler."""

    def __init__(self):
        self.graph, self.steps = Graph(), STEPS
        g = self.graph
        checkpoint = g.add("CheckpointLoaderSimple", ckpt_name="shallow.safetensors")
        vae = g.add("VAELoader", vae_name="tiny.safetensors")
        self.load = lambda slot=0: vae() if slot == 2 else checkpoint(slot)
        text = g.add("PrimitiveStringMultiline", value="a red mug on a table")
        photo = g.add("EmptyImage", width=128, height=128, batch_size=1, color=0xC04020)
        mask = g.add("SolidMask", value=1.0, width=128, height=128)
        self.scene = lambda slot=0: {0: photo, 1: text}.get(slot, mask)()
        self.latent = g.add("EmptyLatentImage", width=128, height=128, batch_size=1)
        sigmas = g.add("BasicScheduler", model=self.load(), scheduler="ddim_uniform", steps=STEPS, denoise=1.0)
        self.invert = lambda slot=0: sigmas() if slot == 2 else self.latent()
        self.source = g.add("CLIPTextEncode", clip=self.load(1), text=text())
        self.empty = g.add("CLIPTextEncode", clip=self.load(1), text="")
        self.apply = self.load
        self.last = self.ksampler(self.load(), 5.0)
        self.set(self.last, add_noise="enable")
        # what only ours have; nothing that is saved needs it
        self.sampler = self.optimize = g.add("PreviewAny", source=text())
        self.saved = {"theirs": self.last()}


def needed(graph):
    """A graph without what its saved latents do not need."""
    keep, ask = set(), [key for key, node in graph.items() if node["class_type"] == "SaveLatent"]
    while ask:
        key = ask.pop()
        if key not in keep:
            keep.add(key)
            ask += [value[0] for value in graph[key]["inputs"].values() if isinstance(value, list)]
    return Graph({key: node for key, node in graph.items() if key in keep})


def fill(graph, info):
    """Give widgets that a graph leaves out what ComfyUI's page would: their defaults. ``info``: /object_info."""
    for node in graph.values():
        for name, spec in info[node["class_type"]]["input"].get("required", {}).items():
            kind, options = spec[0], spec[1] if len(spec) > 1 and isinstance(spec[1], dict) else {}
            if name in node["inputs"] or not (isinstance(kind, list) or kind in WIDGETS):
                continue
            choices = kind if isinstance(kind, list) else options.get("options") or [{"STRING": ""}.get(kind, 0)]
            default = options.get("default", choices[0])
            if default != "" or kind == "STRING":
                node["inputs"][name] = default
    return graph
