"""The interface of a scorer."""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor
from transformers import PreTrainedModel


class Scorer(Protocol):
    """Gives every token of some blocks its influence along a direction.

    `scorer(model, direction, input_ids)` returns [B, T] on the model's device: s[n,t] belongs to token x[n,t], and
    s[n,0] = 0. `direction` maps parameter names to tensors of their shapes. The model is in evaluation mode.
    """

    def __call__(self, model: PreTrainedModel, direction: Mapping[str, Tensor], input_ids: Tensor) -> Tensor: ...
