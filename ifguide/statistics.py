"""Bootstrap intervals and rank statistics.

Intervals are 95 % percentile intervals over resampled units of evaluation (prompts, documents, texts) and, where there
are several, seeds. The same arguments give the same interval.

Shape suffixes: S seeds, P prompts, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

RESAMPLES = 1000
CHUNK = 1 << 22  # indices drawn at a time
BINS = 20_000  # of scores, in `ranking_intervals`


def percentiles(draws: Sequence[float] | NDArray[np.float64]) -> list[float]:
    """The middle 95 % of [n] draws: [low, high]."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return [float(low), float(high)]


def mean_interval(values: NDArray[np.float64], *, seed: int = 0) -> list[float]:
    """Interval of the mean of [n] values."""
    return hierarchical_interval(values[None], seed=seed)


def ratio_interval(numerators: NDArray[np.float64], denominators: NDArray[np.float64], *, seed: int = 0) -> list[float]:
    """Interval of Σ numerators / Σ denominators over resampled units, both [n]."""
    rng = np.random.default_rng(seed)
    ratios = np.empty(RESAMPLES)
    for index in range(RESAMPLES):
        chosen = rng.integers(len(numerators), size=len(numerators))
        ratios[index] = numerators[chosen].sum() / denominators[chosen].sum()
    return percentiles(ratios)


def hierarchical_interval(values_SP: NDArray[np.float64], *, seed: int = 0) -> list[float]:
    """Interval of the mean over runs of several seeds, each evaluated on the same prompts.

    Each resample draws seeds and, for all of them alike, prompts, both with replacement (the pigeonhole bootstrap of
    Owen, 2007): a prompt is the same prompt for every seed, so prompts drawn anew for each seed would pretend to more
    of them than there are. With one seed only prompts are drawn.

    Args:
        values_SP: [seeds, prompts], one value of each prompt in each run.
        seed: of the resampling.

    Raises:
        ValueError: the array is not [seeds, prompts], is empty, or holds a value that is not finite.
    """
    values_SP = _checked(values_SP)
    seeds, prompts = values_SP.shape
    rng = np.random.default_rng(seed)
    per_chunk = max(1, CHUNK // prompts)
    prompt_means = []  # [resamples, S]
    for first in range(0, RESAMPLES, per_chunk):
        rows = min(per_chunk, RESAMPLES - first)
        counts_RP = _counts(rng.integers(prompts, size=(rows, prompts)), prompts)
        prompt_means.append(counts_RP @ values_SP.T / prompts)
    counts_RS = _counts(rng.integers(seeds, size=(RESAMPLES, seeds)), seeds)
    return percentiles((np.concatenate(prompt_means) * counts_RS).sum(1) / seeds)


def paired_difference(
    values_SP: NDArray[np.float64], reference_SP: NDArray[np.float64], *, seed: int = 0
) -> tuple[float, list[float]]:
    """Mean of values − reference over the same seeds and prompts, and its interval.

    Both sides share every drawn seed and prompt, so what makes a prompt or a seed hard for both cancels.

    Args:
        values_SP: [seeds, prompts] of the run.
        reference_SP: the same seeds and prompts, in the same order, of the run it is compared with.

    Raises:
        ValueError: the shapes differ, or as for `hierarchical_interval`.
    """
    values_SP, reference_SP = _checked(values_SP), _checked(reference_SP)
    if values_SP.shape != reference_SP.shape:
        raise ValueError(
            f"{list(values_SP.shape)} and {list(reference_SP.shape)} [seeds, prompts] cannot be paired: "
            "a difference needs the same seeds and prompts on both sides"
        )
    difference_SP = values_SP - reference_SP
    return float(difference_SP.mean()), hierarchical_interval(difference_SP, seed=seed)


def interval_over_seeds(values: Sequence[float], intervals: Sequence[Sequence[float]], *, seed: int = 0) -> list[float]:
    """Interval of the mean of several seeds' values, each of which has an interval over the same documents.

    Seeds are drawn with replacement, and each draw is moved by one normal deviate times the drawn seeds' mean standard
    error: the documents are the same for all seeds, so their part of the uncertainty does not average out over seeds.
    """
    rng = np.random.default_rng(seed)
    chosen = rng.integers(len(values), size=(RESAMPLES, len(values)))
    errors = np.array([(high - low) / 2 / 1.96 for low, high in intervals])[chosen].mean(1)
    return percentiles(np.array(values)[chosen].mean(1) + errors * rng.standard_normal(RESAMPLES))


def roc_auc(scores: NDArray[np.floating], positive: NDArray[np.bool_]) -> float:
    """Area under the ROC curve: the chance that a positive outscores a negative, ties counting half.

    Raises:
        ValueError: one of the classes is empty.
    """
    positives = int(positive.sum())
    negatives = positive.size - positives
    if positives == 0 or negatives == 0:
        raise ValueError("a ROC curve needs positive and negative cases")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts - 1) / 2
    rank_sum = mean_rank[inverse.ravel()][positive.ravel()].sum()
    return float((rank_sum - positives * (positives + 1) / 2) / (positives * negatives))


def roc_auc_interval(
    scores: NDArray[np.floating], positive: NDArray[np.bool_], *, resamples: int = RESAMPLES, seed: int = 0
) -> list[float]:
    """Interval of the ROC AUC over resampled cases, [n] each; a resample of one class alone is drawn again."""
    rng = np.random.default_rng(seed)
    drawn: list[float] = []
    while len(drawn) < resamples:
        chosen = rng.integers(len(scores), size=len(scores))
        if 0 < positive[chosen].sum() < len(chosen):
            drawn.append(roc_auc(scores[chosen], positive[chosen]))
    return percentiles(drawn)


def ranking_intervals(
    scores: NDArray[np.floating],
    positive: NDArray[np.bool_],
    group: NDArray[np.int64],
    shares: Sequence[float],
    *,
    groups: int,
) -> tuple[list[float], list[list[float]]]:
    """Intervals of the ROC AUC and of the precision at each share of many scores, over resampled groups.

    Scores are counted by group and by bin (their quantiles), which is all that resampling needs.

    Args:
        scores, positive: [n].
        group: [n], the group of each score: what is resampled.
        shares: of the highest scores.
        groups: how many there are.

    Returns:
        The interval of the ROC AUC, and one interval for each share.
    """
    edges = np.unique(np.quantile(scores, np.linspace(0, 1, BINS)))
    bins, width = np.searchsorted(edges, scores), len(edges) + 1
    counts = [
        np.bincount(group[chosen] * width + bins[chosen], minlength=groups * width).reshape(groups, width)[:, ::-1]
        for chosen in (positive, ~positive)
    ]
    counts = [np.ascontiguousarray(count, dtype=np.float64) for count in counts]  # as exact, and BLAS multiplies them
    rng = np.random.default_rng(0)
    areas, precisions = np.empty(RESAMPLES), np.empty((len(shares), RESAMPLES))
    for index in range(RESAMPLES):
        times = np.bincount(rng.integers(groups, size=groups), minlength=groups)
        hits, misses = (times @ count for count in counts)
        found, rejected = np.cumsum(hits), np.cumsum(misses)  # from the highest scores down
        areas[index] = (misses * (found - hits / 2)).sum() / (found[-1] * rejected[-1])
        for row, share in enumerate(shares):
            wanted = share * (found[-1] + rejected[-1])
            precisions[row, index] = np.interp(wanted, found + rejected, found) / wanted
    return percentiles(areas), [percentiles(row) for row in precisions]


def calibration_error(probabilities: NDArray[np.float64], positive: NDArray[np.bool_], *, bins: int = 10) -> float:
    """Expected calibration error (Naeini et al., 2015): the mean over cases of |mean probability − share of positives|
    of the case's bin, bins of equal width, [n] each."""
    place = np.minimum((probabilities * bins).astype(int), bins - 1)
    sums, hits = (np.bincount(place, weights=values, minlength=bins) for values in (probabilities, positive))
    return float(np.abs(sums - hits).sum() / len(probabilities))


def spearman(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Rank correlation of two arrays of the same shape; tied values share their mean rank.

    It is not defined where an array is constant. We say 1 where both are (they rank nothing differently) and 0 where
    one is (its ranks say nothing of the other's).
    """
    a, b = np.ravel(a), np.ravel(b)
    if a.shape != b.shape or a.size == 0:
        raise ValueError(f"a rank correlation of {a.size} and {b.size} values: as many of each are needed")
    constant = [bool((values == values[0]).all()) for values in (a, b)]
    if any(constant):
        return float(all(constant))
    return float(spearmanr(a, b).statistic)


def spearman_interval(
    a: NDArray[np.floating], b: NDArray[np.floating], *, seed: int | np.random.Generator = 0
) -> list[float]:
    """Interval of the rank correlation over resampled pairs, [n] each."""
    drawn = np.random.default_rng(seed).integers(len(a), size=(RESAMPLES, len(a)))
    return percentiles([spearman(a[chosen], b[chosen]) for chosen in drawn])


def _counts(chosen_RN: NDArray[np.int64], units: int) -> NDArray[np.float64]:
    """How often each unit is drawn in each resample: [R, units] from indices [R, n]."""
    rows = len(chosen_RN)
    flat = (chosen_RN + units * np.arange(rows)[:, None]).ravel()
    return np.bincount(flat, minlength=rows * units).reshape(rows, units).astype(np.float64)


def _checked(values: NDArray[np.float64]) -> NDArray[np.float64]:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"an array of shape {list(values.shape)}: [seeds, prompts] with one of each or more is needed")
    if not np.isfinite(values).all():
        raise ValueError(f"{int((~np.isfinite(values)).sum())} of {values.size} values are not finite")
    return values
