"""The output head and the cross-entropy behind it, in chunks that never hold all logits of a batch."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from ifguide.influence.scorers.linear import linear_map

# K directions, B blocks, T tokens, D hidden size, V vocabulary

CHUNK_LOGITS = {"cpu": 1 << 20, "cuda": 1 << 27}  # a chunk that stays in the cache of a CPU
LARGE = 1000.0  # a logit that a soft cap would not let pass
CHUNK_TOKENS = 128  # at least, or the products become narrow and slow


def split_output_head(model: PreTrainedModel) -> tuple[Callable[[Tensor], Tensor], "OutputHead"]:
    """The body of a model (token ids → last hidden states) and its linear output head.

    Raises:
        ValueError: the model's logits are not its head applied to its last hidden states (scaled or capped logits).
    """
    base: Any = model.base_model
    head: Any = model.get_output_embeddings()

    def body(input_ids: Tensor) -> Tensor:
        hidden: Tensor = base(input_ids=input_ids, use_cache=False).last_hidden_state
        return hidden

    ids = torch.arange(8, device=model.device)[None] % model.config.get_text_config().vocab_size
    if not isinstance(head, nn.Linear) or not all(_is_last(model, head, body, ids, size) for size in (None, LARGE)):
        raise ValueError(
            f"the logits of {type(model).__name__} are not a linear head on its last hidden states, which the fast "
            "scorers need; use scorer=jvp scorer.form=reference"
        )
    return body, OutputHead(head.weight.detach(), None if head.bias is None else head.bias.detach())


def _is_last(
    model: PreTrainedModel, head: nn.Linear, body: Callable[[Tensor], Tensor], ids: Tensor, size: float | None
) -> bool:
    """Whether the logits are what the head gives, also where that is brought to a size at which caps act."""
    with torch.no_grad():
        ours = head(body(ids))
        scale = 1.0 if size is None else size / max(float(ours.abs().max()), 1e-30)
        handle = head.register_forward_hook(lambda module, inputs, output: output * scale)
        try:
            logits = model(input_ids=ids, use_cache=False).logits
        finally:
            handle.remove()
    return torch.allclose(ours * scale, logits, rtol=1e-3, atol=1e-3 * float(logits.abs().max()))


class OutputHead:
    """The linear head and the cross-entropy behind it.

    Args:
        weight: U, [V, D].
        bias: [V].
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.weight, self.bias = weight, bias
        self._logits, self._expected = linear_map(weight), linear_map(weight.T)

    def loss_tangents(self, hidden_BTD: Tensor, tangents_KBTD: Tensor, input_ids_BT: Tensor) -> Tensor:
        """Tangents of every token's loss from tangents of the last hidden states: (Uᵀ(p − 1ₓ)) · ḣ.

        The gradient of a token's loss with respect to its own hidden state is taken once and shared by all directions,
        so that the vocabulary is passed twice whatever their number.

        Returns:
            [K, B, T] in float32 at least; column 0 is 0.
        """
        hidden = hidden_BTD[:, :-1].flatten(0, 1)
        tangents = tangents_KBTD[:, :, :-1].flatten(1, 2)
        labels = input_ids_BT[:, 1:].flatten()
        dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        chunk = CHUNK_LOGITS.get(hidden.device.type, CHUNK_LOGITS["cpu"]) // len(self.weight)
        scores = hidden.new_empty(tangents.shape[:2], dtype=dtype)
        for first in range(0, len(hidden), max(CHUNK_TOKENS, chunk)):
            rows = slice(first, first + max(CHUNK_TOKENS, chunk))
            probabilities = torch.softmax(self._logits(hidden[rows], self.bias), -1, dtype=dtype)
            gradient = self._expected(probabilities.to(hidden.dtype)).sub_(self.weight[labels[rows]])
            scores[:, rows] = (gradient.to(dtype) * tangents[:, rows]).sum(-1)
        return F.pad(scores.unflatten(1, (len(input_ids_BT), -1)), (1, 0))
