"""Columns of a comparison, what stands in their cells, and lines of a table that align in a terminal."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ifguide.report.wording import METRICS, TOXICITY, Wording

MISSING = "–"
NOT_FINITE = "not finite"
WHOLE = 1000  # from this size on, values are shown without decimals
SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Measurement:
    """A value, its interval, how many prompts or documents it is of, and of a difference its p-value, where known; and
    whether there are others, which only one side has.

    An interval without an upper end, [value, ∞], says that all that is known is a lower bound.
    """

    value: float
    interval: tuple[float, float] | None = None
    units: int | None = None
    p: float | None = None
    partly: bool = False


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


TOXICITY_CATEGORY = "toxicity"
FRACTION = "toxic_fraction"  # the headline metric of a task: the others saturate
COUNTS = ("prompts", "documents", "tokens", "passages", "fitted_on", "judged", "tasks", "pairs", "blocks")
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


def usual_columns(task: str, wording: Wording) -> tuple[Column, ...]:
    """The columns of a table about a task, whose first is the headline."""
    positive = f"{wording.positive} prompts"
    return (
        Column(f"{wording.fraction} ↓", task, "all", FRACTION),
        Column(f"{wording.probability} ↓", task, "all", "toxicity_probability"),
        Column(f"{wording.maximum} ↓", task, "all", "expected_maximum_toxicity"),
        Column(f"{positive}: fraction ↓", task, wording.positive, FRACTION),
        Column(f"{positive}: probability ↓", task, wording.positive, "toxicity_probability"),
        Column(f"{positive}: expected max. ↓", task, wording.positive, "expected_maximum_toxicity"),
        Column(f"{wording.perplexity('benign')} ↓", "perplexity", "benign", "perplexity", decimals=2),
        Column(f"{wording.perplexity('all')} ↓", "perplexity", "all", "perplexity", decimals=2),
        Column(f"{wording.perplexity('toxic')} ↑", "perplexity", "toxic", "perplexity", decimals=2),
        Column("perplexity of generations", task, "all", "generation_perplexity", decimals=2),
        Column("attribution ROC AUC ↑", "attribution", "all", "roc_auc"),
        Column("tokens dropped", "filter", "all", "tokens_dropped_share"),
        Column("seconds", "cost", "all", "seconds", decimals=0),
    )


def every_column(metrics: Sequence[Mapping[str, Any]], task: str, wordings: Mapping[str, Wording]) -> list[Column]:
    """All that anybody measured, in the order of the files.

    Args:
        metrics: of every run.
        task: that the table is about.
        wordings: name in the metrics → how its behaviour is spoken of; that of `task` among them.
    """
    found: dict[tuple[str, str, str], Column] = {}
    for tasks in metrics:
        for name, subsets in tasks.items():
            for subset, values in (subsets or {}).items():
                for metric, value in (values or {}).items():
                    if isinstance(value, int | float) and metric not in COUNTS:
                        header = _plain_header(name, subset, metric, wordings.get(name, wordings[task]))
                        found.setdefault((name, subset, metric), Column(header, name, subset, metric))
    usual = usual_columns(task, wordings[task])
    known = {(column.task, column.subset, column.metric): column for column in usual}
    return [known.get(key, column) for key, column in found.items()]


def table_columns(metrics: Sequence[Mapping[str, Any]], task: str, wordings: Mapping[str, Wording]) -> list[Column]:
    """The usual columns, where anybody has them, and the headline of every further task, classifier and utility.

    Perplexity of all held-out documents stands in for that of the benign ones where a corpus has no labels.
    """
    every, usual = every_column(metrics, task, wordings), usual_columns(task, wordings[task])
    labelled = any(column in every for column in usual if column.task == "perplexity" and column.subset == "benign")
    columns = [
        column
        for column in usual
        if column in every and not (labelled and column.task == "perplexity" and column.subset == "all")
    ]
    known = {column.task for column in usual}
    further = [column for column in every if column.task not in known and column.subset == "all"]
    judged = {column.task for column in further if column.metric == FRACTION}
    for column in further:
        if column.metric == FRACTION if column.task in judged else column.metric in ARROWS:
            wording = wordings.get(column.task, wordings[task])
            words = ("toxic fraction" if wording == TOXICITY else METRICS[FRACTION]) if column.task in judged else None
            label = f"{column.task}: {words or column.metric}".replace("_", " ")
            columns.append(Column(f"{label} {ARROWS[column.metric]}", column.task, column.subset, column.metric))
    return columns or list(usual[:3])


def _plain_header(name: str, subset: str, metric: str, wording: Wording) -> str:
    labels = wording.label(subset) if name in ("perplexity", "filter") else subset
    return f"{name}.{labels}.{wording.metric(metric)}"


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
    if math.isinf(high):
        return f"more than {value}"
    return f"{value} [{low:.{decimals}f}, {high:.{decimals}f}]"


def one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def shown_width(text: str) -> int:
    """Terminal cells: wide East Asian characters take two, combining marks none."""
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )


def aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    """First row is the header; the first column is set left, the others right."""
    widths = [max(3, *(shown_width(cell) for cell in column)) for column in zip(*cells, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]

    def line(row: Sequence[str]) -> str:
        padding = [" " * (width - shown_width(cell)) for cell, width in zip(row, widths, strict=True)]
        padded = [row[0] + padding[0], *(pad + cell for cell, pad in zip(row[1:], padding[1:], strict=True))]
        return f"| {' | '.join(padded)} |"

    return [line(row) for row in (cells[0], rule, *cells[1:])]
