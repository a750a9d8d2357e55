"""NPO-style suppression: gradient ascent that stops where a token has become unlikelier than a reference says.

NPO (Zhang et al., 2024) compares the likelihood of a whole sequence y with that under a reference model. Here y is a
single masked token, and the reference is a constant, because a model that is trained from scratch has no reference
model; hence "NPO-style".

SimNPO (Fan et al., 2024, arXiv 2410.07163) has no reference model and takes the mean of a sequence's log-probabilities:
−(2/β)·log σ(−(β/|y|)·log π(y) − γ). That is the same loss with log p_ref = −γ/β, and y a run of masked tokens, all that
stand side by side in a block (`unit=run`). A run counts as often as it has tokens, as α then means the same for both
units; in SimNPO a sequence counts once. Hence "SimNPO-style".
"""

from math import inf, log

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ifguide.objectives.checks import check_weight
from ifguide.objectives.language_modeling import token_losses
from ifguide.objectives.linear_head import LinearLogits

UNITS = ("token", "run")

# B blocks, T tokens, V vocabulary, M masked tokens


def run_means(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Each masked value as the mean of its run, the masked ones side by side in a row; the others as they are."""
    starts_BT = mask_BT.clone()
    starts_BT[:, 1:] &= ~mask_BT[:, :-1]
    run_M, values_M = starts_BT.flatten().cumsum(0)[mask_BT.flatten()] - 1, values_BT[mask_BT]
    lengths = torch.bincount(run_M)
    means = values_M.new_zeros(len(lengths)).index_add(0, run_M, values_M) / lengths
    return values_BT.masked_scatter(mask_BT, means[run_M])


def negative_preference_cross_entropy(
    logits_BTV: Tensor | LinearLogits,
    input_ids_BT: Tensor,
    mask_BT: Tensor,
    *,
    beta: float,
    reference: float,
    weight: float = 1.0,
    unit: str = "token",
) -> Tensor:
    """Mean over predicted tokens of α·(2/β)·softplus(β·(log p[n,t] − log p_ref)) if mask[n,t], else ℓ[n,t].

    −(2/β)·log σ(−β·log(p/p_ref)) of NPO, token by token. The weight of a masked token's gradient is
    2·σ(β·(log p − log p_ref)): 2 where p is far above the reference, 1 at it, 0 far below. As β → 0 it is 1
    everywhere, which is gradient ascent (`suppressed_cross_entropy` with λ = α). With `unit=run`, log p[n,t] is in all
    of this the mean over the run of masked tokens that t is in.

    Args:
        logits_BTV, input_ids_BT, mask_BT: as in `suppressed_cross_entropy`.
        beta: β, above 0: how sharply ascent ends at the reference.
        reference: log p_ref, the same for all tokens, at most 0.
        weight: α, of the masked tokens. A mask of nothing is exactly plain cross-entropy.
        unit: `token` or `run`, whose likelihood is compared with the reference.

    Returns:
        A scalar; a masked token's part lies between 0 and α·(2/β)·log(1 + p_ref^−β).
    """
    losses, mask = token_losses(logits_BTV, input_ids_BT)[:, 1:], mask_BT[:, 1:]
    compared = losses if unit == "token" else run_means(losses, mask)
    preference = F.softplus(beta * (-compared - reference)) * (2 * weight / beta)
    return torch.where(mask, preference, losses).mean()


class NegativePreference(nn.Module):
    """`negative_preference_cross_entropy` as an objective.

    Args:
        beta: β.
        reference: log p_ref; None: −log V, a token as likely as any other (V: the size of the output); −γ/β of SimNPO.
        weight: α, of the masked tokens.
        unit: `token`; or `run`, SimNPO's mean over masked tokens side by side.

    Raises:
        ValueError: an argument out of range.
    """

    LEFT_OUT_AT_DEFAULT = ("unit",)
    uses_mask = True

    def __init__(
        self, *, beta: float = 0.5, reference: float | None = None, weight: float = 1.0, unit: str = "token"
    ) -> None:
        super().__init__()
        if not 0 < beta < inf:
            raise ValueError(f"beta={beta}: a number above 0; the limit at 0 is suppressed_language_modeling")
        if reference is not None and not -inf < reference <= 0:
            raise ValueError(f"reference={reference}: a log-probability is a number, 0 at most")
        check_weight("weight", weight)
        if unit not in UNITS:
            raise ValueError(f"unit={unit}; known: {', '.join(UNITS)}")
        self.beta, self.reference, self.weight, self.unit = beta, reference, weight, unit

    def forward(self, logits_BTV: Tensor | LinearLogits, input_ids_BT: Tensor, mask_BT: Tensor | None = None) -> Tensor:
        if mask_BT is None:
            raise ValueError("NegativePreference needs the mask of the tokens to suppress")
        reference = -log(logits_BTV.shape[-1]) if self.reference is None else self.reference
        return negative_preference_cross_entropy(
            logits_BTV,
            input_ids_BT,
            mask_BT,
            beta=self.beta,
            reference=reference,
            weight=self.weight,
            unit=self.unit,
        )
