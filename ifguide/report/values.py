"""Values of one column over runs: means over seeds and prompts, and paired differences.

`SP` arrays are [seeds, prompts].
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ifguide.evaluation.toxicity import TOXIC_FROM, prompt_metrics
from ifguide.report.gather import Run
from ifguide.report.table import HEADLINE, TOXICITY_CATEGORY, Column, Measurement, as_pair, measurement
from ifguide.statistics import hierarchical_interval, interval_over_seeds, paired_difference

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
    if len(intervals) < len(known) or not math.isfinite(mean):
        return Measurement(mean)
    return Measurement(mean, as_pair(interval_over_seeds([one.value for one in known], intervals)))


def category_fractions(runs: Sequence[Run], task: str = HEADLINE.task) -> dict[str, Measurement]:
    """Category → share of samples that the classifier gives it, over seeds and prompts; empty where not known."""
    scores = [run.prompt_scores(task) for run in runs]
    known = [one for one in scores if one is not None]
    if not known or len(known) < len(scores) or any(one.keys != known[0].keys for one in known):
        return {}
    fractions = {}
    for category in known[0].probabilities:
        if all(category in one.probabilities for one in known):
            values_SP = np.stack([(one.probabilities[category] >= TOXIC_FROM).mean(1) for one in known])
            fractions[category] = Measurement(float(values_SP.mean()), as_pair(hierarchical_interval(values_SP)))
    return fractions
