"""Gradient ascent that fades as a token becomes unlikely: each masked token is weighted by its own probability."""

import torch
from torch import Tensor, nn

from ifguide.objectives.checks import check_weight
from ifguide.objectives.language_modeling import token_losses
from ifguide.objectives.linear_head import LinearLogits

# B blocks, T tokens, V vocabulary


def faded_cross_entropy(
    logits_BTV: Tensor | LinearLogits, input_ids_BT: Tensor, mask_BT: Tensor, *, penalty: float, beta: float
) -> Tensor:
    """Mean over predicted tokens of ℓ[n,t]·(−λ·p[n,t]^β if mask[n,t] else 1), no gradient through p[n,t]^β.

    The weighted gradient ascent (WGA) of Wang et al., 2025 (arXiv 2502.19301), on masked tokens.

    Args:
        logits_BTV, input_ids_BT, mask_BT: as in `suppressed_cross_entropy`.
        penalty: λ. A mask of nothing is exactly plain cross-entropy.
        beta: β, 0 or more: how soon ascent fades; 0 is `suppressed_cross_entropy`.

    Returns:
        A scalar; a masked token's part lies between −λ/(e·β) and 0.
    """
    losses, mask = token_losses(logits_BTV, input_ids_BT)[:, 1:], mask_BT[:, 1:]
    fade = torch.exp(-beta * losses.detach())
    return torch.where(mask, -penalty * fade * losses, losses).mean()


class FadedAscent(nn.Module):
    """`faded_cross_entropy` as an objective.

    Args:
        penalty: λ.
        beta: β.

    Raises:
        ValueError: an argument out of range.
    """

    uses_mask = True

    def __init__(self, *, penalty: float = 1.0, beta: float = 1.0) -> None:
        super().__init__()
        check_weight("penalty", penalty)
        check_weight("beta", beta, below="unlikely tokens would weigh most")
        self.penalty, self.beta = penalty, beta

    def forward(self, logits_BTV: Tensor | LinearLogits, input_ids_BT: Tensor, mask_BT: Tensor | None = None) -> Tensor:
        if mask_BT is None:
            raise ValueError("FadedAscent needs the mask of the tokens to suppress")
        return faded_cross_entropy(logits_BTV, input_ids_BT, mask_BT, penalty=self.penalty, beta=self.beta)
