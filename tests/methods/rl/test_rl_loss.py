"""Policy gradients against finite differences of what they are gradients of, by enumeration of all continuations."""

from itertools import product
from math import exp, sqrt

import pytest
import torch

from ifguide.methods.rl.loss import (
    clipped,
    divergence,
    group_relative,
    group_relative_loss,
    leave_one_out,
    leave_one_out_loss,
)

ENDING = [(0,), *product((1, 2), (0, 1, 2))]  # token 0 ends; else there are two tokens
FIXED = list(product((0, 1, 2), (0, 1, 2)))


def logits(seed):
    """Of the first token, and of the second after each first one, [4, 3]."""
    return torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def log_probabilities(theta, continuations):
    """[continuations, 2], and which of these tokens there are."""
    table = theta.log_softmax(-1)
    zero = torch.zeros((), dtype=torch.float64)
    rows = [torch.stack([table[0, y[0]], table[1 + y[0], y[1]] if len(y) == 2 else zero]) for y in continuations]
    return torch.stack(rows), torch.tensor([[True, len(y) == 2] for y in continuations])


def expected_gradient(loss, theta, reference, rewards, continuations, samples, **options):
    """The mean of a loss's gradient over all groups of so many samples."""
    theta = theta.clone().requires_grad_()
    policy, response = log_probabilities(theta, continuations)
    ref, _ = log_probabilities(reference, continuations)
    probability = policy.detach().sum(1).exp()
    assert float(probability.sum()) == pytest.approx(1, abs=1e-12)
    total = torch.zeros((), dtype=torch.float64)
    for group in product(range(len(continuations)), repeat=samples):
        rows = list(group)
        found = loss(
            policy[rows], policy[rows].detach(), ref[rows], response[rows], rewards[rows][None], epsilon=0.2, **options
        )
        total = total + probability[rows].prod() * found
    return torch.autograd.grad(total, theta)[0]


def finite_differences(function, theta, step=1e-5):
    gradient = torch.zeros_like(theta)
    for place in product(*map(range, theta.shape)):
        ends = []
        for sign in (1, -1):
            moved = theta.clone()
            moved[place] += sign * step
            ends.append(float(function(moved)))
        gradient[place] = (ends[0] - ends[1]) / (2 * step)
    return gradient


def mean_reward(theta, reference, rewards, continuations, beta=0.0):
    """Σ_y π(y)·(R(y) − β log(π(y)/π_ref(y)))."""
    log_policy, log_reference = (log_probabilities(of, continuations)[0].sum(1) for of in (theta, reference))
    return (log_policy.exp() * (rewards - beta * (log_policy - log_reference))).sum()


@pytest.mark.parametrize(("samples", "beta"), [(2, 0.0), (2, 0.3), (3, 0.3)])
def test_leave_one_out_is_the_gradient_of_the_mean_reward_less_the_divergence(samples, beta):
    theta, reference = logits(0), logits(1)
    rewards = torch.rand(len(ENDING), dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found = expected_gradient(leave_one_out_loss, theta, reference, rewards, ENDING, samples, beta=beta)
    expected = finite_differences(lambda at: -mean_reward(at, reference, rewards, ENDING, beta), theta)
    assert expected.abs().max() > 0.01 and torch.allclose(found, expected, atol=1e-9)


def test_group_relative_is_the_scaled_gradient_of_a_reward_of_zero_and_one():
    """Of two samples with rewards 0 and 1, (r − mean)/std is ±1/√2; the means over both and over two tokens halve."""
    theta, reference = logits(0), logits(1)
    rewards = torch.tensor([1.0, 0, 0, 1, 1, 0, 1, 0, 1], dtype=torch.float64)
    found = expected_gradient(group_relative_loss, theta, reference, rewards, FIXED, 2, beta=0.0)
    expected = finite_differences(lambda at: -mean_reward(at, reference, rewards, FIXED), theta)
    assert torch.allclose(found, expected / 4 / (1 / sqrt(2) + 1e-4), atol=1e-9)


@pytest.mark.parametrize("loss", [leave_one_out_loss, group_relative_loss])
def test_a_constant_reward_teaches_nothing(loss):
    theta, rewards = logits(0), torch.full((len(ENDING),), 0.7, dtype=torch.float64)
    found = expected_gradient(loss, theta, logits(1), rewards, ENDING, 3, beta=0.0)
    assert found.abs().max() < 1e-11


def test_under_a_constant_reward_only_the_divergence_pulls():
    theta, reference = logits(0), logits(1)
    rewards = torch.full((len(ENDING),), 0.7, dtype=torch.float64)
    found = expected_gradient(leave_one_out_loss, theta, reference, rewards, ENDING, 2, beta=0.4)
    at = theta.clone().requires_grad_()
    (pull,) = torch.autograd.grad(-mean_reward(at, reference, 0 * rewards, ENDING, beta=0.4), at)  # 0.4 KL(π ‖ π_ref)
    assert pull.abs().max() > 0.01 and torch.allclose(found, pull, atol=1e-12)

    one = [(token,) for token in (0, 1, 2)]  # of a single token: the mean over tokens is their sum
    found = expected_gradient(group_relative_loss, theta, reference, rewards[:3], one, 2, beta=0.4)
    (pull,) = torch.autograd.grad(0.4 * kl(reference[0], at[0]), at)
    assert pull.abs().max() > 0.01 and torch.allclose(found, pull, atol=1e-12)


def kl(first, second):
    """KL of two rows of logits, in closed form."""
    p, q = first.log_softmax(-1), second.log_softmax(-1)
    return (p.exp() * (p - q)).sum()


def test_the_mean_of_the_divergence_is_the_kl():
    policy, reference = logits(3)[0], logits(4)[0]
    p, q = policy.log_softmax(-1), reference.log_softmax(-1)
    assert float((p.exp() * divergence(p, q)).sum()) == pytest.approx(float(kl(policy, reference)), abs=1e-14)
    for a, b in zip(p.tolist(), q.tolist(), strict=True):
        assert float(divergence(torch.tensor(a), torch.tensor(b))) == pytest.approx(exp(b - a) - (b - a) - 1, rel=1e-4)
    assert (divergence(p, q) > 0).all() and not divergence(p, p).any()


def test_advantages_follow_their_formulas():
    rewards = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    alone, group = leave_one_out(rewards), group_relative(rewards)
    for row, values in enumerate(rewards.tolist()):
        mean = sum(values) / 4
        deviation = sqrt(sum((value - mean) ** 2 for value in values) / 3)
        for i, value in enumerate(values):
            others = [other for j, other in enumerate(values) if j != i]
            assert float(alone[row, i]) == pytest.approx(value - sum(others) / 3, abs=1e-14)
            assert float(group[row, i]) == pytest.approx((value - mean) / (deviation + 1e-4), abs=1e-14)


def test_losses_follow_their_formulas_off_the_policy_that_sampled():
    """Two prompts, two samples, three tokens, of which some are prompts or padding."""
    generator = torch.Generator().manual_seed(6)
    policy, old, reference = -torch.rand(3, 4, 3, dtype=torch.float64, generator=generator) * 2
    old = policy + 0.3 * (old + 1)  # ratios on both sides of 1 ± ε
    response = torch.tensor([[False, True, True], [False, True, False], [True, True, True], [False, False, True]])
    rewards = torch.tensor([[0.9, 0.2], [0.1, 0.4]], dtype=torch.float64)
    beta, epsilon, expected = 0.3, 0.2, {"rloo": 0.0, "grpo": 0.0}

    def surrogate(ratio, advantage):
        return min(ratio * advantage, max(1 - epsilon, min(1 + epsilon, ratio)) * advantage)

    for prompt in range(2):
        rows = [2 * prompt, 2 * prompt + 1]
        tokens = {row: [t for t in range(3) if response[row, t]] for row in rows}
        penalised = [
            float(rewards[prompt, i]) - beta * sum(float(old[row, t] - reference[row, t]) for t in tokens[row])
            for i, row in enumerate(rows)
        ]
        plain = rewards[prompt].tolist()
        for i, row in enumerate(rows):
            ratio = exp(sum(float(policy[row, t] - old[row, t]) for t in tokens[row]))
            expected["rloo"] -= surrogate(ratio, penalised[i] - penalised[1 - i]) / 4
            advantage = (plain[i] - sum(plain) / 2) / (abs(plain[0] - plain[1]) / sqrt(2) + 1e-4)
            for t in tokens[row]:
                far = float(reference[row, t] - policy[row, t])
                gain = surrogate(exp(float(policy[row, t] - old[row, t])), advantage)
                expected["grpo"] -= (gain - beta * (exp(far) - far - 1)) / len(tokens[row]) / 4
    given = (policy, old, reference, response, rewards)
    assert float(leave_one_out_loss(*given, beta=beta, epsilon=epsilon)) == pytest.approx(expected["rloo"], abs=1e-12)
    assert float(group_relative_loss(*given, beta=beta, epsilon=epsilon)) == pytest.approx(expected["grpo"], abs=1e-12)


def test_a_ratio_that_has_gone_far_enough_has_no_gradient():
    log_ratio = torch.tensor([0.5, 0.5, -0.5, -0.5, 0.1, -0.1], dtype=torch.float64, requires_grad=True)
    advantages = torch.tensor([1.0, -1, 1, -1, 2, -2], dtype=torch.float64)
    clipped(log_ratio, advantages, epsilon=0.2).sum().backward()
    moving = [0, -exp(0.5), exp(-0.5), 0, 2 * exp(0.1), -2 * exp(-0.1)]
    assert log_ratio.grad.tolist() == pytest.approx(moving, abs=1e-12)
