"""Scores as tables: in Markdown, in LaTeX (booktabs), and all in one CSV with a line for each figure."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from math import isfinite

from .rules import Rule
from .score import COLUMNS, Scored
from .statistics import holm, interval, paired_p

ALL = "all"
"""The kind that stands for every kind."""


@dataclass(frozen=True)
class Mean:
    """A figure's mean over ``count`` pictures with its 95 % interval. ``against``: the other method, if it is a mean of
    differences; then with its p-value, and that corrected for the number of all those tests."""

    method: str
    kind: str
    figure: str
    mean: float
    low: float
    high: float
    count: int
    against: str = ""
    p: float | None = None
    p_holm: float | None = None


@dataclass(frozen=True)
class Table:
    """A table of texts."""

    title: str
    head: Sequence[str]
    lines: Sequence[Sequence[str]]


def means(rows: Sequence[Scored]) -> list[Mean]:
    """Every method's mean of every figure, of all kinds of edit and of each."""
    kinds = [ALL, *dict.fromkeys(row.kind for row in rows)]
    found = []
    for method in dict.fromkeys(row.method for row in rows):
        for kind in kinds:
            own = [row for row in rows if row.method == method and kind in (ALL, row.kind)]
            for figure in figures_of(own):
                values = [row.figures[figure] for row in own if figure in row.figures]
                found.append(Mean(method, kind, figure, *interval(values), len(values)))
    return found


def differences(rows: Sequence[Scored]) -> list[Mean]:
    """Every two methods on the pictures where both have a figure: by how much the first has more. A pair that differs
    infinitely is left out; where both are infinite they are alike."""
    by_method: dict[str, dict[str, Scored]] = {}
    for row in rows:
        by_method.setdefault(row.method, {})[row.edit] = row
    found = []
    for first, second in combinations(by_method, 2):
        for figure in figures_of(rows):
            pairs = [(row.figures.get(figure), by_method[second].get(edit)) for edit, row in by_method[first].items()]
            own = [
                0.0 if mine == other.figures[figure] else mine - other.figures[figure]
                for mine, other in pairs
                if mine is not None and other is not None and figure in other.figures
                and (mine == other.figures[figure] or isfinite(mine - other.figures[figure]))
            ]  # fmt: skip
            if own:
                found.append(Mean(first, ALL, figure, *interval(own), len(own), second, paired_p(own)))
    corrected = holm([one.p or 0.0 for one in found])
    return [Mean(**{**asdict(one), "p_holm": p}) for one, p in zip(found, corrected, strict=True)]


def figures_of(rows: Sequence[Scored]) -> list[str]:
    """The figures that any row has, in the order of ``COLUMNS``."""
    there = {name for row in rows for name in row.figures}
    return [name for name in COLUMNS if name in there]


def tables(rows: Sequence[Scored], rule: Rule) -> list[Table]:
    """What was chosen, every method, each kind of edit, and every two methods."""
    found, pairs = means(rows), differences(rows)
    figures, kinds = figures_of(rows), list(dict.fromkeys(row.kind for row in rows))
    methods = list(dict.fromkeys(row.method for row in rows))
    cells = {(one.method, one.kind, one.figure): one for one in found}
    heads = [header(name) for name in figures]
    counts = {(m, k): sum(r.method == m and k in (ALL, r.kind) for r in rows) for m in methods for k in [ALL, *kinds]}

    def line(method: str, kind: str, ends: bool) -> list[str]:
        own = [cells.get((method, kind, name)) for name in figures]
        return [*("" if one is None else shown(one, ends) for one in own), str(counts[method, kind])]

    made = [
        Table(f"Rule {rule.name}", ("choice", "here"), [(name, text) for name, text in rule.choices.items()]),
        Table("Means and 95 % intervals", ("method", *heads, "pictures"), [[m, *line(m, ALL, True)] for m in methods]),
    ]
    if len(kinds) > 1:
        by_kind = [[kind, method, *line(method, kind, False)] for kind in kinds for method in methods]
        made.append(Table("Each kind of edit", ("edit", "method", *heads, "pictures"), by_kind))
    if pairs:
        lines = [
            [one.method, one.against, header(one.figure), shown(one, True, "+"), f"{one.p:.2g}", f"{one.p_holm:.2g}",
             str(one.count)]
            for one in pairs
        ]  # fmt: skip
        head = ("method", "against", "figure", "more by", "p", "p, Holm", "pictures")
        made.append(Table("Every two methods on the same pictures, sign-flip test", head, lines))
    return made


def header(figure: str) -> str:
    """A figure's name with its unit, and an arrow to where better ones lie."""
    column = COLUMNS[figure]
    return " ".join(part for part in (figure, column.unit, "↑" if column.more else "↓") if part)


def shown(one: Mean, ends: bool, sign: str = "") -> str:
    """A mean in the digits of its figure, with both ends of its interval if asked for and if it has some."""
    digits = COLUMNS[one.figure].digits
    text = f"{one.mean:{sign}.{digits}f}"
    return f"{text} ({one.low:{sign}.{digits}f} to {one.high:{sign}.{digits}f})" if ends and isfinite(one.low) else text


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines)


def as_markdown(found: Sequence[Table]) -> str:
    """Tables in Markdown, a heading each."""

    def cell(text: str) -> str:
        return text.replace("\\", "\\\\").replace("|", "\\|")

    return "\n\n".join(
        f"## {cell(one.title)}\n\n{markdown_table(one.head, [[cell(text) for text in line] for line in one.lines])}"
        for one in found
    )


LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "↑": r"$\uparrow$", "↓": r"$\downarrow$",
    "×": r"$\times$", "²": "$^2$", "³": "$^3$", "⁴": "$^4$", "…": r"\dots{}",
    "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip


def as_latex(found: Sequence[Table]) -> str:
    """Tables in LaTeX, for the package booktabs."""

    def line(cells: Sequence[str]) -> str:
        return " & ".join("".join(LATEX.get(sign, sign) for sign in cell) for cell in cells) + r" \\"

    return "\n\n".join(
        "\n".join([
            f"% {' '.join(one.title.split())}", rf"\begin{{tabular}}{{{'l' * len(one.head)}}}", r"\toprule",
            line(one.head), r"\midrule", *map(line, one.lines), r"\bottomrule", r"\end{tabular}",
        ])
        for one in found
    )  # fmt: skip


def as_csv(rows: Sequence[Scored], rule: Rule) -> str:
    """Every mean and every mean difference, a line each, in all digits; ``inf`` and ``nan`` as Python writes them."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("rule", "method", "against", "kind", "figure", "mean", "low", "high", "pictures", "p", "p_holm"))
    for one in (*means(rows), *differences(rows)):
        tests = ("" if p is None else p for p in (one.p, one.p_holm))
        writer.writerow(
            (rule.name, one.method, one.against, one.kind, one.figure, one.mean, one.low, one.high, one.count, *tests)
        )
    return text.getvalue()


def as_jsonl(rows: Sequence[Scored], rule: Rule, about: Mapping[str, object]) -> str:
    """What was chosen and measured in the first line, then a line for each picture; null for what is infinite, which
    JSON does not have."""
    first = {"rule": rule.name, "choices": rule.choices, **about}
    figures = [{name: value if isfinite(value) else None for name, value in row.figures.items()} for row in rows]
    lines = [{**asdict(row), "figures": own} for row, own in zip(rows, figures, strict=True)]
    return "".join(json.dumps(one, allow_nan=False) + "\n" for one in (first, *lines))


FORMATS: dict[str, Callable[[Sequence[Scored], Rule], str]] = {
    "markdown": lambda rows, rule: as_markdown(tables(rows, rule)) + "\n",
    "csv": as_csv,
    "latex": lambda rows, rule: as_latex(tables(rows, rule)) + "\n",
}
SUFFIX = {"markdown": ".md", "csv": ".csv", "latex": ".tex"}
