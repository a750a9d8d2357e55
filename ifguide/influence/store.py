"""The score store: one float32 per behaviour and token on disk, written shard by shard, resumable after a kill.

The convention of the whole project: `scores[n, t]` belongs to token x[n, t]; it is the influence of learning to predict
x[n, t] from the tokens before it. `scores[n, 0]` does not exist (nothing predicts a block's first token): it is stored
as 0 and never selected. Masks follow the same convention (`ifguide.corpus.masks`).

While it grows, a store is a folder of shards, each a file that appears when it is complete: processes and machines
write side by side, and what is there after a kill is whole. At the end the shards are joined into `scores.npy`,
[behaviours, blocks, block length], so that one behaviour's scores lie together.
"""

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ifguide.workspace import open_array

SCORES_FILE = "scores.npy"
SHARDS_FOLDER = "shards_of_{blocks}"  # another shard size starts over

log = logging.getLogger(__name__)


class ScoreStore:
    """A score file under construction.

    Args:
        directory: its folder; an interrupted store in it is continued.
        shape: [behaviours, blocks, block length].
        shard_blocks: blocks per shard, the unit of progress.

    Raises:
        ValueError: shards of less than one block.
    """

    def __init__(self, directory: Path, shape: tuple[int, int, int], *, shard_blocks: int) -> None:
        if shard_blocks < 1:
            raise ValueError(f"shard_blocks={shard_blocks}: a shard has at least one block")
        self.directory, self.shape, self.shard_blocks = directory, shape, shard_blocks
        self._shards = directory / SHARDS_FOLDER.format(blocks=shard_blocks)
        self._shards.mkdir(parents=True, exist_ok=True)

    def __len__(self) -> int:
        """Number of shards."""
        return -(-self.shape[1] // self.shard_blocks)

    def is_finished(self, shard: int) -> bool:
        """Whether a shard is there, and whole; one that is not is said, and removed."""
        rows = self.rows(shard)
        shape = (self.shape[0], rows.stop - rows.start, self.shape[2])
        return is_whole(self.directory / SCORES_FILE, self.shape) or is_whole(self._file(shard), shape)

    def unfinished(self, *, rank: int = 0, processes: int = 1) -> list[int]:
        """Shards left for one of several processes, which take all shards in turn."""
        return [shard for shard in range(rank, len(self), processes) if not self.is_finished(shard)]

    def rows(self, shard: int) -> slice:
        first = shard * self.shard_blocks
        return slice(first, min(first + self.shard_blocks, self.shape[1]))

    def write(self, shard: int, scores_KBT: NDArray[np.float32]) -> None:
        """Write a shard; a reader sees it whole or not at all.

        Raises:
            ValueError: scores that are not finite.
        """
        rows = self.rows(shard)
        assert scores_KBT.shape == (self.shape[0], rows.stop - rows.start, self.shape[2])
        if not np.isfinite(scores_KBT).all():
            raise ValueError(f"scores of shard {shard} are not finite; check the proxy and the direction")
        temporary = self._shards / f".{shard}.{os.getpid()}"
        with temporary.open("wb") as file:
            np.save(file, np.ascontiguousarray(scores_KBT, dtype=np.float32))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self._file(shard))

    def join(self) -> None:
        """Join all shards into one file, and remove them and what interrupted builds left."""
        missing = self.unfinished()
        assert not missing, f"shards {missing} were not scored"
        if not is_whole(self.directory / SCORES_FILE, self.shape):
            with create_scores(self.directory, self.shape) as scores:
                for shard in range(len(self)):
                    scores[:, self.rows(shard)] = np.load(self._file(shard))
        for folder in self.directory.glob(SHARDS_FOLDER.format(blocks="*")):
            shutil.rmtree(folder)

    def _file(self, shard: int) -> Path:
        return self._shards / f"{shard}.npy"


def is_whole(file: Path, shape: tuple[int, ...]) -> bool:
    """Whether a file is there and holds scores of a shape; one that does not is said, and removed."""
    if not file.exists():
        return False
    try:
        found = open_array(file)
        if found.shape == shape and found.dtype == np.float32:
            return True
        reason = f"it holds {found.dtype} of the shape {found.shape}, not float32 of {shape}"
    except ValueError as error:
        reason = str(error)
    log.warning("warning: %s is damaged, and is scored again (%s)", file, reason)
    file.unlink(missing_ok=True)  # another process may have seen it too
    return False


@contextmanager
def create_scores(directory: Path, shape: tuple[int, ...]) -> Iterator[NDArray[np.float32]]:
    """A score file to fill at once, memory-mapped, [behaviours, blocks, block length]; it appears when it is full.

    Raises:
        OSError: there is no room for it. Without room set apart, a write into the mapping would end the process.
    """
    temporary = directory / f".{SCORES_FILE}"
    scores = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=shape)
    if hasattr(os, "posix_fallocate"):
        with temporary.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, temporary.stat().st_size)
    yield scores
    scores.flush()
    os.replace(temporary, directory / SCORES_FILE)


def open(folder: str | Path) -> NDArray[np.float32]:
    """The scores of an artifact, [behaviours, blocks, block length], memory-mapped.

    Args:
        folder: of scores or of pooled scores, as `run.json` names it.

    Raises:
        ValueError: no scores are there.
    """
    if not (Path(folder) / SCORES_FILE).is_file():
        raise ValueError(f"{folder} holds no {SCORES_FILE}: give the folder of scores, as run.json names it")
    return open_scores(Path(folder))


def open_scores(directory: Path) -> NDArray[np.float32]:
    """The finished scores of a folder, [behaviours, blocks, block length], memory-mapped."""
    return open_array(directory / SCORES_FILE)
