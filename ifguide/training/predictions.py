"""What a model predicts while it is trained: logits, or what losses need of them where they would be large."""

from collections.abc import Callable
from functools import cache
from typing import Any

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
