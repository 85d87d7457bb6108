"""What mkdocs asks while it builds the site: pages and pictures from outside of ``docs``, and all their links.

The pages keep links that work where they lie, on a disk and in the repository. Here each one is turned into a link of
the site, or, where its target is no page, into one of the repository.
"""

from __future__ import annotations

import posixpath
import re
from html import escape
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "reporting.md",
    "nullinv_core/demo/model/README.md": "demo-model.md",
}
"""Pages outside of ``docs``, and where the site has them."""
FOLDERS = {"web/docs/": "nodes/"}
"""The same for every page and picture of a folder."""
PICTURES = (".jpg", ".png")
LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s]+)(\))")
MATH = re.compile(r"^```math\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def repository() -> str:
    """The repository's address, as pyproject.toml has it."""
    found = re.search(r'^Repository = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise ValueError("pyproject.toml names no repository under [project.urls]")
    return found[1]


def place_of(path: str) -> str | None:
    """Where the site has a file of the repository; None where it does not."""
    if path in PAGES:
        return PAGES[path]
    for folder, place in {**FOLDERS, "docs/": ""}.items():
        if path.startswith(folder) and not path.endswith(".py"):
            return place + path.removeprefix(folder)
    return f"pictures/{path}" if path.endswith(PICTURES) else None


def source_of(place: str) -> str:
    """The file of the repository that a page of the site is made of."""
    for path, its in PAGES.items():
        if its == place:
            return path
    for folder, its in FOLDERS.items():
        if place.startswith(its):
            return folder + place.removeprefix(its)
    return f"docs/{place}"


def moved(link: str, page: str) -> str:
    """A link of a page of the repository, as the page has it on the site."""
    target, _, anchor = link.partition("#")
    if not target or re.match(r"\w+:", link):
        return link
    path = posixpath.normpath(posixpath.join(posixpath.dirname(page), target))
    place, here = place_of(path), place_of(page)
    if place is None or here is None:
        kind = "tree" if (ROOT / path).is_dir() else "blob"
        return f"{repository()}/{kind}/main/{path}"
    return posixpath.relpath(place, posixpath.dirname(here) or ".") + (f"#{anchor}" if anchor else "")


def on_config(config: Any) -> Any:
    """Name the repository."""
    config.repo_url, config.repo_name = repository(), "Repository"
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages from outside, and every picture that a page shows."""
    outside = [*PAGES, *(p.relative_to(ROOT).as_posix() for f in FOLDERS for p in (ROOT / f).rglob("*") if p.is_file())]
    own = [source_of(file.src_uri) for file in files.documentation_pages()]
    for page in [*own, *(path for path in outside if path.endswith(".md"))]:
        for _, link, _ in LINK.findall((ROOT / page).read_text(encoding="utf-8")):
            path = posixpath.normpath(posixpath.join(posixpath.dirname(page), link))
            if path.endswith(PICTURES) and (ROOT / path).is_file():
                outside.append(path)
    for path in outside:
        place = place_of(path)
        if place is not None and files.get_file_from_path(place) is None:
            files.append(File.generated(config, place, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn the links of a page into those of the site, and its formulas into MathML."""
    source = source_of(page.file.src_uri)
    markdown = MATH.sub(lambda found: formula(found[1]), markdown)
    return LINK.sub(lambda found: found[1] + moved(found[2], source) + found[3], markdown)


def formula(tex: str) -> str:
    """A formula as a block of MathML, which browsers show by themselves."""
    return f'<div class="formula" title="{escape(" ".join(tex.split()))}">{convert(tex, display="block")}</div>\n'
