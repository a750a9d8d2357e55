"""How well scores separate two classes."""

import numpy as np
from numpy.typing import NDArray


def roc_auc(scores: NDArray[np.floating], positive: NDArray[np.bool_]) -> float:
    """Area under the ROC curve: the chance that a positive outscores a negative, ties counting half.

    Raises:
        ValueError: one of the classes is empty.
    """
    positives = int(positive.sum())
    negatives = positive.size - positives
    if positives == 0 or negatives == 0:
        raise ValueError("a ROC curve needs positive and negative cases")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts - 1) / 2
    rank_sum = mean_rank[inverse.ravel()][positive.ravel()].sum()
    return float((rank_sum - positives * (positives + 1) / 2) / (positives * negatives))
