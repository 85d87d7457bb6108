"""A real ComfyUI for the tests: found, started on a free port with our folder as a custom node, driven over HTTP."""

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

import websocket

from ..published import PACK, published_files
from .installation import find_comfyui, find_python

START_SECONDS = 180
UNDECODABLE = b"\xff"
"""A file name that is no text in UTF-8."""


class Server:
    """A running ComfyUI with what the registry's archive holds of this pack, and nothing else of it.

    ``base``: its temporary folder of inputs, outputs and custom nodes.
    """

    def __init__(self, base, packs=(), options=(), ours=True):
        """``packs``: folders of other packs, copied beside ours. ``options``: more of what ComfyUI is started with.
        ``ours``: whether our pack is there at all."""
        self.base = Path(base)
        self.comfyui = find_comfyui()
        nodes = self.base / "custom_nodes"
        nodes.mkdir(parents=True)
        for path in published_files() if ours else ():
            target = nodes / "null-text-inversion" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(PACK / path, target)
        for pack in (Path(__file__).with_name("other_pack"), *packs):
            shutil.copytree(pack, nodes / pack.name, ignore=shutil.ignore_patterns(".git"))
        for name in (
            "input",
            "output",
            "temp",
            "user",
            "models/diffusers",
            "models/checkpoints",
            "models/loras",
            "models/controlnet",
            "models/embeddings",
        ):
            (self.base / name).mkdir(parents=True, exist_ok=True)
        self._plant()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log = self.base / "server.log"
        self.process = subprocess.Popen(
            [find_python(self.comfyui), Path(__file__).with_name("launch.py"), self.comfyui, self.comfyui / "main.py",
             *shlex.split(os.environ.get("COMFYUI_ARGUMENTS", "--cpu")), "--preview-method", "latent2rgb",
             "--port", str(self.port), "--base-directory", self.base,
             "--disable-auto-launch", "--database-url", "sqlite:///:memory:", *options],
            stdout=self.log.open("w"), stderr=subprocess.STDOUT,
            env=environment(),
        )  # fmt: skip
        try:
            self._wait()
        except RuntimeError:
            self.stop()
            raise

    def _plant(self):
        """What a stranger's upload and a careless copy leave: files and a model folder whose names are no text.

        Every test runs beside them.
        """
        if sys.platform != "linux":
            # other systems take no such names
            return
        base = os.fsencode(self.base)
        for place in (b"output", b"input"):
            with open(os.path.join(base, place, UNDECODABLE + b".safetensors"), "xb"):
                pass
        folder = os.path.join(base, b"models", b"diffusers", UNDECODABLE)
        os.mkdir(folder)
        with open(os.path.join(folder, b"model_index.json"), "x") as file:
            file.write("{}")

    def _wait(self):
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise RuntimeError(f"ComfyUI ended at start:\n{self.text()[-3000:]}")
            try:
                self.get("/system_stats")
                return
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.5)
        raise RuntimeError(f"ComfyUI did not answer in {START_SECONDS} s:\n{self.text()[-3000:]}")

    def script(self, name, *arguments):
        """Run one of this folder's scripts in a ComfyUI process of its own; return what it printed."""
        return run_script(self.comfyui, Path(__file__).with_name(name), *arguments)

    def checkpoint(self, kind):
        """A full-size checkpoint with random weights in models/checkpoints, written when first asked for."""
        path = self.base / "models" / "checkpoints" / f"random-{kind}.safetensors"
        if not path.exists():
            self.script("random_models.py", kind, path)
        return path

    def text(self):
        """What the server has printed so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def url(self, path):
        return f"http://127.0.0.1:{self.port}{path}"

    def read(self, path):
        """The bytes that answer a GET."""
        with urllib.request.urlopen(self.url(path), timeout=30) as answer:
            return answer.read()

    def get(self, path):
        """The JSON answer to a GET."""
        return json.loads(self.read(path))

    def post(self, path, data):
        """The JSON answer to a POST; that of a refusal too."""
        request = urllib.request.Request(
            self.url(path), json.dumps(data).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as refusal:
            return json.loads(refusal.read())

    def queue(self, graph):
        """Queue an API-format graph; return its prompt id. Raises AssertionError where ComfyUI refuses a part of it."""
        answer = self.post("/prompt", {"prompt": graph})
        assert "prompt_id" in answer and not answer["node_errors"], json.dumps(answer, indent=1)
        return answer["prompt_id"]

    def watch(self, graph):
        """Queue a graph; yield what ComfyUI tells its page until the run ends: (kind, data), pictures as "preview"."""
        name = uuid.uuid4().hex
        socket = websocket.create_connection(f"ws://127.0.0.1:{self.port}/ws?clientId={name}", timeout=120)
        try:
            assert "prompt_id" in self.post("/prompt", {"prompt": graph, "client_id": name})
            kind = ""
            while kind not in ("execution_success", "execution_error", "execution_interrupted"):
                message = socket.recv()
                if isinstance(message, bytes):
                    yield "preview", message
                else:
                    told = json.loads(message)
                    kind = told["type"]
                    yield kind, told["data"]
        finally:
            socket.close()

    def finish(self, prompt_id, seconds=300):
        """Wait for a queued graph; return its history entry."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            history = self.get(f"/history/{prompt_id}")
            if prompt_id in history:
                return history[prompt_id]
            time.sleep(0.2)
        raise AssertionError(f"not finished after {seconds} s:\n{self.text()[-3000:]}")

    def run(self, graph, seconds=300):
        """Queue a graph and wait; raises AssertionError with the node's message where one failed."""
        entry = self.finish(self.queue(graph), seconds)
        assert entry["status"]["status_str"] == "success", error_of(entry)
        return entry

    def stop(self):
        """End the server by its pid."""
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def environment():
    """What a ComfyUI is started with: as at a user's, but some packs would install what they miss."""
    usual = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return {**usual, "HF_HUB_OFFLINE": "1", "PIP_NO_INDEX": "1"}


def run_script(comfyui, path, *arguments):
    """Run a script in a ComfyUI process of its own; return what it printed."""
    launch = Path(__file__).with_name("launch.py")
    done = subprocess.run(
        [find_python(comfyui), launch, comfyui, path, *map(str, arguments)],
        capture_output=True, text=True, timeout=600, check=False, env=environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def error_of(entry):
    """The message of the node that failed, or an empty text."""
    return "\n".join(
        f"{data['node_type']}: {data['exception_message']}"
        for kind, data in entry["status"]["messages"]
        if kind == "execution_error"
    )
