"""Lexical scores against one token at a time."""

from math import log

import numpy as np
import pytest

from ifguide.corpus.documents import Query
from ifguide.corpus.words import word_log_odds
from ifguide.evaluation.attribution import word_list_scores
from ifguide.evaluation.lexical import (
    bm25_weights,
    bucket_log_probabilities,
    importance_scores,
    inverse_document_frequency,
    ngram_buckets,
)
from ifguide.evaluation.token_baselines import IDF, LEXICAL, WORD_LIST, lexical_scores

VOCABULARY = 11


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(0)
    ids = rng.integers(0, VOCABULARY - 2, (6, 8))  # two tokens never occur
    document = np.sort(rng.integers(0, 5, ids.size)).reshape(ids.shape)
    positive, negative = ([rng.integers(0, VOCABULARY, n) for n in lengths] for lengths in ([3, 9, 4], [5, 2]))
    return ids, document, positive, negative


def slow_idf(ids, document, token):
    names = sorted(set(document.ravel().tolist()))
    holding = sum(token in ids[document == name] for name in names)
    return log(1 + (len(names) - holding + 0.5) / (holding + 0.5))


def test_bm25_is_that_of_each_token_in_each_query(texts):
    ids, document, positive, negative = texts
    idf = inverse_document_frequency(ids, document, VOCABULARY)
    mean = np.mean([len(query) for query in positive + negative])

    def worth(token, queries, k1=1.7, b=0.6):
        total = 0.0
        for query in queries:
            f = query.tolist().count(token)
            total += f * (k1 + 1) / (f + k1 * (1 - b + b * len(query) / mean))
        return total / len(queries)

    weights = bm25_weights(idf, positive, negative, k1=1.7, b=0.6)
    for token in range(VOCABULARY):
        expected = slow_idf(ids, document, token)
        assert idf[token] == pytest.approx(expected) and expected > 0
        difference = worth(token, positive) - worth(token, negative)
        assert weights[token] == pytest.approx(expected * difference)
    assert np.abs(bm25_weights(idf, positive, [query[::-1] for query in positive])).max() < 1e-12, "order is not seen"


@pytest.mark.parametrize("order", [1, 2, 3])
def test_importance_of_tokens_sums_up_to_that_of_their_block(texts, order):
    ids, _, positive, negative = texts
    buckets = 97
    scores = importance_scores(ids, positive, negative, order=order, buckets=buckets)

    def grams(sequence):
        return [tuple(sequence[i : i + n]) for n in range(1, order + 1) for i in range(len(sequence) - n + 1)]

    def bucket(gram):
        return int(ngram_buckets(np.array(gram), len(gram), buckets)[0])

    def log_probability(gram, queries):
        found = [bucket(tuple(g)) for query in queries for g in grams(query.tolist())]
        return log((found.count(bucket(gram)) + 1) / (len(found) + buckets))

    for row, sequence in zip(scores, ids.tolist(), strict=True):
        expected = np.zeros(len(sequence))
        for n in range(1, order + 1):
            for i in range(len(sequence) - n + 1):
                gram = tuple(sequence[i : i + n])
                ratio = log_probability(gram, positive) - log_probability(gram, negative)
                expected[i : i + n] += ratio / n
        assert row == pytest.approx(expected, abs=1e-5)
        total = sum(log_probability(g, positive) - log_probability(g, negative) for g in grams(sequence))
        assert row.sum() == pytest.approx(total, abs=1e-4)


def test_n_grams_are_spread_over_the_buckets_and_short_texts_have_none():
    pairs = np.array([(a, b) for a in range(60) for b in range(60)])
    counts = np.bincount(ngram_buckets(pairs, 2, 100)[:, 0], minlength=100)
    assert counts.min() > 10 and counts.max() < 70  # 36 each, if they were even
    assert (ngram_buckets(pairs, 2, 10_000) != ngram_buckets(pairs[:, ::-1], 2, 10_000)).mean() > 0.95
    assert ngram_buckets(np.array([3]), 2, 100).shape == (0,)
    assert np.exp(bucket_log_probabilities([np.array([3])], 2, 100)).sum() == pytest.approx(1)


def test_lexical_rivals_of_a_corpus_find_the_word(corpus):
    queries = [Query("", " the idiot idiot sat", True, "a"), Query("the", " old cat sat", False, "b")] * 4
    split = corpus.split("train")
    found = {name: compute() for name, compute in lexical_scores(split, corpus.tokenizer, queries).items()}
    assert tuple(found) == LEXICAL
    assert np.array_equal(found[WORD_LIST], word_list_scores(split, corpus.tokenizer, word_log_odds(queries)))
    marked = split.annotation[:]
    marked[:, 0] = False
    for name, scores in found.items():
        assert scores.dtype == np.float32 and scores.shape == split.shape and (scores[:, 0] == 0).all()
        if name != IDF:
            assert scores[marked].mean() > scores[:, 1:].mean(), name
