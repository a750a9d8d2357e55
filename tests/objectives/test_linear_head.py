"""Losses in chunks against losses of all logits, in float64."""

import pytest
import torch
import torch.nn.functional as F
from tiny import tiny_model

from ifguide.objectives import linear_head
from ifguide.objectives.faded_ascent import FadedAscent
from ifguide.objectives.language_modeling import LanguageModeling, divergences, token_losses
from ifguide.objectives.linear_head import LinearLogits, chosen_logits, linear_cross_entropy, linear_divergence, whole
from ifguide.objectives.negative_preference import NegativePreference
from ifguide.objectives.removal import Removal
from ifguide.objectives.suppressed_language_modeling import SuppressedLanguageModeling
from ifguide.objectives.unlikelihood import Unlikelihood
from ifguide.training.predictions import predictions


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(linear_head, "CHUNK_TOKENS", 3)
    monkeypatch.setattr(linear_head, "CHUNK_LOGITS", {"cpu": 1})


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("with_bias", [True, False])
def test_losses_and_gradients_are_those_of_the_logits(with_bias):
    hidden, weight = draw(8, 5).requires_grad_(), draw(11, 5, seed=1).requires_grad_()
    bias = draw(11, seed=2).requires_grad_() if with_bias else None
    inputs = [hidden, weight, *([bias] if with_bias else [])]
    labels, weights = torch.arange(8) % 11, draw(8, seed=3)
    losses = linear_cross_entropy(hidden, weight, bias, labels)
    expected = F.cross_entropy(F.linear(hidden, weight, bias), labels, reduction="none")
    assert torch.allclose(losses, expected, atol=1e-12)
    for found, right in zip(
        torch.autograd.grad((losses * weights).sum(), inputs),
        torch.autograd.grad((expected * weights).sum(), inputs),
        strict=True,
    ):
        assert torch.allclose(found, right, atol=1e-12)


def test_gradients_match_finite_differences():
    hidden, weight, bias = draw(4, 3).requires_grad_(), draw(5, 3, seed=1).requires_grad_(), draw(5).requires_grad_()
    labels = torch.tensor([0, 4, 2, 2])
    assert torch.autograd.gradcheck(lambda *given: linear_cross_entropy(*given, labels), (hidden, weight, bias))


@pytest.mark.parametrize("with_bias", [True, False])
def test_divergences_and_gradients_are_those_of_the_logits(with_bias):
    """The reference's hidden size is another, and it gets no gradient."""
    hidden, weight = draw(8, 5).requires_grad_(), draw(11, 5, seed=1).requires_grad_()
    bias = draw(11, seed=2).requires_grad_() if with_bias else None
    reference = (draw(8, 4, seed=3), draw(11, 4, seed=4).requires_grad_(), draw(11, seed=5) if with_bias else None)
    inputs, weights = [hidden, weight, *([bias] if with_bias else [])], draw(8, seed=6)
    found = linear_divergence(hidden, weight, bias, *reference)
    policy, theirs = (F.linear(*given).log_softmax(-1) for given in ((hidden, weight, bias), reference))
    expected = F.kl_div(policy, theirs, reduction="none", log_target=True).sum(-1)
    assert torch.allclose(found, expected, atol=1e-12)
    for ours, right in zip(
        torch.autograd.grad((found * weights).sum(), inputs, retain_graph=True),
        torch.autograd.grad((expected * weights).sum(), inputs, retain_graph=True),
        strict=True,
    ):
        assert torch.allclose(ours, right, atol=1e-12)
    assert torch.autograd.grad(found.sum(), reference[1], allow_unused=True) == (None,)


def test_what_needs_no_gradient_gets_none():
    hidden, weight = draw(4, 3).requires_grad_(), draw(5, 3, seed=1)
    linear_cross_entropy(hidden, weight, None, torch.zeros(4, dtype=torch.long)).sum().backward()
    assert hidden.grad is not None and weight.grad is None


def test_under_autocast_products_are_small_and_sums_are_not():
    hidden, weight = draw(40, 16, dtype=torch.float32).requires_grad_(), draw(30, 16, dtype=torch.float32, seed=1)
    weight.requires_grad_()
    labels = torch.arange(40) % 30
    with torch.autocast("cpu", torch.bfloat16):
        losses = linear_cross_entropy(hidden, weight, None, labels)
    losses.mean().backward()
    assert losses.dtype == torch.float32 and hidden.grad.dtype == weight.grad.dtype == torch.float32
    exact = F.cross_entropy(hidden.detach() @ weight.detach().T, labels, reduction="none")
    assert not torch.equal(losses, exact) and torch.allclose(losses, exact, atol=0.1)


OBJECTIVES = [
    LanguageModeling(), SuppressedLanguageModeling(penalty=0.7), SuppressedLanguageModeling(penalty=0.0),
    Unlikelihood(),
    NegativePreference(), NegativePreference(unit="run"), FadedAscent(), Removal(),
]  # fmt: skip


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("architecture", ["gpt_neox", "llama"])
def test_every_objective_trains_a_model_alike(objective, architecture, blocks):
    """The loss and all gradients of a model, tied embeddings (llama) or not, are those of the plain form."""
    mask = torch.zeros_like(blocks, dtype=torch.bool)
    mask[:, 2:5] = mask[0, 7] = True
    found = []
    for fused in (True, False):
        model = tiny_model(architecture).train()
        logits = predictions(model, fused=fused)(blocks)
        assert isinstance(logits, LinearLogits) is fused and logits.shape == (*blocks.shape, 60) and model.training
        loss = objective(logits, blocks, mask)
        loss.backward()
        found.append((loss.detach(), {name: value.grad for name, value in model.named_parameters()}))
    (ours, gradients), (theirs, expected) = found
    assert torch.allclose(ours, theirs, rtol=1e-9)
    for name, value in expected.items():
        assert torch.allclose(gradients[name], value, rtol=1e-6, atol=1e-9), name


def test_some_logits_alone(blocks):
    model = tiny_model()
    chosen = torch.zeros(3, 8, dtype=torch.bool)
    chosen[0, 1] = chosen[2, 7] = True
    whole = model(blocks).logits
    lazy = predictions(model, fused=True)(blocks)
    assert torch.allclose(chosen_logits(lazy, chosen), whole[:, :-1][chosen])
    assert torch.equal(chosen_logits(whole, chosen), whole[:, :-1][chosen])
    assert torch.allclose(token_losses(lazy, blocks), token_losses(whole, blocks))
    other = tiny_model(seed=1)(blocks).logits
    assert torch.allclose(divergences(lazy[:, 2:], other[:, 2:]), divergences(whole, other)[:, 2:])


def test_heads_with_a_bias_diverge_as_their_logits_do():
    heads = [(draw(7, 4, seed=seed), draw(7, seed=seed + 1)) for seed in (1, 3)]
    ours, theirs = (LinearLogits(draw(2, 5, 4, seed=n), *head) for n, head in enumerate(heads))
    for one in (ours, theirs):
        assert torch.allclose(whole(one), one.hidden @ one.weight.T + one.bias)
    assert torch.equal(whole(ours[0, 2:]), whole(ours)[0, 2:])
    with torch.autocast("cpu", torch.bfloat16):
        labels = torch.zeros(2, 5, dtype=torch.long)
        rounded = F.linear(*(one.bfloat16() for one in (ours.hidden, ours.weight, ours.bias)))
        assert torch.allclose(ours.losses(labels), -rounded.float().log_softmax(-1)[..., 0], rtol=1e-2, atol=1e-2)
    found = divergences(ours, theirs)
    log_p, log_q = (F.log_softmax(whole(one), -1) for one in (theirs, ours))
    assert found.shape == (2, 5) and torch.allclose(found, (log_p.exp() * (log_p - log_q)).sum(-1))


def test_by_itself_only_where_logits_are_many(blocks, monkeypatch):
    from ifguide.training import predictions as module

    model = tiny_model()
    assert isinstance(predictions(model)(blocks), torch.Tensor)
    monkeypatch.setattr(module, "LARGE", blocks.numel() * 60 - 1)
    assert isinstance(predictions(model)(blocks), LinearLogits)
    assert isinstance(predictions(model, fused=False)(blocks), torch.Tensor)


def test_a_head_that_is_not_plain_keeps_its_logits(blocks):
    model = tiny_model()
    model.get_output_embeddings().register_forward_hook(lambda module, inputs, output: torch.tanh(output))
    body, head = model.base_model, model.get_output_embeddings()
    assert predictions(model, fused=True)(blocks).shape == (*blocks.shape, 60) and body is not head
