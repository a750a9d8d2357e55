"""Plain selection: the tokens with the highest scores, as many as are allowed (numpy only).

Algorithm 1 ranks blocks by the number and the sum of their high scores and marks neighbours too, as single influence
scores are noisy. Probabilities of a classifier that has read what is around a token need neither, and often are equal:
here ties are broken by place, so that a mask always has as many tokens as the limit allows.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ifguide.corpus.masks import TokenMask
from ifguide.influence.selection import Selection, chunks, order_statistic, read_rows


@dataclass(frozen=True)
class TopTokens:
    """Selects the ⌊L · tokens⌋ tokens with the highest scores, of equal ones those that come first.

    Args:
        limit: L, share of all tokens, in (0, 1].

    Raises:
        ValueError: a limit out of range; when called, scores that are not finite, not float32 or not [blocks, T].
    """

    unit: ClassVar = "token"  # that is ranked

    limit: float = 0.02

    def __post_init__(self) -> None:
        if not 0 < self.limit <= 1:
            raise ValueError(f"limit={self.limit}: the share of tokens lies in (0, 1]")

    def __call__(self, scores_BT: NDArray[np.float32], document_starts: NDArray[np.int64] | None = None) -> Selection:
        """The selection; its threshold is the highest score that is not selected, or the lowest of all."""
        if scores_BT.ndim != 2 or not len(scores_BT) or scores_BT.shape[1] < 2 or scores_BT.dtype != np.float32:
            raise ValueError(f"scores {scores_BT.dtype}{scores_BT.shape}: float32 [blocks, block length ≥ 2] expected")
        blocks, length = scores_BT.shape
        existing = blocks * (length - 1)
        wanted = int(self.limit * scores_BT.size)
        selected = min(wanted, existing)
        threshold = order_statistic(scores_BT, max(existing - selected - 1, 0))
        parts = chunks(scores_BT)
        ties = selected - sum(int((read_rows(scores_BT, rows)[:, 1:] > threshold).sum()) for rows in parts)
        packed = np.empty((blocks, -(-length // 8)), np.uint8)
        for rows in parts:
            scores = read_rows(scores_BT, rows)
            mask, equal = scores > threshold, scores == threshold
            mask[:, 0] = equal[:, 0] = False
            first = np.flatnonzero(equal)[:ties]
            mask.reshape(-1)[first] = True
            ties -= len(first)
            packed[rows] = np.packbits(mask, axis=1)
        return Selection(TokenMask(packed, length), float(threshold), wanted, selected, existing)
