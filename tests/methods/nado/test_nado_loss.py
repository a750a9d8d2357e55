"""R̂'s losses against enumeration and slow loops, in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from exact import Exact, N, V

from ifguide.methods.nado.loss import inconsistency, log_expectation, prefix_loss, relative_log_odds, steering


@pytest.fixture
def counted():
    mask = torch.ones(len(Exact().texts), N, dtype=torch.bool)
    mask[::3, 2:] = False
    mask[1::5, 1:] = False
    return mask


def noisy(guidance, seed=1):
    return guidance + torch.randn(guidance.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_true_r_is_consistent_and_no_other_is():
    guidance, log_p, tokens, _ = Exact().batch()
    everything = torch.ones(tokens.shape, dtype=torch.bool)
    assert inconsistency(guidance, log_p, tokens, everything) < 1e-15
    assert inconsistency(noisy(guidance), log_p, tokens, everything) > 0.01


def test_decoding_with_the_true_r_is_the_posterior_of_whole_texts():
    exact = Exact()
    evidence = exact.true_r(())
    for text in exact.texts:
        steps = (exact.log_p(text) + steering(exact.guidance(text))).softmax(-1)
        written = math.prod(float(steps[place, token]) for place, token in enumerate(text))
        posterior = exact.probability(text) * exact.labels[text] / evidence
        assert written == pytest.approx(posterior, rel=1e-12)


def test_the_true_r_has_the_least_cross_entropy_among_those_nearby():
    exact = Exact()
    guidance, _, tokens, labels = exact.batch()
    chances = torch.tensor([exact.probability(text) for text in exact.texts])
    everything = torch.ones(1, N, dtype=torch.bool)

    def expected(guided):
        losses = [
            prefix_loss(guided[[n]], tokens[[n]], labels[[n]], everything) for n in range(len(tokens))
        ]  # fmt: skip
        return float((torch.stack(losses) * chances).sum())

    # one table of R for all texts, as the true one is: moved alike in every place, no longer the best
    assert expected(guidance) < min(expected(guidance + 0.1), expected(guidance - 0.1))


def test_losses_are_those_of_a_loop(counted):
    guidance, log_p, tokens, labels = Exact().batch()
    guidance = noisy(guidance)
    cross_entropy = divergence = 0.0
    for n in range(len(tokens)):
        for i in range(N):
            if not counted[n, i]:
                continue
            a = 1 / (1 + math.exp(-float(guidance[n, i, tokens[n, i]])))
            cross_entropy -= float(labels[n]) * math.log(a) + (1 - float(labels[n])) * math.log(1 - a)
            if i + 1 < N and counted[n, i + 1]:
                e = sum(
                    math.exp(float(log_p[n, i + 1, v])) / (1 + math.exp(-float(guidance[n, i + 1, v])))
                    for v in range(V)
                )
                divergence += e * math.log(e / a) + (1 - e) * math.log((1 - e) / (1 - a))
    total = counted.numel()
    assert float(prefix_loss(guidance, tokens, labels, counted)) == pytest.approx(cross_entropy / total, rel=1e-12)
    assert float(inconsistency(guidance, log_p, tokens, counted)) == pytest.approx(divergence / total, rel=1e-12)


def test_gradients_flow_through_both_sides_of_the_divergence():
    guidance, log_p, tokens, _ = Exact().batch()
    guidance = noisy(guidance)[:1].requires_grad_()
    counted = torch.tensor([[True, True, False, False]])
    inconsistency(guidance, log_p[:1], tokens[:1], counted).backward()
    chosen = torch.zeros(1, N, V, dtype=torch.bool)
    chosen[0, 0, tokens[0, 0]] = True
    one_sided = guidance.grad.ne(0)
    assert one_sided[0, 0].equal(chosen[0, 0]), "a: of the token that is there"
    assert one_sided[0, 1].all() and not one_sided[0, 2:].any(), "e: of every next token"
    small = guidance.detach().clone()
    assert torch.autograd.gradcheck(
        lambda g: inconsistency(g, log_p[:1], tokens[:1], counted), small.requires_grad_()
    )  # fmt: skip


@pytest.mark.parametrize("values", [1 << 17, 3 * V])  # at a time
def test_expectations_and_their_gradients_are_those_of_automatic_differentiation(values, monkeypatch):
    monkeypatch.setitem(log_expectation.__globals__["CACHED_LOGITS"], "cpu", values)
    generator, found = torch.Generator().manual_seed(0), []
    guidance, logits = (3 * torch.randn(2, 5, V, generator=generator, dtype=torch.float64) for _ in range(2))
    upstream = torch.randn(2, 2, 5, generator=generator, dtype=torch.float64)
    for expectation in (
        log_expectation,
        lambda g, z: [(z.log_softmax(-1) + F.logsigmoid(sign * g)).logsumexp(-1) for sign in (1, -1)],
    ):
        given = guidance.clone().requires_grad_()
        both = torch.stack(tuple(expectation(given, logits)))
        both.backward(upstream)
        found.append((both.detach(), given.grad))
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-14)


def test_certain_labels_stay_finite():
    guidance = torch.tensor([[[60.0, -60.0, 0.0], [80.0, 80.0, 80.0]]], requires_grad=True)
    log_p, tokens = torch.full((1, 2, V), 1 / V).log(), torch.tensor([[0, 1]])
    everything = torch.ones(1, 2, dtype=torch.bool)
    loss = prefix_loss(guidance, tokens, torch.ones(1), everything) + inconsistency(guidance, log_p, tokens, everything)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(guidance.grad).all() and loss < 1e-6


def test_relative_guidance_is_the_formula():
    scores, best = torch.randn(5, V, dtype=torch.float64), torch.randn(5, 1, dtype=torch.float64)
    r = scores.log_softmax(-1)
    expected = (r - r.amax(-1, keepdim=True)).exp() * torch.sigmoid(best)
    found = torch.sigmoid(relative_log_odds(scores, best))
    assert torch.allclose(found, expected, rtol=1e-12)
    assert torch.allclose(found.amax(-1), torch.sigmoid(best)[:, 0], rtol=1e-12), "the best token has R̂ = β"
    assert torch.isfinite(relative_log_odds(scores.float(), torch.full((5, 1), 90.0))).all()


def test_what_is_the_same_for_every_token_adds_nothing():
    assert not steering(torch.full((2, V), 1.7)).any()
    guidance = torch.randn(4, V, dtype=torch.float64)
    log_r = torch.sigmoid(guidance).log()
    assert torch.allclose(steering(guidance), log_r - log_r.amax(-1, keepdim=True))
