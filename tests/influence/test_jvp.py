import pytest
import torch

from ifguide.influence.scorers import JVP
from ifguide.influence.scorers.jvp import loss_tangents
from ifguide.models import tracked_parameters
from ifguide.objectives.language_modeling import token_losses


def random_direction(model):
    generator = torch.Generator().manual_seed(3)
    return {
        name: torch.randn(p.shape, dtype=p.dtype, generator=generator) for name, p in tracked_parameters(model).items()
    }


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


def test_scores_equal_per_token_autograd(model, blocks):
    direction = random_direction(model)
    scores = JVP()(model, direction, blocks)
    expected = scores_by_autograd(model, direction, blocks)
    assert (scores[:, 0] == 0).all()
    # transformers computes some norms in float32, hence not 1e-12
    assert torch.allclose(scores.double(), expected, rtol=1e-5, atol=1e-5 * expected.abs().max())


def test_scores_are_linear_in_the_direction(model, blocks):
    direction = random_direction(model)
    doubled = JVP()(model, {name: 2 * value for name, value in direction.items()}, blocks)
    assert torch.allclose(doubled, 2 * JVP()(model, direction, blocks), rtol=1e-5)
    assert (JVP()(model, {name: 0 * value for name, value in direction.items()}, blocks) == 0).all()


def test_a_token_is_not_touched_by_what_comes_after_it(model, blocks):
    direction = random_direction(model)
    changed = blocks.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % 60
    before, after = (JVP()(model, direction, ids) for ids in (blocks, changed))
    assert torch.allclose(before[:, :5], after[:, :5], atol=1e-9)


def test_a_token_at_the_end_of_context_is_scored_once(model, blocks):
    direction = random_direction(model)
    assert torch.allclose(
        JVP()(model, direction, blocks)[:, :6], JVP()(model, direction, blocks[:, :6]), rtol=1e-5, atol=1e-6
    )


def test_inference_mode_is_refused(model, blocks):
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference_mode"):
        JVP()(model, random_direction(model), blocks)


def test_loss_tangents_equal_a_central_difference():
    generator = torch.Generator().manual_seed(0)
    logits, tangents = (torch.randn(2, 5, 7, dtype=torch.float64, generator=generator) for _ in range(2))
    ids = torch.randint(7, (2, 5), generator=generator)
    step = 1e-6
    difference = token_losses(logits + step * tangents, ids) - token_losses(logits - step * tangents, ids)
    assert torch.allclose(loss_tangents(logits, tangents, ids), difference / (2 * step), atol=1e-8)
