"""A comparison as Markdown, LaTeX (booktabs) and CSV."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ifguide.report.relearning import SHARES
from ifguide.report.rows import Comparison, Row
from ifguide.report.table import (
    MISSING,
    SUPERSCRIPTS,
    Column,
    Measurement,
    aligned,
    format_measurement,
    one_line,
)
from ifguide.statistics import holm

LONGEST_PROBLEM = 40  # characters of a message in a Markdown or LaTeX cell; the whole stands below
WIDEST = 16  # columns of a Markdown table; one that would be wider has a line per metric instead
LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "↓": r"$\downarrow$", "↑": r"$\uparrow$", "Δ": r"$\Delta$", "–": "--", "−": "$-$", "…": r"\ldots{}",
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """A value as text; its difference from the reference, where a page shows it; the numbers of its footnotes."""

    text: str
    best: bool = False
    marks: tuple[int, ...] = ()
    difference: str = ""
    value: float | None = None


@dataclass(frozen=True)
class Line:
    """A row as text: its name, the numbers of its footnotes, and either its cells or a problem."""

    name: str
    marks: tuple[int, ...]
    seeds: str
    cells: tuple[Cell, ...]
    problem: str | None


@dataclass(frozen=True)
class Layout:
    """What every format shows."""

    headers: tuple[str, ...]  # of the cells
    lines: tuple[Line, ...]
    notes: tuple[str, ...]


def lay_out(
    comparison: Comparison,
    columns: Sequence[Column] | None = None,
    differences: Collection[Column | None] | None = None,
    *,
    longest_problem: int | None = LONGEST_PROBLEM,
) -> Layout:
    """Text of every cell.

    Args:
        comparison: the rows.
        columns: those that are shown; None: the table's.
        differences: columns beside which stands one of their differences, as far as these are known; None: the headline
            and the utility.
        longest_problem: a longer one becomes a note too; None: as long as it is.
    """
    shown = list(comparison.columns if columns is None else columns)
    wanted = (comparison.headline, comparison.utility) if differences is None else differences
    apart = [one for one in shown if one in wanted and any(one in row.differences for row in comparison.rows)]
    headers = [
        text
        for column in shown
        for text in (column.header, f"Δ against {comparison.reference}")[: 1 + (column in apart)]
    ]
    notes: dict[str, int] = {}
    lines = []
    for row in comparison.rows:
        remarks = [*row.notes]
        if row.problem and longest_problem and len(row.problem) > longest_problem:
            remarks.append(row.problem)
        marks = tuple(notes.setdefault(note, len(notes) + 1) for note in remarks)
        cells = []
        for column in shown:
            measured, remark = row.cells.get(column), row.remarks.get(column)
            difference = format_difference(row.differences.get(column), column.decimals)
            cells.append(
                Cell(
                    format_measurement(measured, column.decimals),
                    row.name in comparison.best.get(column, ()),
                    (notes.setdefault(remark, len(notes) + 1),) if remark else (),
                    "" if difference == MISSING else difference,
                    None if measured is None or not math.isfinite(measured.value) else measured.value,
                )
            )
            if column in apart:
                cells.append(Cell(difference))
        lines.append(
            Line(row.name, marks, str(len(row.seeds)) if not row.problem else MISSING, tuple(cells), row.problem)
        )
    return Layout(tuple(headers), tuple(lines), tuple(notes))


def is_single(comparison: Comparison) -> bool:
    """Whether there is one run alone: then a table has a line per metric."""
    return len(comparison.measured) == len(comparison.rows) == 1 and len(comparison.rows[0].runs) == 1


def explanation(comparison: Comparison) -> str:
    """What the numbers are, in a sentence or two."""
    if is_single(comparison):
        return "In brackets: 95 % bootstrap intervals over prompts or documents."
    text = "Means over seeds; in brackets 95 % bootstrap intervals over seeds and prompts (or documents)."
    if any(len(row.seeds) > 1 for row in comparison.measured):
        text = (
            "Means over seeds; in brackets 95 % intervals over seeds and prompts (or documents): by Student's t for "
            "each of the two, and of one seed a bootstrap over prompts."
        )
    if comparison.best:
        text += " In bold: the best of a column, and what is not told apart from it (paired interval includes 0)."
    elif comparison.utility is None and comparison.generated is None:
        text += " No perplexity was measured, so no row is called the best."
    if any(row.differences for row in comparison.rows):
        text += f" Δ: difference from {comparison.reference}, paired by seed and prompt (or document)."
        text += multiplicity(comparison)
    if any(column.metric in SHARES for column in comparison.columns):
        text += (
            " Tokens to half, to equal: of toxic text that a copy learned until its fraction was half of, and then "
            f"equal to, that of {comparison.reference} before."
        )
    several = {row.reference for row in comparison.rows if row.reference}
    if len(several) > 1:
        pairs = ", ".join(f"{row.name} with {row.reference}" for row in comparison.rows if row.reference)
        text += f" Compared: {pairs}."
    return text


def multiplicity(comparison: Comparison) -> str:
    """How many differences of the headline and the utility are compared with 0, and which hold together.

    Nothing where fewer than two rows are compared.
    """
    tested = [
        (row, column, p)
        for row in comparison.measured
        for column in (comparison.headline, comparison.utility)
        if column is not None and column in row.differences and (p := row.differences[column].p) is not None
    ]
    if len({row.name for row, *_ in tested}) < 2:
        return ""
    held: dict[str, list[str]] = {column.header.rstrip(" ↓↑"): [] for _, column, _ in tested}
    for (row, column, _), p in zip(tested, holm([p for *_, p in tested]), strict=True):
        if p <= 0.05:
            held[column.header.rstrip(" ↓↑")].append(row.name)
    named = "; ".join(f"in {header} {', '.join(names) or 'none of them'}" for header, names in held.items())
    return f" {len(tested)} differences are compared with 0. After Holm's correction for so many, these hold: {named}."


def markdown(comparison: Comparison) -> str:
    """A GitHub table with its notes. One run alone, or many metrics, have a line per metric."""
    layout = lay_out(comparison)
    body = []
    for line in layout.lines:
        name = " ".join([line.name, *(superscript(mark) for mark in line.marks)])
        if line.problem is None:
            cells = [" ".join([bold(cell), *map(superscript, cell.marks)]) for cell in line.cells]
        else:
            cells = [shortened(line.problem), *[MISSING] * (len(layout.headers) - 1)]
        body.append([one_line(name), line.seeds, *map(one_line, cells)])
    turned = len(layout.headers) > WIDEST or is_single(comparison)
    grid: Sequence[Sequence[str]] = [["method", "seeds", *map(one_line, layout.headers)], *body]
    table = "\n".join(aligned(list(zip(*grid, strict=True)) if turned else grid))
    notes = [f"{superscript(number)} {one_line(note)}" for number, note in enumerate(layout.notes, start=1)]
    return "\n\n".join([table, explanation(comparison), *notes]) + "\n"


def latex(comparison: Comparison) -> str:
    """A `tabular` for `\\usepackage{booktabs}`."""
    layout = lay_out(comparison)
    width = len(layout.headers)
    lines = [
        "% \\usepackage{booktabs}",
        f"\\begin{{tabular}}{{lr{'r' * width}}}",
        "\\toprule",
        " & ".join(["method", "seeds", *map(latex_text, layout.headers)]) + r" \\",
        "\\midrule",
    ]
    for line in layout.lines:
        marks = f"$^{{{','.join(map(str, line.marks))}}}$" if line.marks else ""
        start = [latex_text(line.name) + marks, latex_text(line.seeds)]
        if line.problem is None:
            cells = [latex_cell(cell) for cell in line.cells]
        else:
            cells = [rf"\multicolumn{{{width}}}{{l}}{{{latex_text(shortened(line.problem))}}}"]
        lines.append(" & ".join([*start, *cells]) + r" \\")
    lines += ["\\bottomrule", "\\end{tabular}", "", latex_text(explanation(comparison))]
    lines += [f"\n$^{{{number}}}$ {latex_text(note)}" for number, note in enumerate(layout.notes, start=1)]
    return "\n".join(lines) + "\n"


def comma_separated(comparison: Comparison) -> str:
    """Every metric of every row, unrounded: value, interval, difference from the reference and its interval."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    parts = ("", "_low", "_high", "_difference", "_difference_low", "_difference_high")
    names = [f"{column.task}.{column.subset}.{column.metric}" for column in comparison.every_column]
    header = ["method", "seeds", "problem", "reference", "notes", *(name + part for name in names for part in parts)]
    writer.writerow(map(no_formula, header))
    for row in comparison.rows:
        values = [value for column in comparison.every_column for value in (*csv_cells(row, column),)]
        seeds = " ".join(map(str, row.seeds))
        texts = [row.name, seeds, row.problem or "", row.reference or "", "; ".join(row.notes)]
        writer.writerow([*map(no_formula, texts), *values])
    return text.getvalue()


def no_formula(text: str) -> str:
    """Text that a spreadsheet does not take for a formula, and compute."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def csv_cells(row: Row, column: Column) -> list[float | str]:
    cells: list[float | str] = []
    for measured in (row.cells.get(column), row.differences.get(column)):
        if measured is None:
            cells += ["", "", ""]
        else:
            cells += [measured.value, *(measured.interval or ("", ""))]
    return cells


def bold(cell: Cell) -> str:
    return f"**{cell.text}**" if cell.best else cell.text


def latex_cell(cell: Cell) -> str:
    text = latex_text(cell.text)
    marks = f"$^{{{','.join(map(str, cell.marks))}}}$" if cell.marks else ""
    return (rf"\textbf{{{text}}}" if cell.best else text) + marks


def format_difference(measured: Measurement | None, decimals: int) -> str:
    if measured is None or not math.isfinite(measured.value):
        return MISSING
    value = f"{measured.value:+.{decimals}f}"
    if measured.interval is not None:
        value += " [{:+.{d}f}, {:+.{d}f}]".format(*measured.interval, d=decimals)
    return value.replace("-", "−")


def shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LONGEST_PROBLEM else text[: LONGEST_PROBLEM - 1].rstrip() + "…"


def superscript(number: int) -> str:
    return str(number).translate(SUPERSCRIPTS)


def latex_text(text: str) -> str:
    return re.sub("|".join(map(re.escape, LATEX)), lambda found: LATEX[found[0]], " ".join(text.split()))
