"""What people read: README, documentation, help pages. Their links, lengths and words, and what is made from code."""

import ast
import inspect
import json
import re
from pathlib import Path

import pytest
import torch

from benchmarks.batch_folder import write_folder
from benchmarks.common import read_records
from benchmarks.edit_methods import METHODS
from benchmarks.edit_quality import complete
from benchmarks.edit_report import overview, row_from
from benchmarks.edit_run import cells_of
from docs import options
from nullinv_core.batch.jobs import Defaults, read_jobs
from nullinv_core.cli.demo import demo
from nullinv_core.demo.looks import COLOURS, MATERIALS
from nullinv_core.demo.objects import OBJECTS
from nullinv_core.demo.places import PLACES
from nullinv_core.demo.run import demo_case
from nullinv_core.files.inversion_file import FIELDS
from nullinv_core.prompt_to_prompt.kinds import KINDS
from nullinv_core.settings import EDIT, KIND, NODES, EditSettings

from ..published import PACK

HELP = sorted((PACK / "web" / "docs").glob("*.md"))
DECISIONS = sorted((PACK / "docs" / "decisions").glob("*.md"))
PAGES = sorted(
    [*PACK.glob("*.md"), *(PACK / "docs").rglob("*.md"), *HELP, *(PACK / "nullinv_core" / "demo").rglob("*.md")]
)
FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"`[^`\n]*`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
PAPER_WORDS = re.compile(r"∅|\bpivot", re.IGNORECASE)
STIFF = re.compile(r"\b(?:shall|anew|reckon\w*|refused in words|whereof|thereof)\b", re.IGNORECASE)
"""Words that nobody says."""


def name(page):
    return page.relative_to(PACK).as_posix()


def prose(page):
    """A page without its code."""
    return CODE.sub("``", FENCE.sub("", page.read_text(encoding="utf-8")))


def anchors(page):
    """The anchors of a page's headings, as repositories and sites make them of plain headings."""
    headings = re.findall(r"^#{1,6} +(.+?)\s*$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    texts = [re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    found = [re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in texts]
    return {f"{slug}-{found[:i].count(slug)}" if slug in found[:i] else slug for i, slug in enumerate(found)}


def links(page):
    """Links of a page that stay in the repository."""
    return [link for link in LINK.findall(prose(page)) if not re.match(r"[a-z]+:", link)]


def broken(page):
    """Links of a page that lead nowhere: no such file, or no such heading."""
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        there = target.exists() and PACK in target.parents
        if not there or (anchor and (target.suffix != ".md" or anchor not in anchors(target))):
            yield link


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_and_anchor_leads_somewhere(page):
    """Guards readers: each relative link of a page leads to a file, each anchor to a heading."""
    assert list(broken(page)) == []


def test_the_check_of_links_finds_what_is_broken(tmp_path, monkeypatch):
    """Guards the check itself: missing files, missing headings and files outside are found, good ones are not."""
    monkeypatch.setattr(f"{__name__}.PACK", tmp_path)
    (tmp_path / "other.md").write_text("# One thing\n\n## Two, `things`!\n\n## One thing\n", encoding="utf-8")
    good = "[a](other.md#one-thing) [b](#here) ![c](other.md) [d](https://x.org) [e](other.md#two-things) `[f](no.md)`"
    bad = ["no.md", "other.md#three", "../out.md", "#there"]
    page = tmp_path / "page.md"
    page.write_text(f"# Here\n{good}\n" + "".join(f"[x]({link})\n" for link in bad), encoding="utf-8")
    assert list(broken(page)) == bad
    assert len(PAGES) > 50 and sum(len(links(page)) for page in PAGES) > 150


def test_help_pages_link_to_pictures_alone():
    """Guards help in ComfyUI, which shows one page and serves that folder alone."""
    found = [f"{name(page)}: {link}" for page in HELP for link in links(page) if not link.startswith("images/")]
    assert len(HELP) > 10 and found == []


def sockets(node):
    """(node id, names of its inputs and outputs) of a class in ``nodes``, as far as they are written there."""
    calls = [call for call in ast.walk(node) if isinstance(call, ast.Call)]
    words = [(call, word.arg, word.value) for call in calls for word in call.keywords]
    ids = [value.value for _, key, value in words if key == "node_id"]
    outputs = [value.value for call, key, value in words if key == "display_name" and kind_of(call) == "Output"]
    firsts = [call.args[0] for call in calls if call.args and kind_of(call) == "Input"]
    return ids, outputs + [first.value for first in firsts if isinstance(first, ast.Constant)]


def kind_of(call):
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def test_help_pages_name_every_input_and_output():
    """Guards help in ComfyUI: a page has each socket that its node is written with."""
    named = 0
    for path in (PACK / "nodes").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            ids, names = sockets(node) if isinstance(node, ast.ClassDef) else ([], [])
            for page in (PACK / "web" / "docs" / f"{node_id}.md" for node_id in ids):
                if page.exists():
                    text = page.read_text(encoding="utf-8")
                    assert [word for word in names if not re.search(rf"\b{word}\b", text)] == [], name(page)
                    named += len(names)
    assert named > 40


def test_files_that_pages_name_are_there():
    """Guards contributors: each file of ours that a page names in its text exists."""
    pattern = re.compile(r"`((?:nullinv_core|nodes|tests|benchmarks|docs|web|workflows)/[\w./-]+)`")
    named = [(page, path) for page in PAGES for path in pattern.findall(page.read_text(encoding="utf-8"))]
    assert len(named) > 20
    assert [f"{name(page)}: {path}" for page, path in named if not (PACK / path).exists()] == []


def test_commands_that_pages_name_are_there():
    """Guards readers: each module to run exists, and each target of make."""
    targets = set(re.findall(r"^([\w-]+):", (PACK / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        asked = re.findall(r"(?:^|`)make ([a-z][\w-]*)", text, re.MULTILINE)
        assert set(asked) <= targets, name(page)
        for module in re.findall(r"-m ((?:nullinv_core|benchmarks|docs|tests)[\w.]*)", text):
            path = PACK / module.replace(".", "/")
            assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), f"{name(page)}: {module}"


def test_the_readme_is_short_and_has_what_a_newcomer_needs():
    """Guards the first page: at most 700 words as a reader sees them, tables and code too; a picture; commands."""
    readme = (PACK / "README.md").read_text(encoding="utf-8")
    seen = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", readme)
    assert len(re.findall(r"[\w'’./-]*\w[\w'’./-]*", seen)) <= 700
    assert len(re.findall(r"!\[", readme)) == 1
    for command in ("git clone --depth 1 ", "make demo", "make test"):
        assert command in readme


def test_the_recipes_are_those_of_their_picture():
    """Guards the README's recipes: the picture was drawn with the strength and the words that the table names."""
    source = (PACK / "docs" / "recipes.py").read_text(encoding="utf-8")
    found = (node for node in ast.parse(source).body if isinstance(node, ast.Assign))
    recipes = next(ast.literal_eval(node.value) for node in found if node.targets[0].id == "RECIPES")
    readme = (PACK / "README.md").read_text(encoding="utf-8")
    for title, (_, _, strength, words) in recipes.items():
        (row,) = re.findall(rf"^\| {title.split(':')[0]} \|.*$", readme, re.MULTILINE)
        *_, shown, blend, _ = (cell.strip() for cell in row.split("|"))
        assert float(shown) == strength and blend.startswith(", ".join(words) or "empty"), title


def test_the_options_page_is_what_the_command_line_says():
    """Guards docs/command-line.md: its tables are those of --help, for every command."""
    page = options.PAGE.read_text(encoding="utf-8")
    assert options.page(page) == page, "python -m docs.options"
    commands = set(re.findall(r"^## Options of `(\w+)`", page, re.MULTILINE))
    assert commands == set(re.findall(r"<!-- options of (\w+) -->", page)) == set(options.commands())


@pytest.mark.parametrize("page", options.pages(), ids=name)
def test_the_tables_of_settings_are_what_is_declared(page):
    """Guards help pages: their tables are made from the settings, and every node that has settings has one."""
    text = page.read_text(encoding="utf-8")
    assert options.page(text) == text, "python -m docs.options"
    assert page == options.PAGE or f"<!-- settings of {page.stem} -->" in text


SAID_OF = {"add": "add a thing", "remove": "remove a thing", "background": "another place"}


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {KIND.default}))
def test_the_guides_name_the_settings_of_a_kind(kind):
    """Guards the rows of P2P Edit that do what a *kind* of Edit Photo does: each number as the code has it."""
    usual, own = EditSettings(), KINDS[kind].settings
    wanted = {f"*{one.name}* {getattr(own, one.name):g}" for one in EDIT
              if one.kind in ("float", "window") and getattr(own, one.name) != getattr(usual, one.name)}  # fmt: skip
    rows = {
        page: re.findall(rf"^\| {SAID_OF[kind]}\b.*$", (PACK / page).read_text(encoding="utf-8"), re.MULTILINE)
        for page in ("docs/editing.md", "web/docs/NullInvP2PEdit.md")
    }
    for page, (row, *others) in rows.items():
        assert not others and set(re.findall(r"\*\w+\* [\d.]+", row)) == wanted, page
    page = (PACK / "web" / "docs" / "NullInvEditPhoto.md").read_text(encoding="utf-8")
    assert all(one in " ".join(page.split()) for one in wanted)


def test_every_decision_is_short_and_listed():
    """Guards docs/decisions: at most 200 words, what, why, measured, when to think again; none is lost."""
    index = (PACK / "docs" / "decisions" / "README.md").read_text(encoding="utf-8")
    records = [page for page in DECISIONS if page.name != "README.md"]
    assert len(records) > 15
    for page in records:
        text = page.read_text(encoding="utf-8")
        parts = re.findall(r"^\*\*(What|Why|Measured|Think again when)\b", text, re.MULTILINE)
        assert parts == ["What", "Why", "Measured", "Think again when"], name(page)
        assert len(text.split()) <= 200 and f"({page.name})" in index, name(page)


def test_the_site_has_every_page():
    """Guards mkdocs.yml: each page is in the menu, and each entry of the menu is a page."""
    yaml = pytest.importorskip("yaml")
    # what is named by a hook is not there yet
    entries = str(yaml.safe_load((PACK / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    listed = set(re.findall(r"'([\w/-]+\.md)'", entries))
    own = {page.relative_to(PACK / "docs").as_posix() for page in (PACK / "docs").glob("*.md")}
    outside = {"index.md", "contributing.md", "changelog.md", "reporting.md", "demo-model.md", "decisions/README.md"}
    assert listed == own | outside | {f"nodes/{page.name}" for page in HELP}


def spoken():
    """(where, text) of what people meet: pages, tooltips, help of the command line."""
    for page in PAGES:
        yield name(page), prose(page)
    for path in (PACK / "nodes").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for word in node.keywords if isinstance(node, ast.Call) else ():
                if word.arg in ("tooltip", "description"):
                    yield name(path), ast.unparse(word.value)
    for node, settings in NODES.items():
        yield from ((f"{node}: {setting.name}", setting.tooltip) for setting in settings)
    for command, found in options.commands().items():
        yield command, " ".join([found.help or "", *(option.help or "" for option in found.params)])


def test_words_are_those_that_people_use():
    """Guards readers: no stiff words anywhere, and the paper's own words only where the paper is explained."""
    pages = ("concepts", "results", "experiments", "inversion-file", "decisions")
    explained = ("CONTRIBUTING.md", *(f"docs/{page}" for page in pages))
    texts = list(spoken())
    assert len(texts) > 150
    for where, text in texts:
        assert not STIFF.findall(text), where
        assert where.startswith(explained) or not PAPER_WORDS.findall(text), where


def test_pre_commit_checks_what_make_lint_checks():
    """Guards habits: the same programs before a commit as in CI, in the versions of .venv."""
    yaml = pytest.importorskip("yaml")
    (repository,) = yaml.safe_load((PACK / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    entries = {hook["entry"].replace(" --force-exclude", "").removeprefix(".venv/bin/") for hook in repository["hooks"]}
    makefile = (PACK / "Makefile").read_text(encoding="utf-8")
    lint = re.findall(r"^\t\$\(BIN\)/(.+)$", makefile.split("\nlint:")[1].split("\n\n")[0], re.MULTILINE)
    assert entries == {command.removesuffix(" .") for command in lint}


def test_what_builds_the_site_is_pinned():
    """Guards make docs: each package it asks for has a version in constraints.txt."""
    pinned = {line.split("==")[0] for line in Path(PACK / "constraints.txt").read_text(encoding="utf-8").splitlines()}
    assert set((PACK / "requirements-docs.txt").read_text(encoding="utf-8").split()) <= pinned


def rows_of(page, start):
    """Cells of the rows of a page's table that begins so."""
    text = (PACK / page).read_text(encoding="utf-8")
    return rows_in(text[text.index(start) :].partition("\n\n")[0])


def rows_in(table):
    """Cells of a table's rows."""
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table.splitlines()[2:]]


def test_the_readme_quotes_what_was_measured():
    """Guards the README's results against the files that the benchmarks wrote."""
    results = PACK / "benchmarks" / "results"
    scenes = json.loads((results / "demo_scenes.json").read_text())["summary"]
    speed = {
        line.split(" | ")[0].removeprefix("| ").split(" (")[0]: line.split(" | ")[2].split(" (")[0]
        for line in (results / "speed.md").read_text().splitlines()
    }
    about, edits = edits_of_the_benchmark()
    (reconstructed, many, at_best, seconds) = rows_of("README.md", "| | this | compare |")
    assert reconstructed[1:] == [
        f"{scenes['psnr_null_text']:.1f} dB",
        f"the autoencoder alone {scenes['psnr_autoencoder']:.1f}, plain DDIM inversion {scenes['psnr_ddim']:.1f}",
    ]
    count = int(re.search(r"(\d+) scenes", many[0])[1])
    seen = [row for row in edits if row.photo_kept and int(row.task) < 40_000 + count]

    def right(method, guidance):
        own = [row for row in seen if (row.method, row.guidance) == (method, guidance)]
        assert len(own) == count
        return sum(row.scores.right for row in own)

    assert many[1:] == [f"{right('fast', 7.5)} of {count}", f"preset `paper` {right('paper', 7.5)}"]
    best = {method: right(method, guidance) for method, guidance in about["tuned"].items()}
    others = max(number for method, number in best.items() if method != "fast")
    assert at_best[1:] == [
        f"{best['fast']} of {count}", f"preset `paper` {best['paper']}, the best other method {others}"
    ]  # fmt: skip
    assert seconds[1:] == [speed["fast"], f"preset `paper` {speed['paper']}"]


def edits_of_the_benchmark():
    """What was reported last, and all rows of its methods and guidances that are there, in the order of its tables."""
    folder = PACK / "benchmarks" / "results" / "edit_quality"
    about = json.loads((folder / "edit_quality.json").read_text(encoding="utf-8"))
    cells = cells_of(list(METHODS), [7.5, about["tuned"]])
    rows = [row_from(record) for record in read_records(folder / "edit_quality.jsonl")[1]]
    last = {(row.method, row.guidance, row.photo_kept, row.task): row for row in rows}
    known = [row for row in last.values() if (row.method, row.guidance) in cells]
    return about, sorted(known, key=lambda row: (cells.index((row.method, row.guidance)), row.photo_kept, row.task))


def test_the_results_page_has_the_benchmark_s_own_table():
    """Guards docs/results.md: a figure that was copied by hand, is not that of the rows, or is of fewer scenes than
    were reported."""
    about, rows = edits_of_the_benchmark()
    whole = complete(rows)
    tasks = sorted({row.task for row in whole})[: about["edits"]]
    table = overview([row for row in whole if row.task in tasks], 7.5, about["tuned"])
    for page in ("docs/results.md", "benchmarks/results/edit_quality/edit_quality.md"):
        assert rows_of(page, "| right of") == rows_in(table)
        assert f"| right of {len(tasks)}, kept, gain in dB |" in (PACK / page).read_text(encoding="utf-8")
    assert len(tasks) == about["edits"]


def test_the_page_of_the_inversion_file_lists_its_fields():
    """Guards the format, which every later version reads: the page's tensors, axes and types are the code's."""
    listed = {}
    for names, axes, types, *_ in rows_of("docs/inversion-file.md", "| tensor |"):
        kinds = types.split(", ")
        for number, one in enumerate(names.replace("`", "").split(", ")):
            listed[one] = axes.replace(", ", " "), kinds[min(number, len(kinds) - 1)]
    assert set(listed) == set(FIELDS)
    spoken = {"float": "float32", "integer": "int64"}
    for field, (axes, kind) in listed.items():
        assert axes == FIELDS[field].axes and getattr(torch, spoken.get(kind, kind)) in FIELDS[field].types, field


def test_pages_give_the_demo_picture_its_own_text():
    """Guards what people copy: the picture of make demo is inverted with what it shows."""
    photo, edit = demo_case(inspect.signature(demo).parameters["seed"].default).captions
    for page in ("command-line.md", "python.md"):
        text = (PACK / "docs" / page).read_text(encoding="utf-8")
        assert f'"{photo}"' in text and f'"{edit}"' in text, page


def test_the_demo_model_s_words_are_listed():
    """Guards people's own edits of the demo scene: another word gives rubbish."""
    listed = dict(rows_of("web/docs/NullInvDemoScene.md", "| | |"))
    assert listed["toys"].split(", ") == list(OBJECTS) and listed["colours"].split(", ") == list(COLOURS)
    assert listed["places"].split(", ") == [place.phrases[0] for place in PLACES.values()]
    assert {*listed["materials"].partition(";")[0].split(", "), "clay"} == set(MATERIALS)


def test_a_folder_can_be_tried_as_its_page_says(tmp_path):
    """Guards docs/data-set.md: the command makes a list that is read, and names that the page goes on with."""
    page = (PACK / "docs" / "data-set.md").read_text(encoding="utf-8")
    assert "-m benchmarks.batch_folder --out clay --pictures 8" in page and "batch clay/list.csv" in page
    found = read_jobs(write_folder(tmp_path, range(8)), Defaults())
    assert len(found.jobs) == 8 and all(found.path(job).is_file() for job in found.jobs)
    assert set(re.findall(r"clay-edited/inversions/(\S+?)\.safetensors", page)) <= {job.name for job in found.jobs}
