"""The real packs that ours is tried beside, and how their users wire them: one table."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Pack:
    """A pack as it was tried. ``repository``: owner/name on GitHub; ``commit``: of the sources."""

    repository: str
    commit: str

    @property
    def folder(self):
        """Its folder among the fetched sources, and in custom_nodes."""
        return self.repository.split("/")[1]


@dataclass(frozen=True)
class Trial:
    """One graph: a node of a pack before all of our nodes that sample, and what it must come to.

    ``node`` and ``inputs``: what changes the MODEL; an empty node is a KSampler that ran with the MODEL before.
    ``by``: the preset. ``refused``: the words of the sentence that refuses it; empty where it works. ``what``: of the
    settings, for the table.
    """

    pack: Pack
    node: str
    inputs: dict = field(default_factory=dict)
    by: str = "custom"
    refused: tuple[str, ...] = ()
    what: str = ""


SMZ = Pack("shiimizu/ComfyUI_smZNodes", "9562d76c3cf206a3c2362e2baf8bbf717a4869a5")
TILED = Pack("shiimizu/ComfyUI-TiledDiffusion", "a155b1bac39147381aeaa52b9be42e545626a44f")
WAVE = Pack("chengzeyi/Comfy-WaveSpeed", "8253745127785d820cff0a9621d1537a5aae5424")
ONE_TILE = {"method": "MultiDiffusion", "tile_width": 512, "tile_height": 512, "tile_overlap": 64, "tile_batch_size": 4}
TILES = {**ONE_TILE, "tile_width": 64, "tile_height": 64, "tile_overlap": 16}
CACHE = {
    "object_to_patch": "diffusion_model", "residual_diff_threshold": 0.2, "start": 0.0, "end": 1.0,
    "max_consecutive_cache_hits": -1,
}  # fmt: skip
WAY_OUT = "connect the MODEL from before that node to DDIM Invert and to all that follows"
CUT = ("MultiDiffusion of ComfyUI-TiledDiffusion", WAY_OUT)
CACHED = ("ApplyFBCacheOnModel of Comfy-WaveSpeed", WAY_OUT)
TRIALS = [
    Trial(SMZ, "", by="fast"),
    Trial(TILED, "TiledDiffusion", ONE_TILE, "custom", CUT, "one tile"),
    Trial(TILED, "TiledDiffusion", ONE_TILE, "negative-prompt", what="one tile"),
    Trial(TILED, "TiledDiffusion", TILES, "direct", CUT, "several tiles"),
    Trial(WAVE, "ApplyFBCacheOnModel", CACHE, "fast", CACHED, "threshold 0.2"),
    Trial(WAVE, "ApplyFBCacheOnModel", {**CACHE, "residual_diff_threshold": 0.0}, "custom", what="threshold 0"),
]
