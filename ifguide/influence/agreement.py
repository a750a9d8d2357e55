"""How much two sets of scores, or two masks, agree."""

import numpy as np
from numpy.typing import NDArray

from ifguide.corpus.masks import TokenMask


def spearman(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Rank correlation of two arrays of the same shape (ties keep their order); 1 where neither varies."""
    ranks = [np.argsort(np.argsort(values.reshape(-1), kind="stable")).astype(np.float64) for values in (a, b)]
    centred = [values - values.mean() for values in ranks]
    norm = np.sqrt(np.prod([np.square(values).sum() for values in centred]))
    return float((centred[0] * centred[1]).sum() / norm) if norm else 1.0


def jaccard(a: TokenMask, b: TokenMask) -> float:
    """Tokens in both masks over tokens in either; 1 where both are empty."""
    both, either = (a & b).count(), (a | b).count()
    return both / either if either else 1.0
