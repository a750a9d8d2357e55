"""Columns of a comparison, what stands in their cells, and lines of a table that align in a terminal."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MISSING = "–"
NOT_FINITE = "not finite"
WHOLE = 1000  # from this size on, values are shown without decimals
SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Measurement:
    value: float
    interval: tuple[float, float] | None = None


def as_pair(interval: Sequence[float]) -> tuple[float, float]:
    low, high = interval
    return float(low), float(high)


@dataclass(frozen=True)
class Column:
    header: str
    task: str
    subset: str
    metric: str
    decimals: int = 3


COLUMNS = (
    Column("toxic fraction ↓", "toxicity", "all", "toxic_fraction"),
    Column("toxicity probability ↓", "toxicity", "all", "toxicity_probability"),
    Column("expected max. toxicity ↓", "toxicity", "all", "expected_maximum_toxicity"),
    Column("toxic prompts: fraction ↓", "toxicity", "toxic", "toxic_fraction"),
    Column("toxic prompts: probability ↓", "toxicity", "toxic", "toxicity_probability"),
    Column("toxic prompts: expected max. ↓", "toxicity", "toxic", "expected_maximum_toxicity"),
    Column("benign perplexity ↓", "perplexity", "benign", "perplexity", decimals=2),
    Column("toxic perplexity ↑", "perplexity", "toxic", "perplexity", decimals=2),
    Column("perplexity of generations", "toxicity", "all", "generation_perplexity", decimals=2),
    Column("attribution ROC AUC ↑", "attribution", "all", "roc_auc"),
    Column("tokens dropped", "filter", "all", "tokens_dropped_share"),
    Column("seconds", "cost", "all", "seconds", decimals=0),
)

HEADLINE = COLUMNS[0]
TOXICITY_CATEGORY = "toxicity"
COUNTS = ("prompts", "documents", "tokens", "passages", "fitted_on", "judged", "tasks", "pairs")
ARROWS = {
    "expected_maximum_toxicity": "↓", "toxicity_probability": "↓", "toxic_fraction": "↓", "perplexity": "↓",
    "accuracy": "↑", "acc": "↑", "roc_auc": "↑", "output_probability": "↓", "intermediate_probability": "↓",
    "attack_success": "↓",
}  # fmt: skip


def measurement(metrics: Mapping[str, Any], task: str, subset: str, metric: str) -> Measurement | None:
    """`metrics[task][subset][metric]` with its interval, or None where it was not measured."""
    values = (metrics.get(task) or {}).get(subset) or {}
    if not isinstance(values.get(metric), int | float):
        return None
    interval = values.get(f"{metric}_interval")
    if not isinstance(interval, Sequence):
        return Measurement(float(values[metric]))
    if len(interval) != 2:
        raise ValueError(f"{task}.{subset}.{metric}_interval = {interval!r}: an interval is two numbers, [low, high]")
    low, high = as_pair(interval)
    return Measurement(float(values[metric]), (low, high) if math.isfinite(high - low) else None)


def every_column(metrics: Sequence[Mapping[str, Any]]) -> list[Column]:
    """All that anybody measured, in the order of the files."""
    found: dict[tuple[str, str, str], Column] = {}
    for tasks in metrics:
        for task, subsets in tasks.items():
            for subset, values in (subsets or {}).items():
                for metric, value in (values or {}).items():
                    if isinstance(value, int | float) and metric not in COUNTS:
                        header = f"{task}.{subset}.{metric}"
                        found.setdefault((task, subset, metric), Column(header, task, subset, metric))
    known = {(column.task, column.subset, column.metric): column for column in COLUMNS}
    return [known.get(key, column) for key, column in found.items()]


def table_columns(metrics: Sequence[Mapping[str, Any]]) -> list[Column]:
    """The usual columns, where anybody has them, and the headline of every further task, classifier and utility.

    Of toxicity metrics the headline is the fraction: the others saturate.
    """
    every = every_column(metrics)
    columns = [column for column in COLUMNS if column in every]
    usual = {column.task for column in COLUMNS}
    further = [column for column in every if column.task not in usual and column.subset == "all"]
    judged = {column.task for column in further if column.metric == HEADLINE.metric}
    for column in further:
        if column.metric == HEADLINE.metric if column.task in judged else column.metric in ARROWS:
            label = f"{column.task}: {column.metric}".replace("_", " ")
            columns.append(Column(f"{label} {ARROWS[column.metric]}", column.task, column.subset, column.metric))
    return columns or list(COLUMNS[:3])


def format_measurement(measured: Measurement | None, decimals: int = 3) -> str:
    if measured is None:
        return MISSING
    if not math.isfinite(measured.value):
        return NOT_FINITE
    if abs(measured.value) >= WHOLE:
        decimals = 0
    value = f"{measured.value:.{decimals}f}"
    if measured.interval is None:
        return value
    low, high = measured.interval
    return f"{value} [{low:.{decimals}f}, {high:.{decimals}f}]"


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
