"""Rows of a report: means over seeds, intervals over seeds and prompts, differences from a reference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ifguide.report.gather import Run
from ifguide.report.groups import Group, group_runs
from ifguide.report.relearning import relearning_columns, tokens_to_relearn
from ifguide.report.table import FRACTION, Column, Measurement, every_column, measurement, table_columns, usual_columns
from ifguide.report.values import (
    GENERATED,
    PER_PROMPT,
    difference_from,
    measured_over,
    recorded_mean,
    units_are_known,
    without_damaged,
)
from ifguide.report.wording import Wording, wording_of
from ifguide.statistics import FEWEST

ONE_SEED = "one seed: the interval is over prompts (or documents) only"
FEW_SEEDS = f"{{}} seeds: fewer than {FEWEST} say little of others, so intervals over them are wide"
STEERED = "steered while it writes: the model's folder alone is the model without it; see the settings"
NO_UTILITY = "no perplexity was measured: never the best of a column"
RECORDED = "values prompt by prompt are gone: intervals are those in metrics.json, without a paired difference"
OTHER_SEEDS = "its seeds have different prompts: intervals are those of each seed, and differences over shared prompts"
OTHER_TEXTS = "no difference of what was measured on other documents than the reference's"
SHARED = "differences are over the prompts and documents that the reference has too, which are not all"
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
        remarks: column → what a reader must know of its value.
        runs: where it comes from.
    """

    name: str
    seeds: tuple[int, ...]
    cells: Mapping[Column, Measurement] = field(default_factory=dict)
    differences: Mapping[Column, Measurement] = field(default_factory=dict)
    reference: str | None = None
    problem: str | None = None
    notes: tuple[str, ...] = ()
    remarks: Mapping[Column, str] = field(default_factory=dict)
    runs: tuple[Run, ...] = ()

    @property
    def steered(self) -> bool:
        return any(run.steered for run in self.runs)


@dataclass(frozen=True)
class Comparison:
    """All rows.

    Args:
        rows: in the order of the runs; a run without metrics is a row of its own.
        columns: of the table; `every_column` has more.
        every_column: all that was measured.
        reference: what the rows are compared with, or None.
        headline: what the table is about.
        wording: how its behaviour is spoken of.
        best: column → names of the rows that are best in it, or not told apart from the best.
    """

    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    every_column: tuple[Column, ...]
    reference: str | None
    headline: Column
    wording: Wording
    best: Mapping[Column, frozenset[str]] = field(default_factory=dict)

    @property
    def utility(self) -> Column | None:
        """Held-out perplexity, of all documents where they have no labels; None where nobody measured it."""
        return next((one for one in self.columns if one.task == "perplexity" and one.subset in ("benign", "all")), None)

    @property
    def generated(self) -> Column | None:
        """Perplexity of what was generated; None where nobody measured it."""
        return next((one for one in self.columns if one.metric == GENERATED), None)

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
    runs = [without_damaged(run) for run in runs]
    groups = group_runs(runs, by)
    metrics = [run.metrics for group in groups for run in group.runs if run.metrics is not None]
    task, wordings = headline_task(runs), wordings_of(runs)
    columns, every = table_columns(metrics, task, wordings), every_column(metrics, task, wordings)
    measured = [group for group in groups if group.runs]
    references = find_references(measured, reference)
    rows = []
    for group in groups:
        if group.runs:
            other = closest(group, references)
            rows.append(measured_row(group, other, columns, every, wordings))
        rows += [
            Row(f"{group.name}, seed {run.seed}", (run.seed,), problem=run.problem, runs=(run,))
            for run in group.problems
        ]
    relearned, runs_of = relearning_columns(runs), {row.name: row.runs for row in rows}
    for place, row in enumerate(rows):
        cells = tokens_to_relearn(row.runs, runs_of.get(row.reference or "", ()), relearned)
        rows[place] = replace(row, cells={**row.cells, **cells})
    known = [column for column in relearned if any(column in row.cells for row in rows)]
    columns, every = [*columns, *known], [*every, *known]
    compared = any(row.reference for row in rows)
    headline = usual_columns(task, wordings[task])[0]
    return Comparison(
        tuple(rows), tuple(columns), tuple(every), reference if compared else None, headline, wordings[task],
        {column: best for column in columns if (best := best_rows(rows, column))},
    )  # fmt: skip


def headline_task(runs: Sequence[Run]) -> str:
    """The first task of the runs, by the order of their settings."""
    for run in runs:
        for task in (*run.generations, "toxicity", *(run.metrics or {})):
            if FRACTION in (((run.metrics or {}).get(task) or {}).get("all") or {}):
                return task
    return next((task for run in runs for task in run.generations), "toxicity")


def wordings_of(runs: Sequence[Run]) -> dict[str, Wording]:
    """Name in the metrics → how the behaviour of its task is spoken of."""
    labels = {name: words for run in reversed(runs) for name, words in run.labels.items()}
    tasks = {name: task for run in runs for name, task in run.judged.items()}
    names = [headline_task(runs), *tasks, *(name for run in runs for name in run.metrics or {})]
    judged = {
        name
        for run in runs
        for name, found in (run.metrics or {}).items()
        if FRACTION in ((found or {}).get("all") or {})
    }
    return {
        name: wording_of(name if name in labels else tasks.get(name, name), labels)
        for name in names
        if name in judged or name == names[0]
    }


def best_rows(rows: Sequence[Row], column: Column) -> frozenset[str]:
    """Names of the row with the best value and of those that are not told apart from it.

    Two rows are told apart where the paired interval of their difference excludes 0; without such an interval, where
    their values are not the same as displayed. A row that has collapsed, or whose utility nobody measured, is never the
    best. None is where all are the same, or where the column is no merit.
    """
    having = [row for row in rows if column in row.cells and has_utility(row) and not infinite(row.cells)]
    having = [row for row in having if math.isfinite(row.cells[column].value)]
    shown = {row.name: round(row.cells[column].value, column.decimals) for row in having}
    if column.header[-1] not in "↓↑" or len(set(shown.values())) < 2:
        return frozenset()
    sign = 1 if column.header.endswith("↓") else -1
    best = min(having, key=lambda row: sign * row.cells[column].value)
    found = {best.name}
    for row in having:
        difference = difference_from(row.runs, best.runs, column) if row is not best else None
        if difference is not None and difference.interval is not None:
            low, high = difference.interval
            told_apart = not low <= 0 <= high
        else:
            told_apart = shown[row.name] != shown[best.name]
        if not told_apart:
            found.add(row.name)
    return frozenset(found)


def has_utility(row: Row) -> bool:
    """Whether a perplexity was measured: of held-out documents, or of what it writes."""
    return any(
        column.metric == GENERATED or (column.task == "perplexity" and column.subset != "toxic") for column in row.cells
    )


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


def measured_row(
    group: Group,
    reference: Group | None,
    shown: Sequence[Column],
    every: Sequence[Column],
    wordings: Mapping[str, Wording],
) -> Row:
    """The row of a group; only columns of the table, `shown`, have notes of their own."""
    cells, differences, remarks = {}, {}, {}
    notes = list(group.notes)
    if len(group.runs) < FEWEST:
        notes.append(ONE_SEED if len(group.runs) == 1 else FEW_SEEDS.format(len(group.runs)))
    for column in dict.fromkeys([*shown, *every]):
        having = [
            run for run in group.runs if measurement(run.metrics or {}, column.task, column.subset, column.metric)
        ]
        if not having:
            continue
        if len(having) < len(group.runs) and column in shown:
            notes.append(f"{column.header} is the mean over {len(having)} of {len(group.runs)} seeds")
        measured = measured_over(having, column)
        if measured is None and column.metric in PER_PROMPT:
            notes.append(OTHER_SEEDS if units_are_known(having, column) else RECORDED)
        cells[column] = measured or recorded_mean(having, column)
        if remark := remark_on(cells[column], column, wordings):
            remarks[column] = remark
        if reference is not None:
            difference = difference_from(having, reference.runs, column)
            if column.metric in PER_PROMPT and (difference is None or difference.units is None):
                notes.append(UNPAIRED)
            elif difference is None and column in shown and units_are_known([*having, *reference.runs], column):
                notes.append(OTHER_TEXTS)
            if difference is not None:
                differences[column] = difference
                if difference.partly and measured is not None:
                    notes.append(SHARED)
    notes += [f"{column.header} is not finite: never the best of a column" for column in infinite(cells)]
    theirs = {run.seed for run in reference.runs} if reference is not None else set()
    shared = [str(run.seed) for run in group.runs if run.seed in theirs]
    if 0 < len(shared) < len(group.runs):
        notes.append(f"{PARTLY_PAIRED}: {', '.join(shared)}")
    if RECORDED in notes:
        notes = [note for note in notes if note != UNPAIRED]
    row = Row(
        group.name, tuple(run.seed for run in group.runs), cells, differences, reference.name if reference else None,
        remarks=remarks, runs=tuple(group.runs),
    )  # fmt: skip
    notes += [STEERED] * row.steered + [NO_UTILITY] * (not has_utility(row))
    return replace(row, notes=tuple(dict.fromkeys(notes)))


def remark_on(measured: Measurement, column: Column, wordings: Mapping[str, Wording]) -> str | None:
    """What a reader must know of a value: that nothing happened in its sample, or that the sample is tiny."""
    is_document = column.task == "perplexity"
    if measured.units is None or not (is_document or column.metric in (*PER_PROMPT, GENERATED)):
        return None
    unit = ("document" if is_document else "prompt") + "s" * (measured.units != 1)
    if measured.units < FEWEST:
        return f"{measured.units} {unit}: too few for an interval"
    if measured.value == 0 and column.metric in (FRACTION, "toxicity_probability"):
        event = wordings[column.task].positive if column.task in wordings else "such"
        return f"no {event} sample for any of {measured.units} {unit}: the upper bound is exact (Clopper and Pearson)"
    return None
