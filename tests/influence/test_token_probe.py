"""The probe: a text's probability against loops over its tokens, and that it finds the tokens from labels of texts."""

import math

import numpy as np
import pytest
import torch
from tiny import tiny_documents

from ifguide.corpus.documents import LabelledText
from ifguide.influence.token_probe import ProbeNetwork, TokenProbe, padded, text_log_probabilities
from ifguide.statistics import roc_auc

POOLINGS = ["noisy_or", "max", "mean"]
TEXTS = [LabelledText(one.text, float(one.label == "toxic")) for one in tiny_documents(200, seed=1)]


def slow_probability(logits, pooling):
    values = [1 / (1 + math.exp(-z)) for z in logits]
    if pooling == "noisy_or":
        return 1 - math.prod(1 - p for p in values)
    return max(values) if pooling == "max" else sum(values) / len(values)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_texts_probability_is_that_of_a_loop_over_its_tokens(pooling):
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(5, 7, dtype=torch.float64, generator=generator)
    counted = torch.rand(5, 7, generator=generator) < 0.6
    counted[:, 3] = True
    shows, shows_not = text_log_probabilities(logits, counted, pooling=pooling)
    for n in range(5):
        p = slow_probability(logits[n][counted[n]].tolist(), pooling)
        assert float(shows[n]) == pytest.approx(math.log(p), abs=1e-9)
        assert float(shows_not[n]) == pytest.approx(math.log(1 - p), abs=1e-9)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("size", [-80.0, 0.0, 80.0])
def test_losses_and_gradients_are_finite_however_certain_the_probe(pooling, size):
    logits = torch.full((1, 4), size, requires_grad=True)
    for part in text_log_probabilities(logits, torch.ones(1, 4, dtype=torch.bool), pooling=pooling):
        (gradient,) = torch.autograd.grad(part.sum(), logits, retain_graph=True)
        assert torch.isfinite(part).all() and torch.isfinite(gradient).all()


def test_padding_changes_nothing_and_both_sides_are_seen():
    torch.manual_seed(0)
    network = ProbeNetwork(vocabulary=20, width=4, kernel=3, end_of_text=0).double()
    ids, real, counted = padded([np.array([0, 5, 6, 7, 0]), np.array([0, 8, 0])], 0)
    assert counted.tolist() == [[False, True, True, True, False], [False, True, False, False, False]]
    both = network(ids, real)
    for n, length in enumerate((5, 3)):
        assert torch.allclose(both[n, :length], network(ids[n : n + 1, :length])[0], rtol=0, atol=1e-12)
    for place, sees in ((2, True), (4, True), (1, False)):
        changed = ids[:1].clone()
        changed[0, place] = 9
        assert (network(changed)[0, 3] != network(ids[:1])[0, 3]) == sees
    scores = network.scores(ids)
    assert scores.shape == (1, 2, 5) and (scores[..., 0] == 0).all() and (scores[0][ids == 0] == 0).all()


@pytest.fixture(scope="module")
def fitted(corpus):
    return TokenProbe(epochs=8, width=8).fit(TEXTS, corpus.tokenizer)


def test_it_finds_the_tokens_from_labels_of_texts(corpus, fitted):
    probe, facts = fitted
    split = corpus.split("train")
    scores = probe.scores(torch.from_numpy(split.tokens(slice(0, len(split))))).numpy()
    assert scores.dtype == np.float32 and scores.shape == (1, *split.shape)
    assert roc_auc(scores[0][:, 1:].ravel(), split.annotation[:][:, 1:].ravel()) > 0.9
    assert facts["texts"] == 200 and facts["roc_auc"] > 0.9 and len(facts["probabilities"]) == 3


def test_a_fit_is_reproducible_and_survives_saving(corpus, fitted, tmp_path):
    ids = torch.from_numpy(corpus.split("train").tokens(slice(0, 4)))
    state = torch.random.get_rng_state()
    first, again = (TokenProbe(epochs=1, width=4).fit(TEXTS[:40], corpus.tokenizer)[0] for _ in range(2))
    assert torch.equal(first.scores(ids), again.scores(ids)) and torch.equal(state, torch.random.get_rng_state())
    fitted[0].save(tmp_path)
    loaded = TokenProbe().load(tmp_path)
    assert torch.equal(loaded.scores(ids), fitted[0].scores(ids))
    assert torch.allclose(loaded.scores(ids)[:, 2:3], loaded.scores(ids[2:3]), rtol=0, atol=1e-6)


def test_mistakes_are_named(corpus):
    for options, message in (
        ({"kernel": 4}, r"^kernel=4: an odd number"),
        ({"pooling": "sum"}, r"^pooling=sum; known: noisy_or"),
        ({"validation": 1.0}, r"^validation=1\.0"),
        ({"epochs": 0}, r"^epochs=0"),
        ({"max_length": 1}, r"^max_length=1"),
    ):
        with pytest.raises(ValueError, match=message):
            TokenProbe(**options)
    with pytest.raises(ValueError, match=r"^labelled: 0 of \d+ texts to learn from are positive"):
        TokenProbe().fit([LabelledText(f"text {n}", 0.0) for n in range(20)], corpus.tokenizer)
