"""The house itself: functions of a size to be read, imports that go one way, short ways from a node to an equation."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = ROOT / "nullinv_core"
FILES = sorted(path for part in (CORE, ROOT / "nodes", ROOT / "benchmarks") for path in part.rglob("*.py"))
MOST_LINES, MOST_PARAMETERS = 60, 7
OF_OTHERS = {
    ("nullinv_core/backends/comfy/host.py", "sample"): "the parameters are ComfyUI's",
    ("benchmarks/reference.py", "null_text"): "the authors' code, transcribed",
    ("benchmarks/reference.py", "edit"): "the authors' code, transcribed",
}
"""What is longer or takes more, and why."""
FLOORS = (
    "nullinv_core", "nullinv_core/backends", "nullinv_core/batch", "nullinv_core/demo", "nullinv_core/cli", "nodes",
    "benchmarks",
)  # fmt: skip
"""From below; what lies on a floor imports nothing from above it."""
HOSTS = {"comfy", "diffusers"}
DOORS = ("nullinv_core/api.py", "nullinv_core/__main__.py")
"""What the package offers, and its command line: they look up."""
MEASURED = ("nullinv_core/scores/networks.py",)
"""Scores by other people's networks, which no backend knows."""
WAYS = {
    "invert": (
        ("nodes/inversion.py", "execute"), ("nullinv_core/backends/comfy/jobs.py", "invert_latent"),
        ("nullinv_core/inversion/invert.py", "invert"),
        ("nullinv_core/inversion/methods/fixed_point.py", "fixed_point"),
        ("nullinv_core/schedule.py", "ddim_inverse_step"),
    ),
    "optimize": (
        ("nodes/inversion.py", "execute"), ("nullinv_core/backends/comfy/jobs.py", "optimize"),
        ("nullinv_core/pipeline.py", "embedded"), ("nullinv_core/null_text/embedding.py", "embed"),
        ("nullinv_core/null_text/optimization.py", "optimize_null_text"), ("nullinv_core/schedule.py", "ddim_step"),
    ),
    "edit": (
        ("nodes/edit.py", "execute"), ("nullinv_core/backends/comfy/jobs.py", "sample_edit"),
        ("nullinv_core/pipeline.py", "sample"), ("nullinv_core/editing.py", "edit"),
        ("nullinv_core/editing.py", "step"),
        ("nullinv_core/schedule.py", "ddim_step"),
    ),
}  # fmt: skip
"""What calls what, from a node down to its equation."""


def name_of(path):
    return path.relative_to(ROOT).as_posix()


@cache
def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(path):
    """Every function of a file; of one in a class, whether it takes the object or the class itself."""
    methods = {f for node in ast.walk(tree_of(path)) if isinstance(node, ast.ClassDef) for f in node.body}
    return [(node, node in methods) for node in ast.walk(tree_of(path)) if isinstance(node, ast.FunctionDef)]


def parameters(function, method):
    """How many a function has, the object itself aside."""
    given = function.args
    static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in function.decorator_list)
    return len([*given.posonlyargs, *given.args, *given.kwonlyargs]) - (method and not static)


def test_a_function_is_read_on_one_screen_and_called_with_few_things():
    """Guards readers: at most 60 lines and seven parameters, but where others say how a function is called."""
    found, exceptions = [], set()
    for name, function, method in ((name_of(path), *one) for path in FILES for one in functions(path)):
        lines, count = function.end_lineno - function.lineno + 1, parameters(function, method)
        if lines <= MOST_LINES and (count <= MOST_PARAMETERS or is_called_by_name(name, function)):
            continue
        exceptions.add((name, function.name))
        found.append(f"{name}, {function.name}: {lines} lines, {count} parameters")
    assert exceptions == set(OF_OTHERS), found


def is_called_by_name(name, function):
    """Whether a framework calls a function: a node's execute, or a command, whose options come behind a star."""
    node, command = name.startswith("nodes/"), name.startswith("nullinv_core/cli/")
    return (node and function.name == "execute") or (command and bool(function.args.kwonlyargs))


def imports(path, lazy):
    """Files of ours that a file imports when it is loaded; with ``lazy`` those that it imports later too."""
    found, skipped = set(), set()
    for node in ast.walk(tree_of(path)):
        typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if typing or (not lazy and isinstance(node, ast.FunctionDef)):
            skipped |= {id(inner) for part in node.body for inner in ast.walk(part)}
        if isinstance(node, ast.ImportFrom) and id(node) not in skipped:
            found |= set(targets(path, node))
    return found - {path}


def targets(path, node):
    """Files that an import statement loads; none of other packages."""
    if node.level:
        base = path.parents[node.level - 1]
    elif (node.module or "").split(".")[0] in ("nullinv_core", "benchmarks"):
        base = ROOT
    else:
        return
    base = base.joinpath(*(node.module or "").split(".")) if node.module else base
    for name in node.names:
        inside = base / f"{name.name}.py", base / name.name / "__init__.py"
        beside = base.with_suffix(".py"), base / "__init__.py"
        yield from [place for place in (*inside, *beside) if place.is_file()][:1]


def test_no_import_goes_round():
    """Guards loading, in any order: nothing that a file imports when it is loaded comes to import that file."""
    graph, done = {path: imports(path, lazy=False) for path in FILES}, set()

    def walk(path, way):
        assert path not in way, " -> ".join(name_of(one) for one in [*way[way.index(path) :], path])
        if path not in done:
            for following in sorted(graph.get(path, ())):
                walk(following, [*way, path])
            done.add(path)

    for path in FILES:
        walk(path, [])
    assert len(done) == len(FILES) > 150


def floor_of(path):
    name = name_of(path)
    return max(number for number, floor in enumerate(FLOORS) if name.startswith(f"{floor}/"))


def test_no_import_goes_upwards():
    """Guards the floors: the core knows no backend, a backend no command and no node, and no backend the other."""
    found = []
    for path in FILES:
        reached = imports(path, lazy=True)
        if name_of(path) not in DOORS:
            found += [f"{name_of(path)} -> {name_of(one)}" for one in reached if floor_of(one) > floor_of(path)]
        for host in HOSTS & set(path.parts):
            others = HOSTS - {host}
            found += [f"{name_of(path)} -> {name_of(one)}" for one in reached if others & set(one.parts)]
    assert found == []


def packages(path, when_loaded=False):
    """Names of the packages of others that a file imports at any time, types too; or just when it is loaded."""
    imported = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Import | ast.ImportFrom)]
    inner = {
        id(node)
        for part in ast.walk(tree_of(path))
        if isinstance(part, ast.FunctionDef) or (isinstance(part, ast.If) and "TYPE_CHECKING" in ast.unparse(part.test))
        for node in ast.walk(part)
    }
    names = [
        name
        for node in imported
        if not (when_loaded and id(node) in inner)
        for name in ([one.name for one in node.names] if isinstance(node, ast.Import) else [node.module or ""])
        if isinstance(node, ast.Import) or not node.level
    ]
    return {name.split(".")[0] for name in names}


def test_backends_alone_know_a_framework():
    """Guards the core, which works with any host, and ComfyUI's start, which loads every node: a backend knows its own
    framework, and the nodes load nothing heavy."""
    frameworks = {"comfy", "comfy_api", "comfy_execution", "server", "folder_paths", "latent_preview", "diffusers",
                  "transformers"}  # fmt: skip
    found = []
    for path in FILES:
        name, known = name_of(path), packages(path) & frameworks
        if name.startswith(("nullinv_core/backends/comfy", "nodes/")):
            found += [(name, one) for one in known & {"diffusers", "transformers"}]
        elif name.startswith("nullinv_core/backends/"):
            found += [(name, one) for one in known - {"diffusers", "transformers"}]
        elif name.startswith("nullinv_core/") and "/demo/training/" not in name and name not in MEASURED:
            found += [(name, one) for one in known]
    with_nodes = [ROOT / "__init__.py", *(ROOT / "nodes").glob("*.py")]
    for path in with_nodes:
        with_nodes += imports(path, lazy=False) - set(with_nodes)
        heavy = {"torch", "numpy", "PIL", "safetensors", "diffusers", "transformers"}
        found += [(name_of(path), one) for one in packages(path, when_loaded=True) & heavy]
    assert CORE / "settings.py" in with_nodes and found == [], found
    assert "comfy" in packages(CORE / "backends" / "comfy" / "host.py")


def test_double_precision_is_the_processor_s():
    """Guards Apple's and Intel's GPUs, of which many have no float64: numbers go to the CPU first."""
    calls = [
        (name_of(path), ast.unparse(node))
        for path in FILES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "double"
    ]
    there = (".cpu().double()", ".to('cpu', torch.float32).double()")
    assert len(calls) > 4 and [one for one in calls if not one[1].endswith(there)] == []


def room_of(name):
    """The room of a file: a folder of the core or of a backend, or a file of the core's own."""
    parts = name.split("/")
    return "/".join(parts[: 3 if parts[1] == "backends" else 2])


@pytest.mark.parametrize("way", WAYS)
def test_a_node_is_at_most_five_rooms_from_its_equation(way):
    """Guards the way that one goes to read: each function calls the next one, or finds it in its table."""
    for (file, name), (beneath, called) in zip(WAYS[way], WAYS[way][1:], strict=False):
        bodies = [ast.unparse(one) for one, _ in functions(ROOT / file) if one.name == name]
        table = "METHODS[method]" if "/methods/" in beneath else f"{called}("
        assert any(table in body for body in bodies), f"{file} does not lead to {beneath}"
    rooms = list(dict.fromkeys(room_of(file) if file.startswith("nullinv") else "nodes" for file, _ in WAYS[way]))
    assert len(rooms) <= 5, rooms
