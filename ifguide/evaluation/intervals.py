"""Bootstrap intervals, by resampling the units of evaluation (prompts, documents)."""

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000


def mean_interval(values: NDArray[np.float64], *, seed: int = 0) -> list[float]:
    """95 % percentile interval of the mean of [n] values."""
    return ratio_interval(values, np.ones_like(values), seed=seed)


def ratio_interval(numerators: NDArray[np.float64], denominators: NDArray[np.float64], *, seed: int = 0) -> list[float]:
    """95 % percentile interval of Σ numerators / Σ denominators over resampled units, both [n]."""
    rng = np.random.default_rng(seed)
    ratios = np.empty(RESAMPLES)
    for index in range(RESAMPLES):
        chosen = rng.integers(len(numerators), size=len(numerators))
        ratios[index] = numerators[chosen].sum() / denominators[chosen].sum()
    low, high = np.quantile(ratios, [0.025, 0.975])
    return [float(low), float(high)]
