"""Conjugate gradients against dense solves, in float64."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from test_gauss_newton import explicit, random_direction
from tiny import tiny_model

from ifguide.influence.conjugate_gradients import ConjugateGradients, best_factor, conjugate_gradients
from ifguide.influence.curvature import Curvature
from ifguide.influence.damped_system import DampedSystem, Layout
from ifguide.influence.direction import precondition_direction
from ifguide.influence.factors import by_layer
from ifguide.influence.refinement import RefiningModule, load_state, refine
from ifguide.models import tracked_parameters


def system(size=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(size, size, dtype=torch.float64, generator=generator)
    matrix = root @ root.T + 0.1 * torch.eye(size, dtype=torch.float64)
    return matrix, torch.randn(size, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("preconditioned", [True, False])
@pytest.mark.parametrize("zero", [True, False])
def test_to_convergence_it_is_the_dense_solution(preconditioned, zero):
    matrix, g = system()
    diagonal = matrix.diagonal() if preconditioned else torch.ones_like(g)
    start = torch.zeros_like(g) if zero else g / diagonal
    *_, last = conjugate_gradients(lambda v: matrix @ v, g, start, lambda r: r / diagonal, steps=40, tolerance=1e-10)
    assert torch.allclose(last.solution, torch.linalg.solve(matrix, g), rtol=1e-6, atol=1e-9)
    assert torch.allclose(last.residual, g - matrix @ last.solution, atol=1e-8)
    assert last.norms[-1] <= 1e-10 < last.norms[-2] and last.steps < 40


def test_the_exact_inverse_as_preconditioner_takes_one_step_and_each_step_lowers_the_error():
    matrix, g = system()
    exact = torch.linalg.solve(matrix, g)
    solve = lambda r: torch.linalg.solve(matrix, r)  # noqa: E731
    found = list(conjugate_gradients(lambda v: matrix @ v, g, torch.zeros_like(g), solve, steps=9, tolerance=1e-9))
    assert found[-1].steps == 1
    steps = conjugate_gradients(lambda v: matrix @ v, g, g, lambda r: r, steps=9, tolerance=0)
    errors = [float((one.solution - exact) @ matrix @ (one.solution - exact)) for one in steps]
    assert len(errors) == 10 and all(b < a for a, b in pairwise(errors))


def test_it_goes_on_from_any_step():
    matrix, g = system()
    options = dict(precondition=lambda r: r / matrix.diagonal(), steps=6, tolerance=0)
    whole = list(conjugate_gradients(lambda v: matrix @ v, g, g, **options))
    for one in whole:
        rest = list(conjugate_gradients(lambda v: matrix @ v, g, one, **options))
        assert len(rest) == 6 - one.steps
        last = rest[-1] if rest else one
        assert torch.equal(last.solution, whole[-1].solution) and last.norms == whole[-1].norms


def test_the_best_multiple_leaves_a_residual_that_is_orthogonal_to_it():
    matrix, g = system()
    factor = best_factor(matrix @ g, g, g)
    found = factor * g
    assert factor == pytest.approx(float(g @ g / (g @ matrix @ g)))
    assert float(g @ (g - matrix @ found)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("matrix, message", [(-torch.eye(2), "not positive"), (torch.eye(2) * np.nan, "curvature")])
def test_what_is_not_positive_is_refused(matrix, message):
    def solve(product, gradient):
        return list(conjugate_gradients(product, gradient, torch.zeros(2), lambda r: r, steps=3, tolerance=0))

    with pytest.raises(ValueError, match=message):
        list(
            conjugate_gradients(lambda v: matrix @ v, torch.ones(2), torch.zeros(2), lambda r: r, steps=3, tolerance=0)
        )
    with pytest.raises(ValueError, match="norm of 0"):
        solve(lambda v: v, torch.zeros(2))


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"steps": 0}, "steps=0"),
        ({"blocks": 1.5}, "blocks=1.5"),
        ({"tolerance": 1}, "tolerance=1: a share"),
        ({"start": "ekfac"}, "start=ekfac: known: curvature, scaled, zero"),
        ({"form": "slow"}, "form=slow: known: fast, reference"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        ConjugateGradients(**settings)


def make_module(folder, blocks, settings, curvature, model=None):
    model = model or tiny_model()
    names = [name for name in tracked_parameters(model) if "layers.1.attention" in name]
    layers = sorted({name.rpartition(".")[0] for name in names})
    gradient = random_direction(model, names, seed=3)
    factors = by_layer(curvature.fit(model, blocks.numpy(), batch_size=2, seed=0, layers=layers, progress=False))
    factors = {layer: {name: value.double() for name, value in parts.items()} for layer, parts in factors.items()}
    system = partial(
        DampedSystem, model, settings, curvature, factors, gradient=gradient, blocks_BT=blocks, batch_size=2
    )
    start = precondition_direction(model, gradient, factors, curvature)
    module = RefiningModule(model, system, start=start, steps=settings.steps, folder=folder)
    return module, model, names, gradient, factors


def trainer():
    return Trainer(
        accelerator="cpu", inference_mode=False, logger=False, enable_progress_bar=False,
        enable_checkpointing=False, enable_model_summary=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    "between_layers, scope, start", [(True, "layer", "curvature"), (True, "model", "zero"), (False, "layer", "scaled")]
)
def test_a_refined_direction_is_the_dense_solution(between_layers, scope, start, blocks, tmp_path):
    """(G + δI)⁻¹ g with the explicit G, δ of each layer or of all, and G whole or layer by layer."""
    blocks = blocks[:, :5]
    settings = ConjugateGradients(steps=200, tolerance=1e-6, between_layers=between_layers, start=start)
    curvature = Curvature(damping=1.0, blocks=3, scope=scope)
    module, model, names, gradient, factors = make_module(tmp_path, blocks, settings, curvature)
    names = sorted(names)
    facts = refine(trainer(), module)
    matrix = explicit(model, names, blocks) / len(blocks)
    layer_of = torch.cat([
        torch.full((gradient[name].numel(),), sorted(factors).index(name.rpartition(".")[0])) for name in names
    ])  # fmt: skip
    if not between_layers:
        matrix = matrix * (layer_of[:, None] == layer_of[None, :])
    means = {layer: curvature.eigenvalues(parts) for layer, parts in factors.items()}
    every = torch.cat([one.flatten() for one in means.values()]).mean()
    delta = torch.tensor([float(means[layer].mean() if scope == "layer" else every) for layer in sorted(factors)])
    dense = matrix + delta.double()[layer_of].diag()
    flat = torch.cat([gradient[name].flatten() for name in names])
    expected = torch.linalg.solve(dense, flat)
    found = module.direction()
    found = torch.cat([found[name].flatten() for name in names])
    assert float((found - expected).norm() / expected.norm()) < 1e-4
    assert facts["residuals"][-1] <= 1e-6 and len(facts["residuals"]) == facts["steps"] + 1
    begun = torch.cat([module._start[name].flatten() for name in names])
    if start == "zero":
        assert "curvature_ratio" not in facts and facts["residuals"][0] == 1.0
        return
    assert facts["curvature_ratio"] == pytest.approx(float(begun @ dense @ begun / (begun @ flat)), rel=1e-4)


def test_an_interrupted_refinement_goes_on(blocks, tmp_path):
    settings, curvature = ConjugateGradients(steps=5, tolerance=0), Curvature(damping=0.1, blocks=3)
    whole, *_ = make_module(tmp_path, blocks, settings, curvature)
    (tmp_path / "b").mkdir()
    refine(trainer(), whole)
    half, *_ = make_module(tmp_path / "b", blocks, ConjugateGradients(steps=2, tolerance=0), curvature)
    refine(trainer(), half)
    assert load_state(tmp_path / "b", torch.zeros(1))[0].steps == 2
    rest, *_ = make_module(tmp_path / "b", blocks, settings, curvature)
    facts = refine(trainer(), rest)
    assert facts["residuals"] == list(whole.solution.norms)
    assert torch.equal(rest.solution.solution, whole.solution.solution)
    assert facts == whole.facts | {"steps": 5, "residuals": list(whole.solution.norms)}, "also what the start was"


def test_one_that_was_interrupted_after_its_last_step_is_done(blocks, tmp_path):
    settings, curvature = ConjugateGradients(steps=1, tolerance=0), Curvature(damping=0.1, blocks=3)
    first, *_ = make_module(tmp_path, blocks, settings, curvature)
    facts = refine(trainer(), first)
    again, *_ = make_module(tmp_path, blocks, settings, curvature)
    assert refine(trainer(), again) == facts
    assert torch.equal(again.solution.solution, first.solution.solution)


def test_two_processes_sum_what_each_has(blocks, tmp_path):
    """Each of two processes sees half of the blocks; the sum of both is the product of one process."""
    settings, curvature = ConjugateGradients(steps=1), Curvature(damping=0.1, blocks=3)
    _, model, _, gradient, factors = make_module(tmp_path, blocks, settings, curvature)
    sums: list[torch.Tensor] = []

    def system(share, total):
        return DampedSystem(
            model, settings, curvature, factors, gradient=gradient, blocks_BT=blocks, batch_size=2, share=share,
            total=total,
        )  # fmt: skip

    def keep(vector):
        sums.append(vector)
        return vector

    idle = system(slice(99, None), keep)  # of more processes than blocks
    assert not idle.multiply(torch.ones_like(idle.gradient_N)).isnan().any() and not sums.pop().any()
    one, other, whole = (system(share, keep) for share in (slice(0, None, 2), slice(1, None, 2), slice(None)))
    vector = torch.ones_like(whole.gradient_N)
    one.multiply(vector), other.multiply(vector)
    product = whole.multiply(vector)
    assert torch.allclose(sums[0] + sums[1], sums[2])
    delta = torch.cat([
        torch.full((shape.numel(),), curvature.delta(factors[name.rpartition(".")[0]]))
        for name, shape in whole.layout.shapes.items()
    ])  # fmt: skip
    assert torch.allclose(product - sums[2] / len(blocks), delta.double(), rtol=1e-4)


def test_a_vector_and_its_parts():
    parts = {"b": torch.arange(6.0).view(2, 3), "a": torch.ones(2)}
    layout = Layout.of(parts)
    vector = layout.join(parts)
    assert torch.equal(vector, torch.tensor([1, 1, 0, 1, 2, 3, 4, 5.0]))
    assert all(torch.equal(value, parts[name]) for name, value in layout.split(vector).items())
