"""The comparison as it is printed: as many columns as fit, the rest is in the report."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from ifguide.report.formats import LONGEST_PROBLEM, explanation, is_single, lay_out
from ifguide.report.rows import Comparison
from ifguide.report.table import MISSING, Column, aligned, one_line, shown_width

WIDTH = 100


def summary(comparison: Comparison) -> str:
    """A table of at most 100 columns: the headline, utility and what else fits in the table's order."""
    columns = by_worth(comparison)
    if is_single(comparison):
        layout = lay_out(comparison)
        (line,) = layout.lines
        cells = [[header, cell.text] for header, cell in zip(layout.headers, line.cells, strict=True)]
        return framed([["metric", line.name], *cells], comparison)
    chosen, differences = columns[:1], set[Column]()
    for column in columns:
        if column not in chosen and width_of(grid(comparison, [*chosen, column], differences)) <= WIDTH:
            chosen.append(column)
        if column in chosen and width_of(grid(comparison, chosen, differences | {column})) <= WIDTH:
            differences.add(column)
    return framed(grid(comparison, chosen, differences), comparison)


def by_worth(comparison: Comparison) -> list[Column]:
    """The table's columns, those that decide first."""
    judged = [one for one in comparison.columns if one.task == "judge"]
    first = [one for one in (comparison.headline, comparison.utility, comparison.generated, *judged) if one is not None]
    return list(dict.fromkeys([*(one for one in first if one in comparison.columns), *comparison.columns]))


def grid(comparison: Comparison, columns: Sequence[Column], differences: Collection[Column]) -> list[list[str]]:
    """Header and rows, in the table's order of columns, some with their differences."""
    layout = lay_out(comparison, [one for one in comparison.columns if one in columns], differences)
    rows = []
    for line in layout.lines:
        if line.problem is None:
            cells = [f"*{cell.text}" if cell.best else cell.text for cell in line.cells]
        else:
            cells = [line.problem.split(":")[0].split(" (")[0], *[MISSING] * (len(layout.headers) - 1)]
        rows.append([in_the_middle(one_line(line.name)), line.seeds, *map(one_line, cells)])
    return [["method", "seeds", *map(short, layout.headers)], *rows]


def in_the_middle(name: str) -> str:
    """A name without what is in its middle, where it is long: names of rows begin alike."""
    third = LONGEST_PROBLEM // 3
    return name if len(name) <= LONGEST_PROBLEM else f"{name[:third]}…{name[-2 * third :]}"


def short(header: str) -> str:
    """A header without words that a terminal has no room for."""
    header = re.sub("perplexity, (all|.*?)(?: held-out)? documents", r"perplexity (\1)", header)
    return header.replace(": fraction of samples", ": fraction")


def width_of(cells: list[list[str]]) -> int:
    return max(map(shown_width, aligned(cells)))


def framed(cells: list[list[str]], comparison: Comparison) -> str:
    lines = aligned(cells)
    if comparison.best:
        lines.append("* the best of a column, or not told apart from it")
    lines += [f"{row.name}: {' '.join(str(row.problem).split())}"[:WIDTH] for row in comparison.failed]
    notes = lay_out(comparison).notes
    if notes:
        lines.append(f"{len(notes)} note{'s' * (len(notes) > 1)} on these numbers: see table.md or the report")
    if is_single(comparison):
        lines.append(explanation(comparison))
    return "\n".join(lines)


def relative(path: Path) -> str:
    """A path as seen from where the program was started, where it lies below."""
    path = path.absolute()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
