"""Intervals of means, tests of differences, and rank statistics."""

from ifguide.statistics.intervals import (
    FEWEST,
    RESAMPLES,
    Difference,
    clopper_pearson,
    hierarchical_interval,
    holm,
    interval_over_seeds,
    mean_interval,
    paired_difference,
    paired_perplexity_difference,
    percentiles,
    perplexity_interval,
    proportion_interval,
    ratio_interval,
)
from ifguide.statistics.ranks import (
    calibration_error,
    ranking_intervals,
    roc_auc,
    roc_auc_interval,
    spearman,
    spearman_interval,
)

__all__ = [
    "FEWEST",
    "RESAMPLES",
    "Difference",
    "calibration_error",
    "clopper_pearson",
    "hierarchical_interval",
    "holm",
    "interval_over_seeds",
    "mean_interval",
    "paired_difference",
    "paired_perplexity_difference",
    "percentiles",
    "perplexity_interval",
    "proportion_interval",
    "ranking_intervals",
    "ratio_interval",
    "roc_auc",
    "roc_auc_interval",
    "spearman",
    "spearman_interval",
]
