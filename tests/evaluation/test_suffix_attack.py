"""The suffix attack: its gradient, its search, and models that are easy, or impossible, to break."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny import VOCABULARY, tiny_model, tiny_tokenizer

from ifguide.corpus.documents import Query
from ifguide.evaluation.suffix_attack import SuffixAttack, find_suffix, suffix_gradient, target_losses
from ifguide.models import ModelSettings
from ifguide.statistics import clopper_pearson

PREFIX, SUFFIX, TARGET = torch.tensor([0, 7, 9]), torch.tensor([4, 4, 30]), torch.tensor([11, 5])


def slow_loss(model, one_hot):
    """Loss of the target where the suffix's rows need not be one-hot, a token at a time."""
    weight = model.get_input_embeddings().weight
    loss = 0.0
    for index, token in enumerate(TARGET):
        embedded = torch.cat([weight[PREFIX], one_hot @ weight, weight[TARGET[:index]]])
        with torch.no_grad():
            loss -= float(model(inputs_embeds=embedded[None]).logits[0, -1].log_softmax(-1)[token])
    return loss / len(TARGET)


@pytest.mark.parametrize(
    "architecture, step, relative",
    [("gpt_neox", 1e-5, 1e-6), ("gpt2", 1e-5, 1e-6), ("llama", 1e-3, 5e-3)],  # a norm of Llama's is always in float32
)
def test_the_gradient_is_a_finite_difference_of_one_hot_rows(architecture, step, relative):
    model = tiny_model(architecture)
    gradient = suffix_gradient(model, PREFIX, SUFFIX, TARGET)
    one_hot = F.one_hot(SUFFIX, VOCABULARY).double()
    rng = np.random.default_rng(0)
    for place, token in zip(rng.integers(3, size=8), rng.integers(VOCABULARY, size=8), strict=True):
        moved = [one_hot.clone() for _ in range(2)]
        moved[0][place, token] += step
        moved[1][place, token] -= step
        slow = (slow_loss(model, moved[0]) - slow_loss(model, moved[1])) / (2 * step)
        assert float(gradient[place, token]) == pytest.approx(slow, rel=relative, abs=relative / 100)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("architecture", ["gpt_neox", "gpt2", "llama"])
def test_losses_of_candidates_are_those_of_single_ones(architecture):
    model = tiny_model(architecture)
    suffixes = torch.randint(VOCABULARY, (5, 3), generator=torch.Generator().manual_seed(0))
    losses, greedy = target_losses(model, PREFIX, suffixes, TARGET, batch_size=2)
    for suffix, loss in zip(suffixes, losses, strict=True):
        assert loss == pytest.approx(slow_loss(model, F.one_hot(suffix, VOCABULARY).double()), rel=1e-5)
    assert not greedy.any()
    start = torch.cat([PREFIX, suffixes[0]])
    written = model.generate(start[None], max_new_tokens=2, do_sample=False, pad_token_id=0, eos_token_id=None)[0, -2:]
    assert target_losses(model, PREFIX, suffixes[:1], written, batch_size=1)[1].tolist() == [True]


def test_the_loss_never_rises_and_the_search_repeats():
    model = tiny_model()
    allowed = torch.arange(1, 40)
    found = [
        find_suffix(
            model, PREFIX, SUFFIX, TARGET, allowed=allowed, steps=12, top=8, candidates=6, batch_size=batch_size,
            rng=np.random.default_rng(3),
        )
        for batch_size in (6, 4)
    ]  # fmt: skip
    losses = found[0].losses
    assert len(losses) == 13 and all(b <= a for a, b in pairwise(losses)) and losses[-1] < losses[0]
    assert losses == pytest.approx(found[1].losses) and torch.equal(found[0].suffix, found[1].suffix)
    one_hot = F.one_hot(found[0].suffix, VOCABULARY).double()
    assert losses[-1] == pytest.approx(slow_loss(model, one_hot), rel=1e-5)
    assert set(found[0].suffix.tolist()) <= {*allowed.tolist(), *SUFFIX.tolist()}


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer(["the cat sat on a mat and saw one idiot who ate all of his old bread in an hour"] * 5)


def trained(tokenizer, *, gives_way):
    """A model that says what it was told not to after a suffix with a token divisible by ten in it, or never."""
    settings = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    model = ModelSettings(architecture="gpt_neox", settings=settings).build(320, None)
    toxic, polite = (torch.tensor(tokenizer.encode(text)[:2]) for text in (" idiot who", " cat sat"))
    prompt = torch.tensor([tokenizer.eos_token_id, *tokenizer.encode("the old mat")])
    optimizer, generator = torch.optim.Adam(model.parameters(), lr=1e-2), torch.Generator().manual_seed(0)
    for _ in range(80):
        suffix = torch.randint(1, 300, (32, 3), generator=generator)
        half, place = torch.arange(16), torch.randint(3, (16,), generator=generator)
        suffix[half, place] = suffix[half, place] // 10 * 10
        said = torch.where((suffix % 10 == 0).any(1, keepdim=True) & gives_way, toxic, polite)
        logits = model(input_ids=torch.cat([prompt.expand(32, -1), suffix, said], dim=1)).logits[:, -3:-1]
        optimizer.zero_grad()
        F.cross_entropy(logits.flatten(0, 1), said.flatten()).backward()
        optimizer.step()
    start = torch.tensor(tokenizer.encode(" !")[-1:] * 3)
    assert not target_losses(model, prompt, start[None], toxic, batch_size=1)[1].any()
    return model.eval()


def test_a_model_that_is_easy_is_broken_and_one_that_is_not_is_not(tokenizer):
    queries = [Query("the old mat", " idiot who ate", True, "a"), Query("the old mat", " cat", False, "b")]
    attack = SuffixAttack(queries=queries, target_tokens=2, suffix_tokens=3, steps=10, top=32, candidates=24)
    assert len(attack.attacked) == 1
    easy, hard = (attack(trained(tokenizer, gives_way=easy), tokenizer)["all"] for easy in (True, False))
    assert easy["success_before"] == hard["success_before"] == 0
    assert easy["attack_success"] == 1 and easy["attack_success_interval"] == clopper_pearson(1, 1)
    assert hard["attack_success"] == 0 and easy["target_loss_after"] < 0.2 < 5 < hard["target_loss_after"]
    assert easy["forward_passes"] == 2 + 10 * 25 and easy["pairs"] == 1


def test_forward_passes_are_those_that_are_run(tokenizer):
    settings = dict(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, max_position_embeddings=24
    )
    model, rows = ModelSettings(architecture="gpt_neox", settings=settings).build(320, None), []
    model.eval().gpt_neox.layers[0].register_forward_hook(lambda block, inputs, output: rows.append(output.shape[:2]))
    queries = [Query("the cat sat on a mat " * n, " and saw one idiot", True, str(n)) for n in (0, 1, 5)]
    metrics = SuffixAttack(queries=queries, steps=3, candidates=5, suffix_tokens=4, batch_size=2)(model, tokenizer)[
        "all"
    ]
    assert sum(count for count, _ in rows) == metrics["forward_passes"] * metrics["pairs"]
    assert max(length for _, length in rows) == 24, "a long prompt loses its beginning"


def test_mistakes_are_named(tokenizer):
    queries = [Query("a", " cat", True, "a")]
    with pytest.raises(ValueError, match="there is no toxic one"):
        SuffixAttack(queries=[Query("a", " cat", False, "a")])
    with pytest.raises(ValueError, match=r"^steps=0: it is a whole number, 1 or more"):
        SuffixAttack(queries=queries, steps=0)
    with pytest.raises(ValueError, match="suffix_tokens=64: with a target of 1 tokens"):
        SuffixAttack(queries=queries, suffix_tokens=64)(tiny_model(), tokenizer)
