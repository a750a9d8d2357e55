"""Which tokens to suppress: the paper's Algorithm 1, in four passes over scores that may lie on disk (numpy only).

A unit is a stretch of tokens that is ranked as a whole: the block (the paper's), or the document. Marks never leave
their unit, and never fall on a block's first token, which nothing predicts. Scores are read in chunks of whole rows, so
memory follows the number of units and one bit per token.
"""

from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from ifguide.corpus.masks import TokenMask

UNITS = ("block", "document")
CHUNK_TOKENS = 1 << 22
HALF_KEY = 1 << 16


@dataclass(frozen=True)
class Selection:
    """The outcome of Algorithm 1.

    Attributes:
        mask: [blocks, T], set at the selected tokens.
        threshold: τ, the order statistic that a token's score must exceed.
        wanted: ⌊L · tokens⌋, the limit.
        selected: number of marked tokens, min(wanted, candidates).
        candidates: tokens above τ and their neighbours.
    """

    mask: TokenMask
    threshold: float
    wanted: int
    selected: int
    candidates: int

    @property
    def facts(self) -> dict[str, float]:
        """All figures, for a manifest or a log."""
        return {key: getattr(self, key) for key in ("threshold", "wanted", "selected", "candidates")}


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
            raise ValueError(f"quantile={self.quantile}: a quantile lies in [0, 1); the paper's is 0.99")
        if not 0 < self.limit <= 1:
            raise ValueError(f"limit={self.limit}: the share of tokens lies in (0, 1]; the paper's is 0.02")
        if self.window < 0:
            raise ValueError(f"window={self.window}: the number of neighbours is 0 or more")
        if self.unit not in UNITS:
            raise ValueError(f"unit={self.unit}; known: {', '.join(UNITS)}")

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
        scores_BT: [blocks, T], in memory or memory-mapped; column 0 is not looked at.
        quantile: q, in [0, 1).
        limit: L, share of all tokens, in (0, 1].
        window: w, neighbours on each side.
        unit: `block`, or `document`: c and f are then divided by (length + median length), so that the ranking does
            not follow length.
        document_starts: stream positions where documents start, rising from 0; needed for `document`.

    Raises:
        ValueError: scores that are not finite, not float32 or not [blocks, T], or no documents where they are the unit.
    """
    if scores_BT.ndim != 2 or not len(scores_BT) or scores_BT.shape[1] < 2:
        raise ValueError(f"scores of shape {scores_BT.shape}: [blocks, block length ≥ 2] is expected")
    if scores_BT.dtype != np.float32:
        raise ValueError(f"scores of type {scores_BT.dtype}: float32 is expected")
    if unit == "document" and document_starts is None:
        raise ValueError("unit=document: the starts of the documents are needed")
    blocks, length = scores_BT.shape
    starts = np.arange(blocks) * length if unit == "block" else np.array(document_starts, np.int64)
    threshold = order_statistic(scores_BT, max(ceil(quantile * (blocks * (length - 1))) - 1, 0))

    count, total, candidates = _measure(scores_BT, threshold, starts, window)
    if unit == "document":
        lengths = np.diff(np.append(starts, scores_BT.size))
        count, total = (value / (lengths + np.median(lengths)) for value in (count, total))
    order = np.argsort(-_merit(count, total), kind="stable")

    wanted = int(limit * scores_BT.size)
    cumulative = np.cumsum(candidates[order])
    whole = int(np.searchsorted(cumulative, wanted, side="right"))
    keep = np.zeros(len(starts), dtype=bool)
    keep[order[:whole]] = True
    partly = int(order[whole]) if whole < len(order) else None
    missing = wanted - int(candidates[keep].sum())
    mask = _write_mask(scores_BT, threshold, starts, window, keep, partly, missing)
    available = int(cumulative[-1])
    return Selection(mask, float(threshold), wanted, min(wanted, available), available)


def chunks(scores_BT: NDArray[np.float32]) -> list[slice]:
    blocks, length = scores_BT.shape
    rows = max(CHUNK_TOKENS // length, 1)
    return [slice(first, min(first + rows, blocks)) for first in range(0, blocks, rows)]


def read_rows(scores_BT: NDArray[np.float32], rows: slice) -> NDArray[np.float32]:
    """Some rows; those of a file are read rather than mapped, since mapped pages count as resident memory."""
    part = scores_BT[rows]
    # a private map ("c") may differ from its file; a copy of a map has no file
    if not isinstance(part, np.memmap) or part.mode == "c" or part.filename is None or not part.flags.c_contiguous:
        return part
    whole: np.memmap = part
    while isinstance(whole.base, np.memmap):
        whole = whole.base
    offset = whole.offset + part.ctypes.data - whole.ctypes.data  # a view still has the offset of the whole map
    return np.fromfile(part.filename, np.float32, part.size, offset=offset).reshape(part.shape)


def order_statistic(scores_BT: NDArray[np.float32], rank: int) -> np.float32:
    """The score at `rank` in rising order among all outside column 0: its key's high half first, then its low half."""
    high, low = np.zeros(HALF_KEY, np.int64), np.zeros(HALF_KEY, np.int64)
    for rows in chunks(scores_BT):
        chunk = read_rows(scores_BT, rows)
        if not np.isfinite(chunk).all():
            raise ValueError("some scores are not finite; score the corpus again")
        high += np.bincount(_keys(chunk) >> 16, minlength=HALF_KEY)
    upper, before = _bucket(high, rank)
    for rows in chunks(scores_BT):
        keys = _keys(read_rows(scores_BT, rows))
        low += np.bincount(keys[keys >> 16 == upper] % HALF_KEY, minlength=HALF_KEY)
    lower, _ = _bucket(low, rank - before)
    sign = 0x80000000 if upper >> 15 else 0xFFFFFFFF
    return np.uint32((upper << 16 | lower) ^ sign).view(np.float32)


def _keys(scores_BT: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Unsigned integers in the order of the scores outside column 0."""
    bits = (scores_BT[:, 1:] + np.float32(0)).reshape(-1).view(np.int32)  # -0.0 + 0 is 0.0, its equal
    return (bits ^ (bits >> 31 | np.int32(-(2**31)))).view(np.uint32)


def _bucket(histogram: NDArray[np.int64], rank: int) -> tuple[int, int]:
    """The bucket that holds the value at `rank`, and how many values lie in the buckets before."""
    cumulative = np.cumsum(histogram)
    bucket = int(np.searchsorted(cumulative, rank, side="right"))
    return bucket, int(cumulative[bucket] - histogram[bucket])


@dataclass(frozen=True)
class _Chunk:
    """What lies in some rows: scores, the tokens above τ, these with their neighbours, and the units with their cuts.

    `cuts` are the flat positions where the units begin here: 0 for one that began in an earlier chunk.
    """

    scores: NDArray[np.float32]
    above: NDArray[np.bool_]
    candidates: NDArray[np.bool_]
    units: slice
    cuts: NDArray[np.int64]


def _chunk(
    scores_BT: NDArray[np.float32], rows: slice, threshold: np.float32, starts: NDArray[np.int64], window: int
) -> _Chunk:
    scores = read_rows(scores_BT, rows)
    above = scores > threshold
    above[:, 0] = False
    first, end = (row * scores.shape[1] for row in (rows.start, rows.stop))
    units = slice(int(np.searchsorted(starts, first, side="right")) - 1, int(np.searchsorted(starts, end)))
    cuts = np.maximum(starts[units] - first, 0)
    return _Chunk(scores, above, _with_neighbours(above, window, cuts), units, cuts)


def _with_neighbours(above_BT: NDArray[np.bool_], window: int, cuts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Tokens above τ and their neighbours within the block and the unit, never a block's first token."""
    passable = np.ones_like(above_BT)
    passable.reshape(-1)[cuts] = False
    passable = passable[:, 1:]  # from a token to the one on its left and back
    marked, left, right = above_BT.copy(), above_BT.copy(), above_BT.copy()
    for _ in range(min(window, above_BT.shape[1] - 1)):
        left[:, :-1], left[:, -1] = left[:, 1:] & passable, False
        right[:, 1:], right[:, 0] = right[:, :-1] & passable, False
        marked |= left
        marked |= right
    marked[:, 0] = False
    return marked


def _measure(
    scores_BT: NDArray[np.float32], threshold: np.float32, starts: NDArray[np.int64], window: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Of each unit, the number and the sum of its scores above τ and its number of candidates."""
    count, total, candidates = np.zeros(len(starts)), np.zeros(len(starts)), np.zeros(len(starts), np.int64)
    for rows in chunks(scores_BT):
        chunk = _chunk(scores_BT, rows, threshold, starts, window)
        scores = np.where(chunk.above, chunk.scores, np.float32(0))
        # added up, since a unit may lie in several chunks
        count[chunk.units] += np.add.reduceat(chunk.above.reshape(-1), chunk.cuts, dtype=np.float64)
        total[chunk.units] += np.add.reduceat(scores.reshape(-1), chunk.cuts, dtype=np.float64)
        candidates[chunk.units] += np.add.reduceat(chunk.candidates.reshape(-1), chunk.cuts, dtype=np.int64)
    return count, total, candidates


def _merit(count: NDArray[np.float64], total: NDArray[np.float64]) -> NDArray[np.float64]:
    """Harmonic mean of both after min-max normalisation."""
    count, total = _min_max(count), _min_max(total)
    both = count + total
    return np.divide(2 * count * total, both, out=np.zeros_like(both), where=both > 0)


def _min_max(values: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def _write_mask(
    scores_BT: NDArray[np.float32],
    threshold: np.float32,
    starts: NDArray[np.int64],
    window: int,
    keep: NDArray[np.bool_],
    partly: int | None,
    missing: int,
) -> TokenMask:
    """All candidates of the units in `keep`, and the first `missing` of the unit `partly`."""
    blocks, length = scores_BT.shape
    packed = np.empty((blocks, -(-length // 8)), np.uint8)
    for rows in chunks(scores_BT):
        chunk = _chunk(scores_BT, rows, threshold, starts, window)
        ends = np.append(chunk.cuts[1:], chunk.above.size)
        mask = np.repeat(keep[chunk.units], ends - chunk.cuts).reshape(chunk.above.shape) & chunk.candidates
        if partly is not None and chunk.units.start <= partly < chunk.units.stop:
            here = partly - chunk.units.start
            missing -= _mark_in_turn(mask, chunk, (int(chunk.cuts[here]), int(ends[here])), window, missing)
        packed[rows] = np.packbits(mask, axis=1)
    return TokenMask(packed, length)


def _mark_in_turn(mask_BT: NDArray[np.bool_], chunk: _Chunk, unit: tuple[int, int], window: int, missing: int) -> int:
    """Mark up to `missing` candidates of one unit, token above τ by token above τ; returns how many."""
    (start, end), length, left = unit, mask_BT.shape[1], missing
    mask, candidates = mask_BT.reshape(-1), chunk.candidates.reshape(-1)
    for position in start + np.flatnonzero(chunk.above.reshape(-1)[start:end]):
        block = position // length * length
        first, last = max(position - window, start, block), min(position + window + 1, end, block + length)
        for token in (position, *range(first, last)):
            if left == 0:
                return missing
            if candidates[token] and not mask[token]:
                mask[token] = True
                left -= 1
    return missing - left
