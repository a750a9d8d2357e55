"""Prompts as batches, and what a policy writes behind them as texts with rewards."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ifguide.corpus.padding import pad

# P prompts, L tokens of the longest, S samples of each, N new tokens, B = P · S texts, T tokens of the longest


class PromptExamples:
    """Rows → prompts: `input_ids` [rows, L], padded on the right, and their `lengths` [rows]."""

    def __init__(self, prompts: Sequence[Sequence[int]]) -> None:
        self._prompts = [np.asarray(prompt, dtype=np.int64) for prompt in prompts]

    def __len__(self) -> int:
        return len(self._prompts)

    def __getitem__(self, rows: NDArray[np.int64]) -> dict[str, Tensor]:
        ids, filled = pad([self._prompts[row] for row in rows])
        return {"input_ids": ids, "lengths": filled.sum(1)}


def join(
    prompts: Sequence[Sequence[int]], continuations_PSN: NDArray[np.int64], end_of_text: int
) -> tuple[Tensor, Tensor]:
    """Prompts with their continuations, as far as these go.

    Args:
        prompts: token ids of each.
        continuations_PSN: of `sample_continuations`.
        end_of_text: the token that ends a continuation, and is the last that was sampled of it.

    Returns:
        The texts [B, T], padded on the right, and which of their tokens were sampled [B, T].
    """
    texts, starts = [], []
    for prompt, continuations_SN in zip(prompts, continuations_PSN, strict=True):
        for tokens in continuations_SN:
            ends = np.flatnonzero(tokens == end_of_text)
            texts.append(np.concatenate([prompt, tokens[: ends[0] + 1] if len(ends) else tokens]).astype(np.int64))
            starts.append(len(prompt))
    ids, filled = pad(texts)
    return ids, filled & (torch.arange(ids.shape[1]) >= torch.tensor(starts)[:, None])


def rewards_of(probabilities: NDArray[np.float64], logit_limit: float | None) -> NDArray[np.float64]:
    """1 − p of probabilities that a text is toxic; with a limit c the logit of that, within [−c, c].

    Raises:
        ValueError: something that is no probability.
    """
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError("classifier: some of its values are no probabilities")
    if logit_limit is None:
        return 1 - probabilities
    with np.errstate(divide="ignore"):
        logits: NDArray[np.float64] = np.log1p(-probabilities) - np.log(probabilities)
    return logits.clip(-logit_limit, logit_limit)
