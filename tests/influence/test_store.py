import numpy as np
import pytest

from ifguide.influence.store import ScoreStore, open_scores

SHAPE = (2, 23, 5)
SCORES = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)


def fill(store, *, rank=0, processes=1, shards=None):
    for shard in store.unfinished(rank=rank, processes=processes)[:shards]:
        store.write(shard, SCORES[:, store.rows(shard)])


def test_shards_of_several_processes_make_one_file(tmp_path):
    for processes in (1, 2, 5):
        directory = tmp_path / str(processes)
        for rank in range(processes):
            fill(ScoreStore(directory, SHAPE, shard_blocks=4), rank=rank, processes=processes)
        ScoreStore(directory, SHAPE, shard_blocks=4).join()
        assert [path.name for path in directory.iterdir()] == ["scores.npy"]
        assert (open_scores(directory) == SCORES).all()
    assert (tmp_path / "1/scores.npy").read_bytes() == (tmp_path / "5/scores.npy").read_bytes()


def test_finished_shards_are_not_asked_for_again(tmp_path):
    fill(ScoreStore(tmp_path, SHAPE, shard_blocks=4), shards=2)
    store = ScoreStore(tmp_path, SHAPE, shard_blocks=4)
    assert store.unfinished() == [2, 3, 4, 5]
    assert store.unfinished(rank=1, processes=2) == [3, 5]
    with pytest.raises(AssertionError, match=r"\[2, 3, 4, 5\]"):
        store.join()
    fill(store)
    store.join()
    assert (open_scores(tmp_path) == SCORES).all()


def test_what_a_killed_write_left_is_no_shard(tmp_path):
    store = ScoreStore(tmp_path, SHAPE, shard_blocks=4)
    (tmp_path / "shards_of_4" / ".0.123").write_bytes(b"half")
    assert store.unfinished() == [0, 1, 2, 3, 4, 5]
    fill(store)
    store.join()
    assert [path.name for path in tmp_path.iterdir()] == ["scores.npy"]


def test_joining_again_after_a_kill_gives_the_same_file(tmp_path):
    store = ScoreStore(tmp_path, SHAPE, shard_blocks=4)
    fill(store)
    (tmp_path / ".scores.npy").write_bytes(b"half")
    store.join()
    assert (open_scores(tmp_path) == SCORES).all()


def test_another_shard_size_starts_over(tmp_path):
    store = ScoreStore(tmp_path, SHAPE, shard_blocks=2)
    store.write(0, np.full((2, 2, 5), 7, np.float32))
    other = ScoreStore(tmp_path, SHAPE, shard_blocks=4)
    fill(other)
    other.join()
    assert (open_scores(tmp_path) == SCORES).all()
    assert [path.name for path in tmp_path.iterdir()] == ["scores.npy"]


def test_scores_that_are_not_finite_are_refused(tmp_path):
    with pytest.raises(ValueError, match="finite"):
        ScoreStore(tmp_path, SHAPE, shard_blocks=4).write(0, np.full((2, 4, 5), np.nan, np.float32))


def test_shards_have_blocks(tmp_path):
    with pytest.raises(ValueError, match="shard_blocks"):
        ScoreStore(tmp_path, SHAPE, shard_blocks=0)
