"""Win rates as columns of a comparison, from what a judge said of two runs' generations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ifguide.evaluation.judge import same_in_both_orders, wins
from ifguide.report.gather import Run
from ifguide.report.rows import Comparison, Row
from ifguide.report.table import Column, Measurement, as_pair
from ifguide.statistics import FEWEST, proportion_interval

JUDGED = {
    Column("win rate ↑", "judge", "all", "win_rate"): wins,
    Column("same in both orders", "judge", "all", "same_in_both_orders"): same_in_both_orders,
}


def with_win_rates(comparison: Comparison, judge: Callable[[Run, Run], list[dict[str, Any]] | None]) -> Comparison:
    """The comparison, with how often each row wins against its reference: a mean over seeds and prompts.

    Raises:
        ValueError: there is no reference.
    """
    if comparison.reference is None:
        raise ValueError("judge: win rates are against a reference; name a row in report.reference")
    rows = {row.name: row for row in comparison.measured}
    judged = tuple(
        row if row.reference not in rows else with_win_rate(row, rows[row.reference], judge) for row in comparison.rows
    )
    return replace(
        comparison,
        rows=judged,
        columns=(*comparison.columns, *JUDGED),
        every_column=(*comparison.every_column, *JUDGED),
    )


def with_win_rate(row: Row, reference: Row, judge: Callable[[Run, Run], list[dict[str, Any]] | None]) -> Row:
    theirs = {run.seed: run for run in reference.runs}
    asked = [judge(run, theirs[run.seed]) for run in row.runs if run.seed in theirs]
    found = [rows for rows in asked if rows is not None]
    if not found or len(found) < len(asked):
        return replace(row, notes=(*row.notes, "no win rate: no generations of the same seeds in the workspace"))
    cells = dict(row.cells)
    for column, measure in JUDGED.items():
        values: list[dict[tuple[str, str], float]] = []
        for rows in found:
            by_prompt: dict[tuple[str, str], list[float]] = {}
            for judged, value in zip(rows, measure(np.array([one["log_odds"] for one in rows])), strict=True):
                by_prompt.setdefault((judged["record"], judged["prompt"]), []).append(float(value))
            values.append({key: float(np.mean(samples)) for key, samples in by_prompt.items()})
        shared = [key for key in values[0] if all(key in seed for seed in values)]
        values_SP = np.array([[seed[key] for key in shared] for seed in values])
        enough = values_SP.shape[1] >= FEWEST
        interval = as_pair(proportion_interval(values_SP)) if enough else None
        cells[column] = Measurement(float(values_SP.mean()), interval, values_SP.shape[1])
    notes = (*row.notes, f"win rate against {reference.name}, by the judge")
    return replace(row, cells=cells, notes=notes, remarks={**row.remarks, **remarks_on(cells)})


def remarks_on(cells: Mapping[Column, Measurement]) -> dict[Column, str]:
    """Whether the win rate says anything."""
    column, _ = JUDGED
    rate = cells[column]
    if rate.interval is None:
        return {column: f"{rate.units} prompts: too few for an interval"}
    low, high = rate.interval
    return {column: "not told from a coin: the interval holds .5"} if low <= 0.5 <= high else {}
