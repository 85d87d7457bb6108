"""Graphs in ComfyUI's API format, and the demo chain that most tests run."""

DEMO = "demo model (ships with the nodes)"


class Graph(dict):
    """Nodes by id; ``add`` returns a function from an output's number to the link to it."""

    def add(self, kind, **inputs):
        key = str(len(self) + 1)
        self[key] = {"class_type": kind, "inputs": inputs}
        return lambda slot=0: [key, slot]

    def save(self, vae, samples, name):
        """Decode a latent and save it as a picture under ``name``."""
        return self.add("SaveImage", images=self.add("VAEDecode", samples=samples, vae=vae)(), filename_prefix=name)


class Chain:
    """The demo model and scene, inverted and, with ``optimize``, optimized."""

    def __init__(self, steps=8, inner_steps=3, seed=0, edit="colour", optimize=True):
        self.graph = g = Graph()
        self.steps = steps
        self.load = g.add("NullInvLoadDiffusers", model=DEMO)
        self.scene = g.add("NullInvDemoScene", seed=seed, edit=edit)
        self.latent = g.add("VAEEncode", pixels=self.scene(0), vae=self.load(2))
        self.source = g.add("CLIPTextEncode", clip=self.load(1), text=self.scene(1))
        self.empty = g.add("CLIPTextEncode", clip=self.load(1), text="")
        self.invert = g.add(
            "NullInvDDIMInvert", model=self.load(), source=self.source(), latent=self.latent(), steps=steps,
            scheduler="ddim_uniform",
        )  # fmt: skip
        if optimize:
            self.optimize = g.add(
                "NullInvOptimize", model=self.load(), source=self.source(), negative=self.empty(),
                trajectory=self.invert(1), cfg=7.5, preset="custom", inner_steps=inner_steps,
                learning_rate=0.01, early_stop=1e-5,
            )  # fmt: skip

    def edit(self, text=None, **options):
        """Add P2P Edit and its sampler; return both."""
        settings = {
            "mode": "auto", "cross_replace": 0.8, "self_replace": 0.4, "blend_words": "", "exclude_words": "",
        } | options  # fmt: skip
        plan = self.graph.add(
            "NullInvP2PEdit", clip=self.load(1), source_text=self.scene(1), edit_text=text or self.scene(2), **settings
        )
        sampler = self.graph.add(
            "NullInvP2PSampler", model=self.load(), trajectory=self.invert(1), edit=plan(), cfg=7.5,
            source_cfg=0.0, end_step=0, null_embeddings=self.optimize(0),
        )  # fmt: skip
        return plan, sampler

    def ksampler(self, model, cfg, latent=None):
        """A KSampler (Advanced) that adds no noise, at the chain's steps."""
        return self.graph.add(
            "KSamplerAdvanced", model=model, add_noise="disable", noise_seed=0, steps=self.steps, cfg=cfg,
            sampler_name="euler", scheduler="ddim_uniform", positive=self.source(), negative=self.empty(),
            latent_image=latent or self.invert(0), start_at_step=0, end_at_step=10_000,
            return_with_leftover_noise="disable",
        )  # fmt: skip
