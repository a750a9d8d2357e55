"""What a step of attribute-controlled fine-tuning reads: blocks, and which of their tokens are regularised."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ifguide.corpus.blocks import LABELS, Split

# B blocks, T tokens


class DocumentMask:
    """Which tokens are of documents of some sources or labels.

    Args:
        split: of the corpus.
        names: of all sources, in the corpus's order.
        sources, labels: those that are wanted: a document needs one of either.

    Raises:
        ValueError: a source or a label that is none, or no document has.
    """

    def __init__(self, split: Split, names: Sequence[str], sources: Sequence[str], labels: Sequence[str]) -> None:
        known = [name for name in LABELS if name]
        for setting, wanted, all_ in (("sources", sources, names), ("labels", labels, known)):
            if unknown := [one for one in wanted if one not in all_]:
                raise ValueError(f"{setting}={list(wanted)}: there is no {unknown[0]}; known: {', '.join(all_)}")
        of_source = np.isin(split.documents["source"], [names.index(one) for one in sources])
        of_label = np.isin(split.documents["label"], [LABELS[one] for one in labels])
        self._split, self._wanted = split, of_source | of_label
        if not self._wanted.any():
            raise ValueError(f"sources={list(sources)}, labels={list(labels)}: no training document is of them")

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """[rows, T]; `mask[n, t]` is of the token x[n, t]."""
        length = self._split.block_length
        wanted: NDArray[np.bool_] = self._wanted[
            self._split.documents_of(rows[:, None] * length + np.arange(length))
        ]  # fmt: skip
        return wanted


class ControlledBlocks:
    """Rows → `input_ids` [B, T]; with a mask `regularised` [B, T].

    Args:
        split: the training blocks.
        mask: what is regularised; None: all.
    """

    def __init__(self, split: Split, mask: DocumentMask | None) -> None:
        self._split, self._mask = split, mask

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, rows: NDArray[np.int64]) -> dict[str, Tensor]:
        batch = {"input_ids": torch.from_numpy(self._split.tokens(rows))}
        if self._mask is not None:
            batch["regularised"] = torch.from_numpy(self._mask[rows])
        return batch
