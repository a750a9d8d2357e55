"""The posterior and its divergence against enumeration, in float64."""

import itertools
import math
import sys
from pathlib import Path

import pytest
import torch

from ifguide.methods.attribute_control.loss import log_posterior, posterior_divergence

sys.path.insert(0, str(Path(__file__).parents[1] / "nado"))
from exact import Exact, N, V


def test_the_target_is_the_posterior_by_enumeration():
    exact = Exact()
    for prefix in itertools.chain.from_iterable(itertools.product(range(V), repeat=n) for n in range(N)):
        log_r = torch.tensor([exact.true_r((*prefix, v)) for v in range(V)], dtype=torch.float64).log()
        found = log_posterior(exact.p[prefix].log(), log_r).exp()
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
        parts += q * float(posterior_divergence(exact.log_p(text), log_r).sum())
    assert parts == pytest.approx(whole, rel=1e-12)


def test_no_gradient_flows_through_the_target():
    logits = torch.randn(4, V, dtype=torch.float64, requires_grad=True)
    log_r, teacher = torch.randn(4, V, dtype=torch.float64), torch.randn(4, V, dtype=torch.float64).log_softmax(-1)
    for given in (None, teacher):
        logits.grad = None
        posterior_divergence(logits.log_softmax(-1), log_r, given).sum().backward()
        q = log_posterior(logits.detach().log_softmax(-1) if given is None else given, log_r).exp()
        assert torch.allclose(logits.grad, logits.detach().softmax(-1) - q)


def test_what_says_the_same_of_every_token_changes_nothing():
    logits = torch.randn(4, V, dtype=torch.float64, requires_grad=True)
    divergence = posterior_divergence(logits.log_softmax(-1), torch.full((4, V), -0.3, dtype=torch.float64))
    divergence.sum().backward()
    assert divergence.abs().max() < 1e-15 and logits.grad.abs().max() < 1e-15
