"""Kronecker factors of whole sequences against dense linear algebra, in float64."""

import numpy as np
import pytest
import torch
from tiny import tiny_model

from ifguide.influence.curvature import Curvature
from ifguide.influence.direction import precondition_direction
from ifguide.influence.factors import CurvatureError, by_layer
from ifguide.influence.sequence_kronecker import (
    block_gradients,
    corrected_eigenvalues,
    sequence_factors,
    trace_normalised_factors,
)
from ifguide.models import layer_matrix, linear_copy, tracked_layers
from ifguide.objectives.language_modeling import token_losses

LAYERS = {"gpt_neox": "gpt_neox.layers.1.attention.dense", "llama": "model.layers.0.self_attn.k_proj"}


def losses(model):
    return lambda ids: token_losses(model(input_ids=ids, use_cache=False).logits, ids).sum()


def gradients(model, name, blocks):
    return block_gradients(model, [name], blocks.numpy(), losses(model))


def dense(factors):
    """The matrix whose eigendecomposition the factors are, [outputs · inputs, outputs · inputs]."""
    parts = []
    for name in ("gradient", "activation"):
        vectors, values = factors[f"{name}_eigenvectors"], factors[f"{name}_eigenvalues"]
        parts.append(vectors @ values.diag() @ vectors.T)
    return torch.kron(*parts)


@pytest.mark.parametrize("architecture", LAYERS)
def test_factors_are_means_over_sequences_with_the_terms_between_tokens(architecture, blocks):
    """L = E Σ_{t,s} (a_t · a_s) δ_t δ_sᵀ and R = E Σ_{t,s} (δ_t · δ_s) a_t a_sᵀ, from inputs and output gradients."""
    model, name = tiny_model(architecture), LAYERS[architecture]
    layer, seen = model.get_submodule(name), {}
    layer.register_forward_hook(lambda _, given, out: (out.retain_grad(), seen.update(a=given[0].detach(), out=out))[0])
    left, right, size = 0, 0, 0
    for block in blocks:
        losses(model)(block[None]).backward()
        a, delta = seen["a"][0], seen["out"].grad[0]
        if layer.bias is not None:
            a = torch.cat([a, torch.ones_like(a[:, :1])], dim=1)
        for t in range(len(block)):
            for s in range(len(block)):
                left = left + (a[t] @ a[s]) * torch.outer(delta[t], delta[s]) / len(blocks)
                right = right + (delta[t] @ delta[s]) * torch.outer(a[t], a[s]) / len(blocks)
        size += float((delta.T @ a).square().sum()) / len(blocks)
    factors = by_layer(sequence_factors(gradients(model, name, blocks), len(blocks)))[name]
    found = dense(factors)
    assert torch.allclose(found, torch.kron(left, right) / left.trace(), rtol=1e-6, atol=1e-9 * float(found.max()))
    # the trace of E[vec W vec Wᵀ]
    assert float(found.trace()) == pytest.approx(size, rel=1e-9) == pytest.approx(float(right.trace()), rel=1e-9)


@pytest.mark.parametrize("relative", [True, False])
def test_preconditioning_solves_the_dense_system(relative, blocks):
    model, name = tiny_model(), LAYERS["gpt_neox"]
    layer, curvature = model.get_submodule(name), Curvature(strategy="sequence_kronecker", relative=relative)
    whole = []
    for block in blocks:
        parts = torch.autograd.grad(losses(model)(block[None]), [layer.weight, layer.bias])
        whole.append(layer_matrix(layer, *parts))
    left = sum(w @ w.T for w in whole) / len(whole)
    right = sum(w.T @ w for w in whole) / len(whole)
    hessian = torch.kron(left, right) / left.trace()
    damping = 0.01 * (hessian.diagonal().mean() if relative else 1)
    gradient = torch.randn(left.shape[0], right.shape[0], dtype=torch.float64)
    expected = torch.linalg.solve(hessian + damping * torch.eye(len(hessian), dtype=torch.float64), gradient.flatten())
    parts = {f"{name}.weight": gradient[:, :-1], f"{name}.bias": gradient[:, -1]}
    factors = by_layer(sequence_factors(gradients(model, name, blocks), len(blocks)))
    found = precondition_direction(model, parts, factors, curvature)
    found = layer_matrix(layer, found[f"{name}.weight"], found[f"{name}.bias"]).flatten()
    assert torch.allclose(found, expected, rtol=1e-8, atol=1e-9 * float(expected.abs().max()))


def test_corrected_eigenvalues_are_the_diagonal_in_the_eigenbasis(blocks):
    """Shampoo's eigenvectors Q; the diagonal of Qᵀ E[vec W vec Wᵀ] Q, its best diagonal there."""
    model, name = tiny_model(), LAYERS["gpt_neox"]
    whole = [one[name] for one in gradients(model, name, blocks)]
    moment = sum(torch.outer(w.flatten(), w.flatten()) for w in whole) / len(whole)
    factors = sequence_factors(gradients(model, name, blocks), len(blocks))
    factors |= corrected_eigenvalues(gradients(model, name, blocks), factors)
    parts = by_layer(factors)[name]
    basis = torch.kron(parts["gradient_eigenvectors"], parts["activation_eigenvectors"])
    found = Curvature(strategy="eshampoo").eigenvalues(parts).flatten()
    assert torch.allclose(found, (basis.T @ moment @ basis).diagonal(), rtol=1e-8, atol=1e-12)
    assert float(found.sum()) == pytest.approx(float(moment.trace()), rel=1e-9)


def test_what_is_a_kronecker_product_is_found_exactly():
    """Gradients a_k b_lᵀ, all pairs of k and l: their second moment is a product, whatever the scale of its parts."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(n, n, dtype=torch.float64, generator=generator) for n in (3, 4))
    whole = [torch.outer(a[:, k], b[:, m]) for k in range(3) for m in range(4)]
    moment = sum(torch.outer(w.flatten(), w.flatten()) for w in whole) / 12
    left, right = sum(w @ w.T for w in whole) / 12, sum(w.T @ w for w in whole) / 12
    found = dense(trace_normalised_factors(left, right))
    assert torch.allclose(found, moment, atol=1e-10)


def test_it_is_fitted_as_every_curvature_is(blocks):
    """Its mean eigenvalue is that of EK-FAC, which is of whole blocks too; the model is left as it was."""
    model, options = tiny_model("gpt2", dtype=torch.float32), dict(batch_size=2, seed=0, progress=False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    layers = list(tracked_layers(model))[:2]
    factors = {
        strategy: by_layer(
            Curvature(strategy=strategy, empirical_fisher=True).fit(model, blocks.numpy(), layers=layers, **options)
        )
        for strategy in ("sequence_kronecker", "ekfac")
    }
    assert set(factors["sequence_kronecker"]) == set(layers) and all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for layer in layers:
        ours, theirs = (factors[strategy][layer] for strategy in factors)
        trace = ours["gradient_eigenvalues"].sum() * ours["activation_eigenvalues"].sum()
        assert float(trace) == pytest.approx(float(theirs["lambda_matrix"].sum()) / len(blocks), rel=1e-3)
    corrected = Curvature(strategy="eshampoo").fit(model, blocks.numpy(), layers=layers, **options)
    assert {key.rpartition("/")[2] for key in corrected} == {
        "gradient_eigenvectors", "activation_eigenvectors", "lambda_matrix", "num_lambda_processed"
    }  # fmt: skip
    sampled = Curvature(strategy="sequence_kronecker")
    one, same, other = (
        sampled.fit(model, blocks.numpy(), layers=layers, **options | {"seed": seed}) for seed in (0, 0, 1)
    )
    key = f"{layers[0]}/gradient_eigenvalues"
    assert torch.equal(one[key], same[key]) and not torch.equal(one[key], other[key])


def test_a_layer_without_a_gradient_is_refused():
    model = linear_copy(tiny_model(dtype=torch.float32))
    for parameter in model.get_output_embeddings().parameters():
        parameter.data.zero_()  # nothing reaches the layers
    with pytest.raises(
        CurvatureError, match=r"^the gradients of gpt_neox\.layers\.0\.\S+ on 2 blocks .* of 0: leave it"
    ):
        Curvature(strategy="sequence_kronecker").fit(
            model, np.ones((2, 5), np.int64), batch_size=2, seed=0, progress=False
        )
