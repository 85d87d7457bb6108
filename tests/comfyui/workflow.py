"""Turn a graph in ComfyUI's API format into the UI format that its page loads."""

GAP_X, GAP_Y = 60, 40
SHOWN = {
    "PreviewImage": 240, "SaveImage": 240, "PreviewAny": 160, "NullInvDDIMInvert": 220, "NullInvOptimize": 220,
    "NullInvP2PSampler": 220, "NullInvEditPhoto": 220, "KSamplerAdvanced": 220, "SamplerCustomAdvanced": 220,
}  # fmt: skip
"""Pixels below a node's widgets for the picture that it shows while it works, or after."""
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}


def columns_of(graph):
    """Depth of every node: one more than that of its deepest input."""
    depth = {}

    def visit(key):
        if key not in depth:
            links = [v[0] for v in graph[key]["inputs"].values() if isinstance(v, list)]
            depth[key] = 1 + max((visit(link) for link in links), default=-1)
        return depth[key]

    for key in graph:
        visit(key)
    return depth


def is_widget(spec):
    """Whether an input of a node's description is a widget that a link may replace."""
    return (isinstance(spec[0], list) or spec[0] in WIDGETS) and not (len(spec) > 1 and spec[1].get("forceInput"))


def widget_values(inputs, specs):
    """Values in the order of the widgets; a seed is followed by what happens to it after a run."""
    values = []
    for name, spec in specs.items():
        if is_widget(spec):
            value = inputs.get(name)
            options = spec[1] if len(spec) > 1 else {}
            values.append(options.get("default", "") if value is None or isinstance(value, list) else value)
            if options.get("control_after_generate") or name in ("seed", "noise_seed"):
                values.append("fixed")
    return values


def ui_format(graph, info, titles=None, notes=()):
    """The UI-format document of an API-format ``graph``; ``info``: ComfyUI's /object_info.

    ``titles``: names of nodes by id. ``notes``: Markdown texts that stand above the graph.
    """
    depth, nodes, links = columns_of(graph), {}, []
    heights: dict[int, float] = {}
    for key, node in graph.items():
        described = info[node["class_type"]]
        specs = {**described["input"].get("required", {}), **described["input"].get("optional", {})}
        values = widget_values(node["inputs"], specs)
        rows = max(len(specs) - len(values), len(described["output"])) + len(values)
        tall = sum(90 for s in specs.values() if len(s) > 1 and isinstance(s[1], dict) and s[1].get("multiline"))
        height = 60 + 24 * rows + tall + SHOWN.get(node["class_type"], 0)
        top = heights.get(depth[key], 0)
        heights[depth[key]] = top + height + GAP_Y
        inputs = []
        for name, spec in specs.items():
            linked = isinstance(node["inputs"].get(name), list)
            if linked or not is_widget(spec):
                entry = {"name": name, "type": "COMBO" if isinstance(spec[0], list) else spec[0], "link": None}
                inputs.append(entry | ({"widget": {"name": name}} if is_widget(spec) else {}))
        nodes[key] = {
            "id": int(key), "type": node["class_type"], "pos": [depth[key] * (320 + GAP_X), top],
            "size": [320, height], "flags": {}, "order": depth[key], "mode": 0, "inputs": inputs,
            "outputs": [
                {"name": name, "type": kind, "links": [], "slot_index": slot}
                for slot, (name, kind) in enumerate(zip(described["output_name"], described["output"], strict=True))
            ],
            "properties": {"Node name for S&R": node["class_type"]}, "widgets_values": values,
        }  # fmt: skip
        if titles and key in titles:
            nodes[key]["title"] = titles[key]
    for key, node in graph.items():
        for slot, entry in enumerate(nodes[key]["inputs"]):
            value = node["inputs"].get(entry["name"])
            if isinstance(value, list):
                number = len(links) + 1
                source = nodes[value[0]]["outputs"][value[1]]
                source["links"].append(number)
                entry["link"] = number
                links.append([number, int(value[0]), value[1], int(key), slot, source["type"]])
    first = max(map(int, graph)) + 1
    stands = [
        {
            "id": first + i, "type": "MarkdownNote", "pos": [i * 440, -200], "size": [420, 160], "flags": {},
            "order": 0, "mode": 0, "inputs": [], "outputs": [], "properties": {}, "widgets_values": [note],
        }
        for i, note in enumerate(notes)
    ]  # fmt: skip
    return {
        "last_node_id": first + len(stands), "last_link_id": len(links), "nodes": [*nodes.values(), *stands],
        "links": links, "groups": [], "config": {}, "extra": {}, "version": 0.4,
    }  # fmt: skip
