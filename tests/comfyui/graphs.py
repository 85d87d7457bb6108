"""Graphs in ComfyUI's API format, and the demo chain that most tests run."""

DEMO = "demo model (ships with the nodes)"
DEFAULTS = {
    "NullInvDDIMInvert": {"scheduler": "ddim_uniform", "method": "ddim"},
    "NullInvOptimize": {
        "cfg": 7.5, "preset": "custom", "inner_steps": 10, "learning_rate": 0.01, "early_stop": 1e-5,
    },
    "NullInvP2PEdit": {
        "mode": "auto", "cross_replace": 0.8, "self_replace": 0.4, "blend_words": "", "exclude_words": "",
    },
    "NullInvP2PSampler": {"cfg": 7.5, "source_cfg": 0.0, "end_step": 0},
    "KSamplerAdvanced": {
        "add_noise": "disable", "noise_seed": 0, "sampler_name": "euler", "scheduler": "ddim_uniform",
        "start_at_step": 0, "end_at_step": 10_000, "return_with_leftover_noise": "disable",
    },
}  # fmt: skip
"""Inputs that most graphs share, by node. A KSampler adds no noise: it starts from an inversion's."""


class Graph(dict):
    """Nodes by id; ``add`` returns a function from an output's number to the link to it; see ``DEFAULTS``."""

    def add(self, kind, /, **inputs):
        key = str(len(self) + 1)
        self[key] = {"class_type": kind, "inputs": DEFAULTS.get(kind, {}) | inputs}
        return lambda slot=0: [key, slot]

    def save(self, vae, samples, name):
        """Decode a latent and save it as a picture under ``name``."""
        return self.add("SaveImage", images=self.add("VAEDecode", samples=samples, vae=vae)(), filename_prefix=name)

    def guided(self, model, source, null, latent, steps, sampler="euler", cfg=7.5, **extras):
        """SamplerCustomAdvanced with our guider."""
        guider = self.add("NullInvGuider", model=model, conditioning=source, null_embeddings=null, cfg=cfg, **extras)
        sigmas = self.add("BasicScheduler", model=model, scheduler="ddim_uniform", steps=steps, denoise=1.0)
        return self.add(
            "SamplerCustomAdvanced", noise=self.add("DisableNoise")(), guider=guider(), sigmas=sigmas(),
            sampler=self.add("KSamplerSelect", sampler_name=sampler)(), latent_image=latent,
        )  # fmt: skip


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
            "NullInvDDIMInvert", model=self.load(), source=self.source(), latent=self.latent(), steps=steps
        )
        if optimize:
            self.optimize = g.add(
                "NullInvOptimize", model=self.load(), source=self.source(), negative=self.empty(),
                trajectory=self.invert(1), inner_steps=inner_steps,
            )  # fmt: skip

    def edit(self, text=None, **options):
        """Add P2P Edit and its sampler; return both."""
        plan = self.graph.add(
            "NullInvP2PEdit", clip=self.load(1), source_text=self.scene(1), edit_text=text or self.scene(2), **options
        )
        sampler = self.graph.add(
            "NullInvP2PSampler", model=self.load(), trajectory=self.invert(1), edit=plan(),
            null_embeddings=self.optimize(0),
        )  # fmt: skip
        return plan, sampler

    def guided(self, model, sampler="euler", **options):
        """SamplerCustomAdvanced with our guider, at the chain's steps."""
        return self.graph.guided(model, self.source(), self.optimize(), self.invert(0), self.steps, sampler, **options)

    def save_all(self, model, sampler, name):
        """Save what each of our nodes that sample comes to, and a KSampler's latent on ``model`` with Apply Null-Text,
        as ``name``-reconstruction, -source, -edited and -ksampler; return these four words."""
        applied = self.graph.add("NullInvApply", model=model, null_embeddings=self.optimize())
        saved = {"reconstruction": self.optimize(1), "source": sampler(1), "edited": sampler(0),
                 "ksampler": self.ksampler(applied(), 7.5)()}  # fmt: skip
        for part, samples in saved.items():
            self.graph.add("SaveLatent", samples=samples, filename_prefix=f"{name}-{part}")
        return list(saved)

    def ksampler(self, model, cfg, latent=None):
        """A KSampler (Advanced) that adds no noise, at the chain's steps."""
        return self.graph.add(
            "KSamplerAdvanced", model=model, steps=self.steps, cfg=cfg, positive=self.source(),
            negative=self.empty(), latent_image=latent or self.invert(0),
        )  # fmt: skip
