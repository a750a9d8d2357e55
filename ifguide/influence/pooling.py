"""Pooling: what many scores have in common, in place of each single one.

A single token's influence is mostly noise; its mean over the occurrences of the token's type, or of its word, is not,
and the mean scores of the tokens around it say in which sense it is used. Pooled scores have the shape and the
convention of scores (`ifguide.influence.store`), and selection reads them as it reads scores. Fitted on the scores of a
few blocks, the same table scores all others (`ifguide.influence.amortised`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ifguide.checks import check_number
from ifguide.influence.store import create_scores
from ifguide.influence.word_keys import WordKeys

CHUNK_TOKENS = 1 << 20
TYPES, WORDS = "types.safetensors", "words.safetensors"

# K behaviours, B blocks, T tokens, V vocabulary, W known words
Tokens = Callable[[slice], NDArray[np.int64]]  # rows of blocks → [rows, T] token ids


class TypeTable(nn.Module):
    """A token's score as m(its type) + a Σ_{d≠0} exp(−|d|/τ) m(type d tokens away) / 2τ.

    Args:
        mean_scores: m, [K, V].
        reach: τ, in tokens of the same block.
        context_weight: a.
    """

    def __init__(self, mean_scores: Tensor, reach: Tensor, context_weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean_scores", mean_scores)
        self.register_buffer("reach", reach)
        self.register_buffer("context_weight", context_weight)

    def scores(self, ids_BT: Tensor) -> Tensor:
        """[K, B, T] in float32; column 0 is 0."""
        scores = self.own(ids_BT) + self.context(ids_BT)
        scores[..., 0] = 0
        return scores

    def own(self, ids_BT: Tensor) -> Tensor:
        """Mean scores of the tokens' own types, [K, B, T]."""
        return self.mean_scores[:, ids_BT]  # type: ignore[index]

    def context(self, ids_BT: Tensor) -> Tensor:
        """What the tokens around add, [K, B, T]."""
        places = torch.arange(ids_BT.shape[1], device=ids_BT.device)
        nearness = torch.exp(-(places[:, None] - places).abs() / self.reach) / (2 * self.reach)  # type: ignore[operator]
        return self.context_weight * (self.mean_scores[:, ids_BT] @ nearness.fill_diagonal_(0.0))  # type: ignore[index,operator]

    def save(self, directory: Path) -> None:
        save_file(self.state_dict(), directory / TYPES)

    @staticmethod
    def load(directory: Path) -> "TypeTable":
        return TypeTable(**load_file(directory / TYPES))


class WordTable(nn.Module):
    """A token's score as that of its whole word, and what the types around it add (`TypeTable.context`).

    A word without scores of its own scores the sum of its token types.

    Args:
        types: mean scores of token types, and the context.
        keys, mean_scores: the known words, [W] in rising order, and their mean scores, [K, W].
        word_keys: of the tokenizer.
    """

    def __init__(self, types: TypeTable, keys: Tensor, mean_scores: Tensor, word_keys: WordKeys) -> None:
        super().__init__()
        self.types, self.word_keys = types, word_keys
        self.register_buffer("keys", keys)
        self.register_buffer("mean_scores", mean_scores)

    def scores(self, ids_BT: Tensor) -> Tensor:
        """[K, B, T] in float32; column 0 is 0."""
        scores = self.own(ids_BT) + self.types.context(ids_BT)
        scores[..., 0] = 0
        return scores

    def own(self, ids_BT: Tensor) -> Tensor:
        """Mean scores of the words, at each of their tokens, [K, B, T]."""
        word, keys = self.word_keys.words(ids_BT)
        of_types = _word_sums(self.types.own(ids_BT), word, len(keys))
        place = torch.searchsorted(self.keys, keys).clamp(max=len(self.keys) - 1)  # type: ignore[arg-type]
        scores = torch.where(self.keys[place] == keys, self.mean_scores[:, place], of_types)  # type: ignore[index]
        return scores[:, word]

    def save(self, directory: Path) -> None:
        self.types.save(directory)
        tensors = {name: getattr(self.word_keys, name) for name in WordKeys.__dataclass_fields__}
        save_file({"keys": self.keys, "mean_scores": self.mean_scores, **tensors}, directory / WORDS)  # type: ignore[dict-item]

    @staticmethod
    def load(directory: Path) -> "WordTable":
        tensors = load_file(directory / WORDS)
        types, keys, mean_scores = TypeTable.load(directory), tensors.pop("keys"), tensors.pop("mean_scores")
        return WordTable(types, keys, mean_scores, WordKeys(**tensors))


@dataclass(frozen=True, kw_only=True)
class TypePooling:
    """Mean score of every token type, shrunk towards the mean of all, and what surrounds a token.

    With n and S the number and the sum of the scores of a type and μ the mean of all scores, the type scores
    m = (S + kμ) / (n + k); `TypeTable` makes scores of that.

    Args:
        prior: k, in occurrences.
        context_weight: a in `TypeTable`; 0: the token alone.
        reach: τ in `TypeTable`, in tokens.

    Raises:
        ValueError: a negative number, or no reach.
    """

    prior: float = 1.0
    context_weight: float = 5.0
    reach: float = 4.0

    def __post_init__(self) -> None:
        for name in ("prior", "context_weight"):
            check_number(name, getattr(self, name), least=0)
        check_number("reach", self.reach, above=0)

    def fit(
        self, scores_KBT: NDArray[np.float32], tokens: Tokens, texts: Sequence[str]
    ) -> tuple[TypeTable, dict[str, Any]]:
        """The table of some scores, and facts for the manifest: how many types have scores.

        Args:
            scores_KBT: scores, read a few million tokens at a time (a memory map does).
            tokens: the blocks' token ids.
            texts: of every token id, V of them.
        """
        sums, counts = type_sums(scores_KBT, tokens, len(texts))
        mean = sums.sum(1, keepdims=True) / max(counts.sum(), 1)
        mean_scores = (sums + self.prior * mean) / np.maximum(counts + self.prior, 1e-12)
        table = TypeTable(
            torch.from_numpy(mean_scores.astype(np.float32)),
            torch.tensor(self.reach),
            torch.tensor(self.context_weight),
        )
        return table, {"types": int((counts > 0).sum())}

    load = staticmethod(TypeTable.load)


@dataclass(frozen=True, kw_only=True)
class WordPooling:
    """Mean score of every word, shrunk towards the sum of its token types' mean scores, and what surrounds it.

    Log-probabilities of a word's tokens add up, and so do their scores. With n and S the number and the sum of the
    scores of a word's occurrences, it scores (S + k Σ m(type)) / (n + k), and so does each of its tokens.

    Args:
        prior: k, in occurrences.
        types: mean scores of token types, and the context.

    Raises:
        ValueError: a prior that is not above 0.
    """

    types: TypePooling
    prior: float = 3.0

    def __post_init__(self) -> None:
        check_number("prior", self.prior, above=0)

    def fit(
        self, scores_KBT: NDArray[np.float32], tokens: Tokens, texts: Sequence[str]
    ) -> tuple[WordTable, dict[str, Any]]:
        """As `TypePooling.fit`; words that begin a block do not count, as their first score does not exist."""
        types, facts = self.types.fit(scores_KBT, tokens, texts)
        word_keys, behaviours = WordKeys.of(texts), len(scores_KBT)
        keys = torch.empty(0, dtype=torch.int64)
        sums = torch.empty(2 * behaviours + 1, 0, dtype=torch.float64)  # of scores, of types' means, of occurrences
        for rows in chunks(scores_KBT.shape[1:]):
            ids = torch.from_numpy(tokens(rows))
            word, found = word_keys.words(ids)
            values = torch.cat([torch.from_numpy(np.array(scores_KBT[:, rows])), types.own(ids)]).double()
            whole = torch.ones(len(found), dtype=torch.bool)
            whole[word[:, 0]] = False
            more = torch.cat([_word_sums(values, word, len(found)), torch.ones(1, len(found))])[:, whole]
            keys, place = torch.cat([keys, found[whole]]).unique(return_inverse=True)
            sums = torch.zeros(len(sums), len(keys), dtype=torch.float64).index_add_(
                1, place, torch.cat([sums, more], dim=1)
            )
        of_scores, of_types, count = sums.split([behaviours, behaviours, 1])
        mean_scores = (of_scores + self.prior * of_types / count) / (count + self.prior)
        return WordTable(types, keys, mean_scores.float(), word_keys), facts | {"words": len(keys)}

    load = staticmethod(WordTable.load)


Pooling = TypePooling | WordPooling


def pool_scores(
    pooling: Pooling, scores_KBT: NDArray[np.float32], tokens: Tokens, texts: Sequence[str], directory: Path
) -> dict[str, Any]:
    """Pool all scores into a score file of their own, a million tokens at a time; returns the facts of the fit."""
    table, facts = pooling.fit(scores_KBT, tokens, texts)
    with create_scores(directory, scores_KBT.shape) as pooled:
        for rows in chunks(scores_KBT.shape[1:]):
            pooled[:, rows] = table.scores(torch.from_numpy(tokens(rows))).numpy()
    return facts


def _word_sums(values_KBT: Tensor, word_BT: Tensor, words: int) -> Tensor:
    """Sum over the tokens of each word, [K, words]."""
    sums = torch.zeros(len(values_KBT), words, dtype=values_KBT.dtype, device=values_KBT.device)
    return sums.index_add_(1, word_BT.flatten(), values_KBT.flatten(1))


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
