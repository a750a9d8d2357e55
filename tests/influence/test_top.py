import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_selection import cases, in_chunks_of, on_disk

from ifguide.influence.top import TopTokens


def select_slowly(scores, limit):
    """The highest scores first, of equal ones the first, until the limit."""
    places = [(n, t) for n in range(scores.shape[0]) for t in range(1, scores.shape[1])]
    mask = np.zeros(scores.shape, bool)
    for place in sorted(places, key=lambda place: (-scores[place], place))[: int(limit * scores.size)]:
        mask[place] = True
    return mask


@given(cases(), st.sampled_from([0.05, 0.2, 0.5, 0.9, 1.0]), st.sampled_from([1, 12, 1 << 22]))
@settings(deadline=None, max_examples=80)
def test_against_a_slow_reference(case, limit, chunk):
    scores, _ = case
    with in_chunks_of(chunk):
        found = TopTokens(limit=limit)(scores)
    expected = select_slowly(scores, limit)
    assert (found.mask[:] == expected).all()
    assert found.selected == expected.sum() == min(found.wanted, found.candidates)
    left = scores[:, 1:][~expected[:, 1:]]
    assert found.threshold == (left.max() if left.size else scores[:, 1:].min())


def test_probabilities_that_are_all_but_certain_fill_the_limit(tmp_path):
    """More tokens score exactly 1 than are allowed: Algorithm 1 finds none above its threshold."""
    scores = np.ones((4, 10), np.float32)
    found = TopTokens(limit=0.25)(on_disk(scores, tmp_path))
    assert found.selected == 10 and found.mask[:].sum(1).tolist() == [9, 1, 0, 0]


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"^limit=0: the share"):
        TopTokens(limit=0)
    with pytest.raises(ValueError, match=r"^limit=1\.5: the share"):
        TopTokens(limit=1.5)
    for shape in ((6,), (0, 3), (4, 1)):
        with pytest.raises(ValueError, match=r"^scores float32\("):
            TopTokens()(np.zeros(shape, np.float32))
    with pytest.raises(ValueError, match="float64"):
        TopTokens()(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="not finite"):
        TopTokens()(np.full((2, 3), np.nan, np.float32))
