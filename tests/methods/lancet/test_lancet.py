from math import log

import numpy as np
import pytest
import torch
from tiny import loss_and_gradients

from ifguide.classifiers import ProfanityCheck
from ifguide.methods.lancet import Lancet, queries_of
from ifguide.methods.lancet.loss import bregman_divergence
from ifguide.methods.lancet.ranking import influential, rank
from ifguide.methods.lancet.training import OBJECTIVES, BregmanModule, RankedExamples, draw_retained
from ifguide.methods.samples import Sampling
from ifguide.models import ModelSettings
from ifguide.objectives.language_modeling import token_losses
from ifguide.training.context import TrainingContext
from ifguide.training.optimization import Optimization
from ifguide.training.trainer import TrainerSettings

CPU = TrainerSettings(micro_batch_size=4, precision="64-true", progress=False)
OPTIM = Optimization(learning_rate=3e-3, batch_size=4, epochs=6)


def lancet(**options):
    return Lancet(**dict(optim=OPTIM, sampling=Sampling(), classifier=None) | options)


@pytest.fixture(scope="module")
def split(corpus):
    return corpus.split("train")


def model(corpus):
    shape = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    return ModelSettings(architecture="gpt_neox", settings=shape).build(corpus.vocabulary, None).double()


def losses(model, split):
    ids = torch.from_numpy(split.tokens(slice(None)))
    with torch.no_grad():
        return token_losses(model(ids).logits, ids).sum(1).numpy()


def test_ranking_drops_what_is_not_influential_and_orders_the_rest():
    scores = np.array([0.1, -3.0, 2.0, 5.0, -0.2, -1.0, 2.0, 0.3])
    high, low = rank(scores, drop=0.5, pairs=2)  # 3, 2, 6 and 1 are left
    assert high.tolist() == [3, 2] and low.tolist() == [1, 6]
    high, low = rank(scores, drop=0.0, pairs=4)
    assert high.tolist() == [3, 2, 6, 7] and low.tolist() == [1, 5, 4, 0]
    with pytest.raises(ValueError, match=r"^drop=0\.5: it leaves 4 sequences, too few for 3 pairs"):
        rank(scores, drop=0.5, pairs=3)
    with pytest.raises(ValueError, match="not finite"):
        rank(np.array([1.0, np.nan]), drop=0.0, pairs=1)


def test_equal_sequences_are_on_one_side_only():
    high, low = rank(np.array([0.9] * 3 + [0.0] * 7), drop=0.0, pairs=5)
    assert high.tolist() == [0, 1, 2, 3, 4] and set(high).isdisjoint(low)


def test_only_influence_is_dropped_by_its_size():
    """A classifier's scores, 2p − 1, are largest where it is sure that a text is harmless."""
    toxic = np.linspace(0, 1, 100) ** 4
    controls = lancet(rank="classifier", share=0.1)
    assert controls.dropped == 0 and lancet(drop=0.5).dropped == 0.5
    high, _ = rank(2 * toxic - 1, drop=controls.dropped, pairs=controls.pairs(100))
    assert sorted(high) == list(range(90, 100))


@pytest.mark.parametrize("drop", [0.0, 0.3, 0.5, 0.99])
def test_it_is_known_before_how_many_are_left(drop):
    scores = np.random.default_rng(0).normal(size=101)
    left = (np.abs(scores) >= np.quantile(np.abs(scores), drop)).sum()
    assert left == influential(101, drop) and len(rank(scores, drop=drop, pairs=left // 2)[0]) == left // 2


def test_queries_are_the_continuations_that_reach_the_threshold():
    rows = [{"prompt": "You", "record": "a", "continuations": [" fool", " are", " "]},
            {"prompt": "A", "record": "b", "continuations": [" cat", " rat", " hat"]}]  # fmt: skip
    probabilities = np.array([[0.9, 0.1, 0.8], [0.2, 0.7, 0.69]])
    found = queries_of(rows, probabilities, 0.7)
    assert [(one.prompt, one.continuation, one.toxic) for one in found] == [("You", " fool", True), ("A", " rat", True)]
    with pytest.raises(ValueError, match=r"^threshold=0\.95: none of 6 .* highest has 0\.90; .*\.queries=labelled"):
        queries_of(rows, probabilities, 0.95)


def test_batches_hold_high_low_and_anchored_sequences(split):
    places = np.array([[0, 1, 2], [3, 4, 5], [6, 7, 0]])
    ids = RankedExamples(split, places, 5)[np.array([2, 0])]["input_ids"]
    assert np.array_equal(ids, split.tokens(np.array([6, 0, 7, 1, 0, 2]))[:, :5])
    assert RankedExamples(split, places, None)[np.array([1])]["input_ids"].shape == (3, split.block_length)


def test_anchored_sequences_are_none_of_the_highest():
    high = np.array([3, 1, 7])
    found = draw_retained(9, high, seed=0)
    assert len(set(found.tolist())) == 3 and not set(found.tolist()) & set(high.tolist())
    assert np.array_equal(found, draw_retained(9, high, seed=0))


def test_the_loss_is_the_objective_and_the_anchor_of_its_own_sequences(corpus, split):
    policy, reference = model(corpus), model(corpus)
    batch = RankedExamples(split, np.array([[0, 1, 2], [3, 4, 5]]), None)[np.arange(2)]

    def loss(**options):
        given = dict(objective=OBJECTIVES["pairwise"], beta=0.2, kl=3.0, steps=1, seed=0) | options
        return float(BregmanModule(policy, reference, OPTIM, **given).loss(batch).detach())

    assert loss() == pytest.approx(log(2), abs=1e-9) and loss(objective=OBJECTIVES["ascent"]) == pytest.approx(0)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        anchored = torch.from_numpy(split.tokens(np.array([2, 5])))
        anchor = float(bregman_divergence(policy(anchored).logits, reference(anchored).logits))
    ratios = losses(reference, split) - losses(policy, split)
    margins = 0.2 * (ratios[[1, 4]] - ratios[[0, 3]])
    assert loss() == pytest.approx(np.log1p(np.exp(-margins)).mean() + 3 * anchor, abs=1e-9)
    assert loss(objective=OBJECTIVES["ascent"], kl=0.0) == pytest.approx(0.2 * ratios[[0, 3]].mean(), abs=1e-9)


def test_the_loss_and_its_gradients_are_the_same_in_chunks(corpus, split):
    batch, found = RankedExamples(split, np.array([[0, 1, 2], [3, 4, 5]]), None)[np.arange(2)], []
    for fused in (True, False):
        policy = model(corpus)
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        given = dict(objective=OBJECTIVES["pairwise"], beta=0.2, kl=3.0, steps=1, seed=0, fused=fused)
        found.append(loss_and_gradients(BregmanModule(policy, model(corpus), OPTIM, **given), batch))
    ours, expected = found
    assert all(torch.allclose(ours[name], value, rtol=1e-6, atol=1e-9) for name, value in expected.items())


@pytest.mark.parametrize("objective, anchor", [("pairwise", "retained"), ("pairwise", "low"), ("ascent", "retained")])
def test_high_sequences_become_unlikely_beside_low_ones(corpus, split, tmp_path, objective, anchor):
    policy, reference = model(corpus), model(corpus)
    scores = np.random.default_rng(0).normal(size=len(split))
    settings = lancet(objective=objective, anchor=anchor, share=0.2)
    facts = settings.train(policy, reference, split, scores, TrainingContext(CPU, tmp_path))
    high, low = rank(scores, drop=0.5, pairs=facts["pairs"])
    ratios = losses(reference, split) - losses(policy, split)
    assert ratios[high].mean() < 0 and ratios[low].mean() > ratios[high].mean()
    assert facts["pairs"] == int(0.2 * len(split)) and facts["mean_low"] < 0 < facts["mean_high"] and facts["steps"]


@pytest.mark.parametrize(
    "option, value",
    [("rank", "length"), ("queries", "mine"), ("objective", "descent"), ("anchor", "high"), ("beta", -1), ("kl", -0.1),
     ("threshold", 0), ("drop", 1), ("share", 0.6), ("length", 1), ("seed", -1)],
)  # fmt: skip
def test_settings_out_of_range_are_refused(option, value):
    with pytest.raises(ValueError, match=rf"^{option}={value}"):
        lancet(**{option: value})


def test_too_few_blocks_are_named_before_any_training():
    with pytest.raises(ValueError, match=r"^share=0\.3: 30 of 100 blocks .* of 50 that drop=0\.5 leaves"):
        lancet(share=0.3).check(100, 16)
    with pytest.raises(ValueError, match=r"^batch_size=99: "):
        lancet(optim=Optimization(learning_rate=1, batch_size=99, epochs=1)).check(100, 16)
    with pytest.raises(ValueError, match=r"^length=17: a block has 16 tokens"):
        lancet(length=17).check(100, 16)


def test_what_decides_the_scores_is_not_described_again():
    from ifguide.workspace import describe

    found = describe(lancet())
    assert set(found) == {"class", "optim", "length", "drop", "share", "objective", "beta", "kl", "anchor", "seed"}
    assert found == describe(lancet(rank="random", classifier=ProfanityCheck()))
