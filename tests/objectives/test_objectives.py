import pytest
import torch

from ifguide.objectives import LanguageModeling, SuppressedLanguageModeling
from ifguide.objectives.language_modeling import cross_entropy, token_losses
from ifguide.objectives.suppressed_language_modeling import suppressed_cross_entropy

B, T, V = 2, 6, 11


@pytest.fixture
def logits():
    return torch.randn(B, T, V, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)


@pytest.fixture
def ids():
    return torch.randint(V, (B, T), generator=torch.Generator().manual_seed(1))


def slow_losses(logits, ids):
    losses = torch.zeros(B, T, dtype=logits.dtype)
    for n in range(B):
        for t in range(1, T):
            z = logits[n, t - 1]
            losses[n, t] = torch.log(torch.exp(z).sum()) - z[ids[n, t]]
    return losses


def test_losses_belong_to_the_predicted_token(logits, ids):
    assert torch.allclose(token_losses(logits, ids), slow_losses(logits, ids), atol=1e-12)


def test_language_modeling_is_the_mean_over_predicted_tokens(logits, ids):
    expected = slow_losses(logits, ids)[:, 1:].mean()
    assert torch.allclose(LanguageModeling()(logits, ids), expected, atol=1e-12)


@pytest.mark.parametrize("penalty", [0.0, 0.5, 1.0, 2.0])
def test_suppression_follows_equation_9(logits, ids, penalty):
    mask = torch.rand(B, T, generator=torch.Generator().manual_seed(2)) < 0.4
    expected = torch.stack(
        [slow_losses(logits, ids)[n, t] * (-penalty if mask[n, t] else 1.0) for n in range(B) for t in range(1, T)]
    ).mean()
    assert torch.allclose(suppressed_cross_entropy(logits, ids, mask, penalty=penalty), expected, atol=1e-12)


@pytest.mark.parametrize("mask, penalty", [(torch.zeros(B, T, dtype=torch.bool), 1.0), (torch.ones(B, T) > 0, -1.0)])
def test_empty_mask_and_negative_penalty_are_exactly_cross_entropy(logits, ids, mask, penalty):
    plain = cross_entropy(logits, ids)
    suppressed = suppressed_cross_entropy(logits, ids, mask, penalty=penalty)
    assert torch.equal(plain, suppressed)
    assert torch.equal(*(torch.autograd.grad(loss, logits)[0] for loss in (plain, suppressed)))


def test_a_mask_of_one_token_changes_exactly_that_tokens_gradient(logits, ids):
    for t in range(T):
        mask = torch.zeros(B, T, dtype=torch.bool)
        mask[0, t] = True
        plain = torch.autograd.grad(cross_entropy(logits, ids), logits)[0]
        flipped = torch.autograd.grad(suppressed_cross_entropy(logits, ids, mask, penalty=1.0), logits)[0]
        changed = (plain != flipped).any(-1).nonzero().tolist()
        assert changed == ([[0, t - 1]] if t > 0 else []), "position t - 1 predicts token t; token 0 has no loss"
        if t > 0:
            assert torch.equal(flipped[0, t - 1], -plain[0, t - 1])


def test_suppression_without_a_mask_is_refused(logits, ids):
    with pytest.raises(ValueError, match="mask"):
        SuppressedLanguageModeling()(logits, ids)
