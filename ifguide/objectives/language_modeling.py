"""Plain language modelling: the mean negative log-likelihood of the next token."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ifguide.objectives.linear_head import LinearLogits

# B blocks, T tokens, V vocabulary


def precise(values: Tensor) -> Tensor:
    """In float32 at least, which probabilities need."""
    return values if values.dtype == torch.float64 else values.float()


def token_losses(logits_BTV: Tensor | LinearLogits, input_ids_BT: Tensor) -> Tensor:
    """Loss of every token, ℓ[n,t] = −log p(x[n,t] | x[n,<t]), in float32 at least.

    Returns:
        [B, T]; column 0 is 0, because nothing predicts a block's first token.
    """
    if isinstance(logits_BTV, LinearLogits):
        return F.pad(logits_BTV.losses(input_ids_BT[:, 1:]), (1, 0))
    logits = precise(logits_BTV[:, :-1])
    losses = F.cross_entropy(logits.flatten(0, 1), input_ids_BT[:, 1:].flatten(), reduction="none")
    return F.pad(losses.view(input_ids_BT.shape[0], -1), (1, 0))


def divergences(policy_BTV: Tensor, reference_BTV: Tensor) -> Tensor:
    """KL(π_ref ‖ π) at each position that predicts a token, [B, T − 1], in nats."""
    policy, reference = (precise(logits[:, :-1]).log_softmax(-1) for logits in (policy_BTV, reference_BTV))
    return (reference.exp() * (reference - policy)).sum(-1)


def cross_entropy(logits_BTV: Tensor | LinearLogits, input_ids_BT: Tensor) -> Tensor:
    """Mean of the losses of all predicted tokens (a scalar)."""
    return token_losses(logits_BTV, input_ids_BT)[:, 1:].mean()


class LanguageModeling(nn.Module):
    """Objective of the uncensored model."""

    uses_mask = False

    def __init__(self) -> None:
        super().__init__()

    def forward(self, logits_BTV: Tensor | LinearLogits, input_ids_BT: Tensor, mask_BT: Tensor | None = None) -> Tensor:
        return cross_entropy(logits_BTV, input_ids_BT)
