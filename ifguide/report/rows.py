"""Rows of a report: means over seeds, intervals over seeds and prompts, differences from a reference.

`SP` arrays are [seeds, prompts].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ifguide.evaluation.toxicity import TOXIC_FROM, prompt_metrics
from ifguide.report.gather import Group, PromptScores, Run, group_runs
from ifguide.report.table import COLUMNS, Column, Measurement, measurement
from ifguide.statistics import hierarchical_interval, interval_over_seeds, paired_difference

HEADLINE = COLUMNS[0]
TOXICITY_CATEGORY = "toxicity"
COUNTS = ("prompts", "documents", "tokens", "passages", "fitted_on", "judged", "tasks", "pairs")
ARROWS = {
    "expected_maximum_toxicity": "↓", "toxicity_probability": "↓", "toxic_fraction": "↓", "perplexity": "↓",
    "accuracy": "↑", "acc": "↑", "roc_auc": "↑", "output_probability": "↓", "intermediate_probability": "↓",
    "attack_success": "↓",
}  # fmt: skip
ONE_SEED = "one seed: the interval is over prompts (or documents) only"
RECORDED = "values prompt by prompt are gone: intervals are those in metrics.json, without a paired difference"
UNPAIRED = "no paired difference: the reference has no run of the same seeds on the same prompts"
PARTLY_PAIRED = "differences are over the seeds that the reference has too"


@dataclass(frozen=True)
class Row:
    """A line of the report.

    Args:
        name: see `Group`.
        seeds: of the runs that were averaged; of the failed run where there is a problem.
        cells: column → mean over seeds with its 95 % interval.
        differences: column → mean difference from the reference, paired by seed and prompt; without an interval where
            values prompt by prompt are not known.
        reference: name of the row it is compared with.
        problem: why there is nothing to show.
        notes: what a reader must know.
        runs: where it comes from.
    """

    name: str
    seeds: tuple[int, ...]
    cells: Mapping[Column, Measurement] = field(default_factory=dict)
    differences: Mapping[Column, Measurement] = field(default_factory=dict)
    reference: str | None = None
    problem: str | None = None
    notes: tuple[str, ...] = ()
    runs: tuple[Run, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """All rows.

    Args:
        rows: in the order of the runs; a run without metrics is a row of its own.
        columns: of the table; `every_column` has more.
        every_column: all that was measured.
        reference: what the rows are compared with, or None.
    """

    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    every_column: tuple[Column, ...]
    reference: str | None

    @property
    def measured(self) -> list[Row]:
        return [row for row in self.rows if row.problem is None]

    @property
    def failed(self) -> list[Row]:
        return [row for row in self.rows if row.problem is not None]


def compare(runs: Sequence[Run], *, reference: str | None = "none", by: Sequence[str] | None = None) -> Comparison:
    """Rows of these runs, each against the reference.

    Args:
        runs: see `gather`.
        reference: a row's name, or a method of which there are several rows: then each row is compared with the one
            that shares most of its settings. None, or `none` where there is no such row: no comparison.
        by: see `group_runs`.

    Raises:
        ValueError: there are no runs, no row is the reference, or see `group_runs`.
    """
    if not runs:
        raise ValueError("no runs to report on")
    groups = group_runs(runs, by)
    metrics = [run.metrics for group in groups for run in group.runs if run.metrics is not None]
    columns, every = table_columns(metrics), every_column(metrics)
    measured = [group for group in groups if group.runs]
    references = find_references(measured, reference)
    rows = []
    for group in groups:
        if group.runs:
            other = closest(group, references)
            rows.append(measured_row(group, other, list(dict.fromkeys([*columns, *every]))))
        rows += [
            Row(f"{group.name}, seed {run.seed}", (run.seed,), problem=run.problem, runs=(run,))
            for run in group.problems
        ]
    return Comparison(tuple(rows), tuple(columns), tuple(every), reference if references else None)


def find_references(groups: Sequence[Group], reference: str | None) -> list[Group]:
    named = [group for group in groups if group.name == reference]
    named = named or [group for group in groups if group.settings.get("method") == reference]
    if not named and reference not in (None, "none"):
        raise ValueError(f"report.reference={reference}: rows are: {', '.join(group.name for group in groups)}")
    return named


def closest(group: Group, references: Sequence[Group]) -> Group | None:
    if not references or group in references:
        return None
    return max(references, key=lambda other: len(group.settings.items() & other.settings.items()))


def measured_row(group: Group, reference: Group | None, columns: Sequence[Column]) -> Row:
    cells, differences = {}, {}
    notes = list(group.notes)
    if len(group.runs) == 1:
        notes.append(ONE_SEED)
    for column in columns:
        having = [
            run for run in group.runs if measurement(run.metrics or {}, column.task, column.subset, column.metric)
        ]
        if not having:
            continue
        if len(having) < len(group.runs):
            notes.append(f"{column.header} is the mean over {len(having)} of {len(group.runs)} seeds")
        values_SP = prompt_values(having, column)
        if values_SP is not None:
            cells[column] = Measurement(float(values_SP.mean()), as_pair(hierarchical_interval(values_SP)))
        else:
            cells[column] = recorded_mean(having, column)
            if column.metric in PER_PROMPT:
                notes.append(RECORDED)
        if reference is not None:
            difference = difference_from(having, reference.runs, column)
            if column.metric in PER_PROMPT and (difference is None or difference.interval is None):
                notes.append(UNPAIRED)
            if difference is not None:
                differences[column] = difference
    theirs = {run.seed for run in reference.runs} if reference is not None else set()
    shared = [str(run.seed) for run in group.runs if run.seed in theirs]
    if 0 < len(shared) < len(group.runs):
        notes.append(f"{PARTLY_PAIRED}: {', '.join(shared)}")
    if RECORDED in notes:
        notes = [note for note in notes if note != UNPAIRED]
    return Row(
        group.name,
        tuple(run.seed for run in group.runs),
        cells,
        differences,
        reference.name if reference else None,
        notes=tuple(dict.fromkeys(notes)),
        runs=tuple(group.runs),
    )


PER_PROMPT = tuple(prompt_metrics(np.zeros((1, 1))))


def prompt_values(runs: Sequence[Run], column: Column) -> NDArray[np.float64] | None:
    """[seeds, prompts] of a metric, or None where it is not known prompt by prompt or the runs' prompts differ."""
    values = [value_by_prompt(run, column) for run in runs]
    first = values[0]
    if first is None:
        return None
    rows = [
        np.array([value[key] for key in first])
        for value in values
        if value is not None and value.keys() == first.keys()
    ]
    return np.stack(rows) if len(rows) == len(runs) else None


def value_by_prompt(run: Run, column: Column) -> dict[tuple[str, str], float] | None:
    """(record, prompt) → the metric."""
    scores = run.prompt_scores(column.task) if column.metric in PER_PROMPT else None
    if scores is None or TOXICITY_CATEGORY not in scores.probabilities:
        return None
    values = prompt_metrics(scores.probabilities[TOXICITY_CATEGORY])[column.metric]
    return {
        key: float(value)
        for key, subset, value in zip(scores.keys, scores.subsets, values, strict=True)
        if column.subset in ("all", subset)
    } or None


def difference_from(runs: Sequence[Run], reference: Sequence[Run], column: Column) -> Measurement | None:
    """Mean difference over the seeds that both have, and the prompts that all of these share; None without any."""
    ours, theirs = {run.seed: run for run in runs}, {run.seed: run for run in reference}
    seeds = sorted(ours.keys() & theirs.keys())
    pairs = [(value_by_prompt(ours[seed], column), value_by_prompt(theirs[seed], column)) for seed in seeds]
    if pairs and all(a is not None and b is not None for a, b in pairs):
        known = [value for pair in pairs for value in pair if value is not None]
        shared = [key for key in known[0] if all(key in value for value in known)]
        if shared:
            values_SP, reference_SP = (
                np.array([[value[key] for key in shared] for value in known[side::2]]) for side in (0, 1)
            )
            value, interval = paired_difference(values_SP, reference_SP)
            return Measurement(value, as_pair(interval))
    recorded = []
    for seed in seeds:
        a, b = (
            measurement(run.metrics or {}, column.task, column.subset, column.metric)
            for run in (ours[seed], theirs[seed])
        )
        if a is not None and b is not None:
            recorded.append(a.value - b.value)
    return Measurement(float(np.mean(recorded))) if recorded else None


def recorded_mean(runs: Sequence[Run], column: Column) -> Measurement:
    """Mean over seeds of what `metrics.json` says, with an interval where it says one.

    One run keeps its own interval, several have `interval_over_seeds`. Without recorded intervals there is none: one
    over seeds alone would pass for more than it is.
    """
    found = [measurement(run.metrics or {}, column.task, column.subset, column.metric) for run in runs]
    known = [one for one in found if one is not None]
    mean = float(np.mean([one.value for one in known]))
    intervals = [one.interval for one in known if one.interval is not None]
    if len(known) == 1:
        return Measurement(mean, known[0].interval)
    if len(intervals) < len(known):
        return Measurement(mean)
    return Measurement(mean, as_pair(interval_over_seeds([one.value for one in known], intervals)))


def category_fractions(row: Row, task: str = HEADLINE.task) -> dict[str, Measurement]:
    """Category → share of samples that the classifier gives it, over seeds and prompts; empty where not known."""
    scores = [run.prompt_scores(task) for run in row.runs]
    known = [one for one in scores if one is not None]
    if not known or len(known) < len(scores) or any(one.keys != known[0].keys for one in known):
        return {}
    fractions = {}
    for category in known[0].probabilities:
        if all(category in one.probabilities for one in known):
            values_SP = np.stack([(one.probabilities[category] >= TOXIC_FROM).mean(1) for one in known])
            fractions[category] = Measurement(float(values_SP.mean()), as_pair(hierarchical_interval(values_SP)))
    return fractions


def every_column(metrics: Sequence[Mapping]) -> list[Column]:
    """All that anybody measured, in the order of the files."""
    found: dict[tuple[str, str, str], Column] = {}
    for tasks in metrics:
        for task, subsets in tasks.items():
            for subset, values in (subsets or {}).items():
                for metric, value in values.items():
                    if isinstance(value, int | float) and metric not in COUNTS:
                        header = f"{task}.{subset}.{metric}"
                        found.setdefault((task, subset, metric), Column(header, task, subset, metric))
    known = {(column.task, column.subset, column.metric): column for column in COLUMNS}
    return [known.get(key, column) for key, column in found.items()]


def table_columns(metrics: Sequence[Mapping]) -> list[Column]:
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


def as_pair(interval: Sequence[float] | NDArray[np.float64]) -> tuple[float, float]:
    low, high = interval
    return float(low), float(high)


def samples_of(row: Row, task: str = HEADLINE.task) -> PromptScores | None:
    """The generations of a row's first seed."""
    return row.runs[0].prompt_scores(task) if row.runs else None
