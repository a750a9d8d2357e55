"""Metagradients against finite differences of whole trainings, and the training against torch's own."""

import numpy as np
import pytest
import torch
from conftest import VOCABULARY, tiny_model
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from ifguide.influence.metagradient import AdamW, WeightedTraining
from ifguide.objectives.language_modeling import token_losses

STEPS = 5
OPTIMIZER = dict(rates=[1e-2, 8e-3, 6e-3, 4e-3, 2e-3], betas=(0.9, 0.95), epsilon=1e-8, weight_decay=0.1, clip=0.5)


@pytest.fixture(scope="module")
def toy():
    """A model in float64, a corpus of six blocks that five steps read, one of them twice, and queries."""
    model = tiny_model()
    ids = torch.randint(VOCABULARY, (7, 6), generator=torch.Generator().manual_seed(0))
    rows = [np.array(pair) for pair in ([0, 1], [2, 3], [4, 5], [0, 3], [1, 2])]

    def losses(parameters, ids_BT):
        logits = functional_call(model, dict(parameters), (ids_BT,), {"use_cache": False}).logits
        return token_losses(logits, ids_BT)

    start = {name: value.detach().clone() for name, value in model.named_parameters()}
    return model, losses, ids, rows, start


def training(toy, **changes):
    _, losses, ids, rows, _ = toy
    return WeightedTraining(losses=losses, ids_NT=ids, rows=rows, optimizer=AdamW(**{**OPTIMIZER, **changes}))


def weights_of(ids, seed=2):
    return torch.rand(ids.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.5


def test_steps_are_those_of_torch(toy):
    model, losses, ids, rows, start = toy
    weights = weights_of(ids)
    ours = training(toy).train(start, weights)
    matrices, vectors = ([p for p in model.parameters() if (p.ndim >= 2) == wanted] for wanted in (True, False))
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8)
    for rate, chosen in zip(OPTIMIZER["rates"], rows, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        batch = losses(dict(model.named_parameters()), ids[chosen])
        ((weights[chosen] * batch).sum() / batch[:, 1:].numel()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIMIZER["clip"])
        optimizer.step()
    try:
        for name, value in model.named_parameters():
            assert torch.allclose(ours[name], value, rtol=1e-6, atol=1e-8), name
    finally:
        model.load_state_dict(start)


@pytest.mark.parametrize("root_epsilon, clip", [(1e-8, 0.5), (1e-8, 1e9), (0.0, 0.5)])
def test_metagradients_are_finite_differences_of_trainings(toy, root_epsilon, clip):
    _, losses, ids, _, start = toy
    run, weights = training(toy, root_epsilon=root_epsilon, clip=clip), weights_of(ids)
    queries = ids[[6, 1]]

    def objectives(parameters):
        return losses(parameters, queries).sum(1)

    with sdpa_kernel(SDPBackend.MATH):
        last, found = run.metagradients(start, weights, objectives)
        assert all(torch.equal(value, last[name]) for name, value in run.train(start, weights).items())
        assert found.shape == (2, *ids.shape) and found.abs().max() > 1e-4
        assert (found[:, 6] == 0).all() and (found[:, :, 0] == 0).all(), "a block of no step, tokens that have no loss"
        rng, step = np.random.default_rng(0), 1e-5
        for _ in range(6):  # all tokens at once, along a random change of their weights
            change = torch.from_numpy(rng.normal(size=tuple(ids.shape)))
            sides = [objectives(run.train(start, weights + side * step * change)) for side in (1, -1)]
            slow = (sides[0] - sides[1]) / (2 * step)
            fast = (found * change).sum((1, 2))
            assert torch.allclose(fast, slow, rtol=1e-4, atol=1e-6), (fast, slow)


@pytest.mark.parametrize("every", [1, 2, 3, 5, 9])
def test_where_states_are_kept_does_not_matter(toy, every):
    _, losses, ids, _, start = toy
    run, weights = training(toy, root_epsilon=1e-8), weights_of(ids)

    def objectives(parameters):
        return losses(parameters, ids[6:]).sum(1)

    with sdpa_kernel(SDPBackend.MATH):
        reference = run.metagradients(start, weights, objectives)[1]
        found = run.metagradients(start, weights, objectives, every=every)[1]
    assert torch.equal(found, reference)
