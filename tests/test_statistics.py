import numpy as np
import pytest
from scipy.stats import binom

from ifguide.statistics import (
    RESAMPLES,
    clopper_pearson,
    hierarchical_interval,
    mean_interval,
    paired_difference,
    paired_perplexity_difference,
    percentiles,
    perplexity_interval,
    proportion_interval,
    ratio_interval,
    roc_auc,
    roc_auc_interval,
    spearman,
    spearman_interval,
)


def slow_interval(values, seed):
    """The definition, one resample at a time, from the same draws."""
    seeds, prompts = values.shape
    rng = np.random.default_rng(seed)
    chosen_prompts = [rng.integers(prompts, size=prompts) for _ in range(RESAMPLES)]
    chosen_seeds = [rng.integers(seeds, size=seeds) for _ in range(RESAMPLES)]
    means = [
        np.mean([values[s, p] for s in some for p in others])
        for some, others in zip(chosen_seeds, chosen_prompts, strict=True)
    ]
    return np.quantile(means, [0.025, 0.975])


@pytest.mark.parametrize("shape", [(1, 7), (3, 1), (4, 9)])
def test_the_hierarchical_interval_is_its_definition(shape):
    values = np.random.default_rng(3).random(shape)
    assert hierarchical_interval(values, seed=5) == pytest.approx(slow_interval(values, 5), abs=1e-12)


def test_one_seed_resamples_prompts_only(monkeypatch):
    values = np.random.default_rng(0).random(40)
    whole = hierarchical_interval(values[None], seed=2)
    assert whole == mean_interval(values, seed=2)
    assert whole == pytest.approx(ratio_interval(values, np.ones(40), seed=2), abs=1e-12)
    monkeypatch.setattr("ifguide.statistics.CHUNK", 40 * 7)  # chunks draw the same indices
    assert hierarchical_interval(values[None], seed=2) == pytest.approx(whole, abs=1e-12)


def test_the_difference_is_paired():
    rng = np.random.default_rng(1)
    hardness = rng.normal(size=(1, 60)) * 10 + rng.normal(size=(3, 1)) * 10  # of prompts and of seeds, for both alike
    reference = hardness + rng.normal(size=(3, 60)) * 0.01
    difference, (low, high) = paired_difference(hardness - 1, reference)
    assert difference == pytest.approx(-1, abs=0.01) and low <= difference <= high and high - low < 0.02
    first, second = hierarchical_interval(hardness), hierarchical_interval(reference)
    assert first[1] - first[0] > 100 * (high - low) < second[1] - second[0]


def test_intervals_cover_the_mean_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    hits = sum(low <= 0 <= high for low, high in (mean_interval(rng.standard_normal(50)) for _ in range(100)))
    assert 85 <= hits <= 100


def test_intervals_over_seeds_and_prompts_cover_the_truth():
    rng, hits = np.random.default_rng(0), 0
    for trial in range(100):
        values = rng.normal(size=(8, 1)) + rng.normal(size=(1, 50)) * 3 + rng.normal(size=(8, 50))
        low, high = hierarchical_interval(values, seed=trial)
        hits += low <= 0 <= high
    assert 85 <= hits <= 100


def test_arrays_that_cannot_be_paired_are_refused():
    with pytest.raises(ValueError, match=r"\[2, 3\] and \[2, 4\]"):
        paired_difference(np.zeros((2, 3)), np.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"shape \[3\]"):
        hierarchical_interval(np.zeros(3))
    with pytest.raises(ValueError, match="1 of 4 values are not finite"):
        hierarchical_interval(np.array([[0, np.nan, 0, 0]]))


def test_rank_correlation_is_that_of_the_ranks():
    a = np.array([[1.0, 5, 2], [8, 3, 0]], np.float32)
    assert spearman(a, a * 3 + 1) == pytest.approx(1) and spearman(a, -a) == pytest.approx(-1)
    ranks = [np.array([1.0, 4, 2, 5, 3, 0]), np.array([0.0, 1, 2, 3, 4, 5])]
    assert spearman(a, np.arange(6).reshape(2, 3)) == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert spearman(np.array([1, 1, 2, 3]), np.arange(4)) == pytest.approx(
        np.corrcoef([0.5, 0.5, 2, 3], [0, 1, 2, 3])[0, 1]
    )


def test_ties_do_not_correlate():
    """Scores of which nearly all are equal, and whose highest are others: not in the order in which they stand."""
    a, b = np.zeros(10_000), np.zeros(10_000)
    a[:50], b[50:100] = np.arange(1, 51), np.arange(1, 51)
    assert spearman(a, b) == pytest.approx(-0.005, abs=1e-3)


def test_rank_correlation_with_a_constant():
    constant, values = np.full(5, 3.0), np.arange(5.0)
    assert spearman(constant, constant + 1) == 1
    assert spearman(constant, values) == spearman(values, constant) == 0
    for other in (np.arange(4.0), np.zeros(0)):
        with pytest.raises(ValueError, match="as many of each"):
            spearman(np.zeros(0), other)


def test_intervals_of_rank_statistics_are_their_definition():
    rng = np.random.default_rng(2)
    scores, positive = rng.random(30).round(1), rng.random(30) < 0.4
    drawn = [chosen for chosen in np.random.default_rng(0).integers(30, size=(RESAMPLES, 30))]
    assert all(0 < positive[chosen].sum() < 30 for chosen in drawn)
    areas = [roc_auc(scores[chosen], positive[chosen]) for chosen in drawn]
    assert roc_auc_interval(scores, positive) == percentiles(areas)
    assert roc_auc_interval(scores, positive, resamples=100) == percentiles(areas[:100])
    other = rng.random(30)
    correlations = [spearman(scores[chosen], other[chosen]) for chosen in drawn]
    assert spearman_interval(scores, other) == percentiles(correlations)
    assert roc_auc_interval(np.array([0.1, 0.9]), np.array([False, True])) == [1, 1]  # draws of one class do not count


def test_no_event_has_an_exact_upper_bound():
    """Against the definition: the largest probability under which no event is as likely as 2.5 %."""
    for prompts in (1, 9, 200):
        low, high = proportion_interval(np.zeros((3, prompts)))
        assert low == 0 and (1 - high) ** prompts == pytest.approx(0.025)
        assert proportion_interval(np.ones((3, prompts))) == pytest.approx([1 - high, 1])
    values = np.random.default_rng(0).random((2, 30))
    assert proportion_interval(values) == hierarchical_interval(values)
    low, high = clopper_pearson(3, 20)
    assert binom.sf(2, 20, low) == pytest.approx(0.025) and binom.cdf(3, 20, high) == pytest.approx(0.025)


def test_perplexities_are_resampled_by_document_and_seed():
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, 50, size=(1, 80)).astype(float).repeat(3, 0)
    losses = tokens * (2 + rng.normal(scale=0.5, size=(1, 80)) + rng.normal(scale=0.1, size=(3, 1)))
    low, high = perplexity_interval(losses, tokens)
    assert low < np.exp(losses.sum(1) / tokens.sum(1)).mean() < high
    (one,) = np.exp(losses[:1].sum(1) / tokens[:1].sum(1))
    alone = perplexity_interval(losses[:1], tokens[:1])
    assert alone == pytest.approx([np.exp(v) for v in ratio_interval(losses[0], tokens[0])], rel=0.02)
    assert alone[0] < one < alone[1]
    harder = losses + 0.1 * tokens
    difference, (below, above) = paired_perplexity_difference((harder, tokens), (losses, tokens))
    assert difference == pytest.approx((np.exp(0.1) - 1) * np.exp(losses.sum(1) / tokens.sum(1)).mean())
    assert below <= difference <= above and above - below < 0.2 * (high - low)
    with pytest.raises(ValueError, match="cannot be paired"):
        paired_perplexity_difference((harder, tokens), (losses[:2], tokens[:2]))
