"""IF-Guide's objective: learn every token but the selected ones, whose loss counts with the opposite sign."""

import torch
from torch import Tensor, nn

from ifguide.objectives.checks import check_weight
from ifguide.objectives.language_modeling import token_losses
from ifguide.objectives.linear_head import LinearLogits

# B blocks, T tokens, V vocabulary


def suppressed_cross_entropy(
    logits_BTV: Tensor | LinearLogits, input_ids_BT: Tensor, mask_BT: Tensor, *, penalty: float
) -> Tensor:
    """Mean over predicted tokens of ℓ[n,t]·(−λ if mask[n,t] else 1) (IF-Guide, Eq. 9).

    Args:
        logits_BTV: the model's output for the block; position t predicts token t + 1.
        input_ids_BT: the block.
        mask_BT: True at the tokens to suppress: `mask[n,t]` weighs the loss that predicts x[n,t]. Column 0 is
            ignored.
        penalty: λ. A mask of nothing, or λ = −1, is exactly plain cross-entropy.

    Returns:
        A scalar, unbounded below while anything is masked.
    """
    losses = token_losses(logits_BTV, input_ids_BT)[:, 1:]
    return torch.where(mask_BT[:, 1:], -penalty * losses, losses).mean()


class SuppressedLanguageModeling(nn.Module):
    """`suppressed_cross_entropy` as an objective.

    Args:
        penalty: λ in Eq. 9.

    Raises:
        ValueError: a penalty below 0.
    """

    uses_mask = True

    def __init__(self, *, penalty: float = 1.0) -> None:
        super().__init__()
        check_weight("penalty", penalty)
        self.penalty = penalty

    def forward(self, logits_BTV: Tensor | LinearLogits, input_ids_BT: Tensor, mask_BT: Tensor | None = None) -> Tensor:
        if mask_BT is None:
            raise ValueError("SuppressedLanguageModeling needs the mask of the tokens to suppress")
        return suppressed_cross_entropy(logits_BTV, input_ids_BT, mask_BT, penalty=self.penalty)
