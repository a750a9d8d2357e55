"""Metagradients against finite differences of whole trainings, and the training against torch's own."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ifguide.influence.metagradient import AdamW, WeightedTraining

VOCABULARY, WIDTH, STEPS = 11, 6, 5
RATES = [2e-2, 1.6e-2, 1.2e-2, 8e-3, 4e-3]
OPTIMIZER = dict(rates=RATES, betas=(0.9, 0.95), epsilon=1e-8, weight_decay=0.1, clip=0.5)
ROWS = [np.array(pair) for pair in ([0, 1], [2, 3], [4, 5], [0, 3], [1, 2])]  # of seven blocks; one is in no step


def draw(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


IDS = torch.randint(VOCABULARY, (7, 6), generator=torch.Generator().manual_seed(0))
WEIGHTS = draw(*IDS.shape, seed=1).abs() + 0.5
START = {
    "embedding": draw(VOCABULARY, WIDTH, seed=2),
    "hidden": 0.5 * draw(WIDTH, WIDTH, seed=3),
    "bias": 0.5 * draw(WIDTH, seed=4),
    "head": 0.5 * draw(VOCABULARY, WIDTH, seed=5),
}


def losses(parameters, ids_BT):
    """A causal model in float64: a token is predicted from the mean of what came before it."""
    read = parameters["embedding"][ids_BT].cumsum(1) / torch.arange(1, ids_BT.shape[1] + 1)[:, None]
    logits = torch.tanh(read @ parameters["hidden"].T + parameters["bias"]) @ parameters["head"].T
    found = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids_BT[:, 1:].flatten(), reduction="none")
    return F.pad(found.view(len(ids_BT), -1), (1, 0))


def objectives(parameters):
    return losses(parameters, IDS[[6, 1]]).sum(1)


def training(**changes):
    return WeightedTraining(losses=losses, ids_NT=IDS, rows=ROWS, optimizer=AdamW(**{**OPTIMIZER, **changes}))


def test_steps_are_those_of_torch():
    ours = training().train(START, WEIGHTS)
    theirs = {name: value.clone().requires_grad_(True) for name, value in START.items()}
    matrices, vectors = ([p for p in theirs.values() if (p.ndim >= 2) == wanted] for wanted in (True, False))
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8)
    for rate, rows in zip(RATES, ROWS, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        batch = losses(theirs, IDS[rows])
        ((WEIGHTS[rows] * batch).sum() / batch[:, 1:].numel()).backward()
        assert torch.nn.utils.clip_grad_norm_(list(theirs.values()), OPTIMIZER["clip"]) > OPTIMIZER["clip"]
        optimizer.step()
    for name, value in theirs.items():
        assert torch.allclose(ours[name], value, rtol=1e-10, atol=1e-12), name


@pytest.mark.parametrize("root_epsilon, clip", [(1e-6, 0.5), (1e-6, 1e9), (0.0, 0.5)])
def test_metagradients_are_finite_differences_of_trainings(root_epsilon, clip):
    run = training(root_epsilon=root_epsilon, clip=clip)
    last, found = run.metagradients(START, WEIGHTS, objectives)
    assert all(torch.equal(value, last[name]) for name, value in run.train(START, WEIGHTS).items())
    assert found.shape == (2, *IDS.shape) and found.abs().max() > 1e-3
    assert (found[:, 6] == 0).all() and (found[:, :, 0] == 0).all(), "a block of no step, tokens that have no loss"
    rng, step = np.random.default_rng(0), 1e-6
    for block in range(6):  # the weights of all tokens of a block at once, along random changes
        change = torch.zeros(IDS.shape, dtype=torch.float64)
        change[block] = torch.from_numpy(rng.normal(size=IDS.shape[1]))
        above, below = (objectives(run.train(START, WEIGHTS + side * step * change)) for side in (1, -1))
        slow, fast = (above - below) / (2 * step), (found * change).sum((1, 2))
        assert torch.allclose(fast, slow, rtol=1e-5, atol=1e-7), (block, fast, slow)


@pytest.mark.parametrize("every", [1, 2, 3, 5, 9])
def test_where_states_are_kept_does_not_matter(every):
    run = training(root_epsilon=1e-6)
    reference = run.metagradients(START, WEIGHTS, objectives)[1]
    assert torch.equal(run.metagradients(START, WEIGHTS, objectives, every=every)[1], reference)
