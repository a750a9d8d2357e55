"""NPO-style suppression: gradient ascent that stops where a token has become unlikelier than a reference says.

NPO (Zhang et al., 2024) compares the likelihood of whole sequences with that under a reference model. Here it is
applied to single masked tokens, and the reference is a constant, because a model that is trained from scratch has no
reference model; hence "NPO-style".
"""

from math import log

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ifguide.objectives.checks import check_weight
from ifguide.objectives.language_modeling import token_losses

# B blocks, T tokens, V vocabulary


def negative_preference_cross_entropy(
    logits_BTV: Tensor, input_ids_BT: Tensor, mask_BT: Tensor, *, beta: float, reference: float, weight: float = 1.0
) -> Tensor:
    """Mean over predicted tokens of α·(2/β)·softplus(β·(log p[n,t] − log p_ref)) if mask[n,t], else ℓ[n,t].

    −(2/β)·log σ(−β·log(p/p_ref)) of NPO, token by token. The weight of a masked token's gradient is
    2·σ(β·(log p − log p_ref)): 2 where p is far above the reference, 1 at it, 0 far below. As β → 0 it is 1
    everywhere, which is gradient ascent (`suppressed_cross_entropy` with λ = α).

    Args:
        logits_BTV, input_ids_BT, mask_BT: as in `suppressed_cross_entropy`.
        beta: β, above 0: how sharply ascent ends at the reference.
        reference: log p_ref, the same for all tokens, at most 0.
        weight: α, of the masked tokens. A mask of nothing is exactly plain cross-entropy.

    Returns:
        A scalar; a masked token's part lies between 0 and α·(2/β)·log(1 + p_ref^−β).
    """
    losses, mask = token_losses(logits_BTV, input_ids_BT)[:, 1:], mask_BT[:, 1:]
    preference = F.softplus(beta * (-losses - reference)) * (2 * weight / beta)
    return torch.where(mask, preference, losses).mean()


class NegativePreference(nn.Module):
    """`negative_preference_cross_entropy` as an objective.

    Args:
        beta: β.
        reference: log p_ref; None: −log V, a token as likely as any other (V: the size of the output).
        weight: α, of the masked tokens.

    Raises:
        ValueError: an argument out of range.
    """

    uses_mask = True

    def __init__(self, *, beta: float = 0.5, reference: float | None = None, weight: float = 1.0) -> None:
        super().__init__()
        if beta <= 0:
            raise ValueError(f"beta={beta}: must be above 0; the limit at 0 is suppressed_language_modeling")
        if reference is not None and reference > 0:
            raise ValueError(f"reference={reference}: a log-probability is at most 0")
        check_weight("weight", weight)
        self.beta, self.reference, self.weight = beta, reference, weight

    def forward(self, logits_BTV: Tensor, input_ids_BT: Tensor, mask_BT: Tensor | None = None) -> Tensor:
        if mask_BT is None:
            raise ValueError("NegativePreference needs the mask of the tokens to suppress")
        reference = -log(logits_BTV.shape[-1]) if self.reference is None else self.reference
        return negative_preference_cross_entropy(
            logits_BTV, input_ids_BT, mask_BT, beta=self.beta, reference=reference, weight=self.weight
        )
