"""Run a script of this folder where every connection is refused: ``no_network.py SCRIPT [its arguments]``.

By ComfyUI's Python through launch.py. Without the switch that keeps Hugging Face's libraries offline in other tests.
"""

import os
import runpy
import socket
import sys
from pathlib import Path


def refuse(event, _):
    """Python's audit hook."""
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        raise RuntimeError(f"the network was asked: {event}")


os.environ.pop("HF_HUB_OFFLINE", None)
sys.addaudithook(refuse)
try:
    socket.getaddrinfo("localhost", 80)
except RuntimeError:
    pass
else:
    sys.exit("connections are not refused")
sys.argv = [str(Path(__file__).with_name(sys.argv[1])), *sys.argv[2:]]
runpy.run_path(sys.argv[0], run_name="__main__")
