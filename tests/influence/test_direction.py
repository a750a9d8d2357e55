import numpy as np
import pytest
import torch
from kronfluence import Analyzer, FactorArguments, ScoreArguments, prepare_model
from tiny import ARCHITECTURES, tiny_model

from ifguide.corpus.queries import EncodedQuery
from ifguide.influence import direction
from ifguide.influence.curvature import Curvature
from ifguide.influence.direction import (
    gradient_dtype,
    load_direction,
    precondition_direction,
    query_gradient,
    save_direction,
)
from ifguide.influence.factors import CurvatureError, load_factors, save_factors
from ifguide.influence.kronfluence_factors import LanguageModelingTask
from ifguide.influence.scorers import JVP
from ifguide.models import linear_copy, tracked_layers, tracked_parameters
from ifguide.objectives.language_modeling import token_losses


def make_queries(seed, *, toxic, count=5):
    rng = np.random.default_rng(seed)
    queries = []
    for _ in range(count):
        length = int(rng.integers(4, 10))
        continuation = np.arange(length) >= rng.integers(1, length - 1)
        queries.append(EncodedQuery(rng.integers(60, size=length), continuation, toxic))
    return queries


def test_query_gradient_is_the_difference_of_means(model):
    queries = make_queries(0, toxic=True) + make_queries(1, toxic=False, count=3)
    gradient = query_gradient(model, queries, batch_size=3)
    parameters = tracked_parameters(model)
    expected = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for query in queries:
        ids = torch.from_numpy(query.input_ids)[None]
        loss = token_losses(model(ids).logits, ids)[0, torch.from_numpy(query.continuation)].sum()
        parts = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        for name, part in zip(parameters, parts, strict=True):
            if part is not None:
                expected[name] += part / 5 if query.toxic else -part / 3
    assert gradient.keys() == parameters.keys()
    for name, value in gradient.items():
        # transformers computes some softmaxes and norms in float32
        assert torch.allclose(value, expected[name], atol=1e-6), name


def test_equal_query_sets_have_no_direction(model):
    queries = make_queries(0, toxic=True) + make_queries(0, toxic=False)
    for value in query_gradient(model, queries, batch_size=10).values():
        assert value.abs().max() < 1e-12


def test_the_gradient_is_taken_in_bfloat16_where_that_is_faster_and_it_points_the_same_way(monkeypatch):
    model = tiny_model("llama", dtype=torch.float32)
    queries = make_queries(0, toxic=True) + make_queries(1, toxic=False)
    given = {"batch_size": 4, "layers": None}
    assert gradient_dtype(model, queries, **given, dtype="auto") == ("float32", {}), "small"
    assert gradient_dtype(model, queries, **given, dtype="bfloat16") == ("bfloat16", {})
    monkeypatch.setattr(direction, "is_faster_rounded", lambda model: True)
    dtype, facts = gradient_dtype(model, queries, **given, dtype="auto")
    exact, rounded = (query_gradient(model, queries, batch_size=4, dtype=one) for one in ("float32", "bfloat16"))
    flat = [torch.cat([value.flatten() for value in one.values()]).double() for one in (exact, rounded)]
    cosine = float(torch.nn.functional.cosine_similarity(*flat, dim=0))
    assert dtype == "bfloat16" and facts == {"gradient_cosine": pytest.approx(cosine)} and 0.999 <= cosine < 1
    assert all(value.dtype == torch.float32 for value in rounded.values())
    monkeypatch.setattr(direction, "COSINE", (1 + cosine) / 2)
    assert gradient_dtype(model, queries, **given, dtype="auto") == ("float32", facts)
    same = [query for query in queries if query.toxic] + make_queries(0, toxic=False)
    assert gradient_dtype(model, same, **given, dtype="auto")[0] == "float32", "no direction"


def test_query_gradient_leaves_the_model_as_it_was(model):
    frozen = next(iter(model.parameters()))
    frozen.requires_grad_(False)
    query_gradient(model, make_queries(0, toxic=True) + make_queries(1, toxic=False), batch_size=4)
    assert not frozen.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(
    "architecture, strategy", [*((one, "ekfac") for one in ARCHITECTURES), ("gpt_neox", "kfac"), ("gpt2", "diagonal")]
)
def test_block_sums_equal_kronfluence_pairwise_scores(architecture, strategy, tmp_path):
    model = tiny_model(architecture)
    """Our direction and our forward mode against kronfluence's own backward mode, with its factors and damping."""
    model = model.float()
    blocks = torch.randint(60, (12, 9), generator=torch.Generator().manual_seed(5))
    query = EncodedQuery(blocks[0].numpy(), np.arange(9) >= 1, True)
    curvature = Curvature(strategy=strategy, damping=1e-3, relative=False)

    task = LanguageModelingTask(list(tracked_layers(model)))
    analyzer = Analyzer("test", prepare_model(linear_copy(model), task), task, cpu=True, output_dir=str(tmp_path))
    torch.manual_seed(0)
    analyzer.fit_all_factors(
        "fit", list(blocks), per_device_batch_size=4, factor_args=FactorArguments(strategy=strategy)
    )
    analyzer.compute_pairwise_scores(
        "scores", "fit", query_dataset=[blocks[0]], train_dataset=list(blocks), per_device_query_batch_size=1,
        per_device_train_batch_size=4, score_args=ScoreArguments(damping_factor=1e-3),
    )  # fmt: skip
    expected = analyzer.load_pairwise_scores("scores")["all_modules"][0].double()

    factors = curvature.fit(model, blocks.numpy(), batch_size=4, seed=0, progress=False)
    save_factors(factors, tmp_path)
    direction = precondition_direction(
        model, query_gradient(model, [query], batch_size=1), load_factors(tmp_path), curvature
    )
    ours = JVP().prepare(model, [direction], blocks)(blocks)[0].sum(1).double()
    assert torch.corrcoef(torch.stack([ours, expected]))[0, 1] > 0.99999
    assert torch.allclose(ours, expected, rtol=2e-3, atol=2e-3 * expected.abs().max())


def test_preconditioning_solves_the_damped_system():
    """K-FAC's H is a Kronecker product that can be written out."""
    generator = torch.Generator().manual_seed(0)
    a, s = (torch.randn(n, n, dtype=torch.float64, generator=generator) for n in (4, 3))
    a, s = a @ a.T, s @ s.T
    (a_values, a_vectors), (s_values, s_vectors) = torch.linalg.eigh(a), torch.linalg.eigh(s)
    factors = {
        "activation_eigenvectors": a_vectors,
        "activation_eigenvalues": a_values,
        "gradient_eigenvectors": s_vectors,
        "gradient_eigenvalues": s_values,
    }
    gradient = torch.randn(3, 4, dtype=torch.float64, generator=generator)
    hessian = torch.kron(s, a)
    for relative in (True, False):
        damping = 0.1 * hessian.diagonal().mean() if relative else 0.1
        expected = torch.linalg.solve(hessian + damping * torch.eye(12, dtype=torch.float64), gradient.flatten())
        curvature = Curvature(strategy="kfac", damping=0.1, relative=relative)
        assert torch.allclose(curvature.precondition(gradient, factors).flatten(), expected, atol=1e-9)


def test_identity_leaves_the_gradient_alone():
    gradient = torch.randn(3, 4)
    assert torch.equal(Curvature(strategy="identity").precondition(gradient, {}), gradient)


def test_zero_eigenvalues_without_damping_are_refused():
    factors = {"lambda_matrix": torch.tensor([[0.0, 1.0]]), "num_lambda_processed": torch.tensor([1])}
    with pytest.raises(CurvatureError, match="damping"):
        Curvature(strategy="diagonal", damping=0).precondition(torch.ones(1, 2), factors)


@pytest.mark.parametrize("options", [{"strategy": "newton"}, {"blocks": 0}, {"damping": -1}])
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=f"^{next(iter(options))}"):
        Curvature(**options)


def test_a_direction_round_trips_and_belongs_to_its_model(model, tmp_path):
    gradient = query_gradient(model, make_queries(0, toxic=True) + make_queries(1, toxic=False), batch_size=4)
    save_direction(gradient, tmp_path)
    loaded = load_direction(tmp_path, model)
    assert all(torch.equal(loaded[name], value) for name, value in gradient.items())
    other = tiny_model("gpt2" if model.config.model_type != "gpt2" else "llama")
    with pytest.raises(ValueError, match="another proxy"):
        load_direction(tmp_path, other)


def test_a_damping_of_the_whole_model_is_one_number_for_all_layers():
    factors = {
        name: {"lambda_matrix": torch.full((2, size), value), "num_lambda_processed": torch.tensor([2])}
        for name, size, value in (("a", 1, 2.0), ("b", 3, 8.0))
    }
    of_model = Curvature(strategy="diagonal", damping=0.5, scope="model").resolved(factors)
    mean = (2 * 1.0 + 6 * 4.0) / 8
    assert [of_model.delta(parts) for parts in factors.values()] == pytest.approx([0.5 * mean] * 2)
    of_layers = Curvature(strategy="diagonal", damping=0.5)
    assert of_layers.resolved(factors) == of_layers
    assert [of_layers.delta(parts) for parts in factors.values()] == pytest.approx([0.5, 2.0])
    absolute = Curvature(strategy="diagonal", damping=0.5, relative=False, scope="model")
    assert absolute.resolved(factors).delta(factors["a"]) == 0.5
    with pytest.raises(ValueError, match="scope=blocks; known: layer, model"):
        Curvature(scope="blocks")
