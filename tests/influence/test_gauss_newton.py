"""Gauss–Newton products against the explicit matrix, in float64."""

import pytest
import torch
from tiny import tiny_model

from ifguide.influence import gauss_newton
from ifguide.influence.gauss_newton import checked_product, fast_product, reference_product, relative_difference
from ifguide.influence.scorers.head import OutputHead
from ifguide.models import tracked_parameters


def explicit(model, names, blocks):
    """Σ over blocks and positions of Jᵀ (diag p − p pᵀ) J, with J whole, for the given parameters."""
    parameters = [model.get_parameter(name).requires_grad_(True) for name in names]
    total = 0
    for block in blocks:
        logits = model(block[None], use_cache=False).logits[0, :-1]
        each = torch.eye(logits.numel(), dtype=logits.dtype).unflatten(1, logits.shape)
        found = torch.autograd.grad(logits, parameters, each, is_grads_batched=True, materialize_grads=True)
        jacobian = torch.cat([part.flatten(1) for part in found], 1).unflatten(0, logits.shape)
        p = logits.detach().softmax(-1)
        for t in range(len(logits)):
            middle = p[t].diag() - torch.outer(p[t], p[t])
            total = total + jacobian[t].T @ middle @ jacobian[t]
    return total


def random_direction(model, names=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(value.shape, dtype=value.dtype, generator=generator)
        for name, value in tracked_parameters(model).items()
        if names is None or name in names
    }


@pytest.mark.parametrize("make", [fast_product, reference_product])
@pytest.mark.parametrize("architecture", ["gpt_neox", "gpt2"])
def test_products_are_those_of_the_explicit_matrix(make, architecture, blocks):
    model = tiny_model(architecture)
    names = sorted(tracked_parameters(model))[:3] + sorted(tracked_parameters(model))[-1:]  # of two layers of blocks
    direction = random_direction(model, names)
    matrix = explicit(model, names, blocks)
    expected = matrix @ torch.cat([direction[name].flatten() for name in names])
    found = make(model)(direction, blocks.split(2))
    found = torch.cat([found[name].flatten() for name in names])
    # transformers computes some softmaxes and norms in float32
    assert float((found - expected).norm() / expected.norm()) < 1e-6


def test_both_forms_agree_on_all_tracked_parameters(model, blocks):
    direction = random_direction(model)
    reference = reference_product(tiny_model(model.config.model_type))(direction, [blocks])
    found = fast_product(model)(direction, blocks.split(2))
    assert found.keys() == direction.keys()
    assert relative_difference(found, reference) < 1e-6


def test_the_model_is_left_as_it_was(blocks):
    model = tiny_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    next(iter(model.parameters())).requires_grad_(False)
    requires = [parameter.requires_grad for parameter in model.parameters()]
    fast_product(model)(random_direction(model), [blocks])
    assert [parameter.requires_grad for parameter in model.parameters()] == requires
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(model(blocks).logits, tiny_model()(blocks).logits)


@pytest.mark.parametrize("cap", [None, 0.7])
def test_the_head_in_chunks_is_the_whole_head(cap, monkeypatch):
    from ifguide.influence.scorers import head as module

    monkeypatch.setattr(module, "CHUNK_TOKENS", 3)
    monkeypatch.setattr(module, "CHUNK_LOGITS", {"cpu": 1})
    generator = torch.Generator().manual_seed(0)
    weight, bias, hidden, tangent = (
        torch.randn(*shape, dtype=torch.float64, generator=generator)
        for shape in ((11, 4), (11,), (2, 5, 4), (2, 5, 4))
    )

    def logits(h):
        z = h @ weight.T + bias
        return z if cap is None else cap * torch.tanh(z / cap)

    z, moved = torch.func.jvp(logits, (hidden,), (tangent,))
    p = z.softmax(-1)
    u = p * (moved - (p * moved).sum(-1, keepdim=True))
    u[:, -1] = 0
    expected = torch.func.vjp(logits, hidden)[1](u)[0]
    found = OutputHead(weight, bias, cap).gauss_newton(hidden, tangent)
    assert torch.allclose(found, expected, atol=1e-12)
    assert found[:, -1].abs().max() == 0 < found[:, 0].abs().max()


def test_a_fast_form_that_is_off_is_refused(monkeypatch, blocks):
    model = tiny_model()
    direction = random_direction(model)
    checked_product(model, "fast", direction, blocks[:1])
    monkeypatch.setattr(gauss_newton, "fast_product", lambda model: lambda direction, batches: dict(direction))
    with pytest.raises(ValueError, match=r"^form=fast: Gauss–Newton products of GPTNeoXForCausalLM differ .* by "):
        checked_product(model, "fast", direction, blocks[:1])
