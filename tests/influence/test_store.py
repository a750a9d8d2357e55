import numpy as np
import pytest

from ifguide.influence.store import ScoreStore, fill_store, open_scores

SHAPE = (23, 5)
BLOCKS = np.arange(SHAPE[0] * SHAPE[1]).reshape(SHAPE)


def tokens(rows):
    return BLOCKS[rows]


def score(ids):
    """Depends on the batch, as floating point does: batch boundaries have to be the same each time."""
    return (np.sqrt(ids) + 1e-3 * len(ids)).astype(np.float32)


def fill(directory, *, processes=1, score=score, ranks=None):
    store = ScoreStore(directory, SHAPE, shard_blocks=4)
    for rank in ranks if ranks is not None else range(processes):
        fill_store(store, score, tokens, batch_size=3, rank=rank, processes=processes)
    return store


def content(directory):
    return (directory / "scores.npy").read_bytes()


def test_bytes_do_not_depend_on_processes(tmp_path):
    for processes in (1, 2, 5):
        fill(tmp_path / str(processes), processes=processes).close()
    assert content(tmp_path / "1") == content(tmp_path / "2") == content(tmp_path / "5")
    assert open_scores(tmp_path / "1").shape == SHAPE


@pytest.mark.parametrize("calls", [0, 1, 2, 3, 7])
def test_bytes_do_not_depend_on_kills_and_nothing_is_scored_twice(tmp_path, calls):
    fill(tmp_path / "whole").close()
    scored = []

    def dies(ids):
        if len(scored) == calls:
            raise KeyboardInterrupt
        scored.append(ids)
        return score(ids)

    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "killed", score=dies)
    finished = [
        shard for shard in range(6) if ScoreStore(tmp_path / "killed", SHAPE, shard_blocks=4).is_finished(shard)
    ]
    again = []
    fill(tmp_path / "killed", score=lambda ids: again.append(ids) or score(ids)).close()
    assert content(tmp_path / "whole") == content(tmp_path / "killed")
    assert sum(map(len, again)) == SHAPE[0] - sum(min(4, SHAPE[0] - 4 * shard) for shard in finished)
    assert [path.name for path in (tmp_path / "killed").iterdir()] == ["scores.npy"]


def test_another_shard_size_starts_over(tmp_path):
    store = ScoreStore(tmp_path, SHAPE, shard_blocks=2)
    store.write(0, np.full((2, 5), 7, np.float32))
    fill(tmp_path / "whole").close()
    fill(tmp_path).close()
    assert content(tmp_path) == content(tmp_path / "whole")


def test_an_unfinished_store_does_not_close(tmp_path):
    with pytest.raises(AssertionError, match="were not scored"):
        fill(tmp_path, processes=2, ranks=[0]).close()


def test_scores_that_are_not_finite_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="not finite"):
        fill(tmp_path, score=lambda ids: np.full(ids.shape, np.nan, np.float32))
    assert not ScoreStore(tmp_path, SHAPE, shard_blocks=4).is_finished(0)


def test_a_store_of_another_shape_is_refused(tmp_path):
    fill(tmp_path)
    with pytest.raises(ValueError, match="shape"):
        ScoreStore(tmp_path, (24, 5), shard_blocks=4)
