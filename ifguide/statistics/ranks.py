"""Rank statistics: ROC AUC, precision and recall, rank correlation, and their bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.stats import spearmanr

from ifguide.statistics.intervals import RESAMPLES, percentiles

BINS = 20_000  # of scores, in `ranking_intervals`
TOGETHER = 128  # resamples of `ranking_intervals` at a time


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
    return _over_cases(roc_auc, scores, positive, resamples, seed)


def average_precision(scores: NDArray[np.floating], positive: NDArray[np.bool_]) -> float:
    """Area under the precision-recall curve, as steps: Σ (R[k] − R[k − 1]) P[k] over distinct scores, highest first.

    Raises:
        ValueError: there is no positive.
    """
    recall, precision = precision_recall(scores, positive)
    return float((np.diff(recall, prepend=0) * precision).sum())


def average_precision_interval(
    scores: NDArray[np.floating], positive: NDArray[np.bool_], *, resamples: int = RESAMPLES, seed: int = 0
) -> list[float]:
    """Interval of the average precision, as that of the ROC AUC."""
    return _over_cases(average_precision, scores, positive, resamples, seed)


def precision_recall_area(scores: NDArray[np.floating], positive: NDArray[np.bool_]) -> float:
    """Area under the precision-recall curve by the trapezoidal rule, which begins at recall 0 with precision 1.

    It joins points that no threshold reaches, and so is the more optimistic one (Davis & Goadrich, 2006). Published
    AUPRC are often this.

    Raises:
        ValueError: there is no positive.
    """
    recall, precision = precision_recall(scores, positive)
    return float(np.trapezoid(np.r_[1, precision], np.r_[0, recall]))


def precision_recall(
    scores: NDArray[np.floating], positive: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Recall and precision at every distinct score, the highest first."""
    if not positive.any():
        raise ValueError("precision and recall need a positive case")
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)  # of each score
    found = np.cumsum(positive[order])[last]
    return found / found[-1], found / (last + 1)


def _over_cases(
    statistic: Callable[[NDArray[np.floating], NDArray[np.bool_]], float],
    scores: NDArray[np.floating],
    positive: NDArray[np.bool_],
    resamples: int,
    seed: int,
) -> list[float]:
    """Interval of a statistic over resampled cases, each resample with both classes.

    Raises:
        ValueError: all cases are of one class.
    """
    if positive.all() or not positive.any():
        raise ValueError(
            f"all of {len(positive)} cases are {'positive' if positive.any() else 'negative'}: both are needed"
        )
    rng = np.random.default_rng(seed)
    drawn: list[float] = []
    while len(drawn) < resamples:
        chosen = rng.integers(len(scores), size=len(scores))
        if 0 < positive[chosen].sum() < len(chosen):
            drawn.append(statistic(scores[chosen], positive[chosen]))
    return percentiles(drawn)


def ranking_intervals(
    scores: NDArray[np.floating],
    positive: NDArray[np.bool_],
    group: NDArray[np.int64],
    shares: Sequence[float],
    *,
    groups: int,
) -> tuple[list[float], list[list[float]]]:
    """Intervals of the ROC AUC and of the precision at each share of many scores: those of `ranking_draws`."""
    areas, precisions = ranking_draws(scores, positive, group, shares, groups=groups)
    return percentiles(areas), [percentiles(row) for row in precisions]


def ranking_draws(
    scores: NDArray[np.floating],
    positive: NDArray[np.bool_],
    group: NDArray[np.int64],
    shares: Sequence[float],
    *,
    groups: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """ROC AUC and precision at each share of many scores, in resamples of groups that are the same for any scores.

    Scores are counted by group and by bin (their quantiles), which is all that resampling needs.

    Args:
        scores, positive: [n].
        group: [n], the group of each score: what is resampled.
        shares: of the highest scores.
        groups: how many there are.

    Returns:
        [R] and [shares, R], of the resamples that hold both kinds.
    """
    order = np.argsort(scores, kind="stable")
    scores, positive, group = scores[order], positive[order], group[order]
    edges = np.unique(_quantiles(scores, BINS))
    bins, width = len(edges) - np.searchsorted(edges, scores), len(edges) + 1  # the highest scores first
    counts = [  # [bins, groups]; their sums are whole numbers, and so exact
        csr_array((np.ones(int(chosen.sum())), (bins[chosen], group[chosen])), shape=(width, groups))
        for chosen in (positive, ~positive)
    ]
    rng = np.random.default_rng(0)
    areas, precisions = np.empty(RESAMPLES), np.empty((len(shares), RESAMPLES))
    for first in range(0, RESAMPLES, TOGETHER):
        drawn = [rng.integers(groups, size=groups) for _ in range(min(TOGETHER, RESAMPLES - first))]
        times = np.stack([np.bincount(one, minlength=groups) for one in drawn], axis=1).astype(np.float64)
        sums = [np.ascontiguousarray((count @ times).T) for count in counts]
        for index, (hits, misses) in enumerate(zip(*sums, strict=True), start=first):
            found, rejected = np.cumsum(hits), np.cumsum(misses)  # from the highest scores down
            if not found[-1] or not rejected[-1]:
                areas[index] = precisions[:, index] = np.nan
                continue
            areas[index] = (misses * (found - hits / 2)).sum() / (found[-1] * rejected[-1])
            for row, share in enumerate(shares):
                wanted = share * (found[-1] + rejected[-1])
                precisions[row, index] = np.interp(wanted, found + rejected, found) / wanted
    both = np.isfinite(areas)
    return areas[both], precisions[:, both]


def _quantiles(ordered: NDArray[np.floating], count: int) -> NDArray[np.floating]:
    """What `np.quantile` gives at `count` places from 0 to 1, of values in order, which it would not make use of."""
    places = np.linspace(0, 1, count) * (len(ordered) - 1)
    low = np.floor(places).astype(np.int64)
    below, above, share = ordered[low], ordered[np.minimum(low + 1, len(ordered) - 1)], places - low
    gap = above - below
    return np.where(share >= 0.5, above - gap * (1 - share), below + gap * share)


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


def spearman_difference(
    a: NDArray[np.floating], other: NDArray[np.floating], b: NDArray[np.floating], *, seed: int = 0
) -> tuple[float, list[float]]:
    """Rank correlation of `a` with `b` less that of `other` with `b`; its interval over resampled cases, [n] each."""
    drawn = np.random.default_rng(seed).integers(len(a), size=(RESAMPLES, len(a)))
    draws = [spearman(a[chosen], b[chosen]) - spearman(other[chosen], b[chosen]) for chosen in drawn]
    return spearman(a, b) - spearman(other, b), percentiles(draws)


def spearman_interval(
    a: NDArray[np.floating], b: NDArray[np.floating], *, seed: int | np.random.Generator = 0
) -> list[float]:
    """Interval of the rank correlation over resampled pairs, [n] each."""
    drawn = np.random.default_rng(seed).integers(len(a), size=(RESAMPLES, len(a)))
    return percentiles([spearman(a[chosen], b[chosen]) for chosen in drawn])
