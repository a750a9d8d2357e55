"""The loss against enumeration and against automatic differentiation, in float64."""

import itertools
import math
import sys
from pathlib import Path

import pytest
import torch

from ifguide.methods.attribute_control.loss import controlled_losses

sys.path.insert(0, str(Path(__file__).parents[1] / "nado"))
from exact import Exact, N, V


def log_odds(log_r):
    return log_r - torch.log(-torch.expm1(log_r))


def divergences(logits, log_r, teacher=None, weight=1.0):
    """KL alone: what the loss is more than without."""
    labels, weights = torch.zeros(len(logits), dtype=torch.long), torch.full((len(logits),), weight).to(logits)
    guidance = log_odds(log_r)
    return [controlled_losses(logits, labels, guidance, one, teacher) for one in (weights, 0 * weights)]


def posterior(logits, log_r, teacher=None):
    """q*, which is p less the gradient of the divergence."""
    logits = logits.detach().clone().requires_grad_()
    given, without = divergences(logits, log_r, teacher)
    (given - without).sum().backward()
    return logits.detach().softmax(-1) - logits.grad


def plain_losses(logits, labels, log_r, weights, teacher=None):
    """The same, left to automatic differentiation."""
    log_p = logits.log_softmax(-1)
    log_q = ((log_p if teacher is None else teacher).detach() + log_r).log_softmax(-1)
    return weights * (log_q.exp() * (log_q - log_p)).sum(-1) - log_p.gather(-1, labels[:, None])[:, 0]


@pytest.mark.parametrize("values", [1 << 17, 3 * V])  # at a time
@pytest.mark.parametrize("taught", [False, True])
def test_losses_and_gradients_are_those_of_automatic_differentiation(values, taught, monkeypatch):
    monkeypatch.setitem(controlled_losses.__globals__["CACHED_LOGITS"], "cpu", values)
    generator = torch.Generator().manual_seed(0)
    logits, teacher, guidance = (torch.randn(10, V, generator=generator, dtype=torch.float64) for _ in range(3))
    labels, weights = torch.randint(V, (10,), generator=generator), torch.rand(10, generator=generator).double()
    upstream, found = torch.randn(10, generator=generator, dtype=torch.float64), []
    weights[3:6] = 0  # three rows at a time: a chunk without the regulariser
    for losses in (
        lambda z: controlled_losses(z, labels, guidance, weights, teacher if taught else None),
        lambda z: plain_losses(z, labels, torch.sigmoid(guidance).log(), weights, teacher if taught else None),
    ):
        given = logits.clone().requires_grad_()
        of_places = losses(given)
        of_places.backward(upstream)
        found.append((of_places.detach(), given.grad))
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-13)


def test_under_autocast_it_is_as_precise_as_its_logits():
    generator = torch.Generator().manual_seed(0)
    hidden, weight, guidance = (torch.randn(size, generator=generator) for size in ((10, 8), (V, 8), (10, V)))
    labels, found = torch.randint(V, (10,), generator=generator), []
    for losses in (controlled_losses, lambda z, y, g, w: plain_losses(z, y, torch.sigmoid(g).log(), w)):
        head = weight.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            logits = torch.nn.functional.linear(hidden, head).float()
            of_places = losses(logits, labels, guidance, torch.ones(10))
        of_places.mean().backward()
        assert of_places.dtype == torch.float32
        found.append((of_places.detach(), head.grad))
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-2, atol=1e-3)


def test_what_is_unlikely_everywhere_stays_finite():
    logits, guidance = torch.full((2, V), 50.0).requires_grad_(), torch.full((2, V), -60.0)
    guidance[0, 1], guidance[1] = -300.0, -300.0
    losses = controlled_losses(logits, torch.tensor([0, 1]), guidance, torch.ones(2))
    losses.sum().backward()
    assert torch.isfinite(losses).all() and torch.isfinite(logits.grad).all()
    q = torch.full((V,), 1 / (V - 1))
    q[1] = 0
    assert torch.allclose(logits.grad[0], 2 / V - q - torch.eye(V)[0], atol=1e-6)
    assert torch.allclose(logits.grad[1], 1 / V - torch.eye(V)[1], atol=1e-6), "as likely whatever comes next"


def test_the_target_is_the_posterior_by_enumeration():
    exact = Exact()
    for prefix in itertools.chain.from_iterable(itertools.product(range(V), repeat=n) for n in range(N)):
        log_r = torch.tensor([exact.true_r((*prefix, v)) for v in range(V)], dtype=torch.float64).log()
        found = posterior(exact.p[prefix].log()[None], log_r[None])[0]
        with_label = [
            sum(
                exact.probability(text, prefix) * exact.labels[text]
                for text in exact.texts
                if text[: len(prefix) + 1] == (*prefix, v)
            )
            for v in range(V)
        ]
        assert found.tolist() == pytest.approx([one / sum(with_label) for one in with_label], rel=1e-12)


def test_divergences_of_tokens_add_up_to_that_of_texts():
    """Σ over prefixes of q*(prefix)·KL(q*(·|prefix) ‖ p(·|prefix)) is KL(q* ‖ p) of whole texts."""
    exact = Exact(seed=1)
    evidence = exact.true_r(())
    posterior = {text: exact.probability(text) * exact.labels[text] / evidence for text in exact.texts}
    whole = sum(q * math.log(q / exact.probability(text)) for text, q in posterior.items())
    parts = 0.0
    for text, q in posterior.items():
        log_r = torch.sigmoid(exact.guidance(text)).log()
        given, without = divergences(exact.log_p(text), log_r)
        parts += q * float((given - without).sum())
    assert parts == pytest.approx(whole, rel=1e-12)


def test_what_says_the_same_of_every_token_changes_nothing():
    logits = torch.randn(4, V, dtype=torch.float64, requires_grad=True)
    given, without = divergences(logits, torch.full((4, V), -0.3, dtype=torch.float64))
    (given - without).sum().backward()
    assert (given - without).abs().max() < 1e-14 and logits.grad.abs().max() < 1e-15
