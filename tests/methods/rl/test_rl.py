from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import loss_and_gradients

from ifguide.classifiers.base import TOXICITY
from ifguide.methods.rl import GroupRelative, LeaveOneOut, PolicyGradient
from ifguide.methods.rl.rollouts import PromptExamples, join, rewards_of
from ifguide.methods.rl.training import PolicyModule
from ifguide.methods.samples import Sampling
from ifguide.models import ModelSettings
from ifguide.training.context import TrainingContext
from ifguide.training.optimization import Optimization
from ifguide.training.trainer import TrainerSettings

CPU = TrainerSettings(micro_batch_size=4, checkpoint_every=1, precision="64-true", progress=False)
PROMPTS = ["the cat", "a mat", "his old bread", "one idiot", "an hour", "the", "who ate", "in an"]


class Letter:
    """Finds texts with an `a` toxic."""

    name = "letter"

    def __call__(self, texts):
        return {TOXICITY: np.array([0.9 if "a" in text else 0.1 for text in texts])}


class Same(Letter):
    def __call__(self, texts):
        return {TOXICITY: np.full(len(texts), 0.3)}


def wide_model(corpus, seed=0):
    settings = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    made = ModelSettings(architecture="gpt_neox", settings=settings, seed=seed)
    return made.build(corpus.vocabulary, corpus.tokenizer.eos_token_id).double()


def policy_gradient(optim=None, **options):
    return PolicyGradient(
        **{
            "optim": Optimization(**({"learning_rate": 3e-2, "batch_size": 4, "epochs": 5} | (optim or {}))),
            "estimator": LeaveOneOut(),
            "classifier": None,
            "sampling": Sampling(samples=4, max_new_tokens=5),
            **options,
        }
    )


@pytest.fixture(scope="module")
def prompts(corpus):
    return [[corpus.tokenizer.eos_token_id, *corpus.tokenizer.encode(text)] for text in PROMPTS]


def train(corpus, prompts, directory, settings, model=None, classifier=None, trainer=CPU):
    model = model or wide_model(corpus)
    given = (prompts, classifier or Letter(), corpus.tokenizer, TrainingContext(trainer, directory))
    return model, settings.train(model, wide_model(corpus), *given)


def module_of(corpus, model, reference, **options):
    given = dict(
        estimator=LeaveOneOut(), sampling=Sampling(samples=3, max_new_tokens=6), logit_limit=None, inner_epochs=1,
        classifier=Letter(), tokenizer=corpus.tokenizer, steps=1, seed=0,
    )  # fmt: skip
    return PolicyModule(model, reference, policy_gradient().optim, **(given | options))


def test_texts_are_joined_as_far_as_they_go():
    tokens = np.array([[[4, 5, 9], [9, 9, 9]], [[7, 9, 9], [1, 2, 3]]])
    ids, response = join([[8], [8, 6]], tokens, end_of_text=9)
    assert ids.tolist() == [[8, 4, 5, 9, 0], [8, 9, 0, 0, 0], [8, 6, 7, 9, 0], [8, 6, 1, 2, 3]]
    assert [list(map(int, row)) for row in response.tolist()] == [
        [0, 1, 1, 1, 0], [0, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 1],
    ]  # fmt: skip


def test_prompts_come_back_from_their_batch():
    examples = PromptExamples([[3, 0], [5], [6, 7, 0]])
    batch = examples[np.array([2, 1])]
    assert len(examples) == 3 and batch["lengths"].tolist() == [3, 1]
    assert batch["input_ids"].tolist() == [[6, 7, 0], [5, 0, 0]]


def test_rewards_are_of_texts_that_are_not_toxic():
    probabilities = np.array([0, 0.2, 0.5, 1])
    assert np.allclose(rewards_of(probabilities, None), [1, 0.8, 0.5, 0])
    assert np.allclose(rewards_of(probabilities, 5.0), [5, np.log(4), 0, -5])
    for wrong in ([1.2], [np.nan]):
        with pytest.raises(ValueError, match="no probabilities"):
            rewards_of(np.array(wrong), None)


def test_samples_are_a_function_of_weights_and_seed_and_know_their_probabilities(corpus, prompts):
    policy, reference = wide_model(corpus, seed=1).eval(), wide_model(corpus)
    module = module_of(corpus, policy, reference)
    batch = PromptExamples(prompts)[np.array([2, 0, 5])]
    found = module.sample(batch, [0, 7, 0])
    again, other = (module.sample(batch, seed) for seed in ([0, 7, 0], [0, 8, 0]))
    assert all(torch.equal(value, again[name]) for name, value in found.items())
    assert not torch.equal(found["input_ids"], other["input_ids"])
    for row, (ids, response) in enumerate(zip(found["input_ids"], found["response"], strict=True)):
        places = response.nonzero()[:, 0].tolist()
        assert ids[: places[0]].tolist() == prompts[[2, 0, 5][row // 3]]
        text = corpus.tokenizer.decode(ids[places], skip_special_tokens=True)
        assert float(found["rewards"].flatten()[row]) == pytest.approx(0.1 if "a" in text else 0.9)
        for name, model in (("old", policy), ("reference", reference)):
            for t in places:  # one forward pass per token, no padding
                with torch.no_grad():
                    expected = model(ids[None, :t]).logits[0, -1].log_softmax(-1)[ids[t]]
                assert float(found[name][row, t]) == pytest.approx(float(expected), abs=1e-9)


def test_the_loss_and_its_gradients_are_the_same_in_chunks(corpus, prompts):
    batch, found = PromptExamples(prompts)[np.array([2, 0, 5])], []
    for fused in (True, False):
        given = dict(estimator=LeaveOneOut(beta=0.3), fused=fused)
        module = module_of(corpus, wide_model(corpus, seed=1).eval(), wide_model(corpus), **given)
        samples = module.sample(batch, [0, 7, 0])
        found.append(samples | loss_and_gradients(module, samples))
    ours, expected = found
    assert all(torch.allclose(ours[name], value, rtol=1e-6, atol=1e-9) for name, value in expected.items())


@pytest.mark.parametrize(("estimator", "inner_epochs"), [(LeaveOneOut(beta=0.01), 1), (GroupRelative(beta=0.01), 2)])
def test_a_model_learns_to_be_rewarded(corpus, prompts, tmp_path, estimator, inner_epochs):
    settings = policy_gradient({"epochs": 10}, estimator=estimator, inner_epochs=inner_epochs)
    _, facts = train(corpus, prompts, tmp_path, settings)
    assert facts["steps"] == 20 and facts["prompts"] == 8
    first, last = facts["reward"]
    assert last > first + 0.1 and 0.1 <= first <= last <= 0.9
    assert facts["kl"][0] < 0.5 < facts["kl"][1] and 1 <= facts["new_tokens"][1] <= 5


def test_under_a_constant_reward_a_model_goes_back_to_its_reference(corpus, prompts, tmp_path):
    model = wide_model(corpus)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    settings = policy_gradient({"epochs": 10}, estimator=LeaveOneOut(beta=1.0))
    _, facts = train(corpus, prompts, tmp_path, settings, model, Same())
    assert facts["reward"] == pytest.approx([0.7, 0.7]) and facts["kl"][1] < 0.5 * facts["kl"][0]


def test_without_divergence_and_with_a_constant_reward_nothing_moves(corpus, prompts, tmp_path):
    settings = policy_gradient({"weight_decay": 0.0, "optimizer": torch.optim.SGD}, estimator=LeaveOneOut(beta=0.0))
    model, facts = train(corpus, prompts, tmp_path, settings, classifier=Same())
    pairs = zip(model.parameters(), wide_model(corpus).parameters(), strict=True)
    assert max(float((a - b).detach().abs().max()) for a, b in pairs) < 1e-12
    assert facts["kl"] == pytest.approx([0, 0], abs=1e-12)


@pytest.mark.parametrize("inner_epochs", [1, 2])
def test_an_interrupted_run_resumes_exactly(corpus, prompts, tmp_path, monkeypatch, inner_epochs):
    """Two micro-batches a step; it is killed in the second step of two that learn from the same samples."""
    settings = policy_gradient({"epochs": 3}, inner_epochs=inner_epochs)
    halves = TrainerSettings(micro_batch_size=2, checkpoint_every=1, precision="64-true", progress=False)
    whole, facts = train(corpus, prompts, tmp_path / "whole", settings, trainer=halves)
    original, calls = PolicyModule.training_step, []

    def fail(self, batch, index):
        calls.append(index)
        if len(calls) == 8:
            raise RuntimeError("killed")
        return original(self, batch, index)

    monkeypatch.setattr(PolicyModule, "training_step", fail)
    with pytest.raises(RuntimeError, match="killed"):
        train(corpus, prompts, tmp_path / "broken", settings, trainer=halves)
    resumed, again = train(corpus, prompts, tmp_path / "broken", settings, trainer=halves)
    assert calls[8] == 6, "it went on at its fourth step"
    assert again == facts and len(calls) == 8 + 6
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_mistakes_are_named():
    fine = policy_gradient()
    for name, value in (("inner_epochs", 0), ("logit_limit", -1.0), ("seed", -1)):
        with pytest.raises(ValueError, match=f"^{name}={value}"):
            replace(fine, **{name: value})
    for name, value in (("samples", 1), ("top_p", 0.9)):
        with pytest.raises(ValueError, match=rf"^sampling\.{name}={value}"):
            replace(fine, sampling=replace(fine.sampling, **{name: value}))
    for name, value in (("beta", -1), ("epsilon", 1.0), ("epsilon", 0)):
        for kind in (LeaveOneOut, GroupRelative):
            with pytest.raises(ValueError, match=f"^{name}={value}"):
                kind(**{name: value})
    with pytest.raises(ValueError, match=r"^optim\.epochs=0"):
        policy_gradient({"epochs": 0})
    with pytest.raises(ValueError, match=r"^optim\.batch_size=4: 5 epochs of 0 prompts"):
        fine.check(0)
