"""Pooling: what many scores have in common, in place of each single one.

A single token's influence is mostly noise; its mean over the occurrences of the token's type is not, and what the
tokens around it are worth says in which sense it is used. Pooled scores have the shape and the convention of scores
(`ifguide.influence.store`), and selection reads them as it reads scores. Fitted on the scores of a few blocks, the same
table scores all others (`ifguide.influence.amortised`).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ifguide.influence.store import create_scores

CHUNK_TOKENS = 1 << 20
TABLE = "types.safetensors"

# K behaviours, B blocks, T tokens, V vocabulary
Tokens = Callable[[slice], NDArray[np.int64]]  # rows of blocks → [rows, T] token ids


class TypeTable(nn.Module):
    """A token's score as m(its type) + a Σ_{d≠0} exp(−|d|/τ) m(type d tokens away) / 2τ.

    Args:
        worth: m, [K, V].
        reach: τ, in tokens of the same block.
        context_weight: a.
    """

    def __init__(self, worth: Tensor, reach: Tensor, context_weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("worth", worth)
        self.register_buffer("reach", reach)
        self.register_buffer("context_weight", context_weight)

    def scores(self, ids_BT: Tensor) -> Tensor:
        """[K, B, T] in float32; column 0 is 0."""
        own = self.worth[:, ids_BT]  # type: ignore[index]
        places = torch.arange(ids_BT.shape[1], device=ids_BT.device)
        nearness = torch.exp(-(places[:, None] - places).abs() / self.reach) / (2 * self.reach)  # type: ignore[operator]
        scores = own + self.context_weight * (own @ nearness.fill_diagonal_(0.0))  # type: ignore[operator]
        scores[..., 0] = 0
        return scores

    def save(self, directory: Path) -> None:
        save_file(self.state_dict(), directory / TABLE)

    @staticmethod
    def load(directory: Path) -> "TypeTable":
        return TypeTable(**load_file(directory / TABLE))


class TypePooling:
    """Mean score of every token type, shrunk towards the mean of all, and what surrounds a token.

    With n and S the number and the sum of the scores of a type and μ the mean of all scores, the type is worth
    m = (S + kμ) / (n + k); `TypeTable` makes scores of that.

    Args:
        prior: k, in occurrences.
        context_weight: a in `TypeTable`; 0: the token alone.
        reach: τ in `TypeTable`, in tokens.

    Raises:
        ValueError: a negative number, or no reach.
    """

    def __init__(self, *, prior: float = 1.0, context_weight: float = 5.0, reach: float = 4.0) -> None:
        for name, value in (("prior", prior), ("context_weight", context_weight)):
            if value < 0:
                raise ValueError(f"{name}={value}: it is 0 or more")
        if reach <= 0:
            raise ValueError(f"reach={reach}: it is above 0 tokens")
        self.prior, self.context_weight, self.reach = prior, context_weight, reach

    def fit(self, scores_KBT: NDArray[np.float32], tokens: Tokens, vocabulary: int) -> tuple[TypeTable, dict[str, Any]]:
        """The table of some scores, and facts for the manifest: how many types have scores.

        Args:
            scores_KBT: scores, read a few million tokens at a time (a memory map does).
            tokens: the blocks' token ids.
            vocabulary: V.
        """
        sums, counts = type_sums(scores_KBT, tokens, vocabulary)
        mean = sums.sum(1, keepdims=True) / max(counts.sum(), 1)
        worth = (sums + self.prior * mean) / np.maximum(counts + self.prior, 1e-12)
        table = TypeTable(
            torch.from_numpy(worth.astype(np.float32)), torch.tensor(self.reach), torch.tensor(self.context_weight)
        )
        return table, {"types": int((counts > 0).sum())}

    load = staticmethod(TypeTable.load)


def pool_scores(
    pooling: TypePooling, scores_KBT: NDArray[np.float32], tokens: Tokens, vocabulary: int, directory: Path
) -> dict[str, Any]:
    """Pool all scores into a score file of their own, a million tokens at a time; returns the facts of the fit."""
    table, facts = pooling.fit(scores_KBT, tokens, vocabulary)
    with create_scores(directory, scores_KBT.shape) as pooled:
        for rows in chunks(scores_KBT.shape[1:]):
            pooled[:, rows] = table.scores(torch.from_numpy(tokens(rows))).numpy()
    return facts


def type_sums(
    scores_KBT: NDArray[np.float32], tokens: Tokens, vocabulary: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Sums [K, V] and number [V] of the scores of every token type; a block's first token has none."""
    sums, counts = np.zeros((len(scores_KBT), vocabulary)), np.zeros(vocabulary, dtype=np.int64)
    for rows in chunks(scores_KBT.shape[1:]):
        ids = tokens(rows)[:, 1:].ravel()
        counts += np.bincount(ids, minlength=vocabulary)
        for total, column in zip(sums, scores_KBT, strict=True):
            total += np.bincount(ids, weights=column[rows][:, 1:].ravel(), minlength=vocabulary)
    return sums, counts


def chunks(shape: tuple[int, ...]) -> list[slice]:
    """Rows of [blocks, T] a million tokens at a time."""
    rows = max(CHUNK_TOKENS // shape[1], 1)
    return [slice(first, min(first + rows, shape[0])) for first in range(0, shape[0], rows)]
