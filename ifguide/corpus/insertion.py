"""Tokens put into the stream of a split, and masks that follow the tokens which were there before.

It streams, as `repacking` does: memory follows the number of inserted tokens, never that of all tokens.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ifguide.corpus.blocks import Split
from ifguide.corpus.masks import TokenMask
from ifguide.corpus.repacking import chunks_of, write_mask, write_split
from ifguide.workspace import open_archive

# K inserted tokens


@dataclass(frozen=True)
class Insertion:
    """What is put where.

    Args:
        positions: [K], ascending: of the tokens of the stream that something is put before.
        tokens: [K], ids of what is put there.
    """

    positions: NDArray[np.int64]
    tokens: NDArray[np.int32]

    def save(self, path: Path) -> None:
        np.savez(path, positions=self.positions, tokens=self.tokens)

    @staticmethod
    def open(path: Path) -> "Insertion":
        found = open_archive(path, "positions", "tokens")
        return Insertion(found["positions"], found["tokens"])

    def blocks(self, split: Split) -> int:
        return (len(split) * split.block_length + len(self.positions)) // split.block_length

    def write(self, directory: Path, name: str, split: Split) -> dict[str, Any]:
        """Write the split anew under a name, as `Corpus.split` opens it; an incomplete last block is left out.

        A token that is put before a document is its first.

        Returns:
            Facts: its documents, tokens and blocks.
        """
        blocks, length = self.blocks(split), split.block_length
        rows = np.array(split.documents)
        rows["start"] += np.searchsorted(self.positions, rows["start"])
        pieces = self.pieces(split.tokens, split, self.tokens)
        facts = write_split(directory, name, rows, pieces, blocks, length)
        if split.annotation is not None:
            self.write_mask(directory / f"{name}_annotation.npy", split.annotation, split, first_column=True)
        return facts

    def write_mask(self, path: Path, mask: TokenMask, split: Split, *, first_column: bool = False) -> int:
        """Write the mask of the blocks that `write` makes: every bit follows its token, no inserted one is marked.

        Args:
            path: the file to write.
            mask: of the split.
            split: as it was.
            first_column: as in `write_kept_mask`.

        Returns:
            Number of tokens that are marked.
        """
        bits = self.pieces(mask.__getitem__, split, np.zeros(len(self.positions), bool))
        return write_mask(path, bits, self.blocks(split), split.block_length, first_column=first_column)

    def pieces(
        self, read: Callable[[slice], NDArray[Any]], split: Split, inserted_K: NDArray[Any]
    ) -> Iterator[NDArray[Any]]:
        """What belongs to the tokens of the stream and what is put between, piece by piece.

        Args:
            read: rows of blocks → [rows, T].
        """
        for rows in chunks_of(split):
            first, end = rows.start * split.block_length, rows.stop * split.block_length
            here = slice(*np.searchsorted(self.positions, [first, end]))
            yield np.insert(read(rows).reshape(-1), self.positions[here] - first, inserted_K[here])
