"""How much a student of exact scores has learned: on blocks that it never saw, beside floors that cost nearly nothing.

The student itself is fitted to all labelled blocks. For this, it is fitted again to four fifths of them, and asked for
the others. So are two floors: a student of scores that were shuffled within each document, which knows only how high
documents score, and the mean score of each token id.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ifguide.influence.amortised import Student
from ifguide.influence.pooling import Tokens, TypePooling, chunks
from ifguide.statistics import spearman

EVERY = 5  # of the labelled blocks, one is held out
UNIGRAM = TypePooling(context_weight=0.0)

# K behaviours, B blocks, T tokens


def shuffled_within(scores_KBT: NDArray[np.float32], document_BT: NDArray[np.int64], seed: int) -> NDArray[np.float32]:
    """Scores in random order among the tokens of each document, those of a place together; column 0 stays.

    Args:
        scores_KBT: scores.
        document_BT: the document of each token.
        seed: of the order.
    """
    document = document_BT[:, 1:].ravel()
    random = np.random.default_rng(seed).random(document.size)
    values = scores_KBT[..., 1:].reshape(len(scores_KBT), -1)
    shuffled = np.empty_like(values)
    shuffled[:, np.argsort(document, kind="stable")] = values[:, np.lexsort((random, document))]
    whole: NDArray[np.float32] = np.array(scores_KBT)
    whole[..., 1:] = shuffled.reshape(scores_KBT[..., 1:].shape)
    return whole


def agreement(scores_BT: NDArray[np.floating], exact_BT: NDArray[np.floating]) -> dict[str, float]:
    """How well scores foretell others, column 0 aside.

    Returns:
        `r2`, the share of variance that their best multiple explains (the square of Pearson's correlation; 0 where that
        is negative, or a side constant), and `spearman`.
    """
    ours, exact = (values[:, 1:].ravel().astype(np.float64) for values in (scores_BT, exact_BT))
    deviations = ours.std() * exact.std()
    pearson = float(((ours - ours.mean()) * (exact - exact.mean())).mean() / deviations) if deviations > 0 else 0.0
    return {"r2": max(pearson, 0.0) ** 2, "spearman": spearman(ours, exact)}


def held_out_quality(
    student: Student,
    scores_KBT: NDArray[np.float32],
    tokens: Tokens,
    texts: Sequence[str],
    document_BT: NDArray[np.int64],
    *,
    seed: int,
) -> dict[str, Any]:
    """`agreement` with exact scores on unseen blocks of a student and its floors.

    Args:
        student: what is fitted.
        scores_KBT: exact scores of the labelled blocks.
        tokens: rows of these → token ids.
        texts: of every token id.
        document_BT: the document of each of their tokens.
        seed: of the shuffle.

    Returns:
        `blocks`, how many are held out, and for `student`, `shuffled` and `unigram` a list of one `agreement` for each
        behaviour; empty where there are not two blocks.
    """
    ids, scores = tokens(slice(0, scores_KBT.shape[1])), np.asarray(scores_KBT)
    held = np.arange(len(ids)) % EVERY == 0
    if len(ids) < 2:
        return {}
    seen, unseen = ids[~held], torch.from_numpy(ids[held])
    exact, known = scores[:, held], scores[:, ~held]
    labels = {
        "student": (student, known),
        "shuffled": (student, shuffled_within(known, document_BT[~held], seed)),
        "unigram": (UNIGRAM, known),
    }
    found: dict[str, Any] = {"blocks": int(held.sum())}
    for name, (kind, values) in labels.items():
        fitted, _ = kind.fit(values, lambda rows: seen[rows], texts)
        parts = [fitted.scores(unseen[rows]).cpu().numpy() for rows in chunks(exact.shape[1:])]
        found[name] = [agreement(a, b) for a, b in zip(np.concatenate(parts, axis=1), exact, strict=True)]
    return found
