"""Which sequences are set against each other."""

from math import ceil

import numpy as np
from numpy.typing import NDArray

# N sequences, K pairs


def influential(count: int, drop: float) -> int:
    """How many of so many sequences are left, ties aside, when those below a quantile are dropped."""
    return count - ceil(drop * (count - 1))


def rank(scores_N: NDArray[np.floating], *, drop: float, pairs: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The sequences of highest and of lowest score, [K] each, the most extreme first; of equal ones the first is above.

    Args:
        scores_N: of each sequence; positive promotes the behaviour, negative suppresses it.
        drop: sequences whose |score| is below this quantile are not influential and are not ranked; 0: all are.
        pairs: K.

    Raises:
        ValueError: fewer than 2 K sequences are left, or scores are not finite.
    """
    if not np.isfinite(scores_N).all():
        raise ValueError("some sequences' scores are not finite")
    size = np.abs(scores_N)
    ranked = np.flatnonzero(size >= np.quantile(size, drop))
    if 2 * pairs > len(ranked):
        raise ValueError(f"drop={drop}: it leaves {len(ranked)} sequences, too few for {pairs} pairs")
    descending = ranked[np.argsort(-scores_N[ranked], kind="stable")]
    return descending[:pairs], descending[::-1][:pairs]  # one order, so that no sequence is on both sides
