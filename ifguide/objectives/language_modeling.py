"""Plain language modelling: the mean negative log-likelihood of the next token."""

import torch.nn.functional as F
from torch import Tensor, nn

from ifguide.objectives.linear_head import LinearLogits, precise_dtype, whole

IGNORED = -100  # as torch's cross-entropy has it

# B blocks, T tokens, X any shape of tokens, V vocabulary


def precise(values: Tensor) -> Tensor:
    """In float32 at least, which probabilities need."""
    return values.to(precise_dtype(values))


def label_losses(logits_XV: Tensor | LinearLogits, labels_X: Tensor) -> Tensor:
    """−log p(label) at each position, [X], in float32 at least; 0 where logits are a tensor and the label is −100."""
    if isinstance(logits_XV, LinearLogits):
        return logits_XV.losses(labels_X)
    losses = F.cross_entropy(precise(logits_XV).flatten(0, -2), labels_X.flatten(), reduction="none")
    return losses.view(labels_X.shape)


def token_losses(logits_BTV: Tensor | LinearLogits, input_ids_BT: Tensor) -> Tensor:
    """Loss of every token, ℓ[n,t] = −log p(x[n,t] | x[n,<t]), in float32 at least.

    Returns:
        [B, T]; column 0 is 0, because nothing predicts a block's first token.
    """
    if isinstance(logits_BTV, LinearLogits):
        return F.pad(logits_BTV[:, :-1].losses(input_ids_BT[:, 1:]), (1, 0))
    # the last position predicts nothing; without it, the logits would have to be copied
    losses_BT = label_losses(logits_BTV, F.pad(input_ids_BT[:, 1:], (0, 1), value=IGNORED))
    return F.pad(losses_BT[:, :-1], (1, 0))


def divergences(policy_XV: Tensor | LinearLogits, reference_XV: Tensor | LinearLogits) -> Tensor:
    """KL(π_ref ‖ π) at each position, [X], in nats; no gradient flows through the reference's `LinearLogits`."""
    if isinstance(policy_XV, LinearLogits) and isinstance(reference_XV, LinearLogits):
        return policy_XV.divergences(reference_XV)
    policy, reference = (precise(whole(one)).log_softmax(-1) for one in (policy_XV, reference_XV))
    return (reference.exp() * (reference - policy)).sum(-1)


def cross_entropy(logits_BTV: Tensor | LinearLogits, input_ids_BT: Tensor) -> Tensor:
    """Mean of the losses of all predicted tokens (a scalar)."""
    # contiguous, as what objectives make of a mask is: sums of the same numbers in another order are not the same
    return token_losses(logits_BTV, input_ids_BT)[:, 1:].contiguous().mean()


class LanguageModeling(nn.Module):
    """Objective of the uncensored model."""

    uses_mask = False

    def __init__(self) -> None:
        super().__init__()

    def forward(self, logits_BTV: Tensor | LinearLogits, input_ids_BT: Tensor, mask_BT: Tensor | None = None) -> Tensor:
        return cross_entropy(logits_BTV, input_ids_BT)
