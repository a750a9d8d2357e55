"""95 % intervals of means over units of evaluation (prompts, documents, texts) and seeds, and tests of differences.

Of one seed, a percentile bootstrap over units. Of several, units and seeds are crossed (a prompt is the same prompt for
every seed), and a handful of seeds is too small to resample: a bootstrap of three covers as little as .8. There the
interval is mean ± h with

    h² = max(t²(S − 1) · MS_seeds, t²((S − 1)(P − 1)) · MS_rest) / SP + t²(P − 1) · max(MS_units − MS_rest, 0) / SP,

from the mean squares of the two-way table [seeds, units] and the 97.5 % points of Student's t: every variance with the
degrees of freedom it was learned from. It is exact where one term vanishes and a little too wide between (coverage .95
to .99; `tests/test_statistics.py` simulates it). Seeds whose means happen to coincide would have MS_seeds = 0, though
chance alone, which is MS_rest, keeps them apart. Of two seeds it is wide: two say little of others.

The same arguments give the same interval.

Shape suffixes: S seeds, P prompts, D documents, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import beta, t

RESAMPLES = 1000
CHUNK = 1 << 22  # indices drawn at a time
FEWEST = 5  # units of evaluation, or seeds; of fewer an interval says little, or is wide
SMALLEST = 1e-12  # p-value
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """A difference of two means, its interval, and the two-sided p-value of no difference, by the same form."""

    value: float
    interval: list[float]
    p: float


def percentiles(draws: Sequence[float] | Array) -> list[float]:
    """The middle 95 % of [n] draws: [low, high]."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return [float(low), float(high)]


def mean_interval(values: Array, *, seed: int = 0) -> list[float]:
    """Interval of the mean of [n] values."""
    return hierarchical_interval(values[None], seed=seed)


def ratio_interval(numerators: Array, denominators: Array, *, seed: int = 0) -> list[float]:
    """Interval of Σ numerators / Σ denominators over resampled units, both [n]."""
    rng = np.random.default_rng(seed)
    ratios = np.empty(RESAMPLES)
    for index in range(RESAMPLES):
        chosen = rng.integers(len(numerators), size=len(numerators))
        ratios[index] = numerators[chosen].sum() / denominators[chosen].sum()
    return percentiles(ratios)


def hierarchical_interval(values_SP: Array, *, seed: int = 0) -> list[float]:
    """Interval of the mean over runs of several seeds, each evaluated on the same prompts; see the module.

    Args:
        values_SP: [seeds, prompts], one value of each prompt in each run.
        seed: of the resampling, where there is one seed alone.

    Raises:
        ValueError: the array is not [seeds, prompts], is empty, or holds a value that is not finite.
    """
    values_SP = _checked(values_SP)
    if len(values_SP) == 1:
        return percentiles(_resampled(values_SP, seed)[:, 0] / values_SP.shape[1])
    mean, half = float(values_SP.mean()), _half_width(values_SP)
    return [mean - half, mean + half]


def proportion_interval(values_SP: Array, *, seed: int = 0) -> list[float]:
    """Interval of the mean of shares, each within [0, 1]: as `hierarchical_interval`, but where nothing varies exact.

    Of several seeds it is taken on the logit's scale, on which it stays within (0, 1) and is as lopsided as rare events
    make it.

    Prompts without any event would give [0, 0], which says too much. Then, and where all are events, the interval is
    Clopper and Pearson's (1934), with the prompts as its trials: their samples and seeds are not independent.

    Args:
        values_SP: [seeds, prompts] shares.
        seed: of the resampling.
    """
    values_SP = _checked(values_SP)
    mean = float(values_SP.mean())
    if len(np.unique(values_SP)) == 1 and mean in (0, 1):
        prompts = values_SP.shape[1]
        return clopper_pearson(prompts * int(mean), prompts)
    if len(values_SP) == 1:
        return hierarchical_interval(values_SP, seed=seed)
    half = _half_width(values_SP) / (mean * (1 - mean))
    odds = math.log(mean / (1 - mean))
    return [float(0.5 + 0.5 * np.tanh(end / 2)) for end in (odds - half, odds + half)]


def clopper_pearson(events: int, trials: int) -> list[float]:
    """The exact 95 % interval of a probability, from `events` in `trials` independent trials."""
    low = 0.0 if events == 0 else float(beta.ppf(0.025, events, trials - events + 1))
    high = 1.0 if events == trials else float(beta.ppf(0.975, events + 1, trials - events))
    return [low, high]


def perplexity_interval(losses_SD: Array, tokens_SD: Array, *, seed: int = 0) -> list[float]:
    """Interval of the mean over seeds of exp(Σ losses / Σ tokens), over seeds and documents.

    Args:
        losses_SD: [seeds, documents] summed losses of each document (or prompt's continuations), in nats.
        tokens_SD: how many tokens those are.
        seed: of the resampling.

    Raises:
        ValueError: as for `hierarchical_interval`.
    """
    if len(losses_SD) == 1:
        return percentiles(_resampled_perplexity(losses_SD, tokens_SD, seed))
    values_SD = _linearised_perplexities(losses_SD, tokens_SD)
    return hierarchical_interval(values_SD) if np.isfinite(values_SD).all() else [math.nan, math.nan]


def paired_perplexity_difference(
    ours: tuple[Array, Array], reference: tuple[Array, Array], *, seed: int = 0
) -> Difference:
    """Difference of two mean perplexities over the same seeds and documents.

    Args:
        ours, reference: losses and tokens, [seeds, documents] each, as in `perplexity_interval`.
        seed: of the resampling, whose documents both sides share.

    Raises:
        ValueError: the shapes differ, or as for `hierarchical_interval`.
    """
    if ours[0].shape != reference[0].shape:
        raise ValueError(f"{list(ours[0].shape)} and {list(reference[0].shape)} [seeds, documents] cannot be paired")
    if len(ours[0]) == 1:
        values = [float(np.exp(losses.sum() / tokens.sum())) for losses, tokens in (ours, reference)]
        drawn, others = (_resampled_perplexity(*side, seed) for side in (ours, reference))
        return _from_draws(values[0] - values[1], drawn - others, ours[0].shape[1])
    values_SD, others_SD = (_linearised_perplexities(*side) for side in (ours, reference))
    if not np.isfinite(values_SD - others_SD).all():
        return Difference(math.nan, [math.nan, math.nan], 1.0)
    return paired_difference(values_SD, others_SD)


def paired_difference(values_SP: Array, reference_SP: Array, *, seed: int = 0) -> Difference:
    """Mean of values − reference over the same seeds and prompts.

    Both sides share every seed and prompt, so what makes a prompt or a seed hard for both cancels.

    Args:
        values_SP: [seeds, prompts] of the run.
        reference_SP: the same seeds and prompts, in the same order, of the run it is compared with.
        seed: of the resampling.

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
    value = float(difference_SP.mean())
    if len(difference_SP) == 1:
        return _from_draws(
            value, _resampled(difference_SP, seed)[:, 0] / difference_SP.shape[1], difference_SP.shape[1]
        )
    half = _half_width(difference_SP)
    return Difference(value, [value - half, value + half], _p_value(difference_SP))


def interval_over_seeds(values: Sequence[float], intervals: Sequence[Sequence[float]]) -> list[float]:
    """Interval of the mean of several seeds' values, each of which has an interval over the same documents.

    The spread between seeds with Student's t, and the seeds' mean standard error: the documents are the same for all
    seeds, so their part of the uncertainty does not average out over seeds.
    """
    mean, seeds = float(np.mean(values)), len(values)
    error = float(np.mean([(high - low) / 2 for low, high in intervals]))
    half = math.hypot(float(t.ppf(0.975, seeds - 1)) * float(np.std(values, ddof=1)) / math.sqrt(seeds), error)
    return [mean - half, mean + half]


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values after Holm's correction (1979): those of at most .05 hold together, with a chance of 5 % that any is
    wrong."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(order))
    adjusted[order] = np.maximum.accumulate(np.asarray(p_values)[order] * np.arange(len(order), 0, -1))
    return [float(p) for p in np.minimum(adjusted, 1)]


def _variances(values_SP: Array) -> tuple[float, float, float]:
    """MS_seeds / SP, MS_rest / SP, and max(MS_units − MS_rest, 0) / SP."""
    seeds, prompts = values_SP.shape
    rows_S, columns_P, mean = values_SP.mean(1), values_SP.mean(0), values_SP.mean()
    between = float(np.square(rows_S - mean).sum()) / (seeds - 1) / seeds
    if prompts == 1:
        return between, 0.0, 0.0
    rest_SP = values_SP - rows_S[:, None] - columns_P + mean
    of_units = float(np.square(columns_P - mean).sum()) / (prompts - 1) / prompts
    of_rest = float(np.square(rest_SP).sum()) / (seeds - 1) / (prompts - 1) / (seeds * prompts)
    return between, of_rest, max(of_units - of_rest, 0.0)


def _half_width(values_SP: Array, p: float = 0.05) -> float:
    """h of the module's formula, of the interval that leaves out a probability of p."""
    seeds, prompts = values_SP.shape
    between, of_rest, of_units = _variances(values_SP)
    square = float(t.isf(p / 2, seeds - 1)) ** 2 * between
    if of_rest:
        square = max(square, float(t.isf(p / 2, (seeds - 1) * (prompts - 1))) ** 2 * of_rest)
    if of_units:
        square += float(t.isf(p / 2, prompts - 1)) ** 2 * of_units
    return math.sqrt(square)


def _p_value(difference_SP: Array) -> float:
    """The p whose interval just reaches 0."""
    value = abs(float(difference_SP.mean()))
    if value <= _half_width(difference_SP, 1.0) or not math.isfinite(value):
        return 1.0
    if value >= _half_width(difference_SP, SMALLEST):
        return SMALLEST
    return float(brentq(lambda p: _half_width(difference_SP, p) - value, SMALLEST, 1.0, xtol=SMALLEST))


def _from_draws(value: float, draws_R: Array, units: int) -> Difference:
    """A bootstrap's difference; its p-value is twice the share of draws beyond 0, the sample itself among them.

    Where no draw is beyond 0, their number would be the p-value: then it is Student's, of the draws' standard error.
    """
    beyond = min((draws_R <= 0).sum(), (draws_R >= 0).sum())
    p = min(1.0, 2 * float(beyond + 1) / (len(draws_R) + 1))
    error = float(draws_R.std()) * math.sqrt(units / max(1, units - 1))  # a bootstrap's is of n, not n − 1
    if beyond == 0 and error > 0:
        p = max(SMALLEST, 2 * float(t.sf(abs(value) / error, units - 1)))
    return Difference(value, percentiles(draws_R), p)


def _resampled(values_SP: Array, seed: int) -> Array:
    """Sums over resampled prompts, [R, S]."""
    prompts = values_SP.shape[1]
    rng = np.random.default_rng(seed)
    per_chunk = max(1, CHUNK // prompts)
    sums_RS = []
    for first in range(0, RESAMPLES, per_chunk):
        rows = min(per_chunk, RESAMPLES - first)
        sums_RS.append(_counts(rng.integers(prompts, size=(rows, prompts)), prompts) @ values_SP.T)
    return np.concatenate(sums_RS)


def _resampled_perplexity(losses_1D: Array, tokens_1D: Array, seed: int) -> Array:
    """Perplexities of one seed over resampled documents, [R]."""
    both = np.concatenate([_checked(losses_1D), _checked(tokens_1D)])  # so that both see the same draws
    losses_R, tokens_R = _resampled(both, seed).T
    with np.errstate(over="ignore"):
        perplexities_R: Array = np.exp(losses_R / tokens_R)
    return perplexities_R


def _linearised_perplexities(losses_SD: Array, tokens_SD: Array) -> Array:
    """[seeds, documents] values whose mean over documents is each seed's perplexity, to first order in what a document
    adds to it: w (1 + (ℓ[d] − n[d] log w) / mean n)."""
    losses_SD, tokens_SD = _checked(losses_SD), _checked(tokens_SD)
    rates_S1 = losses_SD.sum(1, keepdims=True) / tokens_SD.sum(1, keepdims=True)
    with np.errstate(over="ignore", invalid="ignore"):
        added_SD = (losses_SD - rates_S1 * tokens_SD) / tokens_SD.mean(1, keepdims=True)
        values_SD: Array = np.exp(rates_S1) * (1 + added_SD)
    return values_SD


def _counts(chosen_RN: NDArray[np.int64], units: int) -> Array:
    """How often each unit is drawn in each resample: [R, units] from indices [R, n]."""
    rows = len(chosen_RN)
    flat = (chosen_RN + units * np.arange(rows)[:, None]).ravel()
    return np.bincount(flat, minlength=rows * units).reshape(rows, units).astype(np.float64)


def _checked(values: Array) -> Array:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"an array of shape {list(values.shape)}: [seeds, prompts] with one of each or more is needed")
    if not np.isfinite(values).all():
        raise ValueError(f"{int((~np.isfinite(values)).sum())} of {values.size} values are not finite")
    return values
