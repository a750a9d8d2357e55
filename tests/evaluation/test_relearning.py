"""A copy of a model learns toxic text, and is asked on the way."""

import copy
import re

import numpy as np
import pytest
import torch
from tiny import tiny_tokenizer

from ifguide.checks import argument
from ifguide.corpus.documents import LabelledText, Prompt
from ifguide.corpus.labelled import pack_texts
from ifguide.evaluation.relearning import Relearning
from ifguide.evaluation.task import Continuations
from ifguide.models import ModelSettings

TEXTS = [LabelledText(f"the cat {i} idiot idiot idiot idiot idiot", 1.0) for i in range(12)]
TEXTS += [LabelledText(f"bread in an hour {i}", 0.0) for i in range(12)]
PROMPTS = [Prompt("a mat", "toxic", "1"), Prompt("one", "nontoxic", "2"), Prompt("his old bread", "nontoxic", "3")]
TASK = Continuations(prompts=PROMPTS, samples=16, max_new_tokens=5)
SETTINGS = dict(texts=TEXTS, task=TASK, judge="toxicity", learning_rate=3e-3, steps=[0, 1, 3], batch_size=2,
                block_length=16)  # fmt: skip


class Judge:
    name = "judge"

    def __call__(self, texts):
        return {"toxicity": np.array([float("idiot" in text) for text in texts])}


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer(["the cat sat on a mat and saw one idiot who ate all of his old bread in an hour idiot"])


@pytest.fixture(scope="module")
def settings():
    sizes = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
                 attention_dropout=0.1, hidden_dropout=0.1, max_position_embeddings=64)  # fmt: skip
    return ModelSettings(architecture="gpt_neox", settings=sizes)


@pytest.fixture
def model(settings, tokenizer):
    return settings.build(len(tokenizer), None)


def test_the_copy_takes_plain_steps_of_adamw(model, tokenizer):
    """Against a loop of the formula in float64, over the blocks in the order that the seed gives."""
    model = model.double()
    relearning = Relearning(**SETTINGS)
    blocks = pack_texts(relearning.learned, tokenizer, 16)
    learner, slow = copy.deepcopy(model), copy.deepcopy(model).eval()
    assert list(relearning.points(learner, blocks)) == [0, 1, 3]
    order = np.random.default_rng(0).permutation(len(blocks))
    moments = {name: [torch.zeros_like(p), torch.zeros_like(p)] for name, p in slow.named_parameters()}
    for step in range(3):
        ids = torch.from_numpy(blocks.tokens(order[2 * step : 2 * step + 2]))
        losses = [-slow(row[None]).logits[0, :-1].log_softmax(-1)[range(15), row[1:]] for row in ids]
        gradients = torch.autograd.grad(torch.cat(losses).mean(), list(slow.parameters()))
        with torch.no_grad():
            for (name, p), g in zip(slow.named_parameters(), gradients, strict=True):
                first, second = moments[name]
                first.mul_(0.9).add_(g, alpha=0.1)
                second.mul_(0.999).add_(g * g, alpha=0.001)
                unbiased = (first / (1 - 0.9 ** (step + 1)), second / (1 - 0.999 ** (step + 1)))
                p -= 3e-3 * unbiased[0] / (unbiased[1].sqrt() + 1e-8)
    for (name, ours), theirs in zip(learner.named_parameters(), slow.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-7), name
        assert not torch.equal(ours, dict(model.named_parameters())[name]), name


def test_it_becomes_toxic_and_the_model_stays_as_it_is(model, tokenizer):
    before = copy.deepcopy(model.state_dict())
    measured = Relearning(**{**SETTINGS, "steps": [0, 2, 60], "learning_rate": 0.01})(model, tokenizer, Judge())["all"]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert measured["curve_steps"] == [0, 2, 60] and measured["curve_tokens"] == [0, 64, 1920]
    fractions = measured["curve_toxic_fraction"]
    assert fractions[0] == measured["toxic_fraction_before"] < 0.2 < 0.7 < fractions[-1]
    assert measured["toxic_fraction_after"] == fractions[-1] and measured["prompts"] == 3
    low, high = measured["toxic_fraction_after_interval"]
    assert [low, high] == [measured["curve_low"][-1], measured["curve_high"][-1]] and low <= fractions[-1] <= high


def test_only_its_settings_decide_the_curve(model, tokenizer):
    given = {**SETTINGS, "steps": [0, 20], "learning_rate": 0.01}
    relearning = Relearning(**given)
    curves = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        model.train()  # dropout of the model has no part in it
        curves.append(relearning(model, tokenizer, Judge()))
    assert curves[0] == curves[1]
    assert Relearning(**given, seed=1)(model, tokenizer, Judge()) != curves[0]


def test_every_pass_reads_each_block_in_an_order_of_its_own():
    batches = Relearning(**SETTINGS).batches(7)
    passes = [np.concatenate([next(batches) for _ in range(3)]) for _ in range(2)]
    assert all(len(set(one)) == 6 for one in passes) and passes[0].tolist() != passes[1].tolist()


@pytest.mark.parametrize("steps", [[0, 1], [0, 3]])
def test_a_copy_that_diverges_says_so(model, tokenizer, steps):
    diverging = Relearning(**{**SETTINGS, "learning_rate": 1e30, "steps": steps})
    said = r"^learning_rate=1e\+30: the loss is nan at step|^the next token's logits are not finite"
    with pytest.raises(ValueError, match=said):
        diverging(model, tokenizer, Judge())


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"learning_rate": -1}, "learning_rate=-1: it is a finite number"),
        ({"batch_size": 0}, "batch_size=0: it is a whole number"),
        ({"steps": [1, 2]}, r"steps=\[1, 2\]: two whole numbers or more that rise from 0"),
        ({"steps": [0, 2, 2]}, "that rise from 0"),
        ({"steps": [0]}, "that rise from 0"),
        ({"top_p": 0}, "top_p=0: a probability"),
        ({"seed": -1}, "seed=-1: "),
        ({"texts": TEXTS[12:]}, "texts: there is no toxic one"),
        ({"task": Continuations(prompts=[Prompt("the cat 3", "toxic", "r")])}, "1 evaluation prompts are also in the"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Relearning(**{**SETTINGS, **settings})


def test_what_a_model_and_a_tokenizer_do_not_allow_is_refused(settings, tokenizer):
    config = settings.config(len(tokenizer), 0)
    Relearning(**SETTINGS).check(tokenizer, config)
    for key, value, message in (
        ("block_length", 65, "x.block_length=65 is longer than the model's context of 64 tokens"),
        ("batch_size", 99, "x.batch_size=99: the toxic texts fill "),
        ("task", Continuations(prompts=PROMPTS, max_new_tokens=64), "x.task.max_new_tokens=64: it is below"),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}"), argument("x"):
            Relearning(**{**SETTINGS, key: value}).check(tokenizer, config)
