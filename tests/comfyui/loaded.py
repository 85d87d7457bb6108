"""What loading the pack, and asking its nodes for their inputs, loads of other packages: ``loaded.py FOLDER``.

By ComfyUI's Python through launch.py. Prints a JSON list of names. What ComfyUI's own interface has loaded by then,
torch among it, costs nothing more and is left out.
"""

import asyncio
import importlib.util
import json
import sys
from pathlib import Path

from comfy_api.latest import io  # noqa: F401


async def load(folder):
    """Do what ComfyUI does with a pack at its start."""
    spec = importlib.util.spec_from_file_location("the_pack", folder / "__init__.py")
    sys.modules[spec.name] = pack = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pack)
    for node in await (await pack.comfy_entrypoint()).get_node_list():
        node.GET_SCHEMA()


before = set(sys.modules)
asyncio.run(load(Path(sys.argv[1])))
roots = {name.partition(".")[0] for name in sys.modules.keys() - before}
print(json.dumps(sorted(roots - set(sys.stdlib_module_names))))
