"""What can go wrong, made to go wrong in a real ComfyUI: ``python -m tests.comfyui.robustness``.

Memory that runs out and a stop at every prediction, a full disk, a process killed while it saves, broken files, inputs
at random, a hundred runs. Every part returns its figures and raises AssertionError where a promise is broken; together
they go to ``benchmarks/results/robustness.json``. The test suite runs the same parts with fewer cases.
"""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

from benchmarks.common import environment
from nullinv_core import load_inversion, save_inversion

from ..core.test_store import some_inversion
from ..fuzz import inversions
from ..fuzz.runner import Fuzzer, check_sentence, run
from .graphs import DEMO, Chain, Graph
from .outputs import latent
from .server import PACK, Server, error_of

RESULT = PACK / "benchmarks" / "results" / "robustness.json"
SAVER = """
import sys, torch
from nullinv_core import save_inversion
from tests.core.test_store import some_inversion
for seed in range(10**6):
    print(seed, flush=True)
    save_inversion(sys.argv[1], some_inversion(steps=900, seed=seed))
"""
"""Saves one inversion after the other under the same name."""
TEXTS = [
    "", " ", "a", "a red cat", "a red cat on a marble table", "a (red:2) cat", "a (red cat", "((a:2) b:3)",
    "(:2)", "cat " * 80, "a\0b",
    "🙂 é 漢字", "embedding:none", "a\nb\nc", "\\(a\\)", "a red cat, " * 30, "(red:1e9) cat", "x" * 500,
]  # fmt: skip
NUMBERS = [0, 1, 2, 3, -1, 0.5, 1.0, 7.5, 30, 31, 99, 1000, 10**9, -0.1, 1e-9, 1e300, "", "many", None, [], True]


def plain_run(comfy, name):
    """A latent from a KSampler without any of our nodes but the loader: what a user does between edits."""
    g = Graph()
    load = g.add("NullInvLoadDiffusers", model=DEMO)
    text, empty = (g.add("CLIPTextEncode", clip=load(1), text=t) for t in ("a red cat on a marble table", ""))
    blank = g.add("EmptyLatentImage", width=128, height=128, batch_size=1)
    sampled = g.add(
        "KSampler", model=load(), seed=5, steps=2, cfg=3.0, sampler_name="euler", scheduler="normal",
        positive=text(), negative=empty(), latent_image=blank(), denoise=1.0,
    )  # fmt: skip
    g.add("SaveLatent", samples=sampled(), filename_prefix=name)
    told = dict(comfy.run(g)["status"]["messages"])
    assert sampled()[0] not in told["execution_cached"]["nodes"], "an earlier picture would say nothing"
    return latent(comfy, name)


def failing(at, how):
    """The chain on a MODEL that fails at a prediction: invert, optimize, edit; save at the end."""
    chain = Chain(steps=2, inner_steps=2)
    fails = chain.graph.add("OtherFail", model=chain.load(), at=at, how=how)
    _, sampler = chain.edit()
    for node in (chain.invert, chain.optimize, sampler):
        chain.graph[node()[0]]["inputs"]["model"] = fails()
    chain.graph.add("SaveLatent", samples=sampler(), filename_prefix="failing")
    return chain.graph


def faults(comfy, how, every=1):
    """A failure at each prediction of a chain: the server stays up, its models as they were, and the next run works."""
    comfy.run(failing(0, how))
    printed = comfy.text()
    comfy.run(failing(-1, how))
    predictions = comfy.text()[len(printed) :].count("other pack: prediction")
    comfy.post("/free", {"unload_models": False, "free_memory": True})
    before, ends = plain_run(comfy, "between"), Counter()
    for at in range(1, predictions + 1, every):
        comfy.post("/free", {"unload_models": False, "free_memory": True})
        entry = comfy.finish(comfy.queue(failing(at, how)))
        kinds = [kind for kind, _ in entry["status"]["messages"]]
        said = error_of(entry)
        if "execution_interrupted" in kinds:
            ends["stopped"] += 1
        elif said:
            assert "memory" in said.lower(), f"prediction {at}: {said}"
            ends["said"] += 1
        else:
            ends["done"] += 1
        assert torch.equal(plain_run(comfy, "between"), before), f"another picture after prediction {at}"
    assert ends["stopped" if how == "cancel" else "said"] > 0
    return {"predictions": predictions, **ends}


def full_disk(comfy):
    """A disk that takes 100,000 bytes: a sentence, no file under any name, and the next save works."""
    folder = comfy.base / "output" / "disk"
    chain = Chain(steps=50, optimize=False)
    chain.graph.add("NullInvSave", trajectory=chain.invert(1), prompt="x", filename_prefix="disk/full")
    _, most = resource.prlimit(comfy.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(comfy.process.pid, resource.RLIMIT_FSIZE, (100_000, most))
    try:
        said = error_of(comfy.finish(comfy.queue(chain.graph)))
    finally:
        resource.prlimit(comfy.process.pid, resource.RLIMIT_FSIZE, (most, most))
    assert "cannot write" in said, said
    assert list(folder.iterdir()) == []
    comfy.run(chain.graph)
    (saved,) = folder.iterdir()
    load_inversion(saved)
    return {"bytes_allowed": 100_000, "bytes_needed": saved.stat().st_size}


def killed_saves(count, seed=0):
    """A process killed in the middle of saving: the file under the final name is whole, the last one or the one before.

    Returns how many kills left a file half written beside it, and which inversion was under the name.
    """
    rng, ends = random.Random(seed), Counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        for number in range(count):
            save_inversion(path, some_inversion(seed=-1))
            saver = subprocess.Popen(
                [sys.executable, "-c", SAVER, path], cwd=PACK, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            begun = [int(saver.stdout.readline()) for _ in range(rng.randint(1, 3))][-1]
            end = time.monotonic() + 1
            while not list(Path(folder).glob(".*/content")) and time.monotonic() < end:
                pass
            time.sleep(rng.uniform(0, 0.002) if number % 2 else 0)
            saver.send_signal(signal.SIGKILL)
            begun = max([begun, *map(int, saver.stdout.read().split())])
            saver.wait()
            found = load_inversion(path).trajectory.latents
            old = some_inversion(seed=-1) if begun == 0 else some_inversion(steps=900, seed=begun - 1)
            new = some_inversion(steps=900, seed=begun)
            which = [name for name, one in (("old", old), ("new", new)) if torch.equal(found, one.trajectory.latents)]
            assert which, f"neither inversion {begun} nor the one before"
            ends[which[0]] += 1
            ends["in_the_middle_of_writing"] += bool(list(Path(folder).glob(".*/content")))
        save_inversion(path, some_inversion())
        assert os.listdir(folder) == [path.name], "the next save clears away what a killed one left"
    return {"kills": count, **ends}


def broken_files(count):
    """How broken inversion files end."""
    found = run(Fuzzer(1, 200, inversions.prepare), "inversions", count)
    return {"refused": found.refused, "loaded": found.results}


def resident_kilobytes(pid):
    """Resident memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1])


def free(comfy):
    """Have ComfyUI forget what it computed and unload its models, and wait until it has: it does so between two
    prompts."""
    comfy.post("/free", {"unload_models": False, "free_memory": True})
    for _ in range(2):
        small = Graph()
        small.add("PreviewImage", images=small.add("EmptyImage", width=8, height=8, batch_size=1, color=0)())
        comfy.run(small)


def leaks(comfy, runs, warm_up=10):
    """Resident memory of the server, and its tensors, over so many runs of invert, optimize and edit, each of another
    photo. The tensors are exact; resident memory is also what the system's allocator keeps."""
    sizes, tensors = [], []
    for number in range(warm_up + runs):
        chain = Chain(steps=2, inner_steps=2)
        # no scene, of which the demo keeps what it drew last
        photo = chain.graph.add("EmptyImage", width=128, height=128, batch_size=1, color=number)
        chain.graph[chain.latent()[0]]["inputs"]["pixels"] = photo()
        _, sampler = chain.edit(blend_words="")
        chain.graph.save(chain.load(2), sampler(), "leaks")
        comfy.run(chain.graph)
        free(comfy)
        sizes.append(resident_kilobytes(comfy.process.pid) / 1024)
        tensors.append(comfy.get("/other_pack/tensors") / 2**20)
    # the least of some: after one run in five the allocator keeps 4 to 40 MB that it gives back after the next
    some = max(5, runs // 10)
    first, last = (min(part) for part in (sizes[warm_up : warm_up + some], sizes[-some:]))
    held, kept = tensors[warm_up], tensors[-1]
    return {"runs": runs, "megabytes_first": round(first, 1), "megabytes_last": round(last, 1),
            "growth": round(last / first - 1, 4), "megabytes_of_tensors": round(held, 2),
            "more_megabytes_of_tensors": round(kept - held, 2)}  # fmt: skip


def random_value(rng, kind, options):
    """A value for an input of a kind, mostly one that ComfyUI lets through to the node."""
    if rng.random() < 0.1:
        return rng.choice([*TEXTS, *NUMBERS])
    if kind == "STRING":
        return rng.choice(TEXTS)
    if kind == "BOOLEAN":
        return rng.random() < 0.5
    if kind in ("INT", "FLOAT"):
        low, high = options["min"], min(options["max"], max(options["min"], 3))
        return rng.randint(low, high) if kind == "INT" else rng.uniform(low, high)
    return rng.choice(options["options"] if kind == "COMBO" else kind)


def every_node(comfy):
    """A graph of all our nodes, each of which runs; a saved inversion is made for it where there is none."""
    chain = Chain(steps=1, inner_steps=1)
    g = chain.graph
    g.add(
        "NullInvSave", trajectory=chain.invert(1), prompt="x", filename_prefix="fuzz", null_embeddings=chain.optimize()
    )
    if not list((comfy.base / "output").glob("fuzz_*.safetensors")):
        comfy.run(g)
    plan, sampler = chain.edit("a green cat on a marble table")
    maps = g.add("NullInvAttentionMaps", attention=sampler(3), words="", edit=0)
    applied = g.add("NullInvApply", model=chain.load(), null_embeddings=chain.optimize())
    loaded = g.add("NullInvLoad", file="output/fuzz_00001.safetensors")
    again = g.add("NullInvP2PSampler", model=chain.load(), trajectory=loaded(0), edit=plan(), null_embeddings=loaded(1))
    for samples in (chain.ksampler(applied(), 7.5)(), chain.guided(chain.load())(), again()):
        g.add("SaveLatent", samples=samples, filename_prefix="fuzz")
    edited, photo = (g.add("VAEDecode", samples=s, vae=chain.load(2)) for s in (sampler(), chain.latent()))
    kept = g.add("NullInvKeepPhoto", photo=chain.scene(0), edited=edited(), reconstructed=photo())
    one = g.add(
        "NullInvEditPhoto", model=chain.load(), clip=chain.load(1), vae=chain.load(2), image=chain.scene(0),
        source_text=chain.scene(1), edit_text=chain.scene(2), strength=0.35, blend_words="", size=128, steps=1, cfg=7.5,
        keep_pixels=True,
    )  # fmt: skip
    g.add(
        "NullInvSaveBatchJob", edit=plan(), trajectory=chain.invert(1), filename_prefix="jobs/fuzz",
        null_embeddings=chain.optimize(),
    )  # fmt: skip
    for images in (maps(), kept(), one(1)):
        g.add("PreviewImage", images=images)
    return g


def random_graph(rng, whole, known):
    """A graph of all nodes with inputs at random: some values, some links, some that are left out.

    ``known``: ComfyUI's description of every node.
    """
    g = Graph(json.loads(json.dumps(whole)))
    plan = next(node for node in g.values() if node["class_type"] == "NullInvP2PEdit")
    if rng.random() < 0.5:
        texts = ["source_text", "edit_text", "blend_words", "exclude_words", "word_windows", "steady_words"]
        plan["inputs"][rng.choice(texts)] = rng.choice(TEXTS)
    ours = [node for node in g.values() if node["class_type"].startswith("NullInv")]
    for _ in range(rng.randrange(1, 5)):
        node = rng.choice(ours)
        described = known[node["class_type"]]["input"]
        inputs = {**described.get("required", {}), **described.get("optional", {})}
        name = rng.choice(list(inputs))
        kind, *more = inputs[name]
        if name in ("trajectory", "null_embeddings", "edit", "attention") or not (
            more and more[0].keys() - {"tooltip"}
        ):
            node["inputs"][name] = rng.choice([[rng.choice(list(g)), rng.randrange(4)], ["none", 0]])
        else:
            node["inputs"][name] = random_value(rng, kind, more[0])
    return g


def end_of(comfy, graph, most=120):
    """How a graph ends: run, refused by ComfyUI, or refused in words of ours; raises AssertionError for all else."""
    answer = comfy.post("/prompt", {"prompt": graph})
    if "prompt_id" not in answer:
        return "refused by ComfyUI"
    entry = comfy.finish(answer["prompt_id"], most)
    errors = [data for kind, data in entry["status"]["messages"] if kind == "execution_error"]
    for error in errors:
        kind, text = error["exception_type"], error["exception_message"].strip()
        if error["node_type"].startswith("NullInv"):
            assert kind.endswith(("InputError", "NonFiniteError")), f"{kind}: {text}"
            check_sentence(text)
    return "refused in words" if errors else "run"


def fuzz_nodes(comfy, count, seed=0):
    """How graphs with inputs at random end; each end and how often."""
    ends, whole, known = Counter(), every_node(comfy), comfy.get("/object_info")
    # parts of other nodes are reached through those
    ours = {name for name in known if name.startswith("NullInv") and not name.startswith("NullInvPart")}
    assert ours == {node["class_type"] for node in whole.values()} & ours
    comfy.run(whole)
    for case in range(count):
        try:
            ends[end_of(comfy, random_graph(random.Random(f"{seed} {case}"), whole, known))] += 1
        except AssertionError as error:
            raise AssertionError(f"case {case}: {error}") from error
    return dict(ends)


def main():
    """Run everything at full length and write the figures."""
    with tempfile.TemporaryDirectory() as folder:
        comfy = Server(Path(folder) / "comfyui")
        parts = {
            "memory runs out": lambda: faults(comfy, "memory"),
            "cancel": lambda: faults(comfy, "cancel"),
            "full disk": lambda: full_disk(comfy),
            "killed while saving": lambda: killed_saves(40),
            "broken files": lambda: broken_files(2000),
            "random inputs": lambda: fuzz_nodes(comfy, 1000),
            "memory of 100 runs": lambda: leaks(comfy, 100),
        }
        try:
            version = comfy.get("/system_stats")["system"]["comfyui_version"]
            found = {"comfyui": version, **environment()}
            for name, part in parts.items():
                started = time.monotonic()
                found[name] = part()
                print(f"{name}: {found[name]} ({time.monotonic() - started:.0f} s)", flush=True)
        finally:
            comfy.stop()
    memory = found["memory of 100 runs"]
    assert memory["growth"] < 0.02, "resident memory grows"
    assert memory["more_megabytes_of_tensors"] < 0.05, "tensors are left"
    RESULT.write_text(json.dumps(found, indent=1) + "\n")
    print(f"wrote {os.path.relpath(RESULT)}")


if __name__ == "__main__":
    main()
