"""Lexical token scores: what counts of tokens alone tell of a behaviour, without any model.

A score of influence that is no better than these has found words, not influence. All are pure functions of arrays.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# B blocks, T tokens, V vocabulary; a query is the [n] token ids of its continuation
Query = NDArray[np.int64]

BUCKETS = 10_000  # of hashed n-grams (Xie et al., 2023)
ROUNDING = 1e-12  # frequencies that differ by less, as a share, are equal
FACTOR, STEP = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD1B54A32D192ED03)  # of the hash, modulo 2⁶⁴


def inverse_document_frequency(
    ids_BT: NDArray[np.int64], document_BT: NDArray[np.int64], vocabulary: int
) -> NDArray[np.float64]:
    """idf(x) = log(1 + (N − n(x) + ½) / (n(x) + ½)), where n(x) of the N documents hold the token.

    It is the weight of Robertson and Spärck Jones without relevance judgements (Robertson & Zaragoza, 2009, chapter 3),
    with one added to the ratio, so that no token counts less than nothing.

    Args:
        ids_BT: token ids of all blocks.
        document_BT: the document that each token is of.
        vocabulary: V.

    Returns:
        [V], in nats.
    """
    pairs = np.unique(document_BT.ravel() * vocabulary + ids_BT.ravel())
    documents = len(np.unique(document_BT))
    holding = np.bincount(pairs % vocabulary, minlength=vocabulary)
    idf_V: NDArray[np.float64] = np.log1p((documents - holding + 0.5) / (holding + 0.5))
    return idf_V


def mean_saturated_frequency(
    queries: Sequence[Query], vocabulary: int, mean_length: float, *, k1: float, b: float
) -> NDArray[np.float64]:
    """Mean over queries of f (k₁ + 1) / (f + k₁ (1 − b + b |q| / mean length)), f the token's occurrences in q, [V]."""
    total = np.zeros(vocabulary)
    for query in queries:
        ids, counts = np.unique(query, return_counts=True)
        total[ids] += counts * (k1 + 1) / (counts + k1 * (1 - b + b * len(query) / mean_length))
    return total / max(len(queries), 1)


def bm25_weights(
    idf_V: NDArray[np.float64],
    positive: Sequence[Query],
    negative: Sequence[Query],
    *,
    k1: float = 1.2,
    b: float = 0.75,
) -> NDArray[np.float64]:
    """BM25 of each token, alone as a query, in the queries that show a behaviour, less that in the others.

    w(x) = idf(x) · (mean over Q⁺ of s(x, q) − mean over Q⁻ of s(x, q)), s the saturated frequency of
    `mean_saturated_frequency` (Robertson & Zaragoza, 2009, chapter 3); lengths are relative to the mean of all queries.

    Args:
        idf_V: of the corpus (`inverse_document_frequency`).
        positive, negative: Q⁺ and Q⁻.
        k1, b: how soon frequencies saturate, and how much lengths count.

    Returns:
        [V]; 0 for a token of no query.
    """
    lengths = [len(query) for query in (*positive, *negative)]
    mean_length = max(float(np.mean(lengths)) if lengths else 1.0, 1.0)
    shows, lacks = (
        mean_saturated_frequency(queries, len(idf_V), mean_length, k1=k1, b=b) for queries in (positive, negative)
    )
    difference = shows - lacks
    difference[np.abs(difference) <= ROUNDING * (shows + lacks)] = 0.0
    weights_V: NDArray[np.float64] = idf_V * difference
    return weights_V


def ngram_buckets(ids: NDArray[np.int64], order: int, buckets: int) -> NDArray[np.int64]:
    """Buckets of the n-grams of token ids along the last axis: [..., T] → [..., T − order + 1]."""
    width = max(ids.shape[-1] - order + 1, 0)
    hashed = np.full((*ids.shape[:-1], width), order, dtype=np.uint64)
    for place in range(order):
        hashed = (hashed ^ (ids[..., place : place + width].astype(np.uint64) + STEP)) * FACTOR
        hashed ^= hashed >> np.uint64(29)
    found: NDArray[np.int64] = (hashed % np.uint64(buckets)).astype(np.int64)
    return found


def bucket_log_probabilities(texts: Sequence[NDArray[np.int64]], order: int, buckets: int) -> NDArray[np.float64]:
    """Log-probability of each bucket among the n-grams of all orders up to one, with one added to each count.

    Args:
        texts: arrays of token ids; n-grams run along their last axes.

    Returns:
        [buckets].
    """
    counts = np.ones(buckets)
    for text in texts:
        for n in range(1, order + 1):
            counts += np.bincount(ngram_buckets(text, n, buckets).ravel(), minlength=buckets)
    found: NDArray[np.float64] = np.log(counts / counts.sum())
    return found


def importance_scores(
    ids_BT: NDArray[np.int64],
    target: Sequence[NDArray[np.int64]],
    raw: Sequence[NDArray[np.int64]],
    *,
    order: int = 2,
    buckets: int = BUCKETS,
) -> NDArray[np.float32]:
    """DSIR-style importance of tokens: the log-ratio of each hashed n-gram, shared out evenly among its tokens.

    The sum over a block is its log importance weight Σ over its n-grams of log p(target) − log p(raw) (Xie et al.,
    2023; they select documents by it, take n-grams of words, and do not split it among tokens).

    Args:
        ids_BT: what is scored.
        target, raw: texts of the two distributions.
        order: n-grams up to this length.
        buckets: that they are hashed into.

    Returns:
        [B, T].
    """
    shows, lacks = (bucket_log_probabilities(texts, order, buckets) for texts in (target, raw))
    scores = np.zeros(ids_BT.shape)
    for n in range(1, order + 1):
        ratios = (shows - lacks)[ngram_buckets(ids_BT, n, buckets)] / n
        for place in range(n):
            scores[:, place : place + ratios.shape[1]] += ratios
    return scores.astype(np.float32)
