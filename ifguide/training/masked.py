"""Training elsewhere with a mask column: a data collator, and a loss function for `transformers.Trainer` and its kin.

A loss function there is given the model's outputs and the labels, and nothing else of the batch. So the labels carry
the mask: that of a token to learn is its id, that of a masked token is −101 − id, and −100 counts nothing, as ever.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ifguide.objectives.language_modeling import IGNORED

# B rows, T tokens, V vocabulary, M tokens that count


def encode_labels(labels: Tensor, mask: Tensor) -> Tensor:
    """Labels that carry a mask; where they are −100 it is lost, as nothing is learned there anyway."""
    return torch.where(mask & (labels != IGNORED), IGNORED - 1 - labels, labels)


def decode_labels(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Labels as they were, and the mask."""
    mask = labels < IGNORED
    return torch.where(mask, IGNORED - 1 - labels, labels), mask


class MaskedCollator:
    """Rows with `input_ids` and `mask` → a batch: `input_ids`, `attention_mask`, and `labels` that carry the mask.

    Rows are padded on the right, and padding never counts. Nothing predicts the first token of a row, so its label is
    −100. A row's own `labels`, where it has them, decide what counts.

    Args:
        pad_token_id: written where there is nothing; no loss and no other token sees it.
        max_length: longer rows are cut; None: they are not.

    Raises:
        ValueError: a `max_length` below 2.
    """

    def __init__(self, *, pad_token_id: int = 0, max_length: int | None = None) -> None:
        if max_length is not None and max_length < 2:
            raise ValueError(f"max_length={max_length}: a row needs 2 tokens to learn from, or null for no limit")
        self.pad_token_id, self.max_length = pad_token_id, max_length

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """The batch, [B, T] each.

        Raises:
            ValueError: a row without a mask, or with one of another length than its tokens.
        """
        ids = [self._column(row, "input_ids") for row in rows]
        labels = [self._labels(row) for row in rows]
        return {
            "input_ids": _pad(ids, self.pad_token_id),
            "attention_mask": _pad([torch.ones_like(one) for one in ids], 0),
            "labels": _pad(labels, IGNORED),
        }

    def _labels(self, row: Mapping[str, Any]) -> Tensor:
        if "mask" not in row:
            raise ValueError(
                f"a row has no `mask`, only {', '.join(row)}: with a Trainer, set remove_unused_columns=False; "
                "for data without a mask, add a column of False"
            )
        labels = self._column(row, "labels" if row.get("labels") is not None else "input_ids").clone()
        mask = self._column(row, "mask").bool()
        if not len(labels) == len(mask) == len(self._column(row, "input_ids")):
            raise ValueError(f"a row has {len(row['input_ids'])} tokens and {len(row['mask'])} values of `mask`")
        labels[:1] = IGNORED
        return encode_labels(labels, mask)

    def _column(self, row: Mapping[str, Any], name: str) -> Tensor:
        return torch.as_tensor(row[name])[: self.max_length].long()


def _pad(rows: Sequence[Tensor], value: int) -> Tensor:
    return nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value)


class MaskedLoss:
    """A loss function for `transformers.Trainer(compute_loss_func=…)`, or for a loop of one's own.

    Args:
        objective: any of `ifguide.objectives` that leaves alone what the model reads.

    Raises:
        ValueError: an objective that does not, as a loss comes after the model has read.
    """

    def __init__(self, objective: nn.Module) -> None:
        if hasattr(objective, "inputs"):
            raise ValueError(
                f"objective={type(objective).__name__}: it changes what the model reads, which a loss cannot; write "
                "objective.inputs(input_ids, mask, end_of_text) into the batch, and use "
                "SuppressedLanguageModeling(penalty=0)"
            )
        if getattr(objective, "unit", "token") == "run":
            raise ValueError(
                "objective.unit=run: tokens of all texts are one row here, so runs would be joined; use token"
            )
        self.objective = objective

    def __call__(self, outputs: Any, labels: Tensor | None, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """The objective over the tokens that count.

        Args:
            outputs: of the model, with `logits` [B, T, V].
            labels: [B, T], of `MaskedCollator`.
            num_items_in_batch: tokens that count in all batches of an optimiser step: the sum of their losses is
                divided by this, so that accumulated batches have the gradient of one; None: those of this batch.

        Raises:
            ValueError: no labels.
        """
        if labels is None:
            raise ValueError("labels: the batch has none; use MaskedCollator as its data_collator")
        logits_BTV = outputs["logits"] if isinstance(outputs, Mapping) else outputs.logits
        labels = labels.to(logits_BTV.device)
        counts = F.pad(labels[:, 1:] != IGNORED, (0, 1))  # a place predicts the token after it
        places_M = counts.flatten().nonzero().flatten()
        if not len(places_M):
            nothing: Tensor = logits_BTV[..., :0].sum()  # 0, and has a gradient
            return nothing
        ids_M, mask_M = decode_labels(labels[:, 1:][counts[:, :-1]])
        # one row of all that counts: the objective's mean over it is theirs; the last place predicts nothing
        logits_MV = logits_BTV.flatten(0, 1)[torch.cat([places_M, places_M[:1]])]
        loss: Tensor = self.objective(logits_MV[None], F.pad(ids_M, (1, 0))[None], F.pad(mask_M, (1, 0))[None])
        return loss if num_items_in_batch is None else loss * (len(ids_M) / num_items_in_batch)
