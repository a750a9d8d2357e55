import numpy as np
import pytest

from ifguide.corpus.masks import TokenMask


@pytest.mark.parametrize("length", [7, 8, 13])
def test_a_mask_round_trips_through_its_file(tmp_path, length):
    mask = np.random.default_rng(0).random((5, length)) < 0.3
    TokenMask.pack(mask).save(tmp_path / "mask.npy")
    loaded = TokenMask.open(tmp_path / "mask.npy", length)
    assert loaded.shape == mask.shape and loaded.count() == mask.sum()
    assert (loaded[:] == mask).all() and (loaded[2] == mask[2]).all()
    assert (loaded[np.array([3, 0])] == mask[[3, 0]]).all()
    assert np.load(tmp_path / "mask.npy").nbytes == 5 * -(-length // 8)


def test_a_mask_of_another_block_length_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        TokenMask(np.zeros((2, 4), np.uint8), 64)
