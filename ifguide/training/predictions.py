"""What a model predicts while it is trained: logits, or what losses need of them where they would be large."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from ifguide.influence.scorers.head import Body, plain_output_head
from ifguide.objectives.linear_head import LinearLogits

LARGE = 1 << 26  # logits of a micro-batch: 256 MiB in float32, of which training holds four

Predict = Callable[[Tensor], Tensor | LinearLogits]


def predictions(model: nn.Module, *, fused: bool | None = None) -> Predict:
    """[B, T] token ids → logits, [B, T, V].

    Args:
        model: the model; a compiled one works alike, but never by parts.
        fused: whether logits are made in chunks (`LinearLogits`) where the model's are those of a plain linear head;
            None: where they are many.
    """
    source: Any = model
    head = source.get_output_embeddings() if fused is not False else None
    least, vocabulary = 0 if fused else LARGE, len(head.weight) if isinstance(head, nn.Linear) else 0

    @cache
    def parts() -> tuple[Body, nn.Linear] | None:  # found out by running the model
        return plain_output_head(source)

    def predict(input_ids_BT: Tensor) -> Tensor | LinearLogits:
        if input_ids_BT.numel() * vocabulary > least and (found := parts()) is not None:
            body, linear = found
            return LinearLogits(body(input_ids_BT), linear.weight, linear.bias)
        logits: Tensor = model(input_ids=input_ids_BT, use_cache=False).logits
        return logits

    return predict


class FrozenCopy:
    """Predictions of a copy of a model that is not trained, which is in no checkpoint.

    Args:
        model: the copy; it is taken over.
        trained: what is trained, on whose device and in whose dtype the copy computes, so that both agree at first.
        fused: as in `predictions`.
    """

    def __init__(self, model: nn.Module, trained: Callable[[], nn.Module], *, fused: bool | None = None) -> None:
        self._model, self._trained = model.requires_grad_(False).eval(), trained
        self._predict = predictions(model, fused=fused)

    @torch.no_grad()
    def __call__(self, input_ids_BT: Tensor) -> Tensor | LinearLogits:
        self._model.to(next(self._trained().parameters()))
        return self._predict(input_ids_BT)
