"""Plain language modelling: the mean negative log-likelihood of the next token."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# B blocks, T tokens, V vocabulary


def token_losses(logits_BTV: Tensor, input_ids_BT: Tensor) -> Tensor:
    """Loss of every token, ℓ[n,t] = −log p(x[n,t] | x[n,<t]), in float32 at least.

    Returns:
        [B, T]; column 0 is 0, because nothing predicts a block's first token.
    """
    logits = logits_BTV[:, :-1]
    logits = logits if logits.dtype == torch.float64 else logits.float()
    losses = F.cross_entropy(logits.flatten(0, 1), input_ids_BT[:, 1:].flatten(), reduction="none")
    return F.pad(losses.view(input_ids_BT.shape[0], -1), (1, 0))


def cross_entropy(logits_BTV: Tensor, input_ids_BT: Tensor) -> Tensor:
    """Mean of the losses of all predicted tokens (a scalar)."""
    return token_losses(logits_BTV, input_ids_BT)[:, 1:].mean()


class LanguageModeling(nn.Module):
    """Objective of the uncensored model."""

    uses_mask = False

    def __init__(self) -> None:
        super().__init__()

    def forward(self, logits_BTV: Tensor, input_ids_BT: Tensor, mask_BT: Tensor | None = None) -> Tensor:
        return cross_entropy(logits_BTV, input_ids_BT)
