"""Entry point that ComfyUI imports. The nodes are not built yet: this version is a library and a command line."""

NODE_CLASS_MAPPINGS: dict[str, type] = {}
