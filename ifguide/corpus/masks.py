"""One bit per token: the shape and the convention of masks and annotations.

`mask[n, t]` belongs to token x[n, t], as scores do: the loss that *predicts* x[n, t], which the model computes at
position t − 1, is the one that it concerns. Column 0 is never set, because nothing predicts a block's first token.
On disk the bits of a row are packed into bytes ([blocks, ⌈block length / 8⌉], `mask.npy`), memory-mapped when read.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ifguide.workspace import open_array, read_manifest

MASK_FILE = "mask.npy"


class TokenMask:
    """A memory-mapped mask of shape [blocks, block length]; rows are unpacked when they are asked for."""

    def __init__(self, packed: NDArray[np.uint8], block_length: int) -> None:
        if packed.ndim != 2 or packed.shape[1] != -(-block_length // 8):
            raise ValueError(f"a mask of {packed.shape} bytes does not fit blocks of {block_length} tokens")
        self._packed, self.block_length = packed, block_length

    @staticmethod
    def open(path: Path, block_length: int) -> "TokenMask":
        return TokenMask(open_array(path), block_length)

    @staticmethod
    def pack(mask_BT: NDArray[np.bool_]) -> "TokenMask":
        return TokenMask(np.packbits(mask_BT, axis=1), mask_BT.shape[1])

    def save(self, path: Path) -> None:
        np.save(path, self._packed)

    def __len__(self) -> int:
        return len(self._packed)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self), self.block_length

    def __getitem__(self, rows: int | slice | NDArray[np.int64]) -> NDArray[np.bool_]:
        """Rows as booleans: [T] for one row, [rows, T] for several."""
        return np.unpackbits(self._packed[rows], axis=-1, count=self.block_length).astype(bool)

    def __and__(self, other: "TokenMask") -> "TokenMask":
        return TokenMask(self._packed & other._packed, self.block_length)

    def __or__(self, other: "TokenMask") -> "TokenMask":
        return TokenMask(self._packed | other._packed, self.block_length)

    def count(self) -> int:
        """Number of marked tokens."""
        return int(np.bitwise_count(self._packed).sum())


def open(folder: str | Path, block_length: int | None = None) -> TokenMask:
    """The mask of an artifact; `mask[:]` are booleans, [blocks, block length].

    Args:
        folder: of a mask, as `run.json` names it.
        block_length: of the corpus; None: as the artifact says.

    Raises:
        ValueError: no mask is there, or nothing says how long its blocks are.
    """
    path = Path(folder)
    if not (path / MASK_FILE).is_file():
        raise ValueError(f"{path} holds no {MASK_FILE}: give the folder of a mask, as run.json names it")
    if block_length is None:
        block_length = read_manifest(path).get("facts", {}).get("block_length")
    if block_length is None:
        raise ValueError(f"{path} does not say how long its blocks are: give block_length, as corpus.json has it")
    return TokenMask.open(path / MASK_FILE, block_length)


def jaccard(a: TokenMask, b: TokenMask) -> float:
    """Tokens in both masks over tokens in either; 1 where both are empty."""
    both, either = (a & b).count(), (a | b).count()
    return both / either if either else 1.0
