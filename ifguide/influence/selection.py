"""Which tokens to suppress: the paper's Algorithm 1, vectorised (numpy only).

A unit is a stretch of tokens that is ranked as a whole: the block (the paper's), or the document. Marks never leave
their unit, and never fall on a block's first token, which nothing predicts.
"""

from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

UNITS = ("block", "document")


@dataclass(frozen=True)
class Selection:
    """The outcome of Algorithm 1.

    Attributes:
        mask: [blocks, T], True at the selected tokens.
        threshold: τ, the order statistic that a token's score must exceed.
        wanted: ⌊L · tokens⌋, the limit.
        selected: number of marked tokens, min(wanted, candidates).
        candidates: tokens above τ and their neighbours.
    """

    mask: NDArray[np.bool_]
    threshold: float
    wanted: int
    selected: int
    candidates: int


@dataclass(frozen=True)
class Algorithm1:
    """`select_tokens` with its settings; they are checked before anything is scored.

    Args:
        quantile, limit, window, unit: as in `select_tokens`.
    """

    quantile: float = 0.99
    limit: float = 0.02
    window: int = 1
    unit: str = "block"

    def __post_init__(self) -> None:
        if not 0 <= self.quantile < 1:
            raise ValueError(f"selection.quantile={self.quantile}: a quantile lies in [0, 1); the paper's is 0.99")
        if not 0 < self.limit <= 1:
            raise ValueError(f"selection.limit={self.limit}: the share of tokens lies in (0, 1]; the paper's is 0.02")
        if self.window < 0:
            raise ValueError(f"selection.window={self.window}: the number of neighbours is 0 or more")
        if self.unit not in UNITS:
            raise ValueError(f"selection.unit={self.unit}; known: {', '.join(UNITS)}")

    def __call__(self, scores_BT: NDArray[np.float32], document_starts: NDArray[np.int64] | None = None) -> Selection:
        return select_tokens(
            scores_BT,
            quantile=self.quantile,
            limit=self.limit,
            window=self.window,
            unit=self.unit,
            document_starts=document_starts,
        )


def select_tokens(
    scores_BT: NDArray[np.float32],
    *,
    quantile: float = 0.99,
    limit: float = 0.02,
    window: int = 1,
    unit: str = "block",
    document_starts: NDArray[np.int64] | None = None,
) -> Selection:
    """Select the tokens that teach the behaviour (IF-Guide, Algorithm 1).

    1. τ is the `quantile` of all scores that exist (an order statistic).
    2. Each unit gets the count c and the sum f of its scores strictly above τ, both min-max normalised over units;
       units are ranked by the harmonic mean 2cf/(c + f), ties by index.
    3. Down the ranking, every token above τ and its ±`window` neighbours are marked, until the limit: within the unit
       where it is reached, token by token, the token itself first, then its neighbours from left to right.

    Args:
        scores_BT: [blocks, T]; column 0 is not looked at.
        quantile: q, in [0, 1).
        limit: L, share of all tokens, in (0, 1].
        window: w, neighbours on each side.
        unit: `block`, or `document`: c and f are then divided by (length + median length), so that the ranking does
            not follow length.
        document_starts: stream positions where documents start, sorted; needed for `document`.

    Raises:
        ValueError: scores that are not finite or not [blocks, T], or no documents where they are the unit.
    """
    if scores_BT.ndim != 2 or scores_BT.shape[1] < 2:
        raise ValueError(f"scores of shape {scores_BT.shape}: [blocks, block length ≥ 2] is expected")
    if not np.isfinite(scores_BT).all():
        raise ValueError("some scores are not finite; score the corpus again")
    if unit == "document" and document_starts is None:
        raise ValueError("selection.unit=document needs the starts of the documents")
    blocks, length = scores_BT.shape
    existing = np.ascontiguousarray(scores_BT[:, 1:]).reshape(-1)
    rank = max(ceil(quantile * existing.size) - 1, 0)
    threshold = np.partition(existing, rank)[rank]

    above = scores_BT > threshold
    above[:, 0] = False
    starts = np.arange(blocks) * length if unit == "block" else np.asarray(document_starts)
    order = np.argsort(-_unit_merit(scores_BT, above, starts, shrink=unit == "document"), kind="stable")

    candidates = _with_neighbours(above, window, starts if unit == "document" else None)
    wanted = int(limit * scores_BT.size)
    total = int(candidates.sum())
    if total <= wanted:
        return Selection(candidates, float(threshold), wanted, total, total)

    flat = candidates.reshape(-1)
    ends = np.append(starts[1:], flat.size)
    cumulative = np.append(0, np.cumsum(flat, dtype=np.int64))
    per_unit = (cumulative[ends] - cumulative[starts])[order]
    whole = int(np.searchsorted(np.cumsum(per_unit), wanted, side="right"))
    keep = np.zeros(len(starts), dtype=bool)
    keep[order[:whole]] = True
    mask = flat & np.repeat(keep, ends - starts)
    missing = wanted - int(per_unit[:whole].sum())
    last = order[whole]
    _mark_in_turn(mask, flat, above, (int(starts[last]), int(ends[last])), window, missing)
    return Selection(mask.reshape(blocks, length), float(threshold), wanted, wanted, total)


def _unit_merit(
    scores_BT: NDArray[np.float32], above: NDArray[np.bool_], starts: NDArray[np.int64], *, shrink: bool
) -> NDArray[np.float64]:
    """Harmonic mean of the normalised count and sum of each unit's scores above τ."""
    flat = above.reshape(-1)
    count = np.add.reduceat(flat, starts, dtype=np.float64)
    total = np.add.reduceat(np.where(flat, scores_BT.reshape(-1), 0.0), starts, dtype=np.float64)
    if shrink:
        lengths = np.diff(np.append(starts, flat.size))
        count, total = (value / (lengths + np.median(lengths)) for value in (count, total))
    count, total = _min_max(count), _min_max(total)
    both = count + total
    return np.divide(2 * count * total, both, out=np.zeros_like(both), where=both > 0)


def _min_max(values: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def _with_neighbours(above: NDArray[np.bool_], window: int, starts: NDArray[np.int64] | None) -> NDArray[np.bool_]:
    """Tokens above τ and their neighbours within the block and the document, never a block's first token."""
    marked = above.copy()
    document = None
    if starts is not None:
        document = np.searchsorted(starts, np.arange(above.size), side="right").reshape(above.shape)
    for shift in range(1, window + 1):
        left, right = above[:, shift:], above[:, :-shift]
        if document is not None:
            same = document[:, shift:] == document[:, :-shift]
            left, right = left & same, right & same
        marked[:, :-shift] |= left
        marked[:, shift:] |= right
    marked[:, 0] = False
    return marked


def _mark_in_turn(
    mask: NDArray[np.bool_],
    candidates: NDArray[np.bool_],
    above_BT: NDArray[np.bool_],
    unit: tuple[int, int],
    window: int,
    missing: int,
) -> None:
    """Mark `missing` candidates of one unit in the flat mask, token above τ by token above τ."""
    start, end = unit
    length = above_BT.shape[1]
    for position in start + np.flatnonzero(above_BT.reshape(-1)[start:end]):
        block = position // length * length
        first, last = max(position - window, start, block), min(position + window + 1, end, block + length)
        for token in (position, *range(first, last)):
            if missing == 0:
                return
            if candidates[token] and not mask[token]:
                mask[token] = True
                missing -= 1
