"""A model's labelled samples as batches, and R̂'s loss on one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ifguide.corpus.padding import pad
from ifguide.methods.nado.loss import inconsistency, prefix_loss
from ifguide.methods.nado.model import read
from ifguide.objectives.language_modeling import precise

# P prompts, S samples of each, N new tokens; B texts, T tokens of prompt and continuation


@dataclass(frozen=True)
class LabelledSamples:
    """Rows → a batch of texts; a row is prompt · S + sample.

    `input_ids` [B, T], `first` [B] (where the continuation begins), `tokens` [B, N], `counted` [B, N] (up to and with
    the token that ends the text), `labels` [B].

    Args:
        prompts: token ids of each.
        continuations_PSN: filled with `end_of_text` after their end.
        labels_PS: C of each.
        end_of_text: token that ends a continuation.
    """

    prompts: Sequence[Sequence[int]]
    continuations_PSN: NDArray[np.int64]
    labels_PS: NDArray[np.float64]
    end_of_text: int

    def __len__(self) -> int:
        return int(self.labels_PS.size)

    def of_prompts(self, chosen: NDArray[np.int64]) -> "LabelledSamples":
        """The samples of some of the prompts."""
        prompts = [self.prompts[place] for place in chosen]
        return LabelledSamples(prompts, self.continuations_PSN[chosen], self.labels_PS[chosen], self.end_of_text)

    def __getitem__(self, rows: NDArray[np.int64]) -> dict[str, Tensor]:
        places, samples = np.divmod(rows, self.labels_PS.shape[1])
        tokens_BN = torch.from_numpy(self.continuations_PSN[places, samples])
        prompts = [np.asarray(self.prompts[place]) for place in places]
        ids, _ = pad([np.concatenate([prompt, row]) for prompt, row in zip(prompts, tokens_BN.numpy(), strict=True)])
        ended_before = (tokens_BN == self.end_of_text).cumsum(1) - (tokens_BN == self.end_of_text).long() > 0
        return {
            "input_ids": ids,
            "first": torch.tensor([len(prompt) for prompt in prompts]),
            "tokens": tokens_BN,
            "counted": ~ended_before,
            "labels": torch.from_numpy(self.labels_PS[places, samples].astype(np.float32)),
        }


def guidance_loss(model: nn.Module, head: nn.Module, batch: Mapping[str, Tensor], *, consistency: float) -> Tensor:
    """Cross-entropy on every prefix + λ · inconsistency, of a head on a model that does not learn.

    Args:
        model: the language model.
        head: R̂.
        batch: of `LabelledSamples`.
        consistency: λ.
    """
    tokens, counted = batch["tokens"], batch["counted"]
    with torch.no_grad():
        logits_BTV, hidden_BTH = read(model, batch["input_ids"])
        # the token before each of the continuation predicts it
        places = batch["first"][:, None] - 1 + torch.arange(tokens.shape[1], device=tokens.device)
        rows = torch.arange(len(tokens), device=tokens.device)[:, None]
        hidden_BNH = hidden_BTH[rows, places]
    guidance_BNV = precise(head(hidden_BNH))
    loss = prefix_loss(guidance_BNV, tokens, batch["labels"], counted)
    if consistency == 0:
        return loss
    return loss + consistency * inconsistency(guidance_BNV, precise(logits_BTV[rows, places]), tokens, counted)
