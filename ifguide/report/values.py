"""Values of one column over runs: means over seeds and units (prompts, documents), and paired differences.

Shape suffixes: S seeds, U units.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ifguide.corpus.blocks import LABELS
from ifguide.evaluation.fluency import UnitLosses
from ifguide.evaluation.toxicity import INTERVALS, TOXIC_FROM, prompt_metrics
from ifguide.report.gather import Run
from ifguide.report.table import TOXICITY_CATEGORY, Column, Measurement, as_pair, measurement
from ifguide.statistics import (
    FEWEST,
    interval_over_seeds,
    paired_difference,
    paired_perplexity_difference,
    perplexity_interval,
    proportion_interval,
)

PER_PROMPT = tuple(INTERVALS)
PROPORTIONS = (*PER_PROMPT, "accuracy", "last_token_accuracy", "success_before", "attack_success")
GENERATED = "generation_perplexity"
PERPLEXITIES = ("perplexity", GENERATED)


@dataclass(frozen=True)
class Units:
    """One run's values of a column by unit.

    Args:
        keys: what the units are, the same in every run.
        values: [U] of each; of perplexities the summed losses.
        tokens: [U] that those losses are of; None for other metrics.
    """

    keys: Sequence[Hashable]
    values: NDArray[np.float64]
    tokens: NDArray[np.float64] | None = None


def without_damaged(run: Run) -> Run:
    """The run without those artifacts whose values unit by unit are damaged, which becomes a note on its row."""
    notes = list(run.notes)
    kept = dict(run.artifacts)
    for role, folder in run.artifacts.items():
        try:
            if role == "evaluation":
                for name in run.judged:
                    run.prompt_scores(name)
            elif role == "perplexity" or role.startswith("fluency."):
                UnitLosses.open(folder)
        except (OSError, ValueError) as error:
            notes.append(f"damaged: {' '.join(str(error).split())}; build {role} again")
            del kept[role]
    return run if len(kept) == len(run.artifacts) else replace(run, artifacts=kept, notes=notes)


def units_of(run: Run, column: Column) -> Units | None:
    """The column unit by unit, or None where that is not known."""
    if column.metric in PER_PROMPT:
        scores = run.prompt_scores(column.task)
        if scores is None or TOXICITY_CATEGORY not in scores.probabilities:
            return None
        values = prompt_metrics(scores.probabilities[TOXICITY_CATEGORY])[column.metric]
        return _members(list(scores.keys), scores.subsets, column.subset, values)
    if column.metric == GENERATED:
        scores, folder = run.prompt_scores(column.task), run.artifacts.get(f"fluency.{column.task}")
        losses = None if folder is None else UnitLosses.open(folder)
        if scores is None or losses is None:
            return None
        return _members(list(scores.keys), scores.subsets, column.subset, losses.losses, losses.tokens)
    if (column.task, column.metric) == ("perplexity", "perplexity") and "perplexity" in run.artifacts:
        losses = UnitLosses.open(run.artifacts["perplexity"])
        if losses is None or losses.source is None or losses.record is None or losses.label is None:
            return None
        corpus = run.artifacts["data"].name if "data" in run.artifacts else None  # whose sources have these numbers
        keys = [(corpus, *one) for one in zip(losses.source.tolist(), losses.record.tolist(), strict=True)]
        names = {code: name or "unlabelled" for name, code in LABELS.items()}
        labels = [names[int(code)] for code in losses.label]
        return _members(keys, labels, column.subset, losses.losses, losses.tokens)
    return None


def _members(
    keys: Sequence[Hashable],
    subsets: Sequence[str],
    subset: str,
    values: NDArray[np.float64],
    tokens: NDArray[np.float64] | None = None,
) -> Units | None:
    """The units of a subset that have a value; None where there is none, or one that is not finite."""
    inside = np.array([subset in ("all", own) for own in subsets], dtype=bool)
    if tokens is not None:
        inside &= tokens > 0
    places: list[int] = np.flatnonzero(inside).tolist()
    if not places or not np.isfinite(values[places]).all():
        return None
    return Units([keys[place] for place in places], values[places], None if tokens is None else tokens[places])


def aligned_units(units: Sequence[Units | None]) -> tuple[NDArray[np.float64], NDArray[np.float64] | None] | None:
    """Values and tokens of the units that all these runs share, [S, U] each; None where they share none."""
    known = [one for one in units if one is not None]
    if not known or len(known) < len(units):
        return None
    places = [{key: place for place, key in enumerate(one.keys)} for one in known]
    shared = [key for key in known[0].keys if all(key in place for place in places[1:])]
    if not shared:
        return None
    chosen = [[place[key] for key in shared] for place in places]
    values = np.stack([one.values[rows] for one, rows in zip(known, chosen, strict=True)])
    tokens = [one.tokens[rows] for one, rows in zip(known, chosen, strict=True) if one.tokens is not None]
    return values, np.stack(tokens) if tokens else None


def units_are_known(runs: Sequence[Run], column: Column) -> bool:
    """Whether every run has values prompt by prompt, or document by document."""
    return all(units_of(run, column) is not None for run in runs)


def measured_over(runs: Sequence[Run], column: Column) -> Measurement | None:
    """Mean over seeds with its interval over seeds and units; None where units are not known or the runs' differ."""
    units = [units_of(run, column) for run in runs]
    found = aligned_units(units)
    if found is None or any(one is not None and len(one.keys) != found[0].shape[1] for one in units):
        return None
    values_SU, tokens_SU = found
    if tokens_SU is None:
        mean, interval = float(values_SU.mean()), within_bounds(INTERVALS[column.metric](values_SU), column)
    else:
        mean = float(np.exp(values_SU.sum(1) / tokens_SU.sum(1)).mean())
        interval = within_bounds(perplexity_interval(values_SU, tokens_SU), column)
    return Measurement(mean, as_pair(interval) if values_SU.shape[1] >= FEWEST else None, values_SU.shape[1])


def difference_from(runs: Sequence[Run], reference: Sequence[Run], column: Column) -> Measurement | None:
    """Mean difference over the seeds that both have, and the units that all of these share; None without any, as where
    the documents of one are not the other's.

    There is no interval where values by unit are not known, or where there are fewer than five units.
    """
    ours, theirs = {run.seed: run for run in runs}, {run.seed: run for run in reference}
    seeds = sorted(ours.keys() & theirs.keys())
    pairs = [units_of(side[seed], column) for seed in seeds for side in (ours, theirs)]
    found = aligned_units(pairs)
    if found is not None:
        values, tokens = found
        if tokens is None:
            difference = paired_difference(values[::2], values[1::2])
        else:
            sides = [(values[side::2], tokens[side::2]) for side in (0, 1)]
            difference = paired_perplexity_difference(*sides)
        units = values.shape[1]
        partly = any(len(one.keys) > units for one in pairs if one is not None)
        if units < FEWEST or not np.any(values[::2] != values[1::2]):
            return Measurement(difference.value, None, units, partly=partly)
        return Measurement(difference.value, as_pair(difference.interval), units, difference.p, partly)
    if pairs and all(one is not None for one in pairs):
        return None
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
    units = recorded_units(runs[0], column)
    intervals = [one.interval for one in known if one.interval is not None]
    if (units is not None and units < FEWEST) or len(intervals) < len(known) or not math.isfinite(mean):
        return Measurement(mean, None, units)
    values = [one.value for one in known]
    if units and set(values) in ({0.0}, {1.0}) and INTERVALS.get(column.metric) is proportion_interval:
        return Measurement(mean, as_pair(proportion_interval(np.full((1, units), mean))), units)
    if len(known) == 1:
        return Measurement(mean, intervals[0], units)
    return Measurement(mean, as_pair(within_bounds(interval_over_seeds(values, intervals), column)), units)


def within_bounds(interval: Sequence[float], column: Column) -> Sequence[float]:
    """An interval by Student's t, which knows no bounds, of a share, a mean of probabilities or a perplexity."""
    low, high = interval
    if column.metric in PERPLEXITIES:
        return max(low, 1.0), high  # not a number stays so
    return (max(0.0, low), min(1.0, high)) if column.metric in PROPORTIONS else interval


def recorded_units(run: Run, column: Column) -> int | None:
    """Prompts or documents that a metric is of, where `metrics.json` says so."""
    values = ((run.metrics or {}).get(column.task) or {}).get(column.subset) or {}
    count = values.get("documents" if column.task == "perplexity" else "prompts")
    return count if isinstance(count, int) else None


def category_fractions(runs: Sequence[Run], task: str) -> dict[str, Measurement]:
    """Category → share of samples that the classifier gives it, over seeds and prompts; empty where not known."""
    scores = [run.prompt_scores(task) for run in runs]
    known = [one for one in scores if one is not None]
    if not known or len(known) < len(scores) or any(one.keys != known[0].keys for one in known):
        return {}
    fractions = {}
    for category in known[0].probabilities:
        if all(category in one.probabilities for one in known):
            values_SP = np.stack([(one.probabilities[category] >= TOXIC_FROM).mean(1) for one in known])
            fractions[category] = Measurement(float(values_SP.mean()), as_pair(proportion_interval(values_SP)))
    return fractions


def subset_fractions(runs: Sequence[Run], headline: Column) -> dict[str, Measurement]:
    """Subset of the prompts → the headline's fraction; empty where there is one subset alone."""
    metrics = (runs[0].metrics or {}).get(headline.task) or {}
    found = {}
    for subset in metrics:
        column = Column(subset, headline.task, subset, headline.metric)
        having = [run for run in runs if measurement(run.metrics or {}, column.task, subset, column.metric)]
        if having:
            found[subset] = measured_over(having, column) or recorded_mean(having, column)
    return found if len(found) > 2 else {}  # `all`, and one that is the same
