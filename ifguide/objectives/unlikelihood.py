"""Unlikelihood training (Welleck et al., 2020): learn that the selected tokens do not come next."""

from torch import Tensor, nn

from ifguide.objectives.checks import check_weight
from ifguide.objectives.language_modeling import precise, token_losses
from ifguide.objectives.linear_head import LinearLogits, chosen_logits

# B blocks, T tokens, V vocabulary, M masked tokens


def log_complement(logits_MV: Tensor, tokens_M: Tensor) -> Tensor:
    """log(1 − p(token)), as the log of the sum of all other tokens' probabilities.

    Taken from p itself, 1 − p loses all digits where p is near 1, and its gradient divides 0 by 0; here both stay
    exact: the gradient of −log(1 − p) with respect to the logits never exceeds 1.

    Returns:
        [M], in float32 at least.
    """
    logits = precise(logits_MV)
    others = logits.scatter(-1, tokens_M[:, None], float("-inf"))
    return others.logsumexp(-1) - logits.logsumexp(-1)


def unlikelihood_cross_entropy(
    logits_BTV: Tensor | LinearLogits, input_ids_BT: Tensor, mask_BT: Tensor, *, weight: float
) -> Tensor:
    """Mean over predicted tokens of −α·log(1 − p[n,t]) if mask[n,t], else ℓ[n,t].

    The token-level loss of Welleck et al., 2020 (Eq. 4, 5) with the masked token as its own only negative candidate
    and without the likelihood of that token.

    Args:
        logits_BTV, input_ids_BT, mask_BT: as in `suppressed_cross_entropy`.
        weight: α. A mask of nothing is exactly plain cross-entropy; α = 0 drops the masked tokens' losses.

    Returns:
        A scalar, 0 or more.
    """
    losses, mask = token_losses(logits_BTV, input_ids_BT)[:, 1:], mask_BT[:, 1:]
    unlikely = log_complement(chosen_logits(logits_BTV, mask), input_ids_BT[:, 1:][mask])
    return losses.masked_scatter(mask, -weight * unlikely).mean()


class Unlikelihood(nn.Module):
    """`unlikelihood_cross_entropy` as an objective.

    Args:
        weight: α, of the masked tokens.

    Raises:
        ValueError: a weight below 0.
    """

    uses_mask = True

    def __init__(self, *, weight: float = 1.0) -> None:
        super().__init__()
        check_weight("weight", weight)
        self.weight = weight

    def forward(self, logits_BTV: Tensor | LinearLogits, input_ids_BT: Tensor, mask_BT: Tensor | None = None) -> Tensor:
        if mask_BT is None:
            raise ValueError("Unlikelihood needs the mask of the tokens to make unlikely")
        return unlikelihood_cross_entropy(logits_BTV, input_ids_BT, mask_BT, weight=self.weight)
