"""LANCET-style losses: reconstructions of its influence-based Bregman optimisation (IBO; arXiv 2412.16451)."""

import torch.nn.functional as F
from torch import Tensor

from ifguide.objectives.language_modeling import divergences, token_losses
from ifguide.objectives.linear_head import LinearLogits

# N pairs of a sequence of high and one of low influence; B sequences, T tokens, V vocabulary


def log_ratios(policy_BTV: Tensor | LinearLogits, reference_BTV: Tensor | LinearLogits, input_ids_BT: Tensor) -> Tensor:
    """log π(z) / π_s(z) of each sequence, [B]: the sum over its predicted tokens.

    Args:
        policy_BTV, reference_BTV: logits of the policy π and of the model π_s that it corrects; position t predicts
            token t + 1.
        input_ids_BT: the sequences.
    """
    return (token_losses(reference_BTV, input_ids_BT) - token_losses(policy_BTV, input_ids_BT)).sum(1)


def pairwise_loss(ratios_N2: Tensor, *, beta: float) -> Tensor:
    """−log σ(β[log π/π_s(z_low) − log π/π_s(z_high)]), the mean over pairs: Bradley and Terry's model of ranks.

    Maximising E_π[−influence] − β KL(π ‖ π_s) gives π ∝ π_s exp(−influence / β), and from that this loss where both
    sequences of a pair continue one prompt; between training sequences, which do not, it is a heuristic.

    Args:
        ratios_N2: `log_ratios` of the sequence of high and of the one of low influence.
        beta: β. At the model that is corrected, or with β = 0, the loss is log 2.
    """
    return -F.logsigmoid(beta * (ratios_N2[:, 1] - ratios_N2[:, 0])).mean()


def ascent_loss(ratios_N2: Tensor, *, beta: float) -> Tensor:
    """β log π/π_s(z_high), the mean: gradient ascent on the loss of the sequences of high influence alone.

    Unbounded below. At the model that is corrected it is 0, and its gradient on z_high twice that of `pairwise_loss`.
    """
    return beta * ratios_N2[:, 0].mean()


def bregman_divergence(policy_BTV: Tensor | LinearLogits, reference_BTV: Tensor | LinearLogits) -> Tensor:
    """KL(π_s ‖ π) at the positions that predict a token, the mean over all, in nats.

    It is the Bregman divergence of the log-sum-exp of the logits, from π_s to π: the functional proximity of the
    proximal Bregman response function (Bae et al., 2022) for cross-entropy.
    """
    return divergences(policy_BTV[:, :-1], reference_BTV[:, :-1]).mean()
