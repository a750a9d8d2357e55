"""Direct preference optimisation (Rafailov et al., 2023; against toxicity: Lee et al., 2024), and SimPO, which needs no
reference (Meng et al., 2024)."""

import torch.nn.functional as F
from torch import Tensor

from ifguide.objectives.language_modeling import divergences, label_losses
from ifguide.objectives.linear_head import LinearLogits

# B texts, T tokens, V vocabulary; N pairs


def response_log_probabilities(logits_BTV: Tensor | LinearLogits, input_ids_BT: Tensor, response_BT: Tensor) -> Tensor:
    """log π(y | x) of each text: the sum over its response, [B]; prompt and padding never count.

    Args:
        logits_BTV: position t predicts token t + 1.
        input_ids_BT: the texts.
        response_BT: True at the tokens of the response; column 0 is ignored, because nothing predicts it.
    """
    counted = response_BT[:, 1:]
    return -_at(counted, label_losses(logits_BTV[:, :-1][counted], input_ids_BT[:, 1:][counted])).sum(1)


def preference_loss(policy_N2: Tensor, reference_N2: Tensor, *, beta: float) -> Tensor:
    """−log σ(β[(log π(y⁺) − log π(y⁻)) − (log π_ref(y⁺) − log π_ref(y⁻))]), the mean over pairs (DPO, Eq. 7).

    Args:
        policy_N2, reference_N2: log-probabilities of the chosen and of the rejected response.
        beta: β. Where policy and reference are equal, or β = 0, the loss is log 2.
    """
    margin = (policy_N2[:, 0] - policy_N2[:, 1]) - (reference_N2[:, 0] - reference_N2[:, 1])
    return -F.logsigmoid(beta * margin).mean()


def simple_preference_loss(policy_N2: Tensor, lengths_N2: Tensor, *, beta: float, margin: float) -> Tensor:
    """−log σ((β/|y⁺|)·log π(y⁺) − (β/|y⁻|)·log π(y⁻) − γ), the mean over pairs (SimPO; arXiv 2405.14734).

    Args:
        policy_N2: log-probabilities of the chosen and of the rejected response.
        lengths_N2: their numbers of tokens, |y|.
        beta: β.
        margin: γ, by which the chosen one should be likelier.
    """
    means = policy_N2 / lengths_N2
    return -F.logsigmoid(beta * (means[:, 0] - means[:, 1]) - margin).mean()


def response_divergence(
    policy_BTV: Tensor | LinearLogits, reference_BTV: Tensor | LinearLogits, response_BT: Tensor
) -> Tensor:
    """KL(π_ref ‖ π) at the positions that predict a response token, the mean over each text's, then over texts.

    Returns:
        A scalar, in nats.
    """
    counted = response_BT[:, 1:]
    policy, reference = (logits[:, :-1][counted] for logits in (policy_BTV, reference_BTV))
    return (_at(counted, divergences(policy, reference)).sum(1) / counted.sum(1).clamp(min=1)).mean()


def _at(counted_BT: Tensor, values_M: Tensor) -> Tensor:
    """Values at the places that count, 0 at the others."""
    return values_M.new_zeros(counted_BT.shape).masked_scatter(counted_BT, values_M)
