import numpy as np
import pytest
from scipy.stats import binom, ttest_1samp
from scipy.stats import t as student

from ifguide.statistics import (
    RESAMPLES,
    average_precision,
    average_precision_interval,
    clopper_pearson,
    hierarchical_interval,
    holm,
    mean_interval,
    paired_difference,
    paired_perplexity_difference,
    percentiles,
    perplexity_interval,
    precision_recall_area,
    proportion_interval,
    ranking_draws,
    ranking_intervals,
    ratio_interval,
    roc_auc,
    roc_auc_interval,
    spearman,
    spearman_difference,
    spearman_interval,
)
from ifguide.statistics.ranks import BINS, _quantiles


def test_the_interval_of_one_seed_is_its_definition():
    """One resample of prompts at a time, from the same draws."""
    values, rng = np.random.default_rng(3).random(7), np.random.default_rng(5)
    means = [values[rng.integers(7, size=7)].mean() for _ in range(RESAMPLES)]
    assert hierarchical_interval(values[None], seed=5) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=1e-12)


@pytest.mark.parametrize("shape", [(2, 1), (3, 7), (4, 9)])
def test_the_interval_of_several_seeds_is_its_definition(shape):
    """From the sums of squares of a two-way table, cell by cell."""
    values, (seeds, prompts) = np.random.default_rng(3).normal(size=shape) + np.arange(shape[1]), shape
    mean = sum(values[s, p] for s in range(seeds) for p in range(prompts)) / seeds / prompts
    of_seed = [sum(values[s]) / prompts for s in range(seeds)]
    of_prompt = [sum(values[:, p]) / seeds for p in range(prompts)]
    between = prompts * sum((one - mean) ** 2 for one in of_seed) / (seeds - 1)
    square = student.ppf(0.975, seeds - 1) ** 2 * between
    if prompts > 1:
        units = seeds * sum((one - mean) ** 2 for one in of_prompt) / (prompts - 1)
        cells = [values[s, p] - of_seed[s] - of_prompt[p] + mean for s in range(seeds) for p in range(prompts)]
        rest = sum(cell**2 for cell in cells) / (seeds - 1) / (prompts - 1)
        square = max(square, student.ppf(0.975, (seeds - 1) * (prompts - 1)) ** 2 * rest)
        square += student.ppf(0.975, prompts - 1) ** 2 * max(units - rest, 0)
    half = (square / seeds / prompts) ** 0.5
    assert hierarchical_interval(values) == pytest.approx([mean - half, mean + half])


def test_seeds_that_happen_to_agree_make_nothing_certain():
    """Two seeds of as many events each: their means are the same, prompt by prompt they are not."""
    table = np.zeros((2, 60))
    table[0, :3] = table[1, 30:33] = 1
    low, high = proportion_interval(table)
    assert low < 0.025 and high > 0.09
    rng = np.random.default_rng(0)
    differences = [paired_difference(*rng.binomial(5, 0.1, size=(2, 2, 30)) / 5) for _ in range(400)]
    assert min(one.p for one in differences) > 1e-3 and np.mean([one.p <= 0.05 for one in differences]) <= 0.05


def test_two_seeds_whose_prompts_are_noise_are_a_t_test():
    values = np.array([[0.0, 1, 2], [3, 2, 1]])  # prompts differ less than their noise: what is left is two means
    half = student.ppf(0.975, 1) * np.std([1, 2], ddof=1) / 2**0.5
    assert hierarchical_interval(values) == pytest.approx([1.5 - half, 1.5 + half])
    found = paired_difference(values, np.zeros((2, 3)))
    assert found.p == pytest.approx(ttest_1samp([1, 2], 0).pvalue, rel=1e-6)


def test_one_seed_resamples_prompts_only(monkeypatch):
    values = np.random.default_rng(0).random(40)
    whole = hierarchical_interval(values[None], seed=2)
    assert whole == mean_interval(values, seed=2)
    assert whole == pytest.approx(ratio_interval(values, np.ones(40), seed=2), abs=1e-12)
    monkeypatch.setattr("ifguide.statistics.intervals.CHUNK", 40 * 7)  # chunks draw the same indices
    assert hierarchical_interval(values[None], seed=2) == pytest.approx(whole, abs=1e-12)


def test_the_difference_is_paired():
    rng = np.random.default_rng(1)
    hardness = rng.normal(size=(1, 60)) * 10 + rng.normal(size=(3, 1)) * 10  # of prompts and of seeds, for both alike
    reference = hardness + rng.normal(size=(3, 60)) * 0.01
    found = paired_difference(hardness - 1, reference)
    difference, (low, high) = found.value, found.interval
    assert difference == pytest.approx(-1, abs=0.01) and low <= difference <= high and high - low < 0.02
    assert found.p < 1e-4
    first, second = hierarchical_interval(hardness), hierarchical_interval(reference)
    assert first[1] - first[0] > 100 * (high - low) < second[1] - second[0]


def test_intervals_cover_the_mean_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    hits = sum(low <= 0 <= high for low, high in (mean_interval(rng.standard_normal(50)) for _ in range(100)))
    assert 85 <= hits <= 100


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("spread", [0.0, 1.0, 5.0])  # of seeds, in standard errors of one seed's mean
@pytest.mark.parametrize("of_prompts", [0.3, 1.0])  # standard deviation of prompts; of the rest it is 1
def test_intervals_over_few_seeds_cover_the_truth(seeds, spread, of_prompts):
    """Of 400 tables, whose share is within ± .035 of the coverage; 0 is inside where the p-value is above .05."""
    rng, prompts, trials = np.random.default_rng(0), 60, 400
    scale = spread * ((of_prompts**2 + 1) / prompts) ** 0.5
    covered, p_values = [], []
    for _ in range(trials):
        table = of_prompts * rng.normal(size=(1, prompts)) + rng.normal(size=(seeds, prompts))
        table += scale * rng.normal(size=(seeds, 1))
        low, high = hierarchical_interval(table)
        covered.append(low <= 0 <= high)
    for _ in range(5):
        found = paired_difference(table + rng.normal(scale=scale), np.zeros_like(table))
        p_values.append((found.p > 0.05) == (found.interval[0] <= 0 <= found.interval[1]))
    assert 0.915 <= np.mean(covered) <= 0.999 and all(p_values)


def test_shares_of_several_seeds_are_covered_and_within_their_bounds():
    rng, covered = np.random.default_rng(0), []
    for _ in range(300):
        odds = -3 + 0.3 * rng.normal(size=(3, 1)) + rng.normal(size=(1, 200))
        share = rng.binomial(25, 1 / (1 + np.exp(-odds))) / 25
        low, high = proportion_interval(share)
        assert 0 < low < share.mean() < high < 1 and high - share.mean() > share.mean() - low
        covered.append(low <= TRUE_SHARE <= high)
    assert 0.915 <= np.mean(covered) <= 0.99


nodes, weights = np.polynomial.hermite_e.hermegauss(
    60
)  # ∫ logistic(−3 + sd · z) φ(z) dz, of seeds and prompts together
TRUE_SHARE = float((weights / (1 + np.exp(3 - (1 + 0.3**2) ** 0.5 * nodes))).sum() / weights.sum())


def test_holms_correction_is_its_definition():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0] and holm([]) == []


def test_the_p_value_of_one_seed_counts_draws():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(1, 40))
    draws = np.random.default_rng(0).integers(40, size=(RESAMPLES, 40))
    share = min((values[0][draws].mean(1) <= 0).mean(), (values[0][draws].mean(1) >= 0).mean())
    assert paired_difference(values, np.zeros_like(values)).p == pytest.approx(
        min(1, 2 * (share * RESAMPLES + 1) / (RESAMPLES + 1))
    )
    assert paired_difference(np.ones((1, 40)), np.zeros((1, 40))).p == pytest.approx(2 / (RESAMPLES + 1))
    assert paired_difference(np.ones((2, 40)), np.ones((2, 40))).p == 1


@pytest.mark.parametrize("units", [12, 200])
def test_a_p_value_smaller_than_draws_can_tell_is_students(units):
    """So that differences of one seed can hold after a correction for many."""
    values = np.random.default_rng(0).normal(1.0, 0.5, (1, units))
    found = paired_difference(values, np.zeros_like(values)).p
    exact = ttest_1samp(values[0], 0).pvalue
    assert found < 2 / (RESAMPLES + 1)
    assert np.log(found) == pytest.approx(np.log(max(exact, 1e-12)), rel=0.1)  # but for the draws' chance
    losses, tokens = 10 * values, np.full_like(values, 10.0)
    assert 0 < paired_perplexity_difference((losses, tokens), (0.5 * losses, tokens)).p < 0.002


FEW = 60  # resamples


def slow_ranking(scores, positive, group, shares, groups):
    """Every resample written out: the scores of the drawn groups, binned, from the highest down."""
    edges = np.unique(np.quantile(scores, np.linspace(0, 1, BINS)))
    bins, rng = np.searchsorted(edges, scores), np.random.default_rng(0)
    areas, precisions = [], []
    for _ in range(FEW):
        drawn = np.concatenate([np.flatnonzero(group == one) for one in rng.integers(groups, size=groups)])
        areas.append(roc_auc(bins[drawn].astype(float), positive[drawn]))
        hits, all_ = (np.bincount(bins[rows], minlength=len(edges) + 1)[::-1].cumsum()
                      for rows in (drawn[positive[drawn]], drawn))  # fmt: skip
        precisions.append([np.interp(share * len(drawn), all_, hits) / (share * len(drawn)) for share in shares])
    return percentiles(areas), [percentiles(row) for row in np.array(precisions).T]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_intervals_of_rankings_are_their_definition(dtype, monkeypatch):
    monkeypatch.setattr("ifguide.statistics.ranks.RESAMPLES", FEW)
    monkeypatch.setattr("ifguide.statistics.ranks.TOGETHER", 17)
    rng = np.random.default_rng(0)
    scores = rng.normal(size=600).astype(dtype).round(2)
    positive, group = rng.random(600) < 0.2, rng.integers(12, size=600)
    area, precisions = ranking_intervals(scores, positive, group, [0.05, 0.2], groups=12)
    slow_area, slow_precisions = slow_ranking(scores, positive, group, [0.05, 0.2], 12)
    assert area == pytest.approx(slow_area, abs=1e-12)
    assert np.array(precisions) == pytest.approx(np.array(slow_precisions), abs=1e-12)


def test_resamples_of_one_kind_alone_are_left_out():
    """Where marks are in few groups, some resamples have none of them."""
    scores = np.random.default_rng(0).normal(size=400)
    positive, group = np.zeros(400, dtype=bool), np.repeat(np.arange(8), 50)
    positive[[3, 60]] = True
    areas, precisions = ranking_draws(scores, positive, group, [0.1], groups=8)
    assert 0 < len(areas) < RESAMPLES and precisions.shape == (1, len(areas)) and np.isfinite(areas).all()
    area, _ = ranking_intervals(scores, positive, group, [0.1], groups=8)
    assert np.isfinite(area).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_quantiles_of_ordered_values_are_numpys(dtype):
    values = np.sort(np.random.default_rng(0).normal(size=777).astype(dtype))
    for count in (2, 50, 5000):
        assert np.array_equal(_quantiles(values, count), np.quantile(values, np.linspace(0, 1, count)))


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
    for alike in (np.ones(5, bool), np.zeros(5, bool)):
        with pytest.raises(ValueError, match=r"^all of 5 cases are (posi|nega)tive: both are needed"):
            roc_auc_interval(np.arange(5.0), alike)
    other = rng.random(30)
    correlations = [spearman(scores[chosen], other[chosen]) for chosen in drawn]
    assert spearman_interval(scores, other) == percentiles(correlations)
    third = rng.random(30)
    value, interval = spearman_difference(scores, other, third)
    draws = [spearman(scores[chosen], third[chosen]) - spearman(other[chosen], third[chosen]) for chosen in drawn]
    assert value == spearman(scores, third) - spearman(other, third) and interval == percentiles(draws)
    assert roc_auc_interval(np.array([0.1, 0.9]), np.array([False, True])) == [1, 1]  # draws of one class do not count


def test_no_event_has_an_exact_upper_bound():
    """Against the definition: the largest probability under which no event is as likely as 2.5 %."""
    for prompts in (1, 9, 200):
        low, high = proportion_interval(np.zeros((3, prompts)))
        assert low == 0 and (1 - high) ** prompts == pytest.approx(0.025)
        assert proportion_interval(np.ones((3, prompts))) == pytest.approx([1 - high, 1])
    values = np.random.default_rng(0).random((1, 30))
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
    found = paired_perplexity_difference((harder, tokens), (losses, tokens))
    difference, (below, above) = found.value, found.interval
    assert difference == pytest.approx((np.exp(0.1) - 1) * np.exp(losses.sum(1) / tokens.sum(1)).mean())
    assert below <= difference <= above and above - below < 0.2 * (high - low)
    with pytest.raises(ValueError, match="cannot be paired"):
        paired_perplexity_difference((harder, tokens), (losses[:2], tokens[:2]))


@pytest.mark.parametrize("seed", range(5))
def test_the_precision_recall_curve_is_its_definition(seed):
    """Threshold by threshold, with ties."""
    rng = np.random.default_rng(seed)
    scores, positive = rng.random(40).round(1), np.arange(40) < 7
    recall, precision = [0.0], [1.0]
    for threshold in sorted(set(scores.tolist()), reverse=True):
        above = [bool(one) for one, score in zip(positive, scores, strict=True) if score >= threshold]
        recall.append(sum(above) / 7)
        precision.append(sum(above) / len(above))
    steps = range(1, len(recall))
    assert average_precision(scores, positive) == pytest.approx(
        sum((recall[k] - recall[k - 1]) * precision[k] for k in steps), abs=1e-12
    )
    assert precision_recall_area(scores, positive) == pytest.approx(
        sum((recall[k] - recall[k - 1]) * (precision[k] + precision[k - 1]) / 2 for k in steps), abs=1e-12
    )
    drawn = np.random.default_rng(3).integers(40, size=(20, 40))
    draws = [average_precision(scores[chosen], positive[chosen]) for chosen in drawn]
    assert average_precision_interval(scores, positive, resamples=20, seed=3) == percentiles(draws)


def test_average_precision_of_all_ties_is_the_share_of_positives():
    positive = np.array([True, False, False, False])
    assert average_precision(np.zeros(4), positive) == 0.25
    assert average_precision(np.arange(4.0)[::-1], positive) == 1
    with pytest.raises(ValueError, match="need a positive case"):
        average_precision(np.zeros(4), np.zeros(4, bool))
