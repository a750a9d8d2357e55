"""Rows of a report: means over seeds, intervals over seeds and prompts, differences from a reference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ifguide.report.gather import Run
from ifguide.report.groups import Group, group_runs
from ifguide.report.table import Column, Measurement, as_pair, every_column, measurement, table_columns
from ifguide.report.values import PER_PROMPT, difference_from, prompt_values, recorded_mean
from ifguide.statistics import hierarchical_interval

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


def infinite(cells: Mapping[Column, Measurement]) -> list[Column]:
    """Perplexities that are not finite: a model that writes nothing sensible is toxic the least, and no success. On
    toxic documents it is meant to rise."""
    perplexities = [one for one in cells if one.metric.endswith("perplexity") and one.subset != "toxic"]
    return [one for one in perplexities if not math.isfinite(cells[one].value)]


def compare_rows(runs: Sequence[Run], *, reference: str | None = "none", by: Sequence[str] | None = None) -> Comparison:
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
    compared = any(row.reference for row in rows)
    return Comparison(tuple(rows), tuple(columns), tuple(every), reference if compared else None)


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
    notes += [f"{column.header} is not finite: never the best of a column" for column in infinite(cells)]
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
