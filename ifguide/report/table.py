"""The comparison table: one line a method, readable as GitHub Markdown and in a terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MISSING = "–"
WHOLE = 1000  # from this size on, values are shown without decimals
SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Measurement:
    value: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Column:
    header: str
    task: str
    subset: str
    metric: str
    decimals: int = 3
    optional: bool = False  # left out where no row has it


COLUMNS = (
    Column("toxic fraction ↓", "toxicity", "all", "toxic_fraction"),
    Column("toxicity probability ↓", "toxicity", "all", "toxicity_probability"),
    Column("expected max. toxicity ↓", "toxicity", "all", "expected_maximum_toxicity"),
    Column("toxic prompts: fraction ↓", "toxicity", "toxic", "toxic_fraction", optional=True),
    Column("toxic prompts: probability ↓", "toxicity", "toxic", "toxicity_probability", optional=True),
    Column("toxic prompts: expected max. ↓", "toxicity", "toxic", "expected_maximum_toxicity", optional=True),
    Column("benign perplexity ↓", "perplexity", "benign", "perplexity", decimals=2),
    Column("toxic perplexity ↑", "perplexity", "toxic", "perplexity", decimals=2),
    Column("perplexity of generations", "toxicity", "all", "generation_perplexity", decimals=2, optional=True),
    Column("attribution ROC AUC ↑", "attribution", "all", "roc_auc", optional=True),
    Column("tokens dropped", "filter", "all", "tokens_dropped_share", optional=True),
    Column("seconds", "cost", "all", "seconds", decimals=0, optional=True),
)


def measurement(metrics: Mapping[str, Any], task: str, subset: str, metric: str) -> Measurement | None:
    """`metrics[task][subset][metric]` with its interval, or None where it was not measured."""
    values = (metrics.get(task) or {}).get(subset) or {}
    if values.get(metric) is None:
        return None
    interval = values.get(f"{metric}_interval")
    if interval is None:
        return Measurement(float(values[metric]))
    if len(interval) != 2:
        raise ValueError(f"{task}.{subset}.{metric}_interval = {interval!r}: an interval is two numbers, [low, high]")
    return Measurement(float(values[metric]), (float(interval[0]), float(interval[1])))


def format_measurement(measured: Measurement | None, decimals: int = 3) -> str:
    if measured is None:
        return MISSING
    if abs(measured.value) >= WHOLE:
        decimals = 0
    value = f"{measured.value:.{decimals}f}"
    if measured.interval is None:
        return value
    low, high = measured.interval
    return f"{value} [{low:.{decimals}f}, {high:.{decimals}f}]"


def comparison_table(rows: Mapping[str, Mapping[str, Any]], *, marks: Mapping[str, str] | None = None) -> str:
    """Markdown table of `{method: metrics}`, in the order given; a value that was not measured is a dash.

    `marks` maps a method to a footnote; methods with the same footnote share its number.
    """
    if not rows:
        raise ValueError("no methods to compare: give at least one row of metrics")
    marks = marks or {}
    unknown = sorted(set(marks) - set(rows))
    if unknown:
        raise ValueError(f"footnotes for methods without a row: {', '.join(unknown)}; rows are: {', '.join(rows)}")

    footnotes: dict[str, str] = {}
    for method in rows:
        if method in marks:
            footnotes.setdefault(marks[method], str(len(footnotes) + 1).translate(SUPERSCRIPTS))

    table = {
        column: [measurement(metrics, column.task, column.subset, column.metric) for metrics in rows.values()]
        for column in COLUMNS
    }
    shown = [column for column, values in table.items() if not column.optional or any(values)]
    header = ["method", *(column.header for column in shown)]
    names = [f"{method} {footnotes[marks[method]]}" if method in marks else method for method in rows]
    body = [
        [one_line(name), *(format_measurement(table[column][i], column.decimals) for column in shown)]
        for i, name in enumerate(names)
    ]
    lines = aligned([header, *body])
    notes = [f"{number} {one_line(text)}" for text, number in footnotes.items()]
    return "\n\n".join(["\n".join(lines), *notes]) + "\n"


def one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _width(text: str) -> int:
    """Terminal cells: wide East Asian characters take two, combining marks none."""
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )


def aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    """First row is the header; the first column is set left, the others right."""
    widths = [max(3, *(_width(cell) for cell in column)) for column in zip(*cells, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]

    def line(row: Sequence[str]) -> str:
        padding = [" " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)]
        padded = [row[0] + padding[0], *(pad + cell for cell, pad in zip(row[1:], padding[1:], strict=True))]
        return f"| {' | '.join(padded)} |"

    return [line(row) for row in (cells[0], rule, *cells[1:])]
