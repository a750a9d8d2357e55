from math import log

import pytest
import torch
from tiny import tiny_model

from ifguide.methods.dpo.loss import (
    preference_loss,
    response_divergence,
    response_log_probabilities,
    simple_preference_loss,
)

IDS = torch.tensor([[0, 5, 9, 3, 2], [0, 7, 4, 0, 0]])
RESPONSE = torch.tensor([[False, False, True, True, True], [False, True, True, False, False]])


@torch.no_grad()
def test_log_probabilities_are_of_the_response_only():
    model = tiny_model()
    found = response_log_probabilities(model(IDS).logits, IDS, RESPONSE)
    for row, (first, length) in enumerate([(2, 5), (1, 3)]):
        expected = 0.0
        for t in range(first, length):  # one forward pass per token, no padding
            expected += model(IDS[row : row + 1, :t]).logits[0, -1].log_softmax(-1)[IDS[row, t]]
        assert found[row] == pytest.approx(float(expected), abs=1e-9)
    padded = torch.nn.functional.pad(IDS, (0, 3), value=11)
    again = response_log_probabilities(model(padded).logits, padded, torch.nn.functional.pad(RESPONSE, (0, 3)))
    assert torch.allclose(found, again, atol=1e-12)


def test_preference_loss_follows_its_formula():
    torch.manual_seed(0)
    policy, reference = torch.randn(2, 6, 2, dtype=torch.float64) * 5
    expected = 0.0
    for (plus, minus), (ref_plus, ref_minus) in zip(policy.tolist(), reference.tolist(), strict=True):
        margin = 0.3 * ((plus - minus) - (ref_plus - ref_minus))
        expected += -log(1 / (1 + torch.tensor(-margin, dtype=torch.float64).exp().item())) / 6
    assert float(preference_loss(policy, reference, beta=0.3)) == pytest.approx(expected, abs=1e-12)
    assert float(preference_loss(policy, policy, beta=0.3)) == log(2)
    assert float(preference_loss(policy, reference, beta=0.0)) == log(2)
    far = torch.tensor([[500.0, -500.0], [-500.0, 500.0]])
    assert torch.isfinite(preference_loss(far, torch.zeros(2, 2), beta=1.0))


@pytest.mark.parametrize("beta, margin", [(2.0, 0.5), (2.5, 0.0)])
def test_simpo_follows_its_formula(beta, margin):
    torch.manual_seed(0)
    policy, lengths = torch.randn(6, 2, dtype=torch.float64) * 5, torch.randint(1, 9, (6, 2))
    expected = 0.0
    for (plus, minus), (many, few) in zip(policy.tolist(), lengths.tolist(), strict=True):
        z = torch.tensor(beta / many * plus - beta / few * minus - margin, dtype=torch.float64)
        expected += -log(1 / (1 + (-z).exp().item())) / 6
    found = simple_preference_loss(policy, lengths, beta=beta, margin=margin)
    assert float(found) == pytest.approx(expected, abs=1e-12)
    longer = simple_preference_loss(policy * 3, lengths * 3, beta=beta, margin=margin)
    assert float(longer) == pytest.approx(float(found), abs=1e-12), "length alone changes nothing"


@torch.no_grad()
def test_divergence_follows_its_formula():
    policy, reference = tiny_model(seed=1)(IDS).logits, tiny_model(seed=2)(IDS).logits
    texts = []
    for row, positions in enumerate([(2, 3, 4), (1, 2)]):
        values = []
        for t in positions:
            p, q = reference[row, t - 1].softmax(-1), policy[row, t - 1].softmax(-1)
            values.append(sum(float(a * (a / b).log()) for a, b in zip(p, q, strict=True)))
        texts.append(sum(values) / len(values))
    found = response_divergence(policy, reference, RESPONSE)
    assert float(found) == pytest.approx(sum(texts) / 2, abs=1e-9) and found > 0
    assert float(response_divergence(policy, policy, RESPONSE)) == 0
