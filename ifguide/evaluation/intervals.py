"""Bootstrap intervals, by resampling the units of evaluation (prompts, documents) and, where there are several, seeds.

Shape suffixes: S seeds, P prompts.
"""

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
CHUNK = 1 << 22  # indices drawn at a time


def mean_interval(values: NDArray[np.float64], *, seed: int = 0) -> list[float]:
    """95 % percentile interval of the mean of [n] values."""
    return hierarchical_interval(values[None], seed=seed)


def ratio_interval(numerators: NDArray[np.float64], denominators: NDArray[np.float64], *, seed: int = 0) -> list[float]:
    """95 % percentile interval of Σ numerators / Σ denominators over resampled units, both [n]."""
    rng = np.random.default_rng(seed)
    ratios = np.empty(RESAMPLES)
    for index in range(RESAMPLES):
        chosen = rng.integers(len(numerators), size=len(numerators))
        ratios[index] = numerators[chosen].sum() / denominators[chosen].sum()
    return _percentiles(ratios)


def hierarchical_interval(values_SP: NDArray[np.float64], *, seed: int = 0) -> list[float]:
    """95 % percentile interval of the mean over runs of several seeds, each evaluated on the same prompts.

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
    return _percentiles((np.concatenate(prompt_means) * counts_RS).sum(1) / seeds)


def paired_difference(
    values_SP: NDArray[np.float64], reference_SP: NDArray[np.float64], *, seed: int = 0
) -> tuple[float, list[float]]:
    """Mean of values − reference over the same seeds and prompts, and its 95 % interval.

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


def _percentiles(means: NDArray[np.float64]) -> list[float]:
    low, high = np.quantile(means, [0.025, 0.975])
    return [float(low), float(high)]
