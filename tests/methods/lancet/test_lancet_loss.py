from math import log

import pytest
import torch
from tiny import tiny_model

from ifguide.methods.lancet.loss import ascent_loss, bregman_divergence, log_ratios, pairwise_loss


@pytest.fixture(scope="module")
def logits():
    """Of a policy and of a reference on the same four blocks, and the blocks."""
    ids = torch.randint(60, (4, 6), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return tiny_model(seed=1)(ids).logits, tiny_model(seed=2)(ids).logits, ids


def test_ratios_are_sums_over_predicted_tokens(logits):
    policy, reference, ids = logits
    expected = torch.zeros(4, dtype=torch.float64)
    for row in range(4):
        for t in range(1, 6):
            ours, theirs = (each[row, t - 1].log_softmax(-1)[ids[row, t]] for each in (policy, reference))
            expected[row] += ours - theirs
    assert torch.allclose(log_ratios(policy, reference, ids), expected, atol=1e-9)


def test_at_the_model_that_is_corrected_the_loss_is_log_two_and_the_anchor_nothing(logits):
    _, reference, ids = logits
    ratios = log_ratios(reference, reference, ids).view(2, -1).T
    assert float(pairwise_loss(ratios, beta=0.3)) == pytest.approx(log(2), abs=1e-15)
    assert float(ascent_loss(ratios, beta=0.3)) == 0 == float(bregman_divergence(reference, reference))


def test_the_pairwise_loss_follows_its_formula_and_the_order_of_a_pair(logits):
    ratios = log_ratios(*logits).view(2, -1).T
    expected = sum(-log(1 / (1 + torch.tensor(-0.3 * (low - high)).exp().item())) for high, low in ratios.tolist()) / 2
    found, swapped = (float(pairwise_loss(each, beta=0.3)) for each in (ratios, ratios.flip(1)))
    assert found == pytest.approx(expected, abs=1e-6)
    # log σ(m) − log σ(−m) = m: swapping the sequences of a pair changes the loss by the mean margin
    assert found - swapped == pytest.approx(-0.3 * float((ratios[:, 1] - ratios[:, 0]).mean()), abs=1e-12)
    better = ratios + torch.tensor([-1.0, 1.0])  # what is high became less likely, what is low likelier
    assert pairwise_loss(better, beta=0.3) < pairwise_loss(ratios, beta=0.3)


def test_ascent_reads_the_high_sequences_alone_with_twice_the_gradient_at_first():
    ratios = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    (ascent,) = torch.autograd.grad(ascent_loss(ratios, beta=0.3), ratios)
    (pairwise,) = torch.autograd.grad(pairwise_loss(ratios, beta=0.3), ratios)
    assert torch.allclose(ascent[:, 0], 2 * pairwise[:, 0]) and (pairwise[:, 0] > 0).all()
    assert (ascent[:, 1] == 0).all() and torch.allclose(pairwise[:, 1], -pairwise[:, 0])


def test_the_anchor_is_the_divergence_at_every_position(logits):
    policy, reference, _ = logits
    values = []
    for row in range(4):
        for t in range(5):  # the last position predicts no token of the block
            p, q = reference[row, t].softmax(-1), policy[row, t].softmax(-1)
            values.append(sum(float(a * (a / b).log()) for a, b in zip(p, q, strict=True)))
    assert float(bregman_divergence(policy, reference)) == pytest.approx(sum(values) / 20, abs=1e-12)


def test_it_is_the_bregman_divergence_of_the_log_sum_exp(logits):
    policy, reference, _ = (part[:, :-1] for part in logits)
    gradient = reference.softmax(-1)
    expected = policy.logsumexp(-1) - reference.logsumexp(-1) - (gradient * (policy - reference)).sum(-1)
    assert float(bregman_divergence(*logits[:2])) == pytest.approx(float(expected.mean()), abs=1e-12)
