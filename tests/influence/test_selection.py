from math import ceil
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ifguide.influence import selection as module
from ifguide.influence.selection import Algorithm1, select_tokens


def in_chunks_of(tokens):
    return mock.patch.object(module, "CHUNK_TOKENS", tokens)


def on_disk(scores, folder):
    """The scores as one of several behaviours of a file, memory-mapped."""
    np.save(folder / "scores.npy", np.stack([np.full_like(scores, 9), scores, np.full_like(scores, 8)]))
    return np.load(folder / "scores.npy", mmap_mode="r")[1]


def select_slowly(scores, *, quantile, limit, window, unit, document_starts):
    """Algorithm 1 written down as it reads, token by token."""
    blocks, length = scores.shape
    existing = sorted(float(scores[n, t]) for n in range(blocks) for t in range(1, length))
    threshold = existing[max(ceil(quantile * len(existing)) - 1, 0)]
    flat = scores.reshape(-1).tolist()
    starts = [n * length for n in range(blocks)] if unit == "block" else list(document_starts)
    ends = [*starts[1:], len(flat)]

    def above(i):
        return i % length != 0 and flat[i] > threshold

    counts = [float(sum(above(i) for i in range(a, b))) for a, b in zip(starts, ends, strict=True)]
    sums = [float(sum(flat[i] for i in range(a, b) if above(i))) for a, b in zip(starts, ends, strict=True)]
    if unit == "document":
        lengths = [b - a for a, b in zip(starts, ends, strict=True)]
        k = float(np.median(lengths))
        counts = [c / (n + k) for c, n in zip(counts, lengths, strict=True)]
        sums = [s / (n + k) for s, n in zip(sums, lengths, strict=True)]

    def normalised(values):
        low, high = min(values), max(values)
        return [(v - low) / (high - low) if high > low else 0.0 for v in values]

    merits = [
        2 * c * f / (c + f) if c + f > 0 else 0.0 for c, f in zip(normalised(counts), normalised(sums), strict=True)
    ]
    marked = set()
    wanted = int(limit * len(flat))
    for u in sorted(range(len(starts)), key=lambda u: (-merits[u], u)):
        for i in range(starts[u], ends[u]):
            if not above(i):
                continue
            block = i // length * length
            for j in [i, *range(max(i - window, starts[u], block), min(i + window + 1, ends[u], block + length))]:
                if len(marked) < wanted and j % length != 0:
                    marked.add(j)
    return threshold, np.isin(np.arange(len(flat)), list(marked)).reshape(scores.shape)


@st.composite
def cases(draw):
    shape = draw(st.tuples(st.integers(1, 6), st.integers(2, 9)))
    # few distinct values, so that ties and equal units are common
    scores = draw(arrays.arrays(np.float32, shape, elements=st.integers(-3, 3).map(float)))
    size = shape[0] * shape[1]
    inner = draw(st.sets(st.integers(1, size - 1), max_size=6))
    return scores, np.array([0, *sorted(inner)])


@given(
    cases(),
    st.sampled_from([0.0, 0.3, 0.5, 0.8, 0.99]),
    st.sampled_from([0.05, 0.2, 0.5, 1.0]),
    st.integers(0, 3),
    st.sampled_from(["block", "document"]),
    st.sampled_from([1, 12, 1 << 22]),
    st.booleans(),
)
@settings(max_examples=800, deadline=None)
def test_selection_equals_the_double_loop(tmp_path_factory, case, quantile, limit, window, unit, chunk, mapped):
    scores, starts = case
    options = dict(quantile=quantile, limit=limit, window=window, unit=unit, document_starts=starts)
    threshold, expected = select_slowly(scores, **options)
    if mapped:
        scores = on_disk(scores, tmp_path_factory.getbasetemp())
    with in_chunks_of(chunk):
        selection = select_tokens(scores, **options)
    assert selection.threshold == threshold
    assert (selection.mask[:] == expected).all()
    assert selection.selected == expected.sum() == min(selection.wanted, selection.candidates)
    assert not selection.mask[:][:, 0].any()


def test_what_is_configured_selects_with_all_its_settings():
    scores, starts = np.random.default_rng(0).normal(size=(8, 9)).astype(np.float32), np.array([0, 13, 30, 44])
    masks = []
    for unit in ("block", "document"):
        options = dict(quantile=0.6, limit=0.2, window=1, unit=unit)
        masks.append(Algorithm1(**options)(scores, starts).mask[:])
        assert (masks[-1] == select_tokens(scores, document_starts=starts, **options).mask[:]).all()
    assert (masks[0] != masks[1]).any()


@given(
    arrays.arrays(
        np.float32,
        arrays.array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=8),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
        | st.sampled_from([-0.0, 0.0, -(2.0**-149), 2.0**-149, 1.0, np.nextafter(np.float32(1), np.float32(2)).item()]),
    ),
    st.sampled_from([1, 12, 1 << 22]),
)
@settings(deadline=None)
def test_the_order_statistic_is_that_of_the_sorted_scores(scores, chunk):
    with in_chunks_of(chunk):
        found = [module.order_statistic(scores, rank) for rank in range(scores[:, 1:].size)]
    assert found == np.sort(scores[:, 1:], axis=None).tolist()


@pytest.mark.parametrize("unit", ["block", "document"])
def test_the_chunks_change_nothing(unit):
    generator = np.random.default_rng(0)
    scores = generator.standard_t(3, (60, 32)).astype(np.float32)
    starts = np.flatnonzero(generator.random(scores.size) < 0.02)
    starts[0] = 0
    chosen = []
    for chunk in (1, 100, 700, 1 << 22):
        with in_chunks_of(chunk):
            chosen.append(select_tokens(scores, quantile=0.9, limit=0.1, unit=unit, document_starts=starts).mask[:])
    assert chosen[0].sum() == int(0.1 * scores.size)
    assert all((mask == chosen[0]).all() for mask in chosen)


def test_files_are_read_rather_than_mapped(tmp_path):
    scores = np.arange(24, dtype=np.float32).reshape(6, 4)
    mapped, rows = on_disk(scores, tmp_path)[1:], slice(2, 4)
    assert not isinstance(module.read_rows(mapped, rows), np.memmap)
    assert (module.read_rows(mapped, rows) == scores[3:5]).all()
    private = np.load(tmp_path / "scores.npy", mmap_mode="c")
    private[1, 3] = -1
    for other in (private[1, 1:], mapped.copy(), mapped[:, ::2], mapped[::-1]):
        assert (module.read_rows(other, rows) == other[2:4]).all()


def test_the_limit_is_exact_on_continuous_scores():
    scores = np.random.default_rng(0).standard_normal((500, 64)).astype(np.float32)
    selection = select_tokens(scores, quantile=0.99, limit=0.02)
    assert selection.selected == selection.mask.count() == int(0.02 * scores.size)
    assert (scores[:, 1:] > selection.threshold).sum() == scores[:, 1:].size - ceil(0.99 * scores[:, 1:].size)


def test_a_shortfall_is_reported():
    scores = np.zeros((4, 8), np.float32)
    scores[2, 3] = 1
    selection = select_tokens(scores, quantile=0.9, limit=0.5)
    assert (selection.selected, selection.wanted, selection.candidates) == (3, 16, 3)
    assert np.argwhere(selection.mask[:]).tolist() == [[2, 2], [2, 3], [2, 4]]


def test_windows_stay_within_documents():
    scores = np.zeros((1, 8), np.float32)
    scores[0, 4] = 1
    options = dict(quantile=0.8, limit=1.0, unit="document")
    mask = select_tokens(scores, document_starts=np.array([0, 4]), **options).mask
    assert np.flatnonzero(mask[0]).tolist() == [4, 5]


def test_windows_end_with_blocks_and_documents_where_the_limit_is_reached():
    rng = np.random.default_rng(0)
    for _ in range(60):
        scores = rng.normal(size=(3, 6)).astype(np.float32)
        starts = np.array([0, *sorted(rng.choice(np.arange(1, 18), 2, replace=False))])
        options = dict(quantile=0.6, limit=rng.uniform(0.1, 0.8), window=3, unit="document", document_starts=starts)
        assert (select_tokens(scores, **options).mask[:] == select_slowly(scores, **options)[1]).all()


def test_the_first_token_of_a_block_is_never_selected():
    scores = np.zeros((2, 4), np.float32)
    scores[1, 0], scores[1, 1] = 100, 1
    assert np.argwhere(select_tokens(scores, quantile=0.5, limit=1.0, window=2).mask[:]).tolist() == [
        [1, 1],
        [1, 2],
        [1, 3],
    ]


@pytest.mark.parametrize(
    "options", [{"quantile": 1.0}, {"quantile": -0.1}, {"limit": 0}, {"limit": 1.5}, {"window": -1}, {"unit": "page"}]
)
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=f"^{next(iter(options))}"):
        Algorithm1(**options)


def test_the_ends_of_the_ranges_are_taken():
    scores = np.arange(12, dtype=np.float32).reshape(3, 4)
    selection = Algorithm1(quantile=0, limit=1, window=0)(scores)
    assert selection.threshold == 1 and np.flatnonzero(selection.mask[:]).tolist() == [2, 3, 5, 6, 7, 9, 10, 11]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("column", [0, 2])
def test_scores_that_are_not_finite_are_refused(value, column):
    scores = np.zeros((2, 4), np.float32)
    scores[1, column] = value
    with pytest.raises(ValueError, match="finite"):
        Algorithm1()(scores)


@pytest.mark.parametrize("scores", [np.zeros(shape, np.float32) for shape in (4, (4, 1), (0, 4))] + [np.zeros((2, 4))])
def test_other_arrays_are_refused(scores):
    with pytest.raises(ValueError, match="is expected"):
        Algorithm1()(scores)
