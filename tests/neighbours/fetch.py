"""Fetch the sources of the packs, each at its commit: ``python -m tests.neighbours.fetch FOLDER``. Needs git."""

import subprocess
import sys
from pathlib import Path

from .packs import PACKS


def fetch(repository, commit, folder):
    """The files of a commit, in ``folder``; nothing where they are there."""

    def git(*arguments):
        subprocess.run(["git", "-C", folder, *arguments], check=True)

    if (folder / ".git").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    git("init", "--quiet")
    git("fetch", "--quiet", "--depth", "1", f"https://github.com/{repository}", commit)
    git("checkout", "--quiet", "FETCH_HEAD")


if __name__ == "__main__":
    for pack in PACKS:
        place = Path(sys.argv[1]) / pack.folder
        for inside, repository, commit in (("", pack.repository, pack.commit), *pack.inside):
            fetch(repository, commit, place / inside)
