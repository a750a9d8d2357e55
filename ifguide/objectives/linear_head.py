"""Losses behind a linear output head, without ever holding the logits of all tokens.

Of tokens × vocabulary, the logits, their softmax and its gradient are each larger than all else that training keeps.
Here they are made some tokens at a time: the forward pass keeps one number per token, log Σ exp z, and the backward
pass makes the logits of a chunk again, with the gradients of the hidden states and of the head. One product more, of
four; the same numbers.
"""

from collections.abc import Callable
from math import log
from typing import Any

import torch
from torch import Tensor

# B blocks, T tokens, X any shape of tokens, N tokens of all blocks, D hidden size, V vocabulary

CHUNK_LOGITS = {"cpu": 1 << 22, "cuda": 1 << 27}  # at a time
CACHED_LOGITS = {"cpu": 1 << 17, "cuda": 1 << 24}  # at a time without a product: they stay in the cache of a CPU
CHUNK_TOKENS = 128  # at least, or the products become narrow and slow


class LinearLogits:
    """Logits z = hUᵀ + b, in the place of the tensor, for what needs losses of single tokens or some positions alone.

    Indexed, and given a shape, as the tensor is.

    Args:
        hidden_XD: last hidden states, [B, T, D] of a model, of whatever shape [X, D] after indexing.
        weight_VD, bias_V: of the head.
    """

    def __init__(self, hidden_XD: Tensor, weight_VD: Tensor, bias_V: Tensor | None = None) -> None:
        self.hidden, self.weight, self.bias = hidden_XD, weight_VD, bias_V

    @property
    def shape(self) -> torch.Size:
        """[X, V]."""
        return torch.Size((*self.hidden.shape[:-1], len(self.weight)))

    def __getitem__(self, positions: Any) -> "LinearLogits":
        return LinearLogits(self.hidden[positions], self.weight, self.bias)

    def losses(self, labels_X: Tensor) -> Tensor:
        """−log softmax(z)[label], as in `linear_cross_entropy`, [X]."""
        hidden = self.hidden.flatten(0, -2)
        return linear_cross_entropy(hidden, self.weight, self.bias, labels_X.flatten()).view(labels_X.shape)

    def divergences(self, reference: "LinearLogits") -> Tensor:
        """KL(softmax of the reference ‖ softmax(z)), as in `linear_divergence`, [X]."""
        ours, theirs = ((one.hidden.flatten(0, -2), one.weight, one.bias) for one in (self, reference))
        return linear_divergence(*ours, *theirs).view(self.shape[:-1])


def row_chunks(hidden_ND: Tensor, vocabulary: int, *, logits: dict[str, int], least: int) -> list[slice]:
    """Tokens at a time, such that no more than so many logits are held.

    Args:
        hidden_ND: hidden states.
        vocabulary: logits of a token.
        logits: type of device → how many are held at a time; that of CPUs counts for those that are not there.
        least: tokens at a time.
    """
    size = max(least, logits.get(hidden_ND.device.type, logits["cpu"]) // vocabulary)
    return [slice(first, first + size) for first in range(0, len(hidden_ND), size)]


def chosen_logits(logits_BTV: Tensor | LinearLogits, chosen_BT: Tensor) -> Tensor:
    """Logits of some positions, [chosen, V].

    Args:
        logits_BTV: of all.
        chosen_BT: which of them, for as many as it has columns.
    """
    return whole(logits_BTV[:, : chosen_BT.shape[1]][chosen_BT])


def whole(logits_XV: Tensor | LinearLogits) -> Tensor:
    """Logits as a tensor."""
    if isinstance(logits_XV, LinearLogits):
        return torch.nn.functional.linear(logits_XV.hidden, logits_XV.weight, logits_XV.bias)
    return logits_XV


def linear_cross_entropy(hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, labels_N: Tensor) -> Tensor:
    """−log softmax(hUᵀ + b)[label] of each token, [N], in float32 at least.

    Products are in the dtype of autocast, where that is on; everything between is in float32 at least, and the head's
    gradient is summed over the chunks in float32 at least.

    Args:
        hidden_ND: hidden states.
        weight_VD: U.
        bias_V: b.
        labels_N: token ids.
    """
    losses: Tensor = _LinearCrossEntropy.apply(*_autocast(hidden_ND, weight_VD, bias_V), labels_N)
    return losses


def linear_divergence(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    reference_ND: Tensor,
    reference_VD: Tensor,
    reference_V: Tensor | None,
) -> Tensor:
    """KL(softmax of the reference ‖ softmax(hUᵀ + b)) of each token in nats, [N], in float32 at least.

    Precision is as in `linear_cross_entropy`. No gradient flows through the reference.

    Args:
        hidden_ND, weight_VD, bias_V: as there.
        reference_ND, reference_VD, reference_V: the same of the reference, whose hidden size may be another.
    """
    ours, theirs = _autocast(hidden_ND, weight_VD, bias_V), _autocast(reference_ND, reference_VD, reference_V)
    divergences: Tensor = _LinearDivergence.apply(*ours, *theirs)
    return divergences


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, labels_N: Tensor) -> Tensor:
        totals_N = hidden_ND.new_empty(len(hidden_ND), dtype=precise_dtype(hidden_ND))
        own_N = torch.empty_like(totals_N)
        for rows in _chunks(hidden_ND, weight_VD):
            logits = _logits(hidden_ND[rows], weight_VD, bias_V)
            own_N[rows] = logits.gather(-1, labels_N[rows, None]).squeeze(-1)
            top = logits.amax(-1, keepdim=True)  # logsumexp in place: fresh memory would cost as much as the arithmetic
            totals_N[rows] = logits.sub_(top).exp_().sum(-1).log_().add_(top.squeeze(-1))
        context.save_for_backward(hidden_ND, weight_VD, bias_V, labels_N, totals_N)
        return totals_N - own_N

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (weights_N,) = gradients
        hidden_ND, weight_VD, bias_V, labels_N, totals_N = context.saved_tensors

        def slopes(rows: slice) -> Tensor:
            found = _logits(hidden_ND[rows], weight_VD, bias_V).sub_(totals_N[rows, None]).exp_()
            found[torch.arange(len(found), device=found.device), labels_N[rows]] -= 1
            return found

        return *_gradients(context, slopes, weights_N, hidden_ND, weight_VD, bias_V), None


class _LinearDivergence(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        reference_ND: Tensor,
        reference_VD: Tensor,
        reference_V: Tensor | None,
    ) -> Tensor:
        found_N = hidden_ND.new_empty(len(hidden_ND), dtype=precise_dtype(hidden_ND))
        for rows in _chunks(hidden_ND, weight_VD):
            policy = _logits(hidden_ND[rows], weight_VD, bias_V).log_softmax(-1)
            reference = _logits(reference_ND[rows], reference_VD, reference_V).log_softmax(-1)
            found_N[rows] = (reference.exp() * (reference - policy)).sum(-1)
        context.save_for_backward(hidden_ND, weight_VD, bias_V, reference_ND, reference_VD, reference_V)
        return found_N

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (weights_N,) = gradients
        hidden_ND, weight_VD, bias_V, reference_ND, reference_VD, reference_V = context.saved_tensors

        def slopes(rows: slice) -> Tensor:
            reference = _logits(reference_ND[rows], reference_VD, reference_V).softmax(-1)
            return _logits(hidden_ND[rows], weight_VD, bias_V).softmax(-1).sub_(reference)

        return *_gradients(context, slopes, weights_N, hidden_ND, weight_VD, bias_V), None, None, None


def _gradients(
    context: Any,
    slopes_of: Callable[[slice], Tensor],
    weights_N: Tensor,
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of hidden states, head and bias from those of each token's number by its own logits, made in chunks."""
    wants_hidden, wants_weight, wants_bias, *_ = context.needs_input_grad
    precise = precise_dtype(hidden_ND)
    of_hidden = torch.empty_like(hidden_ND) if wants_hidden else None
    of_weight = torch.zeros_like(weight_VD, dtype=precise) if wants_weight else None
    of_bias = torch.zeros_like(bias_V, dtype=precise) if wants_bias and bias_V is not None else None
    for rows in _chunks(hidden_ND, weight_VD):
        slopes = slopes_of(rows)
        slopes *= weights_N[rows, None].to(precise)
        if of_bias is not None:
            of_bias += slopes.sum(0)
        small = slopes.to(hidden_ND.dtype)
        if of_hidden is not None:
            torch.mm(small, weight_VD, out=of_hidden[rows])
        if of_weight is not None and of_weight.dtype == small.dtype:
            of_weight.addmm_(small.T, hidden_ND[rows])
        elif of_weight is not None:
            of_weight += small.T @ hidden_ND[rows]
    return (
        of_hidden,
        None if of_weight is None else of_weight.to(weight_VD.dtype),
        None if of_bias is None or bias_V is None else of_bias.to(bias_V.dtype),
    )


def _autocast(hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """In the dtype of autocast, where that is on."""
    kind = hidden_ND.device.type
    if not torch.is_autocast_enabled(kind):
        return hidden_ND, weight_VD, bias_V
    dtype = torch.get_autocast_dtype(kind)
    return hidden_ND.to(dtype), weight_VD.to(dtype), None if bias_V is None else bias_V.to(dtype)


def precise_dtype(values: Tensor) -> torch.dtype:
    """float32, or float64 where values are in that."""
    return torch.float64 if values.dtype == torch.float64 else torch.float32


def largest_exponent(dtype: torch.dtype) -> float:
    """A number whose exponential, and that of its negative, a dtype holds with a margin: 80 in float32."""
    return 0.9 * log(torch.finfo(dtype).max)


def _logits(hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None) -> Tensor:
    return torch.nn.functional.linear(hidden_ND, weight_VD, bias_V).to(precise_dtype(hidden_ND))


def _chunks(hidden_ND: Tensor, weight_VD: Tensor) -> list[slice]:
    return row_chunks(hidden_ND, len(weight_VD), logits=CHUNK_LOGITS, least=CHUNK_TOKENS)
