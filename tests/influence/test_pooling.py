from unittest import mock

import numpy as np
import pytest
import torch

from ifguide.influence import pooling as module
from ifguide.influence.pooling import TypePooling, TypeTable, type_sums

VOCABULARY = 7


@pytest.fixture
def corpus():
    """Token ids and the scores of two behaviours."""
    generator = np.random.default_rng(0)
    ids = generator.integers(0, VOCABULARY, (9, 12))
    scores = generator.normal(size=(2, *ids.shape)).astype(np.float32)
    scores[..., 0] = 0
    return ids, scores


def fit(pooling, ids, scores):
    return pooling.fit(scores, lambda rows: ids[rows], VOCABULARY)[0]


def naive(ids, scores, *, prior, context_weight, reach):
    """One token at a time, from the definition."""
    exist = [(n, t) for n in range(len(ids)) for t in range(1, ids.shape[1])]
    mean = np.mean([scores[place] for place in exist], dtype=np.float64)

    def worth(kind):
        values = [float(scores[place]) for place in exist if ids[place] == kind]
        return (sum(values) + prior * mean) / (len(values) + prior)

    out = np.zeros(scores.shape)
    for n, t in exist:
        others = (j for j in range(ids.shape[1]) if j != t)
        around = sum(np.exp(-abs(j - t) / reach) * worth(ids[n, j]) for j in others) / (2 * reach)
        out[n, t] = worth(ids[n, t]) + context_weight * around
    return out


@pytest.mark.parametrize("context_weight", [0.0, 0.7, 5.0])
def test_pooling_equals_its_definition(corpus, context_weight):
    ids, scores = corpus
    options = {"prior": 2.5, "context_weight": context_weight, "reach": 3.0}
    pooled = fit(TypePooling(**options), ids, scores).scores(torch.from_numpy(ids)).numpy()
    for ours, column in zip(pooled, scores, strict=True):
        assert np.allclose(ours, naive(ids, column, **options), atol=1e-5)


def test_chunks_change_nothing_and_a_table_survives_saving(corpus, tmp_path):
    ids, scores = corpus
    whole = fit(TypePooling(), ids, scores)
    with mock.patch.object(module, "CHUNK_TOKENS", 25):
        assert torch.allclose(fit(TypePooling(), ids, scores).worth, whole.worth)
    whole.save(tmp_path)
    some = torch.from_numpy(ids[:3])
    assert torch.equal(TypeTable.load(tmp_path).scores(some), whole.scores(some))


def test_a_large_prior_makes_all_types_equal(corpus):
    ids, scores = corpus
    table = fit(TypePooling(prior=1e9, context_weight=0), ids, scores)
    assert np.allclose(table.worth, scores[..., 1:].mean((1, 2))[:, None], atol=1e-5)
    assert (table.scores(torch.from_numpy(ids))[..., 0] == 0).all()


def test_first_tokens_of_blocks_have_no_scores_to_count(corpus):
    ids, scores = corpus
    scores[..., 0] = 1e6
    sums, counts = type_sums(scores, lambda rows: ids[rows], VOCABULARY)
    assert counts.sum() == ids[:, 1:].size and np.allclose(sums.sum(1), scores[..., 1:].sum((1, 2)), rtol=1e-4)


@pytest.mark.parametrize("option, value", [("prior", -1), ("context_weight", -1), ("reach", 0)])
def test_settings_out_of_range_are_refused(option, value):
    with pytest.raises(ValueError, match=f"{option}={value}"):
        TypePooling(**{option: value})
