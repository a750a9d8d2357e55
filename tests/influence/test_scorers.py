import copy

import pytest
import torch
from kronfluence import Analyzer, FactorArguments, ScoreArguments, prepare_model
from tiny import ARCHITECTURES, tiny_model

from ifguide.influence.kronfluence_factors import LanguageModelingTask
from ifguide.influence.scorers import JVP, FiniteDifference, Positional
from ifguide.influence.scorers import head as head_module
from ifguide.influence.scorers import tangents as tangents_module
from ifguide.influence.scorers.base import norm
from ifguide.influence.scorers.finite_difference import FIRST_STEP, _agreement, _blocks_below
from ifguide.influence.scorers.jvp import reference_scores
from ifguide.influence.scorers.positional import position_scores
from ifguide.models import linear_copy, tracked_layers, tracked_parameters
from ifguide.objectives.language_modeling import token_losses

SCORERS = {
    "jvp": JVP(),
    "reference": JVP(form="reference"),
    "finite_difference": FiniteDifference(change=1e-5),
}


def random_direction(model, seed=3, layers=None):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(p.shape, dtype=p.dtype, generator=generator)
        for name, p in tracked_parameters(model).items()
        if layers is None or name.rpartition(".")[0] in layers
    }


def score(scorer, model, directions, blocks):
    model = copy.deepcopy(model)  # a scorer takes its model over
    return scorer.prepare(model, directions, blocks)(blocks)


def close(ours, expected, tolerance):
    return torch.allclose(ours.double(), expected.double(), rtol=tolerance, atol=tolerance * expected.abs().max())


def scores_by_autograd(model, direction, blocks):
    """⟨v, ∇θ ℓ[n,t]⟩ with one backward pass per token."""
    scores = torch.zeros(blocks.shape, dtype=torch.float64)
    parameters = tracked_parameters(model)
    for n in range(len(blocks)):
        for t in range(1, blocks.shape[1]):
            losses = token_losses(model(blocks[n : n + 1]).logits, blocks[n : n + 1])
            gradients = torch.autograd.grad(losses[0, t], list(parameters.values()), allow_unused=True)
            scores[n, t] = sum(
                (direction[name] * gradient).sum()
                for name, gradient in zip(parameters, gradients, strict=True)
                if gradient is not None
            )
    return scores


@pytest.fixture(params=SCORERS)
def scorer(request):
    return SCORERS[request.param]


def test_scores_equal_per_token_autograd(scorer, model, blocks):
    direction = random_direction(model)
    (scores,) = score(scorer, model, [direction], blocks)
    expected = scores_by_autograd(model, direction, blocks)
    assert (scores[:, 0] == 0).all()
    # transformers computes some norms in float32, hence not 1e-12; a difference divides their rounding by its step
    assert close(scores, expected, 1e-5 if isinstance(scorer, JVP) else 2e-2)


def test_scores_are_linear_in_the_direction(model, blocks):
    direction = random_direction(model)
    (scores,) = score(JVP(), model, [direction], blocks)
    (doubled,) = score(JVP(), model, [{name: 2 * value for name, value in direction.items()}], blocks)
    assert close(doubled, 2 * scores, 1e-5)


def test_no_direction_no_scores(scorer, model, blocks):
    still = {name: 0 * value for name, value in random_direction(model).items()}
    assert (score(scorer, model, [still], blocks) == 0).all()


def test_several_directions_in_one_pass_equal_one_at_a_time(scorer, model, blocks):
    directions = [random_direction(model, seed) for seed in range(3)]
    together = score(scorer, model, directions, blocks)
    for scores, direction in zip(together, directions, strict=True):
        assert close(scores, score(scorer, model, [direction], blocks)[0], 1e-6 if isinstance(scorer, JVP) else 2e-2)


def test_directions_of_some_layers(scorer, model, blocks):
    for options in ({"last_blocks": 1}, {"match": "mlp"}):
        direction = random_direction(model, layers=tracked_layers(model, **options))
        assert 0 < len(direction) < len(tracked_parameters(model))
        expected = reference_scores(model, direction, blocks)
        assert close(score(scorer, model, [direction], blocks)[0], expected, 1e-5 if isinstance(scorer, JVP) else 2e-2)


@pytest.mark.parametrize("name", SCORERS)
@pytest.mark.parametrize("match", ["q_proj", "k_proj", "v_proj", "mlp"])
def test_directions_may_move_different_layers(name, match, blocks):
    model = tiny_model("llama")
    parts = [
        random_direction(model, seed, tracked_layers(model, **options))
        for seed, options in enumerate(({"match": match}, {"match": match, "last_blocks": 1}, {}))
    ]
    for directions in (parts, parts[::-1], parts[:2]):
        together = score(SCORERS[name], model, directions, blocks)
        for ours, direction in zip(together, directions, strict=True):
            # transformers computes Llama's norms in float32, which shows in differences
            tolerance = 2e-2 if name == "finite_difference" else 1e-4
            assert close(ours, reference_scores(model, direction, blocks), tolerance)


def test_blocks_below_the_direction_are_computed_once(blocks):
    model = tiny_model()
    direction = random_direction(model, layers=tracked_layers(model, last_blocks=1))
    (below,) = _blocks_below(model, direction)
    calls = []
    below.attention.register_forward_hook(lambda *_: calls.append(1))
    prepared = FiniteDifference(change=1e-4).prepare(model, [direction], blocks)
    calls.clear()
    prepared(blocks)
    assert len(calls) == 1
    prepared(blocks[:1])
    assert len(calls) == 2


def test_chunks_do_not_change_scores(model, blocks, monkeypatch):
    direction = random_direction(model)
    whole = score(JVP(), model, [direction], blocks)
    monkeypatch.setattr(head_module, "CHUNK_TOKENS", 5)
    monkeypatch.setattr(head_module, "CHUNK_LOGITS", {"cpu": 1})
    monkeypatch.setattr(tangents_module, "CHUNK_QUERIES", 4)
    monkeypatch.setattr(tangents_module, "CHUNK_SCORES", {"cpu": 50})
    assert close(score(JVP(), model, [direction], blocks), whole, 1e-10)


def test_a_token_is_not_touched_by_what_comes_after_it(model, blocks):
    direction = random_direction(model)
    changed = blocks.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % 60
    before, after = (score(JVP(), model, [direction], ids)[0] for ids in (blocks, changed))
    assert torch.allclose(before[:, :5], after[:, :5], atol=1e-9)
    assert close(before[:, :5], score(JVP(), model, [direction], blocks[:, :5])[0], 1e-5)


def test_scores_that_are_all_zero_agree_with_zeros_alone():
    zeros, some = torch.zeros(1, 2, 3), torch.tensor([[[0.0, 1, 2], [0, 3, 1]]])
    assert _agreement(zeros, zeros) == {"correlation": [1.0], "relative_error": [0.0]}
    (correlation,), (error,) = _agreement(some, zeros).values()
    assert correlation != correlation and error == 1.0


@pytest.mark.parametrize("architecture", ["gpt_neox", "gpt2", "llama"])
def test_positional_scores_are_those_of_kronfluence(architecture, blocks, tmp_path):
    model = tiny_model(architecture, dtype=torch.float32)
    task = LanguageModelingTask(list(tracked_layers(model)))
    analyzer = Analyzer("test", prepare_model(linear_copy(model), task), task, cpu=True, output_dir=str(tmp_path))
    analyzer.fit_all_factors("fit", list(blocks), factor_args=FactorArguments(strategy="identity"))
    analyzer.compute_pairwise_scores(
        "scores", "fit", query_dataset=[blocks[0]], train_dataset=list(blocks), per_device_query_batch_size=1,
        per_device_train_batch_size=3,
        score_args=ScoreArguments(compute_per_token_scores=True, aggregate_query_gradients=True),
    )  # fmt: skip
    expected = analyzer.load_pairwise_scores("scores")["all_modules"][0]
    parameters = tracked_parameters(model)
    gradients = torch.autograd.grad(
        token_losses(model(blocks[:1]).logits, blocks[:1]).sum(), list(parameters.values()), allow_unused=True
    )
    direction = {
        name: torch.zeros_like(parameter) if gradient is None else gradient
        for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True)
    }
    parts = position_scores(model, [direction], blocks)[0]
    assert close(parts, expected, 1e-4)
    predicted = score(Positional(), model, [direction], blocks)[0]
    published = score(Positional("as_published"), model, [direction], blocks)[0]
    assert close(predicted[:, 1:], expected[:, :-1], 1e-4) and close(published[:, 1:], expected[:, 1:], 1e-4)
    assert (predicted[:, 0] == 0).all() and (published[:, 0] == 0).all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_positional_scores_sum_to_the_exact_ones(architecture, blocks):
    model = tiny_model(architecture)
    directions = [random_direction(model, seed) for seed in range(2)]
    parts = position_scores(model, directions, blocks)
    exact = score(JVP(), model, directions, blocks)
    assert close(parts.sum(-1), exact.sum(-1), 1e-5)
    assert not close(parts[..., :-1], exact[..., 1:], 1e-1)


def test_differences_measure_themselves(blocks):
    model = tiny_model(dtype=torch.float32)
    direction = random_direction(model)
    facts = FiniteDifference().prepare(copy.deepcopy(model), [direction], blocks).facts
    scores = reference_scores(model, direction, blocks)[:, 1:]
    assert facts["steps"][0] * scores.square().mean().sqrt() <= 0.003 * 1.001
    assert facts["correlation"][0] > 0.9999 and facts["relative_error"][0] < 0.02
    with pytest.raises(ValueError, match="correlate"):
        FiniteDifference(change=1e-9).prepare(copy.deepcopy(model), [direction], blocks)


def test_the_step_of_differences_is_bounded_by_the_weights(blocks):
    model = tiny_model(dtype=torch.float64)
    direction = random_direction(model)
    weights = torch.cat([model.get_parameter(name).detach().flatten() for name in direction])
    along = torch.cat([value.flatten() for value in direction.values()])
    scores = reference_scores(model, direction, blocks)
    step = FiniteDifference(change=1e9)._step(model, direction, scores)
    assert step == pytest.approx(10 * FIRST_STEP * float(weights.norm() / along.norm()))
    assert FiniteDifference(change=1e-9)._step(model, direction, scores) < step
    assert norm({"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([12.0])}) == 13


def test_what_a_scorer_costs_follows_its_directions():
    """Forward passes of the decoder blocks, and of the output head."""
    assert JVP().passes(3) == (7, 2) and JVP("reference").passes(3) == (9, 9)
    assert FiniteDifference().passes(3) == (6, 2) and Positional().passes(3) == (8, 2)


def test_differences_need_float32(blocks):
    model = tiny_model(dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="float32"):
        FiniteDifference().prepare(model, [random_direction(model)], blocks)


def test_forward_mode_in_bfloat16_keeps_the_ranking(blocks):
    model = tiny_model(dtype=torch.float32)
    direction = random_direction(model)
    exact = score(JVP(), model, [direction], blocks)[0]
    half = {name: value.bfloat16() for name, value in direction.items()}
    ours = score(JVP(), copy.deepcopy(model).bfloat16(), [half], blocks)[0]
    assert ours.dtype == torch.float32
    assert torch.corrcoef(torch.stack([exact[:, 1:].flatten(), ours[:, 1:].flatten()]))[0, 1] > 0.99


def test_inference_mode_is_refused(scorer, model, blocks):
    prepared = scorer.prepare(model, [random_direction(model)], blocks)
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference_mode"):
        prepared(blocks)


@pytest.mark.parametrize(
    "scorer, options, name",
    [
        (JVP, {"form": "slow"}, "form"),
        (JVP, {"rank": 0}, "rank"),
        (JVP, {"rank": 4, "form": "reference"}, "rank"),
        (FiniteDifference, {"change": 0}, "change"),
        (FiniteDifference, {"tolerance": 2}, "tolerance"),
        (Positional, {"alignment": "left"}, "alignment"),
    ],
)
def test_settings_out_of_range_are_refused(scorer, options, name):
    with pytest.raises(ValueError, match=f"^{name}="):
        scorer(**options)
    assert JVP(rank=1).rank == 1
