"""The files that the registry's archive holds: those of ``.comfyignore``'s choice."""

import os
from pathlib import Path

from pathspec import GitIgnoreSpec

PACK = Path(__file__).parents[1]


def published_files():
    """Paths in the pack, with /, sorted: all files but what ``.gitignore`` or ``.comfyignore`` leaves out."""
    rules = [GitIgnoreSpec.from_lines((PACK / name).open(encoding="utf-8")) for name in (".gitignore", ".comfyignore")]
    found = []

    def goes(path):
        return not any(rule.match_file(path) for rule in rules)

    for folder, folders, names in os.walk(PACK):
        here = Path(folder).relative_to(PACK)
        folders[:] = [name for name in folders if name != ".git" and goes((here / name).as_posix() + "/")]
        found += [path for name in names if goes(path := (here / name).as_posix())]
    return sorted(found)
