"""The output head and the cross-entropy behind it, in chunks that never hold all logits of a batch."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from ifguide.influence.scorers.linear import linear_map
from ifguide.models import decoder_blocks
from ifguide.objectives.linear_head import row_chunks

# K directions, B blocks, T tokens, D hidden size, V vocabulary

CHUNK_LOGITS = {"cpu": 1 << 20, "cuda": 1 << 27}  # a chunk that stays in the cache of a CPU
CAPS = ("final_logit_softcapping", "logits_soft_cap")  # what configurations call it
LARGE = 1000.0  # a logit that a soft cap would not let pass
CHUNK_TOKENS = 128  # at least, or the products become narrow and slow


Body = Callable[[Tensor], Tensor]  # token ids → last hidden states


def split_output_head(model: PreTrainedModel) -> tuple[Body, "OutputHead"]:
    """The body of a model and its linear output head, whose logits may be scaled or softly capped.

    Raises:
        ValueError: the model's logits are something else than its head applied to its last hidden states.
    """
    body, head = _parts(model)
    shape = _shape(model, head, body) if isinstance(head, nn.Linear) else None
    if shape is None:
        raise ValueError(
            f"the logits of {type(model).__name__} are not a linear head on its last hidden states, which the fast "
            "scorers need; use scorer=jvp scorer.form=reference"
        )
    scale, cap = shape
    weight, bias = head.weight.detach(), None if head.bias is None else head.bias.detach()
    if scale != 1:
        weight, bias = weight * scale, None if bias is None else bias * scale
    return body, OutputHead(weight, bias, cap)


def plain_output_head(model: PreTrainedModel) -> tuple[Body, nn.Linear] | None:
    """The body of a model and its head, where the logits are just that head's; None for any other model.

    The model is asked in evaluation mode, and left in the mode that it was in.
    """
    body, head = _parts(model)
    training = model.training
    try:
        return (body, head) if isinstance(head, nn.Linear) and _shape(model.eval(), head, body) == (1.0, None) else None
    finally:
        model.train(training)


def _parts(model: PreTrainedModel) -> tuple[Body, Any]:
    base: Any = model.base_model
    if base is model:  # its class does not name it
        base = model.get_submodule(decoder_blocks(model)[0].rpartition(".")[0])
    head: Any = model.get_output_embeddings()

    def body(input_ids: Tensor) -> Tensor:
        hidden: Tensor = base(input_ids=input_ids, use_cache=False).last_hidden_state
        return hidden

    return body, head


@torch.no_grad()
def _shape(model: PreTrainedModel, head: nn.Linear, body: Body) -> tuple[float, float | None] | None:
    """Scale and soft cap of the logits, such that they are the head's at its own size and at one where caps act."""
    ids = torch.arange(8, device=model.device)[None] % model.config.get_text_config().vocab_size
    ours = head(body(ids))
    sizes = (1.0, LARGE / max(float(ours.abs().max()), 1e-30))
    found = []
    for size in sizes:
        handle = head.register_forward_hook(lambda module, inputs, output, size=size: output * size)
        try:
            found.append(model(input_ids=ids, use_cache=False).logits)
        finally:
            handle.remove()
    fitted = float((ours.double() * found[0].double()).sum() / ours.double().square().sum().clamp_min(1e-30))
    caps = {getattr(model.config.get_text_config(), name, None) for name in CAPS} - {None}
    for scale, cap in [(1.0, None), (fitted, None), *((1.0, cap) for cap in caps)]:
        expected = [_capped(ours * size * scale, cap) for size in sizes]
        if all(
            torch.allclose(one, logits, rtol=1e-3, atol=1e-3 * float(logits.abs().max()))
            for one, logits in zip(expected, found, strict=True)
        ):
            return scale, cap
    return None


def _capped(logits: Tensor, cap: float | None) -> Tensor:
    return logits if cap is None else cap * torch.tanh(logits / cap)


class OutputHead:
    """The linear head and the cross-entropy behind it.

    Args:
        weight: U, [V, D].
        bias: [V].
        cap: c of logits c·tanh(z/c).
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None, cap: float | None = None) -> None:
        self.weight, self.bias, self.cap = weight, bias, cap
        self._logits, self._expected = linear_map(weight), linear_map(weight.T)

    def loss_tangents(self, hidden_BTD: Tensor, tangents_KBTD: Tensor, input_ids_BT: Tensor) -> Tensor:
        """Tangents of every token's loss from tangents of the last hidden states: (Uᵀ(p − 1ₓ)) · ḣ; of capped logits
        (Uᵀ((p − 1ₓ) ∘ (1 − tanh²))) · ḣ.

        The gradient of a token's loss with respect to its own hidden state is taken once and shared by all directions,
        so that the vocabulary is passed twice whatever their number.

        Returns:
            [K, B, T] in float32 at least; column 0 is 0.
        """
        hidden = hidden_BTD[:, :-1].flatten(0, 1)
        tangents = tangents_KBTD[:, :, :-1].flatten(1, 2)
        labels = input_ids_BT[:, 1:].flatten()
        dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        scores = hidden.new_empty(tangents.shape[:2], dtype=dtype)
        for rows in self._chunks(hidden):
            logits = _capped(self._logits(hidden[rows], self.bias), self.cap)
            probabilities = torch.softmax(logits, -1, dtype=dtype)
            if self.cap is None:
                gradient = self._expected(probabilities.to(hidden.dtype)).sub_(self.weight[labels[rows]])
            else:
                probabilities[torch.arange(len(logits)), labels[rows]] -= 1
                slopes = 1 - (logits.to(dtype) / self.cap).square()
                gradient = self._expected((probabilities * slopes).to(hidden.dtype))
            scores[:, rows] = (gradient.to(dtype) * tangents[:, rows]).sum(-1)
        return F.pad(scores.unflatten(1, (len(input_ids_BT), -1)), (1, 0))

    def gauss_newton(self, hidden_BTD: Tensor, tangents_BTD: Tensor) -> Tensor:
        """(diag p − p pᵀ) between the head and itself: Uᵀ u with u = p ∘ (ż − pᵀż), ż = U ḣ; of capped logits with the
        slopes 1 − tanh² on both sides. The last position predicts nothing and has none.

        Returns:
            [B, T, D], in the dtype of the hidden states.
        """
        hidden, tangents = hidden_BTD[:, :-1].flatten(0, 1), tangents_BTD[:, :-1].flatten(0, 1)
        pulled = torch.empty_like(hidden)
        for rows in self._chunks(hidden):
            logits, moved = _capped(self._logits(hidden[rows], self.bias), self.cap), self._logits(tangents[rows])
            slopes = None if self.cap is None else 1 - (logits / self.cap).square()
            moved = moved if slopes is None else moved * slopes
            probabilities = torch.softmax(logits, -1)
            moved = moved.sub_((probabilities * moved).sum(-1, keepdim=True)).mul_(probabilities)
            pulled[rows] = self._expected(moved if slopes is None else moved * slopes)
        return F.pad(pulled.unflatten(0, (len(hidden_BTD), -1)), (0, 0, 0, 1))

    def _chunks(self, hidden_ND: Tensor) -> list[slice]:
        return row_chunks(hidden_ND, len(self.weight), logits=CHUNK_LOGITS, least=CHUNK_TOKENS)
