"""docs/neighbours.md, made of the trials and the verdicts that were measured: ``python -m tests.neighbours.page``."""

from ..comfyui.server import PACK
from .packs import PACKS, TRIALS
from .verdicts import load

PAGE = PACK / "docs" / "neighbours.md"
PLACES = ("before", "between", "after")
OUR_ROW = "ours"
"""Under this name it is kept what our own graphs come to beside all packs."""
HEAD = """# Beside other nodes

Written by `make neighbours`, which measures every verdict. Our whole chain runs (DDIM Invert, Null-Text Optimize, an
edit, a KSampler behind Apply Null-Text) with one node of another pack in it, in a ComfyUI with that pack and ours. The
models are the demo's or have random weights. `python -m tests.neighbours.fetch FOLDER` fetches the packs' sources.

- *works*: the edit's source branch and the KSampler come back to the reconstruction, within a thousandth; it is as near
  to the photo as without the node, within 0.5 dB (of latents; both figures follow, but for random weights, which bring
  no photo back); and the node's effect is there, or nothing but what it should change;
- *told*: the graph runs, and a sentence in the log and below the node says what drifts and why;
- *refused*: a sentence names the node; the way out that it names, the chain without it, works.

## Packs

| pack | commit | node | where | {versions} |
|---|---|---|---|{lines}|
"""
UNDRAWN = """
## Links that are not drawn

In ComfyUI's page, in a browser: MODEL, CLIP and VAE reach all of our nodes without links, and the latents are the same
bytes.

| by | of | {versions} |
|---|---|{lines}|
"""
TOGETHER = """
## All packs in one ComfyUI

{packs} packs beside ours, in one server. *Ours*: our whole chain and Edit Photo, there and alone. All others: a graph
with a node of theirs and none of ours, in a server with our pack and in one without it. A difference of a
hundred-thousandth counts. Empty: the pack does not load there.

| graph of | {versions} |
|---|{lines}|
"""
CORE = """
## ComfyUI's own nodes that change a MODEL

All that take a MODEL and give one, on a small network of Stable Diffusion's proportions with random weights. *Before*:
for all of our nodes; *between*: behind the inversion; *after*: behind Apply Null-Text. *No effect*: a plain KSampler
gives the same latent with it. *Not for this kind of model*: a plain KSampler stops with it too, in the words that
follow. *Not tried*: nothing here gives what it takes. Empty: no such node there.

| node | {columns} |
|---|{lines}|
"""


def cells(verdicts, versions):
    return " | ".join(verdicts.get(version, "") for version in versions)


def ordered(*tables):
    """ComfyUI's versions in these tables, newest first."""
    found = {version for table in tables for verdicts in table.values() for version in verdicts}
    return sorted(found, key=lambda version: [int(part) for part in version.split(".")], reverse=True)


def page():
    """The page's text."""
    kept = load()
    packs, versions = kept.get("packs", {}), ordered(kept.get("packs", {}))
    text = HEAD.format(**columns_of(versions))
    for trial in sorted(TRIALS, key=lambda trial: trial.pack.folder.lower()):
        if trial.key in packs:
            link = f"[{trial.pack.folder}](https://github.com/{trial.pack.repository})"
            node = trial.node.replace("|", "\\|")
            text += (
                f"| {link} | {trial.pack.commit[:8]} | {node} | {trial.what} | {cells(packs[trial.key], versions)} |\n"
            )
    text += undrawn(kept.get("page", {})) + together(kept.get("together", {}))
    core = [kept.get(f"core {place}", {}) for place in PLACES]
    versions = ordered(*core)
    columns = [f"{place}, {version}" for version in versions for place in PLACES]
    text += CORE.format(columns=" | ".join(columns), lines="|".join("---" for _ in columns))
    for name in sorted(set().union(*core)):
        row = [table.get(name, {}).get(version, "") for version in versions for table in core]
        text += f"| {name} | {' | '.join(row)} |\n"
    return text


def undrawn(found):
    """What links that are not drawn came to."""
    versions = ordered(found)
    rows = "".join(
        f"| {' | '.join(reversed(name.split('/')))} | {cells(found[name], versions)} |\n" for name in sorted(found)
    )
    return UNDRAWN.format(**columns_of(versions)) + rows if found else ""


def together(found):
    """What all packs at once came to."""
    versions = ordered(found)
    names = sorted(found, key=lambda name: (name != OUR_ROW, name.lower()))
    rows = "".join(f"| {name} | {cells(found[name], versions)} |\n" for name in names)
    return TOGETHER.format(packs=len(PACKS), **columns_of(versions)) + rows if found else ""


def columns_of(versions):
    """A table's columns, one for each version of ComfyUI."""
    return {"versions": " | ".join(f"ComfyUI {each}" for each in versions), "lines": "|".join("---" for _ in versions)}


def write():
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    write()
