"""The score store: one float32 per token on disk, written shard by shard, resumable after a kill at any point.

The convention of the whole project: `scores[n, t]` belongs to token x[n, t]; it is the influence of learning to predict
x[n, t] from the tokens before it. `scores[n, 0]` does not exist (nothing predicts a block's first token): it is stored
as 0 and never selected. Masks follow the same convention (`ifguide.corpus.masks`).
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

SCORES_FILE = "scores.npy"
SHARDS_FOLDER = "finished_shards_of_{blocks}"  # another shard size starts over


class ScoreStore:
    """A score file under construction.

    Args:
        directory: its folder; an interrupted store in it is continued.
        shape: [blocks, block length].
        shard_blocks: blocks per shard, the unit of progress.
    """

    def __init__(self, directory: Path, shape: tuple[int, int], *, shard_blocks: int) -> None:
        if shard_blocks < 1:
            raise ValueError(f"influence.shard_blocks={shard_blocks}: a shard has at least one block")
        self.directory, self.shape, self.shard_blocks = directory, shape, shard_blocks
        self._finished = directory / SHARDS_FOLDER.format(blocks=shard_blocks)
        self._finished.mkdir(parents=True, exist_ok=True)
        file = directory / SCORES_FILE
        if not file.exists():
            temporary = directory / f"{SCORES_FILE}.{os.getpid()}"
            np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=shape).flush()
            os.replace(temporary, file)
        self._scores = np.lib.format.open_memmap(file, mode="r+")
        if self._scores.shape != shape:
            raise ValueError(f"{file} has shape {self._scores.shape}, the corpus has {shape}")

    def __len__(self) -> int:
        """Number of shards."""
        return -(-self.shape[0] // self.shard_blocks)

    def is_finished(self, shard: int) -> bool:
        return (self._finished / str(shard)).exists()

    def rows(self, shard: int) -> slice:
        first = shard * self.shard_blocks
        return slice(first, min(first + self.shard_blocks, self.shape[0]))

    def write(self, shard: int, scores_BT: NDArray[np.float32]) -> None:
        """Write a shard to disk, then mark it as finished.

        Raises:
            ValueError: scores that are not finite.
        """
        if not np.isfinite(scores_BT).all():
            raise ValueError(f"scores of shard {shard} are not finite; check the proxy and the direction")
        self._scores[self.rows(shard)] = scores_BT
        self._scores.flush()
        (self._finished / str(shard)).touch()

    def close(self) -> None:
        """Check that every shard is there and remove the marks of progress and what interrupted builds left."""
        missing = [shard for shard in range(len(self)) if not self.is_finished(shard)]
        assert not missing, f"shards {missing} were not scored"
        for folder in self.directory.glob(SHARDS_FOLDER.format(blocks="*")):
            shutil.rmtree(folder)
        for leftover in self.directory.glob(f"{SCORES_FILE}.*"):
            leftover.unlink()


def fill_store(
    store: ScoreStore,
    score: Callable[[NDArray[np.int64]], NDArray[np.float32]],
    tokens: Callable[[slice], NDArray[np.int64]],
    *,
    batch_size: int,
    rank: int = 0,
    processes: int = 1,
) -> None:
    """Score the unfinished shards of this process.

    Batch boundaries depend on the shard and the batch size alone, so the bytes written do not depend on the number of
    processes nor on interruptions.

    Args:
        store: where scores go.
        score: [rows, T] token ids → [rows, T] scores.
        tokens: rows → [rows, T] token ids.
        batch_size: blocks per call of `score`.
        rank, processes: shards are dealt out in turn among processes.
    """
    shards = [shard for shard in range(rank, len(store), processes) if not store.is_finished(shard)]
    total = sum(store.rows(shard).stop - store.rows(shard).start for shard in shards)
    with tqdm(total=total, desc="Scoring", unit=" blocks", leave=False, disable=True if rank else None) as progress:
        for shard in shards:
            rows = store.rows(shard)
            parts = []
            for first in range(rows.start, rows.stop, batch_size):
                batch = slice(first, min(first + batch_size, rows.stop))
                parts.append(score(tokens(batch)))
                progress.update(batch.stop - batch.start)
            store.write(shard, np.concatenate(parts))


def open_scores(directory: Path) -> NDArray[np.float32]:
    """The finished scores of a folder, [blocks, block length], memory-mapped."""
    return np.load(directory / SCORES_FILE, mmap_mode="r")
