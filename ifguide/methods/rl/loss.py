"""Losses of policy gradients: leave-one-out (RLOO; Ahmadian et al., 2024), group-relative (GRPO; Shao et al., 2024).

π is the policy that is trained, π_old the same at the weights that sampled, π_ref the model before post-training.
"""

import torch
from torch import Tensor

# P prompts, S samples of each, B = P · S texts (those of one prompt beside each other), T tokens, prompts included


def leave_one_out(rewards_PS: Tensor) -> Tensor:
    """A_i = r_i − the mean of the other samples' rewards, [P, S]  (RLOO).

    The baseline of a sample does not depend on it, so the mean of A ∇log π is the gradient of the mean reward.
    """
    samples = rewards_PS.shape[1]
    return (rewards_PS - rewards_PS.mean(1, keepdim=True)) * (samples / (samples - 1))


def group_relative(rewards_PS: Tensor, *, floor: float = 1e-4) -> Tensor:
    """A_i = (r_i − mean r) / (std r + floor), over the samples of each prompt, [P, S]  (GRPO).

    Args:
        rewards_PS: of each sample.
        floor: without it, rewards that are nearly equal would weigh as much as any others.
    """
    return (rewards_PS - rewards_PS.mean(1, keepdim=True)) / (rewards_PS.std(1, keepdim=True) + floor)


def clipped(log_ratio: Tensor, advantages: Tensor, *, epsilon: float) -> Tensor:
    """min(ρA, clip(ρ, 1 − ε, 1 + ε)A), ρ = π / π_old  (PPO, Eq. 7): no gradient where ρ has left the interval in the
    direction that A favours. Where π = π_old, its gradient is A ∇log π."""
    ratio = log_ratio.exp()
    return torch.minimum(ratio * advantages, ratio.clamp(1 - epsilon, 1 + epsilon) * advantages)


def divergence(policy: Tensor, reference: Tensor) -> Tensor:
    """π_ref/π − log(π_ref/π) − 1 of log-probabilities, never below 0: over tokens from π, its mean is KL(π ‖ π_ref)
    (GRPO, Eq. 4). The mean of its gradient at fixed tokens is that of KL(π_ref ‖ π)."""
    difference = reference - policy
    return difference.expm1() - difference


def leave_one_out_loss(
    policy_BT: Tensor,
    old_BT: Tensor,
    reference_BT: Tensor,
    response_BT: Tensor,
    rewards_PS: Tensor,
    *,
    beta: float,
    epsilon: float,
) -> Tensor:
    """RLOO: −mean over samples of the clipped A·π(y)/π_old(y), A of the rewards R − β log(π_old(y)/π_ref(y)).

    Args:
        policy_BT, old_BT, reference_BT: log-probability of every token under π, π_old and π_ref; only π's has a
            gradient.
        response_BT: True at sampled tokens.
        rewards_PS: R of each sample.
        beta: β, weight of the divergence.
        epsilon: ε.

    Returns:
        A scalar. At π = π_old the mean of its gradient is that of −(mean R − β KL(π ‖ π_ref)).
    """
    penalty_PS = ((old_BT - reference_BT) * response_BT).sum(1).view_as(rewards_PS)
    advantages_B = leave_one_out(rewards_PS - beta * penalty_PS).flatten()
    log_ratio_B = ((policy_BT - old_BT) * response_BT).sum(1)
    return -clipped(log_ratio_B, advantages_B, epsilon=epsilon).mean()


def group_relative_loss(
    policy_BT: Tensor,
    old_BT: Tensor,
    reference_BT: Tensor,
    response_BT: Tensor,
    rewards_PS: Tensor,
    *,
    beta: float,
    epsilon: float,
) -> Tensor:
    """GRPO: −(clipped A·π/π_old − β `divergence`), the mean over each sample's tokens, then over samples (Eq. 3).

    The arguments are those of `leave_one_out_loss`.
    """
    advantages_B1 = group_relative(rewards_PS).flatten()[:, None]
    gain_BT = clipped(policy_BT - old_BT, advantages_B1, epsilon=epsilon) - beta * divergence(policy_BT, reference_BT)
    return -((gain_BT * response_BT).sum(1) / response_BT.sum(1)).mean()
